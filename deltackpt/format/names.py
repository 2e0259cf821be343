"""Small objects that name or describe steps: tags, starts of branches, notes (section 15 of ``docs/format.md``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deltackpt.errors import UnknownVersionError
from deltackpt.format.hashing import Buffer
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import MAX_STEP, StepKey
from deltackpt.format.manifest_header import Metric, dump_metrics, parse_metrics
from deltackpt.format.origin import Origin

__all__ = [
    "BranchStart",
    "Note",
    "Tag",
    "decode_branch_start",
    "decode_note",
    "decode_tag",
    "encode_branch_start",
    "encode_note",
    "encode_tag",
]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for a step, at whatever generation.

    Attributes:
        created: RFC 3339, UTC, as in the classes below.
    """

    branch: str
    step: int
    created: str


@dataclass(frozen=True, slots=True)
class BranchStart:
    """Where a branch begins.

    Attributes:
        start: the step of another branch that its first step follows.
    """

    start: StepKey
    created: str


@dataclass(frozen=True, slots=True)
class Note:
    """What was found out about a step after it was saved.

    Attributes:
        saved: ``created`` of the step's manifest: a step that is saved anew under this number has another one.
        metrics: names to values, as in a manifest; of several notes on a step the latest counts.
    """

    saved: str
    created: str
    metrics: Mapping[str, Metric]


def encode_tag(tag: Tag) -> bytes:
    """The bytes of a tag.

    Raises:
        InvalidArgumentError: a field is not as section 15 says.
    """
    return _encode({"branch": tag.branch, "step": tag.step, "created": tag.created}, "the tag", _parse_tag)


def decode_tag(data: Buffer, *, source: str) -> Tag:
    """The tag that ``data`` is.

    Raises:
        UnknownVersionError: a version that this package does not know.
        CorruptObjectError: anything else that section 15 does not allow. So in the functions below.
    """
    return _parse_tag(_fields(data, "the tag", source))


def encode_branch_start(start: BranchStart) -> bytes:
    """The bytes of the object that says where a branch starts."""
    key = start.start
    value = {"start": [key.branch, key.step, key.generation], "created": start.created}
    return _encode(value, "the start of the branch", _parse_start)


def decode_branch_start(data: Buffer, *, source: str) -> BranchStart:
    """The start of a branch that ``data`` is."""
    return _parse_start(_fields(data, "the start of the branch", source))


def encode_note(note: Note) -> bytes:
    """The bytes of a note."""
    value = {"saved": note.saved, "created": note.created, "metrics": dump_metrics(note.metrics, Origin())}
    return _encode(value, "the note", _parse_note)


def decode_note(data: Buffer, *, source: str) -> Note:
    """The note that ``data`` is."""
    return _parse_note(_fields(data, "the note", source))


def _parse_tag(fields: Fields) -> Tag:
    return Tag(fields.branch("branch"), fields.integer("step", 0, MAX_STEP), fields.time("created"))


def _parse_start(fields: Fields) -> BranchStart:
    return BranchStart(fields.step_key("start"), fields.time("created"))


def _parse_note(fields: Fields) -> Note:
    return Note(fields.time("saved"), fields.time("created"), parse_metrics(fields.sub("metrics")))


def _encode(value: Mapping[str, object], what: str, check: Callable[[Fields], object]) -> bytes:
    data = dump_json({"version": _VERSION, **value}, Origin())
    check(load_fields(data, Origin(), what))
    return data


def _fields(data: Buffer, what: str, source: str) -> Fields:
    fields = load_fields(data, Origin(source), what)
    version = fields.integer("version")
    if version != _VERSION:
        raise UnknownVersionError(
            f"{what} has version {version}; this package knows {_VERSION}",
            where=source,
            hint="use a newer deltackpt",
        )
    return fields
