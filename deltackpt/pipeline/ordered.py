"""A map over threads that keeps order and holds only a few results at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

__all__ = ["ordered_map"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ordered_map(
    executor: Executor, function: Callable[[_In], _Out], items: Iterable[_In], *, window: int
) -> Iterator[_Out]:
    """The results of ``function`` for each item, in order, with at most ``window`` items in work or waiting.

    The first error is raised where its result would have come; what has not started by then never does.
    """
    waiting: deque[Future[_Out]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
