"""A decorator that repeats operations of a backend whose failure may pass by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from deltackpt.backend.base import Backend, Buffer, ObjectInfo, byte_view, check_prefix
from deltackpt.errors import InvalidArgumentError, MissingObjectError, ObjectExistsError, TransientBackendError

__all__ = ["RetryPolicy", "RetryingBackend"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when to try again.

    Attributes:
        attempts: how often an operation is tried in all, at least once.
        first_delay: seconds before the second attempt; every further wait is twice as long.
        max_delay: seconds that no wait exceeds.

    The seconds are upper bounds: each wait is drawn evenly from their upper half, so that many clients that failed at
    the same moment do not come back at the same moment.
    """

    attempts: int = 6
    first_delay: float = 0.2
    max_delay: float = 20.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_delay < 0 or self.max_delay < 0:
            raise InvalidArgumentError(
                f"not a way to retry: {self}", hint="give at least 1 attempt and no negative delay"
            )

    def delay(self, failures: int, draw: float) -> float:
        """Seconds to wait after ``failures`` failed attempts in a row, with ``draw`` a random number in [0, 1)."""
        # The exponent is bounded because a float is: past 2.0 ** 1023 there is only an OverflowError.
        longest = min(self.max_delay, self.first_delay * 2.0 ** min(failures - 1, 64))
        return longest * (0.5 + draw / 2)


class RetryingBackend:
    """Repeats what fails with ``TransientBackendError``; every other error passes at once.

    A repeated put-if-absent may find the key taken by its own earlier attempt, whose answer was lost. It then compares
    the stored bytes with its own and counts equal ones as success. So where two callers put *equal* bytes under one
    key, both may succeed: what must have one winner has to contain something of its own, as all such objects of a store
    do.

    Args:
        inner: the backend.
        policy: how often and when.
        sleep: waits for so many seconds.
        draw: gives a random number in [0, 1).
    """

    def __init__(
        self,
        inner: Backend,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._policy = RetryPolicy() if policy is None else policy
        self._sleep = sleep
        self._draw = draw

    @property
    def url(self) -> str:
        """That of the backend inside."""
        return self._inner.url

    def put(self, key: str, data: Buffer) -> None:
        self._repeat(lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: Buffer) -> None:
        view = byte_view(data)
        failures = 0
        while True:
            try:
                self._inner.put_if_absent(key, data)
                return
            except TransientBackendError as error:
                failures += 1
                self._wait(failures, error)
            except ObjectExistsError:
                if failures and self._holds(key, view):
                    return
                raise

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._repeat(lambda: self._inner.get(key, start, length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, key: str) -> None:
        self._repeat(lambda: self._inner.delete(key))

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Start anew after a failure and pass over what was given out: keys come in order."""
        failures, last = 0, ""
        while True:
            try:
                for info in self._inner.list(prefix):
                    if info.key > last:
                        failures, last = 0, info.key
                        yield info
                return
            except TransientBackendError as error:
                failures += 1
                self._wait(failures, error)

    def _repeat(self, operation: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            try:
                return operation()
            except TransientBackendError as error:
                failures += 1
                self._wait(failures, error)

    def _wait(self, failures: int, error: TransientBackendError) -> None:
        if failures >= self._policy.attempts:
            raise error
        self._sleep(self._policy.delay(failures, self._draw()))

    def _holds(self, key: str, data: memoryview) -> bool:
        try:
            return self.get(key) == data
        except MissingObjectError:
            return False
