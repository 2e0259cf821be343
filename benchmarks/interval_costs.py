"""What ours and the peers take for the checkpoints of a run, one interval after another.

Only bytes are measured, which are the same on every machine: what the same version of a program took for the same
checkpoints is kept beside them, and not measured again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

import deltackpt
from benchmarks.checkpoint_run import CheckpointRun, write_checkpoints
from benchmarks.interval_cases import Case
from benchmarks.interval_peers import PEERS, available
from deltackpt.api import Store
from deltackpt.report import collect

__all__ = ["KEY_EVERY", "OURS", "Cost", "measure_case"]

OURS = "deltackpt"

# A key step in so many; the shares of both are in what a step takes on average.
KEY_EVERY = 16

_Taken = tuple[list[int], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program takes for the checkpoints of a run at one interval.

    Attributes:
        run: what was trained.
        program: ours or a peer.
        interval: training steps between checkpoints.
        parameters: of the model.
        raw: bytes of the last checkpoint as ``torch.save`` wrote it.
        key, delta: bytes of the first checkpoint, and of one after it, the median, least and most.
        by_role: of the bytes of a delta step, ours only.
    """

    run: CheckpointRun
    program: str
    interval: int
    parameters: int
    raw: int
    key: int
    delta: tuple[int, int, int]
    by_role: Mapping[str, int]

    @property
    def step(self) -> float:
        """Bytes of a checkpoint on average, with a key step in 16; those that know no deltas have only such."""
        return (self.key + (KEY_EVERY - 1) * self.delta[0]) / KEY_EVERY

    @property
    def per_thousand(self) -> float:
        """Bytes for 1,000 training steps."""
        return 1000 / self.interval * self.step

    @property
    def per_parameter(self) -> float:
        """Bytes of a checkpoint for each parameter of the model."""
        return self.step / self.parameters

    @property
    def ratio(self) -> float:
        """How many times smaller than ``torch.save``."""
        return self.raw / self.step

    def document(self) -> dict[str, object]:
        """All figures."""
        own = {name: getattr(self.run, name) for name in ("size", "optimizer", "precision", "regime", "base", "batch")}
        rest = ("program", "interval", "parameters", "raw", "key", "delta", "by_role")
        derived = ("step", "per_thousand", "per_parameter", "ratio")
        return {**own, **{name: getattr(self, name) for name in rest + derived}}


class _Kept:
    """Bytes that were measured before, as JSON: of each checkpoint, and of the last one by role."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, _Taken] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, measured: Callable[[], _Taken]) -> _Taken:
        if key not in self._found:
            self._found[key] = measured()
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._found, indent=1) + "\n")
            part.replace(self._path)
        return self._found[key]


@functools.cache
def _sources() -> str:
    """A hash of the package's own sources."""
    root = Path(deltackpt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in ("*.py", "*.c", "*.h") for path in root.rglob(pattern)):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(program: str) -> str:
    if program == OURS:
        return _sources()
    return " ".join(f"{name} {metadata.version(name)}" for name in PEERS[program].packages)


def measure_case(case: Case, cache: Path) -> Iterator[Cost]:
    """All programs at all intervals of a case; training it first, if it is not in ``cache``.

    Raises:
        AssertionError: a checkpoint came back changed.
    """
    folders = write_checkpoints(case.run, case.offsets, cache)
    kept = _Kept(folders[0].parent / "bytes.json")
    weights = torch.load(folders[0] / "model.pt", weights_only=True, mmap=True)
    parameters = sum(value.numel() for value in weights.values())
    for interval in case.intervals:
        chain = [folders[offset] for offset in case.chain(interval)]
        raw = sum(path.stat().st_size for path in chain[-1].iterdir())
        for name in (OURS, *available()):
            taken, by_role = _taken(name, chain, kept)
            spread = int(median(taken[1:])), min(taken[1:]), max(taken[1:])
            yield Cost(case.run, name, interval, parameters, raw, taken[0], spread, by_role)


def _taken(program: str, chain: Sequence[Path], kept: _Kept) -> _Taken:
    """What a program takes for each checkpoint of a chain."""

    def get(part: Sequence[Path]) -> _Taken:
        names = " ".join(path.name for path in part)
        return kept.get(f"{program} {_version(program)}: {names}", lambda: _measure(program, part))

    if program != OURS and PEERS[program].alone:
        return [get([folder])[0][0] for folder in chain], {}
    return get(chain)


def _measure(program: str, chain: Sequence[Path]) -> _Taken:
    if program == OURS:
        return _ours(chain)
    keeper = PEERS[program].make()
    return [keeper.take(folder) for folder in chain], {}


def _ours(chain: Sequence[Path]) -> _Taken:
    with tempfile.TemporaryDirectory(prefix="deltackpt-intervals-") as folder:
        store = Store.create(Path(folder, "store"), chain="previous", key_every=KEY_EVERY)
        report = store.import_checkpoints(chain)
        if report.failed:
            raise report.failed[0].error or RuntimeError
        for info, source in zip(store.steps(), chain, strict=True):
            out = Path(folder, str(info.step))
            store.step(info.step).restore(out)
            if _digests(out) != _digests(source):
                raise AssertionError(f"{source} came back changed")
        steps = collect(store, created="", version="", pairs=0).steps
    return [step.stored_bytes for step in steps], dict(steps[-1].stored_by_role)


def _digests(folder: Path) -> dict[str, bytes]:
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
