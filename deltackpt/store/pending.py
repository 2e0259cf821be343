"""A save announces itself, so that nobody deletes what it builds on or has written (``docs/invariants.md``, Deletion).

Times are those of the saver's own clock. The protocol takes it that the clocks of all machines that use a store, and
the time that a commit's put takes, together differ by less than ``MARGIN``.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType

from deltackpt.errors import (
    BackendError,
    CorruptObjectError,
    DeltackptError,
    IncompleteSaveError,
    MissingObjectError,
    UnknownVersionError,
)
from deltackpt.format.keys import PENDING, StepKey, parse_id_key, pending_key
from deltackpt.format.manifest import Manifest
from deltackpt.format.pending import Pending, decode_pending, encode_pending
from deltackpt.format.times import format_time, parse_time
from deltackpt.store.marks import read_marks
from deltackpt.store.opened import OpenStore
from deltackpt.store.process import Process, is_gone, own_process

__all__ = [
    "LEASE",
    "MARGIN",
    "Announcement",
    "Ticket",
    "check_tickets",
    "has_ended",
    "live_pendings",
    "named_bases",
    "read_pendings",
    "withdraw",
]

_LOG = logging.getLogger("deltackpt")

LEASE = timedelta(hours=6)
"""How long an announcement holds unless it is renewed. A save renews its own while it writes; after that, it must hold
until the slowest rank is done. A saver that was killed on another machine holds up gc for as long."""

MARGIN = timedelta(minutes=5)
"""For so much longer than it says an announcement counts: clocks differ, and a commit may be under way."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a writer tells the coordinator of its announcement: the id, and until when it holds."""

    id: str
    expires: datetime


class Announcement:
    """The pending object of one saver. Used by one thread.

    As a context manager it is withdrawn at the end; not where the backend failed, for a commit may take effect yet, nor
    where the process is about to end.

    Args:
        lease: how long it holds from each renewal on.
    """

    def __init__(self, store: OpenStore, branch: str, step: int, *, lease: timedelta = LEASE) -> None:
        self._store = store
        self._place = (branch, step)
        self._lease = lease
        self._process = own_process()
        self._id = uuid.uuid4().hex
        self._created = store.clock()
        self._bases: tuple[StepKey, ...] = ()
        self._expires = self._created + lease

    def __enter__(self) -> Announcement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, Exception) and not isinstance(error, BackendError)):
            self.withdraw()

    @property
    def ticket(self) -> Ticket:
        """For whoever commits."""
        return Ticket(self._id, self._expires)

    def claim(self, bases: Sequence[Manifest] = ()) -> list[Manifest]:
        """Announce the save and what it may build on; must come before anything is written.

        Returns:
            Those of ``bases`` that may be built on: nobody is about to delete them. They, and what they list, stay
            until the save has ended.

        Raises:
            CorruptObjectError, UnknownVersionError: a mark cannot be read, so that nobody knows what may go.
        """
        wanted = {manifest.header.key for manifest in bases}
        self._bases = tuple(sorted(wanted.union(self._bases)))
        self._put()
        # In this order: what is deleted from now on was marked before, or by somebody who saw the announcement.
        marked = {key for found in read_marks(self._store) for key in found.mark.manifests} if bases else set()
        return [m for m in bases if m.header.key not in marked and _is_there(self._store, m)]

    def claim_names(self, names: Iterable[bytes]) -> None:
        """Announce a save that puts packs and index objects under names that the store may have had before.

        Args:
            names: BLAKE3 of each.

        Raises:
            IncompleteSaveError: somebody is about to delete one of them.
        """
        self._put()
        marked = {name for mark in read_marks(self._store) for name in (*mark.mark.packs, *mark.mark.indexes)}
        if not marked.isdisjoint(names):
            raise IncompleteSaveError(
                "gc is about to delete objects that this needs", where=self._store.url, hint="run `deltackpt gc` first"
            )

    def renew(self) -> None:
        """Make the announcement hold on, if half of its time is over.

        Raises:
            IncompleteSaveError: it has expired: what was written may be gone.
        """
        now = self._store.clock()
        check_tickets([self.ticket], now)
        if self._expires - now < self._lease / 2:
            self._put()

    def extend(self) -> Ticket:
        """Make the announcement hold for its whole time once more, after the last write.

        Raises:
            IncompleteSaveError: it has expired.
        """
        check_tickets([self.ticket], self._store.clock())
        self._put()
        return self.ticket

    def withdraw(self) -> None:
        """The save has ended: without a commit, or after it."""
        withdraw(self._store, [self._id])

    def _put(self) -> None:
        expires = self._store.clock() + self._lease
        branch, step = self._place
        pending = Pending(
            branch=branch,
            step=step,
            bases=self._bases,
            created=format_time(self._created),
            expires=format_time(expires),
            host=self._process.host,
            pid=self._process.pid,
            started=self._process.started,
        )
        self._store.backend.put(pending_key(self._id), encode_pending(pending))
        self._expires = expires


def _is_there(store: OpenStore, manifest: Manifest) -> bool:
    try:
        found = store.manifest(manifest.header.key)
    except (MissingObjectError, CorruptObjectError, UnknownVersionError):
        return False
    # The step may have been deleted and saved again. Packs and index objects are never the same twice.
    return (found.indexes, found.packs) == (manifest.indexes, manifest.packs)


def check_tickets(tickets: Iterable[Ticket], now: datetime) -> None:
    """Demand that announcements hold.

    Raises:
        IncompleteSaveError: one does not: gc may have deleted what the save wrote.
    """
    late = min((ticket.expires for ticket in tickets), default=now)
    if late < now:
        raise IncompleteSaveError(
            f"the save was announced until {format_time(late)}, and gc may have taken it for dead since",
            hint="nothing of it is visible; save again",
        )


def withdraw(store: OpenStore, ids: Iterable[str]) -> None:
    """Remove announcements of saves that have ended. What cannot be removed is logged, and expires."""
    for pending_id in ids:
        try:
            store.backend.delete(pending_key(pending_id))
        except DeltackptError as error:
            _LOG.warning("the announcement of a save that has ended stays until it expires: %s", error)


def live_pendings(store: OpenStore) -> Iterator[tuple[str, Pending]]:
    """The saves in progress by id, as far as anybody can tell.

    Raises:
        CorruptObjectError, UnknownVersionError: an announcement cannot be read.
    """
    now = store.clock()
    for pending_id, pending in read_pendings(store):
        if not has_ended(pending, now):
            yield pending_id, pending


def read_pendings(store: OpenStore) -> Iterator[tuple[str, Pending]]:
    """All announcements by id."""
    for found in store.backend.list(PENDING):
        pending_id = parse_id_key(found.key, PENDING)
        if pending_id is None:
            continue
        try:
            data = store.backend.get(found.key)
        except MissingObjectError:  # its save has just ended
            continue
        yield pending_id, decode_pending(data, source=found.key)


def has_ended(pending: Pending, now: datetime) -> bool:
    """Whether the save can commit no more: its time is over, or its process is gone."""
    if parse_time(pending.expires) + MARGIN < now:
        return True
    return is_gone(Process(pending.host, pending.pid, pending.started))


def named_bases(pendings: Iterable[tuple[str, Pending]]) -> Collection[StepKey]:
    """All manifests that saves in progress may build on."""
    return {key for _, pending in pendings for key in pending.bases}
