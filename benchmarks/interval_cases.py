"""Which runs :mod:`benchmarks.intervals` measures, and at which intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.checkpoint_run import CheckpointRun
from benchmarks.regimes import REGIMES

__all__ = ["FULL", "QUICK", "TINY", "Case"]


@dataclass(frozen=True, slots=True)
class Case:
    """A training run, and the intervals that it is measured at.

    Attributes:
        intervals: training steps between checkpoints, rising; nothing is trained beyond the longest.
        deltas: how many delta steps an interval is measured on, or fewer where the longest interval has no room.
    """

    run: CheckpointRun
    intervals: tuple[int, ...]
    deltas: int = 2

    def chain(self, interval: int) -> list[int]:
        """The offsets of the checkpoints at one interval."""
        return [interval * number for number in range(min(self.deltas, self.intervals[-1] // interval) + 1)]

    @property
    def offsets(self) -> list[int]:
        """The steps after the base that are kept."""
        return sorted({offset for interval in self.intervals for offset in self.chain(interval)})


_ALL = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def _full() -> Iterator[Case]:
    """Every value of every axis, without their product, which would take days to train.

    All regimes in both precisions that keep float32; the other optimizers and pure bf16 in one regime; three sizes.
    """

    def case(size: str, optimizer: str, precision: str, regime: str, *intervals: int) -> Case:
        base = 100 if regime == "early" or size == "30M" else 400
        return Case(CheckpointRun(size, optimizer, precision, regime, base), intervals)

    for precision, intervals in (("fp32", _ALL), ("bf16+master", _ALL[:7])):
        for regime in REGIMES:
            yield case("7M", "adamw", precision, regime, *intervals)
    yield case("7M", "adamw", "bf16", "late", 1, 10, 100)
    for optimizer in ("sgd", "lion"):
        yield case("7M", optimizer, "fp32", "late", 1, 10, 100)
    yield case("1M", "adamw", "fp32", "late", *_ALL)
    yield case("30M", "adamw", "fp32", "late", 1, 10, 50)


FULL = tuple(_full())
QUICK = tuple(
    Case(CheckpointRun("1M", optimizer, precision, regime, base=50, text_bytes=1 << 19), (1, 10, 50), 1)
    for optimizer, precision, regime in (
        ("adamw", "fp32", "early"),
        ("adamw", "fp32", "late"),
        ("adamw", "bf16+master", "rl"),
        ("adamw", "fp32", "lora"),
    )
)
TINY = tuple(
    Case(CheckpointRun("tiny", optimizer, precision, regime, base=4, text_bytes=1 << 17), (1, 2), 1)
    for optimizer, precision, regime in (("adamw", "fp32", "early"), ("lion", "bf16+master", "lora"))
)
