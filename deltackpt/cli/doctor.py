"""``deltackpt doctor``: what this installation is and how fast its codec can be."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from deltackpt._version import __version__
from deltackpt.cli.options import JsonOption
from deltackpt.cli.output import Output
from deltackpt.codec import kernels
from deltackpt.pipeline.save import default_threads
from deltackpt.store.base_cache import parse_base_memory
from deltackpt.text import format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "doctor"
EXAMPLE = "deltackpt doctor"

_PACKAGES = ("torch", "numpy", "zstandard", "xxhash", "blake3")


def command(as_json: JsonOption = False) -> None:
    """Say which versions, kernels, threads and memory saves would use here."""
    output = Output(as_json)
    status = kernels.status()
    versions = {name: _installed(name) for name in _PACKAGES}
    memory = parse_base_memory("auto")
    if output.json:
        output.document(
            {
                "deltackpt": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": versions,
                "kernels": {"path": status.path, "library": status.library, "reason": status.reason},
                "threads": default_threads(),
                "base_memory": memory,
            }
        )
        return
    output.facts(
        [
            ("deltackpt", __version__),
            ("python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, found or "not installed") for name, found in versions.items()),
            ("kernels", f"{status.path}: {status.reason}"),
            ("threads", str(default_threads())),
            ("base memory", f"{format_size(memory)} for blocks that the next save builds on"),
        ]
    )
    if status.path == "numpy":
        output.line(
            "the codec runs on numpy, with the same bytes but slowly: install again where there is a C compiler"
        )


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
