"""What savers and collectors tell each other: pending objects and marks (section 14 of ``docs/format.md``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltackpt.errors import UnknownVersionError
from deltackpt.format.hashing import DIGEST_BYTES, Buffer
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import MAX_STEP, StepKey
from deltackpt.format.origin import Origin

__all__ = ["Mark", "Pending", "decode_mark", "decode_pending", "encode_mark", "encode_pending"]

_VERSION = 1
_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Pending:
    """A save in progress.

    Attributes:
        branch, step: what is being saved.
        bases: the manifests that it may build on.
        created: when it began; RFC 3339, UTC, by the saver's clock, as ``expires``.
        expires: the saver commits nothing after this time.
        host: a machine and a space of process numbers on it, or empty where the saver cannot tell.
        pid, started: the saver's process there, and when that started, in the kernel's own units.
    """

    branch: str
    step: int
    bases: tuple[StepKey, ...]
    created: str
    expires: str
    host: str = ""
    pid: int = 0
    started: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody is about to delete.

    Attributes:
        created: RFC 3339 time, UTC.
        manifests: manifests that are about to go.
        packs, indexes: names (BLAKE3, 32 bytes) of objects that no manifest listed.
        waits: ids of the saves that were in progress once the mark was there; None before that was looked up. The
            objects may go when all of these have ended.
    """

    created: str
    manifests: tuple[StepKey, ...] = ()
    packs: tuple[bytes, ...] = ()
    indexes: tuple[bytes, ...] = ()
    waits: tuple[str, ...] | None = None


def encode_pending(pending: Pending) -> bytes:
    """The bytes of a pending object.

    Raises:
        InvalidArgumentError: a field is not as section 14 says.
    """
    value = {
        "version": _VERSION,
        "branch": pending.branch,
        "step": pending.step,
        "bases": _key_lists(pending.bases),
        "created": pending.created,
        "expires": pending.expires,
        "host": pending.host,
        "pid": pending.pid,
        "started": pending.started,
    }
    return _encode(value, _parse_pending)


def decode_pending(data: Buffer, *, source: str) -> Pending:
    """The pending object that ``data`` is.

    Raises:
        UnknownVersionError: a version that this package does not know.
        CorruptObjectError: anything else that section 14 does not allow.
    """
    return _parse_pending(data, Origin(source))


def _parse_pending(data: Buffer, origin: Origin) -> Pending:
    fields = _load(data, origin, "the pending object")
    return Pending(
        branch=fields.branch("branch"),
        step=fields.integer("step", 0, MAX_STEP),
        bases=fields.step_keys("bases"),
        created=fields.time("created"),
        expires=fields.time("expires"),
        host=fields.text("host"),
        pid=fields.integer("pid"),
        started=fields.integer("started"),
    )


def encode_mark(mark: Mark) -> bytes:
    """The bytes of a mark.

    Raises:
        InvalidArgumentError: a field is not as section 14 says.
    """
    value = {
        "version": _VERSION,
        "created": mark.created,
        "manifests": _key_lists(mark.manifests),
        "packs": [name.hex() for name in mark.packs],
        "indexes": [name.hex() for name in mark.indexes],
        "waits": None if mark.waits is None else list(mark.waits),
    }
    return _encode(value, _parse_mark)


def decode_mark(data: Buffer, *, source: str) -> Mark:
    """The mark that ``data`` is.

    Raises:
        UnknownVersionError: a version that this package does not know.
        CorruptObjectError: anything else that section 14 does not allow.
    """
    return _parse_mark(data, Origin(source))


def _parse_mark(data: Buffer, origin: Origin) -> Mark:
    fields = _load(data, origin, "the mark")
    return Mark(
        created=fields.time("created"),
        manifests=fields.step_keys("manifests"),
        packs=tuple(map(bytes.fromhex, fields.hex_list("packs", 2 * DIGEST_BYTES))),
        indexes=tuple(map(bytes.fromhex, fields.hex_list("indexes", 2 * DIGEST_BYTES))),
        waits=None if fields.raw("waits") is None else tuple(fields.hex_list("waits", _ID_DIGITS)),
    )


def _encode(value: dict[str, object], parse: Callable[[Buffer, Origin], object]) -> bytes:
    """The bytes of an object that its own parser takes."""
    data = dump_json(value, Origin())
    parse(data, Origin())
    return data


def _load(data: Buffer, origin: Origin, what: str) -> Fields:
    """The fields of an object of a version that this package knows."""
    fields = load_fields(data, origin, what)
    version = fields.integer("version")
    if version != _VERSION:
        raise UnknownVersionError(
            f"the object has version {version}; this package knows {_VERSION}",
            where=origin.source,
            hint="use a newer deltackpt: this one cannot tell what another process does",
        )
    return fields


def _key_lists(keys: Sequence[StepKey]) -> list[list[object]]:
    return [[key.branch, key.step, key.generation] for key in keys]
