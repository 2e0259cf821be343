"""Builds the codec's kernels: the C files of ``deltackpt/codec/kernels`` into one shared library beside them.

Run by hatchling for wheels and for editable installs. The compiler is $CC, or the first of cc, gcc and clang in PATH;
where there is none, the ``ziglang`` package brings one and is asked for as a build requirement. Where nothing works the
package is built without kernels and uses numpy. ``python hatch_build.py`` builds in place; DELTACKPT_BUILD_KERNELS=0
builds without.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    BuildHookInterface = object

KERNELS = Path("deltackpt") / "codec" / "kernels"
LIBRARY = "_kernels" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG")
# Floats are rounded as written: no contraction into fused operations. The other two let loops with square roots and
# comparisons become vectors; they change no result.
FLAGS += ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
WITHOUT = "DELTACKPT_BUILD_KERNELS"
ZIG = "ziglang"


def system_compiler() -> list[str] | None:
    """The command of the system's C compiler, if it has one."""
    named = os.environ.get("CC")
    if named:
        return shlex.split(named)
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def compiler() -> list[str] | None:
    """The system's compiler, or the one in the ziglang package, if it is there."""
    found = system_compiler()
    if found is None and importlib.util.find_spec(ZIG) is not None:
        # Without this it compiles for the very processor that it runs on.
        return [sys.executable, "-m", ZIG, "cc", "-mcpu=baseline"]
    return found


def build(root: Path) -> Path | None:
    """Compile in place; None, after saying why, where that cannot be done."""
    command = compiler()
    if command is None:
        print("deltackpt: no C compiler found; building without kernels", file=sys.stderr)
        return None
    folder = root / KERNELS
    target = folder / LIBRARY
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / LIBRARY
        sources = sorted(str(path) for path in folder.glob("*.c"))
        try:
            subprocess.run([*command, *FLAGS, *sources, "-o", str(made)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"deltackpt: {error}; building without kernels", file=sys.stderr)
            return None
        # A process that has the old library open keeps it: the new one is another file.
        partial = target.with_suffix(".partial")
        shutil.copyfile(made, partial)
        partial.chmod(0o755)
        os.replace(partial, target)
    return target


class KernelBuildHook(BuildHookInterface):  # type: ignore[misc, valid-type]
    """Adds the library to the wheel, which is then one for this platform and every Python 3."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """A C compiler, where the system has none."""
        return [] if system_compiler() or os.environ.get(WITHOUT) == "0" else [ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds a wheel."""
        if os.environ.get(WITHOUT) == "0":
            return
        library = build(Path(self.root))
        if library is None:
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(f"/{KERNELS.as_posix()}/{LIBRARY}")


if __name__ == "__main__":
    sys.exit(0 if build(Path(__file__).parent) else 1)
