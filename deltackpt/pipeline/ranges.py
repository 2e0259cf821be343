"""Records that lie next to each other in a pack are read with one request.

Ranges are planned for all records of a load; each is read when the first of its records is needed, and held until the
last one was taken.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from deltackpt.backend.base import Backend, ReadsInto
from deltackpt.codec import Workspace
from deltackpt.errors import CorruptObjectError, MissingObjectError
from deltackpt.format.index import Index
from deltackpt.format.keys import pack_key
from deltackpt.store.base import RecordRef

__all__ = ["RangeReader", "RecordPlace", "plan_ranges"]

# A request to an object store takes as long as reading some 100 KiB: what lies between two records is read along.
_GAP = 64 << 10

# Longer requests do not get cheaper for a byte.
_LONGEST = 8 << 20


@dataclass(frozen=True, slots=True, order=True)
class RecordPlace:
    """Where the bytes of a record are."""

    pack: str
    offset: int
    length: int

    @classmethod
    def of(cls, ref: RecordRef, lookup: Callable[[bytes], Index]) -> RecordPlace:
        location = lookup(ref.identity).location
        key = pack_key(location.packs[int(location.pack[ref.row])].name)
        return cls(key, int(location.offset[ref.row]), int(location.length[ref.row]))


def plan_ranges(places: Iterable[RecordPlace], budget: int) -> dict[RecordPlace, RecordPlace]:
    """For each record the range that it is read with. Pure.

    Args:
        budget: bytes that all ranges may take that are held at a time. Chains go through many packs at once, so each
            range has its share.
    """
    places = sorted(set(places))
    packs = len({place.pack for place in places})
    longest = min(_LONGEST, budget // max(1, packs))
    ranges: dict[RecordPlace, RecordPlace] = {}
    run: list[RecordPlace] = []
    for place in places:
        if run:
            end = max(p.offset + p.length for p in run)
            total = max(end, place.offset + place.length) - run[0].offset
            if place.pack != run[0].pack or place.offset - end > _GAP or total > longest:
                _close(run, ranges)
                run = []
        run.append(place)
    if run:
        _close(run, ranges)
    return ranges


def _close(run: list[RecordPlace], ranges: dict[RecordPlace, RecordPlace]) -> None:
    start, end = run[0].offset, max(place.offset + place.length for place in run)
    ranges.update(dict.fromkeys(run, RecordPlace(run[0].pack, start, end - start)))


@dataclass(slots=True, eq=False)
class _Live:
    """A range that is being read, or held."""

    data: bytes | memoryview | None = None
    done: threading.Event = field(default_factory=threading.Event)


class RangeReader:
    """Reads records by their ranges; safe to use from many threads.

    Args:
        ranges: from :func:`plan_ranges`.
        reads: how often each record will be read.
        budget: bytes that all ranges may take that are held at a time. Where records are not read in the order in which
            they are stored, ranges are held for long; what goes beyond the budget is read record by record.
        workspace: where memory comes from.
    """

    def __init__(
        self,
        backend: Backend,
        ranges: Mapping[RecordPlace, RecordPlace],
        reads: Mapping[RecordPlace, int],
        *,
        budget: int,
        workspace: Workspace,
    ) -> None:
        self._backend = backend
        self._budget = budget
        self._workspace = workspace
        self._held = 0
        self._ranges = ranges
        self._left: Counter[RecordPlace] = Counter()
        for place, count in reads.items():
            self._left[ranges[place]] += count
        self._live: dict[RecordPlace, _Live] = {}
        self._lock = threading.Lock()

    def read(self, place: RecordPlace) -> bytes | memoryview:
        """The bytes of a record.

        Raises:
            MissingObjectError, TruncatedObjectError: they are not there.
        """
        whole = self._ranges[place]
        data = None if whole == place else self._range(whole)
        if data is None:
            # What is damaged may lie elsewhere in the range.
            return self._read(place)
        start = place.offset - whole.offset
        return memoryview(data)[start : start + place.length]

    def _range(self, whole: RecordPlace) -> bytes | memoryview | None:
        """All bytes of a range; None where it cannot be read, or there is no room for it."""
        with self._lock:
            live = self._live.get(whole)
            first = live is None
            self._left[whole] -= 1
            if live is None:
                if self._left[whole] <= 0 or self._held + whole.length > self._budget:
                    return None
                live = self._live[whole] = _Live()
                self._held += whole.length
            elif self._left[whole] <= 0:
                del self._live[whole]
                self._held -= whole.length
        if first:
            try:
                live.data = self._get(whole)
            finally:
                live.done.set()
        live.done.wait()
        return live.data

    def _get(self, whole: RecordPlace) -> bytes | memoryview | None:
        try:
            return self._read(whole)
        except (MissingObjectError, CorruptObjectError):
            return None

    def _read(self, place: RecordPlace) -> bytes | memoryview:
        if isinstance(self._backend, ReadsInto):
            # It goes back to the workspace when nobody looks at any record of it any more.
            data = self._workspace.block(place.length).data
            if self._backend.get_into(place.pack, place.offset, data):
                return data
        return self._backend.get(place.pack, place.offset, place.length)
