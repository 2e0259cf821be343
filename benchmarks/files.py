"""A run's checkpoint files in a store, and in what else keeps files: size, time in, time out of one step.

    python -m benchmarks.files RUN [--folder FOLDER] [--json OUT]

RUN is what ``python -m benchmarks.olmo_run`` writes, or any folder that ``deltackpt import`` takes. Every peer gets the
same files; those that are not installed are left out. Times are those of the wall clock, on an idle machine; beside
them stands the CPU time of all processes, which depends less on what else runs. Every step is restored from the store,
and every file compared with its source by SHA-256. 12 checkpoints of 316 MB take some five minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.file_peers import PEERS, Peer
from deltackpt.api import Store

__all__ = ["Row", "main", "measure_run"]

_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """What one program made of the run.

    Attributes:
        name: of the program and its options.
        raw, stored: bytes of the files, and of what is kept of them.
        in_wall, in_cpu: seconds for taking in all steps.
        out_wall, out_cpu: seconds for the files of the last step; None where that was not measured.
        out_bytes: their size.
        out_slowest: the longest time that any step took to come out; None where only the last did.
    """

    name: str
    raw: int
    stored: int
    in_wall: float
    in_cpu: float
    out_wall: float | None
    out_cpu: float | None
    out_bytes: int
    out_slowest: float | None = None


@dataclass(slots=True)
class _Time:
    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def _timed() -> Iterator[_Time]:
    taken = _Time()
    wall, cpu = time.perf_counter(), _cpu()
    yield taken
    taken.wall, taken.cpu = time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    """Seconds of CPU time of this process and of those that it waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def measure_run(run: Path, folder: Path, peers: Sequence[Peer] = PEERS) -> list[Row]:
    """Measure the store and every peer that is installed.

    Args:
        folder: for what they make; emptied of it afterwards.
    """
    planned = Store.create("memory://benchmarks-files-plan").import_checkpoints([run], dry_run=True)
    steps = [one.source for one in planned.steps]
    rows = [_ours(steps, folder / "store")]
    for peer in peers:
        # It may take minutes each, and may fail.
        print(f"measured {asdict(rows[-1])}", file=sys.stderr)
        if peer.is_installed():
            rows.append(_peer(peer, steps, folder / peer.name.split()[0]))
    return rows


def _ours(steps: Sequence[Path], folder: Path) -> Row:
    raw = sum(map(_size_of, steps))
    store = Store.create(folder / "store")
    with _timed() as taken:
        report = store.import_checkpoints(steps)
    if report.failed:
        raise report.failed[0].error or RuntimeError
    stored = _size_of(folder / "store")
    times = [_restored(folder, one.step, one.source) for one in report.steps]
    slowest = max(given.wall for given in times)
    last = times[-1]
    shutil.rmtree(folder)
    return Row("deltackpt", raw, stored, taken.wall, taken.cpu, last.wall, last.cpu, _size_of(steps[-1]), slowest)


def _restored(folder: Path, step: int, source: Path) -> _Time:
    """How long a step takes to come out, whole, of a store that is opened anew and has nothing in memory."""
    out = folder / "out"
    with _timed() as given:
        Store.open(folder / "store").step(step).restore(out)
    _compare(source, out)
    shutil.rmtree(out)
    return given


def _compare(source: Path, out: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and _sha256(path) != _sha256(out / path.relative_to(source)):
            raise AssertionError(f"{path} came back changed")


def _sha256(path: Path) -> str:
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            whole.update(piece)
    return whole.hexdigest()


def _peer(peer: Peer, steps: Sequence[Path], folder: Path) -> Row:
    folder.mkdir()
    with _timed() as taken:
        peer.take_in(steps, folder)
    stored = _size_of(folder)
    out = folder.with_name(folder.name + "-out")
    given: _Time | None = None
    if peer.give_back is not None:
        out.mkdir()
        with _timed() as given:
            peer.give_back(steps[-1], folder, out)
    row = Row(
        peer.name,
        sum(map(_size_of, steps)),
        stored,
        taken.wall,
        taken.cpu,
        None if given is None else given.wall,
        None if given is None else given.cpu,
        _size_of(steps[-1]),
    )
    for made in (folder, out):
        shutil.rmtree(made, ignore_errors=True)
    return row


def _print(rows: Sequence[Row]) -> None:
    print("| program | stored MB | smaller | in MB/s | in CPU s | out MB/s | out CPU s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        out = "" if row.out_wall is None else f"{row.out_bytes / _MB / row.out_wall:.0f}"
        out_cpu = "" if row.out_cpu is None else f"{row.out_cpu:.1f}"
        print(
            f"| {row.name} | {row.stored / _MB:.1f} | {row.raw / row.stored:.3f}x | {row.raw / _MB / row.in_wall:.0f} "
            f"| {row.in_cpu:.1f} | {out} | {out_cpu} |"
        )


def _slowest(row: Row) -> str:
    rate = row.out_bytes / _MB / (row.out_slowest or 1.0)
    return f"the slowest step came out of {row.name} in {row.out_slowest:.2f} s, at {rate:.0f} MB/s"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--folder", type=Path, help="where to put what is made; as large as the run several times")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="deltackpt-files-") as folder:
        rows = measure_run(options.run, Path(folder))
    print(f"{rows[0].raw / _MB:.1f} MB of files, {os.cpu_count()} cores, {sys.platform}")
    _print(rows)
    print(_slowest(rows[0]))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
