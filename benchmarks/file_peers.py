"""Programs that keep files, for :mod:`benchmarks.files`: tar with zstd, borg, restic, content-defined chunks, ZipNN."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import blake3
import numpy as np
import zstandard
from pyfastcdc import FastCDC

__all__ = ["PEERS", "Peer"]

TakeIn = Callable[[Sequence[Path], Path], None]
GiveBack = Callable[[Path, Path, Path], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A program.

    Attributes:
        name: with its options.
        needs: the command that has to be installed, or the module after ``module:``; empty for none.
        take_in: stores the files of all steps in a folder, in order.
        give_back: writes the files of a step from there to another folder; None where that is not measured.
    """

    name: str
    needs: str
    take_in: TakeIn
    give_back: GiveBack | None = None

    def is_installed(self) -> bool:
        """Whether it can be measured."""
        if self.needs.startswith("module:"):
            return importlib.util.find_spec(self.needs.removeprefix("module:")) is not None
        return not self.needs or shutil.which(self.needs) is not None


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    variables = {**os.environ, **(environment or {})}
    subprocess.run(command, cwd=folder, env=variables, check=True, stdout=subprocess.DEVNULL)


def _tar_in(steps: Sequence[Path], folder: Path) -> None:
    """One archive of all steps, so that --long=31 may find what repeats within 2 GiB."""
    names = [step.name for step in steps]
    archive = ["tar", "-C", str(steps[0].parent), "-cf", str(folder / "run.tar.zst"), "-I", "zstd -3 --long=31 -T2 -q"]
    _run([*archive, *names], folder)


def _tar_out(step: Path, folder: Path, out: Path) -> None:
    archive = ["tar", "-xf", str(folder / "run.tar.zst"), "-I", "zstd -d --long=31 -q", "-C", str(out)]
    _run([*archive, step.name], folder)


def _borg_environment(folder: Path) -> dict[str, str]:
    return {
        "BORG_BASE_DIR": str(folder.with_name(folder.name + "-home")),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }


def _borg_in(steps: Sequence[Path], folder: Path) -> None:
    _run(["borg", "init", "-e", "none", str(folder / "repo")], folder, _borg_environment(folder))
    for step in steps:
        target = f"{folder / 'repo'}::{step.name}"
        _run(["borg", "create", "-C", "zstd,3", target, step.name], step.parent, _borg_environment(folder))


def _borg_out(step: Path, folder: Path, out: Path) -> None:
    _run(["borg", "extract", f"{folder / 'repo'}::{step.name}"], out, _borg_environment(folder))


def _restic_environment(folder: Path) -> dict[str, str]:
    return {
        "RESTIC_PASSWORD": "benchmark",
        "RESTIC_REPOSITORY": str(folder / "repo"),
        "RESTIC_CACHE_DIR": str(folder.with_name(folder.name + "-home")),
    }


def _restic_in(steps: Sequence[Path], folder: Path) -> None:
    _run(["restic", "init", "-q"], folder, _restic_environment(folder))
    for step in steps:
        _run(["restic", "backup", "-q", "--tag", step.name, step.name], step.parent, _restic_environment(folder))


def _restic_out(step: Path, folder: Path, out: Path) -> None:
    command = ["restic", "restore", "-q", "latest", "--tag", step.name, "--target", str(out)]
    _run(command, folder, _restic_environment(folder))


def _grouped(data: memoryview) -> bytes:
    """The first bytes of all four-byte words, then the second ones, and so on: what helps with floats."""
    whole = len(data) // 4 * 4
    planes = np.frombuffer(data[:whole], dtype=np.uint8).reshape(-1, 4).T
    return planes.tobytes() + bytes(data[whole:])


def _chunks_in(steps: Sequence[Path], folder: Path) -> None:
    """As Xet stores files: chunks of 64 KiB on average, each once, its bytes grouped by four and compressed.

    zstd stands for Xet's LZ4, and makes it smaller.
    """
    seen: set[bytes] = set()
    compressor = zstandard.ZstdCompressor(level=3)
    with open(folder / "chunks", "wb") as out:
        for step in steps:
            for path in sorted(path for path in step.rglob("*") if path.is_file()):
                for chunk in FastCDC(65536).cut_file(path) if path.stat().st_size else ():
                    name = blake3.blake3(chunk.data).digest()
                    if name not in seen:
                        seen.add(name)
                        plain, grouped = compressor.compress(chunk.data), compressor.compress(_grouped(chunk.data))
                        out.write(min(plain, grouped, key=len))
                    out.write(name)


def _zipnn_in(steps: Sequence[Path], folder: Path) -> None:
    """Each file by itself; zipnn 0.5 crashes on some lengths that are no multiple of four, so it gets whole words."""
    codec = importlib.import_module("zipnn").ZipNN(input_format="byte", bytearray_dtype="float32", threads=2)
    for step in steps:
        for path in sorted(path for path in step.rglob("*") if path.is_file()):
            target = folder / step.name / path.relative_to(step)
            target.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            words = len(data) // 4 * 4
            target.write_bytes(codec.compress(data[:words]) + data[words:])


PEERS: Final = (
    Peer("tar + zstd -3 --long=31", "zstd", _tar_in, _tar_out),
    Peer("borg (zstd,3)", "borg", _borg_in, _borg_out),
    Peer("restic", "restic", _restic_in, _restic_out),
    Peer("chunks, as xet", "", _chunks_in),
    Peer("zipnn per file", "module:zipnn", _zipnn_in),
)
