"""The entries of a manifest, its tensors and objects: section 8 of ``docs/format.md``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deltackpt.format.columns import DecodedTable, encode_table
from deltackpt.format.layout import EntryShapes
from deltackpt.format.origin import Origin
from deltackpt.format.record_meta import MAX_NDIM
from deltackpt.format.vectors import int_column, starts_of, sums_to, within
from deltackpt.tensor.dtypes import by_code, by_name

__all__ = ["Entry", "check_entries", "encode_entries", "parse_entries", "shapes_of"]

_REQUIRES_GRAD, _PINNED = 1, 2
_KINDS: tuple[Literal["tensor", "object"], ...] = ("tensor", "object")
_UINT8 = by_name("uint8").code


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor or object of a step.

    Attributes:
        fqn: its fully qualified name, unlike that of any other entry.
        kind: an ``object`` is the bytes of something that is no tensor.
        artifact: the part of the step that it belongs to.
        role: what it is to training, such as ``weight``.
        dtype: code; uint8 for objects.
        block_elements: the grid's parameter B.
        requires_grad, pinned: what the tensor was when it was saved.
        shape: global; ``(number of bytes,)`` for objects.
        shards: how many; 1 for objects.
        path: its place in the nested state, of dict keys and list positions; None where it is not known.
        encoding: of an object's bytes, such as ``tree``; empty for tensors.
    """

    fqn: str
    kind: Literal["tensor", "object"]
    artifact: str
    role: str
    dtype: int
    block_elements: int
    requires_grad: bool
    pinned: bool
    shape: tuple[int, ...]
    shards: int
    path: tuple[str | int, ...] | None
    encoding: str


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The entries section."""
    flags = [_REQUIRES_GRAD * e.requires_grad + _PINNED * e.pinned for e in entries]
    shapes = shapes_of(entries)
    return encode_table(
        {
            "fqn": [e.fqn for e in entries],
            "kind": np.array([_KINDS.index(e.kind) for e in entries], np.int64),
            "artifact": [e.artifact for e in entries],
            "role": [e.role for e in entries],
            "dtype": shapes.dtype,
            "block_elements": shapes.block_elements,
            "flags": np.array(flags, np.int64),
            "ndim": shapes.ndim,
            "shape": shapes.shape,
            "shards": shapes.shards,
            "path": ["" if e.path is None else json.dumps(e.path, separators=(",", ":")) for e in entries],
            "encoding": [e.encoding for e in entries],
        }
    )


def shapes_of(entries: Sequence[Entry]) -> EntryShapes:
    """The columns that the layout follows from."""
    return EntryShapes(
        names=[e.fqn for e in entries],
        dtype=int_column((e.dtype for e in entries), "a dtype code"),
        block_elements=int_column((e.block_elements for e in entries), "the size of blocks"),
        ndim=np.array([len(e.shape) for e in entries], np.int64),
        shards=int_column((e.shards for e in entries), "a number of shards"),
        shape=int_column((size for e in entries for size in e.shape), "the size of a dimension"),
    )


def parse_entries(table: DecodedTable, origin: Origin) -> tuple[Entry, ...]:
    """The entries section, before ``check_entries``.

    Raises:
        CorruptObjectError: the columns are no entries.
    """
    fqn = table.strings("fqn")
    n = len(fqn)
    kind, flags, ndim, shape = table.ints("kind", n), table.ints("flags", n), table.ints("ndim", n), table.ints("shape")
    within(kind, 0, len(_KINDS) - 1, "the kind of an entry", origin)
    within(flags, 0, _REQUIRES_GRAD | _PINNED, "the flags of an entry", origin)
    within(ndim, 0, MAX_NDIM, "a number of dimensions", origin)
    if not sums_to(ndim, len(shape)):
        raise origin.error("the numbers of dimensions of the entries do not add up")
    at, sizes = starts_of(ndim).tolist(), shape.tolist()
    return tuple(
        map(
            Entry,
            fqn,
            [_KINDS[k] for k in kind.tolist()],
            table.strings("artifact", n),
            table.strings("role", n),
            table.ints("dtype", n).tolist(),
            table.ints("block_elements", n).tolist(),
            [bool(f & _REQUIRES_GRAD) for f in flags.tolist()],
            [bool(f & _PINNED) for f in flags.tolist()],
            [tuple(sizes[a:b]) for a, b in itertools.pairwise(at)],
            table.ints("shards", n).tolist(),
            [_parse_path(text, origin) for text in table.strings("path", n)],
            table.strings("encoding", n),
        )
    )


def _parse_path(text: str, origin: Origin) -> tuple[str | int, ...] | None:
    if not text:
        return None
    try:
        path = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise origin.error(f"the path {text[:80]!r} is not valid JSON") from error
    if not isinstance(path, list):
        raise origin.error(f"the path {text[:80]!r} is not a list")
    return tuple(path)


def check_entries(entries: Sequence[Entry], origin: Origin) -> None:
    """Demand what section 8 says of each entry by itself; ``check_layout`` has the rules on shapes.

    Raises:
        UnknownVersionError: a dtype code that this version does not know.
        CorruptObjectError, InvalidArgumentError: a rule is broken; which of the two, ``origin`` knows.
    """
    seen: set[str] = set()
    for entry in entries:
        if entry.fqn in seen:
            raise origin.error(f"entry {entry.fqn!r} occurs twice")
        seen.add(entry.fqn)
        by_code(entry.dtype, where=origin.source, offset=origin.offset)
        if entry.kind == "object":
            if entry.dtype != _UINT8 or len(entry.shape) != 1 or entry.shards != 1 or not entry.encoding:
                raise origin.error(f"object {entry.fqn!r} is not one shard of bytes with an encoding")
        elif entry.encoding:
            raise origin.error(f"tensor {entry.fqn!r} has an encoding, as only objects do")
        for part in entry.path or ():
            # A bool is an int to Python, but neither a key nor a position here.
            if type(part) is not str and (type(part) is not int or part < 0):
                raise origin.error(f"the path of {entry.fqn!r} has the part {part!r}")
