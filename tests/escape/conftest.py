from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltackpt.escape import reader, reader_source

# -I: no PYTHONPATH and no folder of the caller; a module that is None in sys.modules cannot be imported.
ISOLATED = """
import runpy, sys
for name in {blocked!r}:
    sys.modules[name] = None
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FORBIDDEN = ("deltackpt", "torch", "safetensors", "psutil", "yaml")


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a copy of the script in a process that cannot import this package, nor the modules in ``without``."""

    def run(
        *arguments: object, at: Path | None = None, without: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        path = (at or tmp_path) / "reader.py"
        path.write_bytes(reader_source())
        code = ISOLATED.format(blocked=[*FORBIDDEN, *without], argv=[str(path), *map(str, arguments)])
        return subprocess.run(
            [sys.executable, "-I", "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
        )

    return run


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Runs the script's command line in this process: exit code, out and err."""

    def run(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        code = reader.main([str(a) for a in arguments])
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run
