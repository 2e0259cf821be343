"""Whether the figures of a run reach what the codec is meant to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["ALONE", "OURS", "Row", "verdicts"]

OURS, ALONE = "deltackpt", "deltackpt, alone"

# Of the bytes of the best peer, at most.
_BYTES = {("bf16", "10"): 0.75, ("weights", "10"): 0.93, ("state", "1"): 0.45, ("state", "100"): 0.96}
_RL, _RL_OF_RAW = ("bf16", "rl1"), 1 / 200
# Above the bound, at most.
_OVER, _OVER_BF16 = 1.015, 1.02
# 10^9 bytes of raw input a second on one core with AVX-512: encode, decode.
_SPEED = {"weights": (2.5, 3.5), "bf16": (1.3, 2.5)}
_NEAR = 1.1
_TWO_THREADS = 1.8


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        role, step: what was coded; steps of the RL-like run begin with ``rl``.
        codec: by name; ``deltackpt, alone`` is ours without partners.
        bits: per element, all overhead included.
        raw_bits: of an element.
        bound: the conditional entropy of the residual given its context, per element; of the others None.
        encode, decode: 10^9 bytes of raw input a second on one core; ``_all``, on all cores.
    """

    role: str
    step: str
    codec: str
    bits: float
    raw_bits: int
    bound: float | None
    encode: float
    decode: float
    encode_all: float
    decode_all: float


def verdicts(rows: Sequence[Row], cores: int) -> Iterator[tuple[bool, str]]:
    """Each goal that the rows can tell about: whether it is reached, and how far from it they are."""
    cases = dict.fromkeys((row.role, row.step) for row in rows)
    for case in cases:
        here = [row for row in rows if (row.role, row.step) == case]
        ours = next(row for row in here if row.codec == OURS)
        peers = [row for row in here if row.codec not in (OURS, ALONE)]
        yield from _bytes(case, ours, min((row.bits for row in peers), default=0.0))
        if ours.bound is not None and case[0] != "state":
            most = _OVER_BF16 if case[0] == "bf16" else _OVER
            yield _verdict(ours.bits / ours.bound <= most, ours, f"{ours.bits / ours.bound:.3f} of the bound", most)
        yield from _speeds(ours, peers, cores)


def _bytes(case: tuple[str, str], ours: Row, best: float) -> Iterator[tuple[bool, str]]:
    if best:
        most = _BYTES.get(case, 1.0)
        yield _verdict(ours.bits / best <= most, ours, f"{ours.bits / best:.3f} of the best peer's bytes", most)
    if case == _RL:
        share = ours.bits / ours.raw_bits
        yield _verdict(share <= _RL_OF_RAW, ours, f"1/{1 / share:.0f} of raw", _RL_OF_RAW)


def _speeds(ours: Row, peers: Sequence[Row], cores: int) -> Iterator[tuple[bool, str]]:
    for way, least in zip(("encode", "decode"), _SPEED.get(ours.role, ()), strict=False):
        speed = getattr(ours, way)
        yield _verdict(speed >= least, ours, f"{way} at {speed:.2f} GB/s", least)
    near = [row for row in peers if row.bits <= _NEAR * ours.bits]
    for way in ("encode", "decode"):
        if near:
            rival = max(near, key=lambda row: float(getattr(row, way)))
            ratio = getattr(ours, way) / getattr(rival, way)
            yield _verdict(ratio > 1, ours, f"{way} {ratio:.2f} times as fast as {rival.codec}", 1)
        if cores == 2:
            gain = getattr(ours, f"{way}_all") / getattr(ours, way)
            yield _verdict(gain >= _TWO_THREADS, ours, f"{way} with two threads {gain:.2f} times one", _TWO_THREADS)


def _verdict(reached: bool, ours: Row, what: str, goal: float) -> tuple[bool, str]:
    return reached, f"{ours.role} {ours.step}: {what} (goal {goal:g})"
