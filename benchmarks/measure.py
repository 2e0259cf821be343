"""Times and sizes of codecs: every figure is from a round trip that gave the same bytes."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deltackpt.format.hashing import Buffer

__all__ = ["Measured", "Task", "cores", "measure"]

_T = TypeVar("_T")

# A handful of blocks a few milliseconds each does not keep two threads busy to the end.
_LONG_ENOUGH, _MOST_TIMES = 0.1, 32

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One block for one codec.

    Attributes:
        raw: what ``decode`` must give.
        encode, decode: to packed bytes and back; safe to call from several threads at once. What they give may lie in
            memory that the next call of either uses again.
    """

    raw: Bytes
    encode: Callable[[], Sequence[Buffer]]
    decode: Callable[[Sequence[Buffer]], Bytes]


@dataclass(frozen=True, slots=True)
class Measured:
    """What some tasks took together.

    Attributes:
        raw, packed: bytes.
        encode, decode: seconds of processor time, in one thread.
        encode_all, decode_all: seconds of wall time, with a thread for each core.
    """

    raw: int
    packed: int
    encode: float
    decode: float
    encode_all: float
    decode_all: float

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.raw + other.raw,
            self.packed + other.packed,
            self.encode + other.encode,
            self.decode + other.decode,
            self.encode_all + other.encode_all,
            self.decode_all + other.decode_all,
        )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(tasks: Sequence[Task], rounds: int) -> Measured:
    """The best of some rounds, for each task on one core, and for all of them on all cores.

    Raises:
        AssertionError: a codec did not give back what it got.
    """
    packed = [[bytes(part) for part in task.encode()] for task in tasks]
    for task, data in zip(tasks, packed, strict=True):
        assert task.decode(data).tobytes() == task.raw.tobytes()
    pairs = list(zip(tasks, packed, strict=True))
    encode = sum(_fastest(task.encode, rounds, time.process_time) for task in tasks)
    decode = sum(_fastest(functools.partial(_decode, pair), rounds, time.process_time) for pair in pairs)
    with ThreadPoolExecutor(cores()) as pool:
        encode_all = _fastest_of_all(pool, _encode, tasks, encode, rounds)
        decode_all = _fastest_of_all(pool, _decode, pairs, decode, rounds)
    raw, size = sum(task.raw.size for task in tasks), sum(sum(map(len, parts)) for parts in packed)
    return Measured(raw, size, encode, decode, encode_all, decode_all)


def _fastest_of_all(
    pool: ThreadPoolExecutor, action: Callable[[_T], None], items: Sequence[_T], alone: float, rounds: int
) -> float:
    """Seconds of wall time for all items, which are done often enough that the last one of a thread counts little.

    Args:
        alone: what they take in one thread.
    """
    times = max(1, min(_MOST_TIMES, round(_LONG_ENOUGH / alone)))
    return _fastest(lambda: list(pool.map(action, [*items] * times)), rounds, time.perf_counter) / times


def _encode(task: Task) -> None:
    task.encode()


def _decode(pair: tuple[Task, Sequence[Buffer]]) -> None:
    pair[0].decode(pair[1])


def _fastest(action: Callable[[], object], rounds: int, clock: Callable[[], float]) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = clock()
        action()
        best = min(best, clock() - start)
    # Clocks are coarse: what took no time took as little as they can tell.
    return max(best, 1e-7)
