"""PyTorch's own tests of DCP, run against our writer and reader.

    python -m tests.conformance FOLDER

FOLDER has copies of files of PyTorch's ``test/distributed/checkpoint/`` at the release that is installed, and is not
part of this repository. ``expecttest`` has to be installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.conformance.left_out import LEFT_OUT

_ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run all tests of the folder but those left out; the exit code is pytest's."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="PyTorch's tests of DCP.")
    parser.add_argument("folder", type=Path, help="copies of files of PyTorch's test/distributed/checkpoint/")
    folder = parser.parse_args().folder.resolve()
    path = [Path(__file__).parent / "site", _ROOT, folder]
    command = [sys.executable, "-m", "pytest", "-ra", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "--noconftest"]
    ignored = [f"--deselect={folder / name}" for name in LEFT_OUT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"--rootdir={folder}", *ignored, str(folder)], env=environment, cwd=folder, check=False
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
