"""Get the tensors out of a deltackpt store without deltackpt.

    python reader.py [STORE] list                                  branches, steps, metrics, sizes
    python reader.py [STORE] show [BRANCH:]STEP                    what a step holds
    python reader.py [STORE] restore [BRANCH:]STEP --out DIR [--only ARTIFACT]

STORE is a local folder; without it, the folder of this script. BRANCH is "main" unless given. STEP is a number or
"latest". "restore" writes for each artifact of the step (model, optim, ...):

    ARTIFACT.safetensors     its tensors
    ARTIFACT.NAME.bin        a tensor whose dtype safetensors has no name for: its elements, little-endian, in C order
    ARTIFACT.NAME.pickle     an object that torch.save wrote; to load it is to run code that the file chooses
    ARTIFACT.objects.json    the other objects, and of every tensor its file and its place in the nested state

and for a step that was imported from files, "files/PATH": each file as it was, compared with its SHA-256.

It needs Python 3.10, numpy and zstandard, or newer ones. With the modules xxhash and blake3 it checks all hashes too.

"Section" means one of docs/format.md of the package. In short: a step's manifest names for each block of each tensor a
row of an index; the row says where in which pack the block's record lies, and which other rows it is decoded from.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn
from urllib.parse import quote

import numpy as np
import zstandard
from numpy.typing import NDArray


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


xxhash, blake3 = _optional("xxhash"), _optional("blake3")

FORMAT = 1
Bytes = NDArray[np.uint8]
Shape = tuple[int, ...]
Box = tuple[Shape, Shape]  # offsets, sizes
Ref = tuple[bytes, int]  # a record: the identity of its index, and its row there
# The number of slots and bytes of parameters; of predictor 6 the terms tell.
PREDICTORS = {0: (0, 0), 1: (1, 0), 2: (1, 0), 3: (3, 20), 4: (3, 16), 5: (1, 0), 6: (0, 0), 7: (2, 0)}


class Dtype(NamedTuple):
    """A row of the table in section 4."""

    code: int
    name: str
    size: int  # bytes of an element
    word: int  # bytes of a word
    kind: str
    safetensors: str  # its name there; "-" if it has none


_DTYPES = """
1 bool 1 1 int BOOL, 2 uint8 1 1 int U8, 3 int8 1 1 int I8, 4 int16 2 2 int I16, 5 uint16 2 2 int U16,
6 int32 4 4 int I32, 7 uint32 4 4 int U32, 8 int64 8 8 int I64, 9 uint64 8 8 int U64, 10 float16 2 2 float F16,
11 bfloat16 2 2 float BF16, 12 float32 4 4 float F32, 13 float64 8 8 float F64, 14 complex32 4 2 float -,
15 complex64 8 4 float C64, 16 complex128 16 8 float -, 17 float8_e4m3fn 1 1 float F8_E4M3,
18 float8_e4m3fnuz 1 1 float F8_E4M3FNUZ, 19 float8_e5m2 1 1 float F8_E5M2, 20 float8_e5m2fnuz 1 1 float F8_E5M2FNUZ,
21 float8_e8m0fnu 1 1 int F8_E8M0, 22 float4_e2m1fn_x2 1 1 int F4
"""
_ROWS = (row.split() for row in _DTYPES.split(","))
DTYPES = {int(c): Dtype(int(c), name, int(size), int(word), kind, safe) for c, name, size, word, kind, safe in _ROWS}


Slots = dict[int, tuple[Dtype, Bytes]]  # inputs of a predictor: their dtypes and bytes


class ReaderError(ValueError):
    """Something that cannot be read, in one line."""


def fail(where: str, message: str) -> NoReturn:
    """Ends the work on what is at ``where``."""
    raise ReaderError(f"{where}: {message}")


# ---- bytes and column tables: section 9 -----------------------------------------------------------------------------


class Cursor:
    """Takes bytes apart from front to back; fails when they end too early or too late."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self.data, self.where, self.at = memoryview(data), where, 0

    def fail(self, message: str) -> NoReturn:
        fail(f"{self.where}, byte {self.at}", message)

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            self.fail(f"truncated: {size} bytes wanted, {len(self.data) - self.at} left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128 and value < 1 << 64 and (byte or not shift):
                return value
            if byte < 128:
                break
        self.fail("a varint that is too long")

    def varints(self, count: int) -> Shape:
        return tuple(self.varint() for _ in range(count))

    def magic(self, magic: bytes) -> None:
        if self.take(len(magic)) != magic:
            fail(self.where, f"damaged, or of an unknown format: no {magic.decode()} at its start")

    def end(self) -> None:
        if self.at != len(self.data):
            self.fail(f"{len(self.data) - self.at} bytes left over")


def check_xxh64(data: bytes, stored: bytes | memoryview, where: str) -> None:
    """XXH3-64, where it can be computed."""
    if xxhash is not None and xxhash.xxh3_64_intdigest(data) != int.from_bytes(stored, "little"):
        fail(where, "damaged: its checksum does not match")


def check_blake3(data: bytes | memoryview, name: bytes, where: str) -> None:
    """BLAKE3-256, where it can be computed."""
    if blake3 is not None and blake3.blake3(data).digest() != name:
        fail(where, "damaged: it does not have the BLAKE3 that it is named by")


def parse_json(data: bytes, where: str) -> Any:
    """JSON in UTF-8, without NaN, infinities, lone surrogates and keys that occur twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs) if len(dict(pairs)) == len(pairs) else fail(where, "a key that occurs twice")

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        fail(where, f"not readable as JSON: {error}")


def check_format(found: Any, where: str) -> None:
    """A JSON object must be of the one format that this script reads."""
    if not isinstance(found, dict) or type(found.get("format")) is not int or found["format"] != FORMAT:
        fail(where, f"not of format {FORMAT}, the one this script reads; get the reader.py of a newer deltackpt")


def unzstd(data: memoryview, size: int, where: str) -> bytes:
    """One zstd frame that says that it decodes to ``size`` bytes (at least 1), and does."""
    try:
        if size == 0 or zstandard.frame_content_size(data) != size:
            fail(where, f"damaged: a zstd frame that does not decode to {size} bytes")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        fail(where, f"damaged: {error}")


class Table:
    """A column table."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self.where = where
        self.columns: dict[str, tuple[int, Any]] = {}
        frame = Cursor(data, where)
        size, stored = frame.number(4), frame.number(4)
        if size > min(1 << 31, stored << 15):
            frame.fail(f"a table of {size} bytes, which is more than there can be")
        body = Cursor(unzstd(frame.take(stored), size, where), f"{where}, decoded")
        frame.end()
        for _ in range(body.varint()):
            name = str(body.take(body.varint()), "utf-8")
            kind, count = body.number(1), body.varint()
            if kind > 2 or name in self.columns:
                body.fail(f"column {name!r} is of unknown kind {kind}, or occurs twice")
            if kind == 0:
                self.columns[name] = kind, self._ints(body, count)
            elif kind == 1:
                length = body.varint() or body.fail("values of no bytes")
                self.columns[name] = kind, np.frombuffer(body.take(count * length), np.uint8).reshape(count, length)
            else:
                lengths = [body.varint() for _ in range(count)]
                self.columns[name] = kind, [str(body.take(length), "utf-8") for length in lengths]
        body.end()

    @staticmethod
    def _ints(body: Cursor, count: int) -> NDArray[Any]:
        mode, width = body.number(1), body.number(1)
        if mode > 1 or width not in {1, 2, 4, 8}:
            body.fail(f"unknown mode {mode} or width {width} of a column")
        planes = np.frombuffer(body.take(count * width), np.uint8).reshape(width, count)
        words = np.zeros((count, 8), np.uint8)
        words[:, :width] = planes.T
        values: NDArray[Any] = words.view("<i8")[:, 0]
        if mode == 1:
            values = np.cumsum((values >> 1 & (2**63 - 1)) ^ -(values & 1))
        if values.min(initial=0) < 0:
            body.fail("a value that is not below 2^63")
        # Deep chains need many indexes at once: keep them small.
        return values.astype(np.min_scalar_type(values.max(initial=0)))

    def column(self, name: str, kind: int, count: int | None = None) -> Any:
        """A column of a kind: 0 an array of integers, 1 an array with a row of bytes for each, 2 a list of strings."""
        found, values = self.columns.get(name, (None, ()))
        if found != kind or (count is not None and len(values) != count):
            fail(self.where, f"damaged: no column {name!r}, or not of kind {kind} with {count} values")
        return values

    def ints(self, name: str, count: int | None = None) -> list[int]:
        values: list[int] = self.column(name, 0, count).tolist()
        return values

    def names(self, name: str, count: int | None = None) -> list[bytes]:
        return [row.tobytes() for row in self.column(name, 1, count)]


# ---- the folder: section 3 ------------------------------------------------------------------------------------------


class Folder:
    """A store in a local folder: the object of a key is the file at that path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "store.json").is_file():
            fail(str(path), "not a deltackpt store: it has no store.json")
        check_format(parse_json(self.read("store.json"), "store.json"), "store.json")

    def read(self, key: str, start: int = 0, size: int | None = None, total: int | None = None) -> bytes:
        """The bytes [start, start + size) of an object, or all; the object must have ``total`` bytes, if given."""
        try:
            with open(self.path / key, "rb") as file:
                length = os.fstat(file.fileno()).st_size
                if total is not None and length != total:
                    fail(key, f"{'truncated' if length < total else 'changed'}: it has {length} bytes, not {total}")
                size = length - start if size is None else size
                if start + size > length:
                    fail(key, f"truncated: it has {length} bytes, not {start + size}")
                file.seek(start)
                return file.read(size)
        except FileNotFoundError:
            fail(key, "missing from the store")

    def steps(self) -> dict[str, dict[int, int]]:
        """Branch -> step -> its highest generation. Files whose names are no keys do not count."""
        found: dict[str, dict[int, int]] = {}
        for file in sorted((self.path / "manifests").glob("*/*/*")):
            branch, step, generation = file.parts[-3:]
            if re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]*/[0-9]{12}/[0-9]{6}", f"{branch}/{step}/{generation}"):
                found.setdefault(branch, {})[int(step)] = int(generation)
        return found

    def find(self, text: str) -> tuple[str, int, int]:
        """[BRANCH:]STEP -> (branch, step, highest generation)."""
        branch, _, step = text.rpartition(":")
        steps = self.steps().get(branch or "main") or fail(text, f"the store has no branch {branch or 'main'!r}")
        number = max(steps) if step == "latest" else int(step) if re.fullmatch("[0-9]{1,12}", step) else -1
        if number not in steps:
            fail(text, f"no such step; the branch has {len(steps)}, from {min(steps)} to {max(steps)}")
        return branch or "main", number, steps[number]


# ---- manifests: section 8, and the block grid: section 4 ------------------------------------------------------------


@dataclass
class Entry:
    """A tensor or an object."""

    fqn: str
    artifact: str
    role: str
    path: str
    encoding: str
    is_object: bool
    dtype: Dtype
    block_elements: int
    requires_grad: bool
    shape: Shape
    shards: list[tuple[Shape, Shape, range]]  # offsets, sizes, numbers of its blocks in the manifest

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.size


def read_header(folder: Folder, branch: str, step: int, generation: int) -> tuple[str, dict[str, Any], Shape]:
    """With one short read: a manifest's key, its header, and the ends of the header and the sections."""
    key = f"manifests/{branch}/{step:012}/{generation:06}"
    prefix = Cursor(folder.read(key, 0, 32), key)
    prefix.magic(b"DKMANI01")
    length, count = prefix.number(4), prefix.number(4)
    if length > 1 << 20 or count != 4:
        fail(key, f"damaged: a header of {length} bytes, {count} sections")
    data = folder.read(key, 0, 40 + length)
    check_xxh64(data[:-8], data[-8:], f"{key}, header")
    header = parse_json(data[32:-8], f"{key}, header")
    check_format(header, key)
    if [header.get(name) for name in ("branch", "step", "generation")] != [branch, step, generation]:
        fail(key, "damaged: its header is that of another step")
    return key, header, tuple(itertools.accumulate((prefix.number(4) for _ in range(4)), initial=40 + length))


class Manifest:
    """All that one step names."""

    def __init__(self, folder: Folder, branch: str, step: int, generation: int) -> None:
        self.key, self.header, ends = read_header(folder, branch, step, generation)
        data = folder.read(self.key, total=ends[-1] + 8)
        check_xxh64(data[:-8], data[-8:], self.key)
        sections = [data[start:end] for start, end in itertools.pairwise(ends)]
        entries, shards, blocks, closure = (Table(s, f"{self.key}, section {n}") for n, s in enumerate(sections, 1))
        self.identities, packs = closure.names("identity"), closure.names("pack_name")
        count = len(self.identities)
        objects = zip(closure.names("object", count), closure.ints("size", count), strict=True)
        self.indexes = dict(zip(self.identities, objects, strict=True))  # identity -> name of the object, its size
        self.packs = dict(zip(packs, closure.ints("pack_size", len(packs)), strict=True))
        self.block_index = blocks.ints("index")
        self.block_row = blocks.ints("row", len(self.block_index))
        if max(self.block_index, default=-1) >= count or len(self.indexes) != count:
            fail(self.key, "damaged: its closure does not name the index of a block, or names one twice")
        self.entries = list(self._entries(entries, shards))
        if len({entry.fqn for entry in self.entries}) != len(self.entries):
            fail(self.key, "damaged: two entries of one name")

    def _entries(self, table: Table, shards: Table) -> Iterator[Entry]:
        rows = len(table.column("fqn", 2))
        names = ("fqn", "artifact", "role", "path", "encoding")
        texts: list[tuple[str, ...]] = list(zip(*(table.column(name, 2, rows) for name in names), strict=True))
        kinds, codes, elements, flags, ndims, counts = (
            table.ints(name, rows) for name in ("kind", "dtype", "block_elements", "flags", "ndim", "shards")
        )
        shapes, blocks = table.ints("shape", sum(ndims)), shards.ints("blocks", sum(counts))
        offsets = shards.ints("offsets", sum(n * count for n, count in zip(ndims, counts, strict=True)))
        sizes = shards.ints("sizes", len(offsets))
        if sum(blocks) != len(self.block_index):
            fail(self.key, f"damaged: {sum(blocks)} blocks of shards, but {len(self.block_index)} blocks")
        dim = shard = at = block = 0
        for i, n in enumerate(ndims):
            fqn, artifact, role, path, encoding = texts[i]
            where = f"{self.key}, {fqn}"
            if codes[i] not in DTYPES or kinds[i] > 1 or (kinds[i] == 1 and (codes[i], n, counts[i]) != (2, 1, 1)):
                fail(where, f"unknown dtype {codes[i]} or kind {kinds[i]}, or not what its kind must be")
            shape, boxes = tuple(shapes[dim : dim + n]), []
            for _ in range(counts[i]):
                numbers = range(block, block + blocks[shard])
                boxes.append((tuple(offsets[at : at + n]), tuple(sizes[at : at + n]), numbers))
                shard, at, block = shard + 1, at + n, numbers.stop
            dim += n
            check_boxes([(o, s) for o, s, _ in boxes], shape, where)
            if sum(math.prod(s) for _, s, _ in boxes) != math.prod(shape) or not elements[i]:
                fail(where, f"damaged: its shards do not cover its shape {shape}, or its blocks have no elements")
            dtype = DTYPES[codes[i]]
            yield Entry(
                fqn, artifact, role, path, encoding, kinds[i] == 1, dtype, elements[i], flags[i] & 1 == 1, shape, boxes
            )


def check_boxes(boxes: Sequence[Box], shape: Shape, where: str) -> None:
    """Boxes must lie inside ``shape`` and not overlap."""
    if any(o + s > n for offsets, sizes in boxes for o, s, n in zip(offsets, sizes, shape, strict=True)):
        fail(where, f"damaged: a box that is not inside the shape {shape}")
    full = [box for box in boxes if math.prod(box[1])]
    low = np.array([offsets for offsets, _ in full], np.int64)
    high = low + np.array([sizes for _, sizes in full], np.int64)
    for i in range(1, len(full)):
        if ((low[:i] < high[i]) & (low[i] < high[:i])).all(axis=1).any():
            fail(where, "damaged: boxes that overlap")


def grid(offsets: Shape, sizes: Shape, limit: int, blocks: int, where: str) -> Iterator[Box]:
    """The blocks of a shard, as boxes in the tensor; ``limit`` is its block_elements."""
    if 0 in sizes:
        axes, count = [], 0
    else:
        inner = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
        cut = next((d for d, elements in enumerate(inner) if elements <= limit), 0)
        # Before that dimension a cut at every index, in it one at every multiple of some rows, after it none.
        steps = [1 if d < cut else max(1, limit // n) if d == cut else 1 << 63 for d, n in enumerate(inner)]
        axes = list(zip(offsets, sizes, steps, strict=True))
        count = math.prod((o + s - 1) // step - o // step + 1 for o, s, step in axes)
    if count != blocks:
        fail(where, f"damaged: a shard of {blocks} blocks, but the grid makes {count}")
    cuts = [[o, *range((o // step + 1) * step, o + s, step), o + s] for o, s, step in axes]
    for box in itertools.product(*map(itertools.pairwise, cuts)) if count else ():
        yield tuple(a for a, _ in box), tuple(b - a for a, b in box)


# ---- indexes: section 7 ---------------------------------------------------------------------------------------------


class Index:
    """What the records of one index are, and where. Its header and placement are for savers; they are not read here."""

    def __init__(self, folder: Folder, identity: bytes, name: bytes, size: int) -> None:
        self.key = f"indexes/{name.hex()}"
        data = folder.read(self.key, total=size)
        check_blake3(data, name, self.key)
        check_xxh64(data[:-8], data[-8:], self.key)
        cursor = Cursor(data[:-8], self.key)
        cursor.magic(b"DKINDX01")
        lengths = [cursor.number(4) for _ in range(4)]
        _, what, where, _ = (cursor.take(length) for length in lengths)
        cursor.end()
        check_blake3(what, identity, f"{self.key}, identity")

        table = Table(what, f"{self.key}, identity")
        self.refs, self.address = [identity, *table.names("refs")], table.column("address", 1)
        self.rows = rows = len(self.address)
        self.facts = [table.column(name, 0, rows) for name in ("dtype", "predictor", "coder", "raw")]
        self.depth = table.column("depth", 0, rows)
        needs = table.ints("needs", rows)
        self.need_ends = list(itertools.accumulate(needs, initial=0))
        self.need_ref = table.column("need_ref", 0, self.need_ends[-1])
        self.need_row = table.column("need_row", 0, self.need_ends[-1])
        forward = self.need_row >= np.repeat(np.arange(rows), needs)
        table = Table(where, f"{self.key}, location")
        self.packs = table.names("pack_name")
        self.places = [table.column(name, 0, rows) for name in ("pack", "offset", "length")]
        if self.need_ref.max(initial=0) >= len(self.refs) or (self.places[0] >= len(self.packs)).any():
            fail(self.key, "damaged: it names an index or a pack by a number that it does not have")
        if (forward & (self.need_ref == 0)).any() or len(set(self.refs)) != len(self.refs):
            fail(self.key, "damaged: a record that needs a later one, or an index that is named twice")

    def needs(self, row: int) -> list[Ref]:
        mine = slice(self.need_ends[row], self.need_ends[row + 1])
        pairs = zip(self.need_ref[mine].tolist(), self.need_row[mine].tolist(), strict=True)
        return [(self.refs[ref], there) for ref, there in pairs]


# ---- records: section 5 ---------------------------------------------------------------------------------------------


class Records:
    """Decodes the records that one step's manifest leads to."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.indexes: dict[bytes, Index] = {}

    def index(self, ref: Ref) -> Index:
        identity, row = ref
        if identity not in self.indexes:
            if identity not in self.manifest.indexes:
                fail(self.manifest.key, f"damaged: its closure lacks the index {identity.hex()}, which is needed")
            self.indexes[identity] = Index(self.folder, identity, *self.manifest.indexes[identity])
        index = self.indexes[identity]
        return index if row < index.rows else fail(index.key, f"damaged: it lacks row {row}, which is needed")

    def decode(self, wanted: Ref) -> Bytes:
        """Decodes a record after all that it needs, at any depth; a result is kept until its last user is decoded."""
        order: list[Ref] = []
        users: Counter[Ref] = Counter()
        seen, ordered, stack = set[Ref](), set[Ref](), [wanted]
        while stack:
            ref = stack[-1]
            if ref in seen:
                stack.pop()
                if ref not in ordered:
                    ordered.add(ref)
                    order.append(ref)
                continue
            seen.add(ref)
            index = self.index(ref)
            needs = index.needs(ref[1])
            depths = [int(self.index(need).depth[need[1]]) for need in needs]
            if int(index.depth[ref[1]]) != 1 + max(depths, default=0):  # so needs cannot run in a circle
                fail(index.key, f"damaged: row {ref[1]} is not one deeper than what it needs")
            users.update(needs)
            stack.extend(need for need in needs if need not in seen)
        # The shallowest first: a result is made shortly before it is used, so few are kept.
        order.sort(key=lambda r: int(self.index(r).depth[r[1]]))
        done: dict[Ref, Bytes] = {}
        for ref in order:
            needs = self.index(ref).needs(ref[1])
            sources = [(self.index(need).address[need[1]].tobytes(), done[need]) for need in needs]
            done[ref] = self.decode_one(ref, sources)
            users.subtract(needs)
            for need in set(needs):
                if not users[need]:
                    del done[need]
        return done[wanted]

    def decode_one(self, ref: Ref, sources: list[tuple[bytes, Bytes]]) -> Bytes:
        """The bytes of one record. ``sources`` are its needs in order, as (address, decoded bytes)."""
        index, row = self.index(ref), ref[1]
        number, offset, length = (int(column[row]) for column in index.places)
        pack = index.packs[number]
        key = f"packs/{pack.hex()[:2]}/{pack.hex()}"
        total = self.manifest.packs.get(pack) or fail(self.manifest.key, f"damaged: its closure lacks {key}")
        data = self.folder.read(key, offset, length, total=total)
        cursor = Cursor(data, f"{key}, record at {offset}")
        cursor.magic(b"DKR1")
        code, predictor, coder, flags, meta_size, payload_size = struct.unpack("<4BII", cursor.take(12))
        address, checksum = bytes(cursor.take(16)), cursor.take(8)
        meta = Cursor(cursor.take(meta_size), f"{cursor.where}, meta")
        payload = Cursor(cursor.take(payload_size), f"{cursor.where}, payload")
        cursor.end()
        check_xxh64(data[:32] + data[40:], checksum, cursor.where)
        if code not in DTYPES or predictor not in PREDICTORS or coder > 4 or flags:
            fail(cursor.where, f"unknown dtype {code}, predictor {predictor}, coder {coder} or flags {flags}")
        dtype, ndim = DTYPES[code], meta.varint()
        shape = meta.varints(ndim) if ndim <= 64 else meta.fail(f"{ndim} dimensions")
        size = math.prod(shape) * dtype.size
        limits = size < 1 << 32 and all(n < 1 << 32 for n in shape) and 24 <= offset <= total - 16 - length
        known = [int(column[row]) for column in index.facts]
        if [code, predictor, coder, size] != known or address != index.address[row].tobytes() or not limits:
            fail(cursor.where, "damaged: not the record that its index says is here")
        slots = self.slots(meta, shape, sources)
        parameters = bytes(meta.take(meta.varint()))
        meta.end()
        if coder == 0:
            if predictor or slots or parameters:
                meta.fail("damaged: needs or parameters that a raw record does not have")
            block: Bytes = np.frombuffer(payload.take(size), np.uint8)
        else:
            prediction, keys = predict(predictor, dtype, size, slots, parameters, meta.where)
            block = decode_words(coder, payload, prediction, keys, dtype)
        payload.end()
        if xxhash is not None and xxhash.xxh3_128_digest(block.data) != address:
            fail(cursor.where, "damaged: it does not decode to the bytes that its address stands for")
        return block

    @staticmethod
    def slots(meta: Cursor, shape: Shape, sources: list[tuple[bytes, Bytes]]) -> Slots:
        """Reads the needs in ``meta`` and puts each slot together: zeros, and over them the boxes of the sources."""
        if meta.varint() != len(sources) or len(sources) > 65535:
            meta.fail("damaged: another number of needs than in its index")
        zeros = (0,) * len(shape)
        slots: dict[int, tuple[Dtype, NDArray[Any]]] = {}
        boxes: dict[int, list[Box]] = {}
        for expected, source in sources:
            number, flags, code, address = meta.varint(), meta.number(1), meta.number(1), meta.take(16)
            if flags > 1 or code not in DTYPES or address != expected:
                meta.fail("damaged: a need that the format does not have, or not the one in its index")
            dtype = DTYPES[code]
            if number not in slots:
                slots[number] = (dtype, np.zeros(shape, np.dtype((np.void, dtype.size))))
            if slots[number][0] != dtype:
                meta.fail("damaged: a need with a dtype that its slot does not have")
            if flags == 1:
                source_shape, start, sizes, target = shape, zeros, shape, zeros
            elif meta.varint() == len(shape):
                source_shape, start, sizes, target = (meta.varints(len(shape)) for _ in range(4))
            else:
                meta.fail("damaged: a need with another number of dimensions than the block")
            if math.prod(source_shape) * dtype.size != source.size or 0 in sizes:
                meta.fail(
                    f"damaged: a need of {source.size} bytes cannot have the shape {source_shape}, or an empty box"
                )
            check_boxes([(start, sizes)], source_shape, meta.where)
            check_boxes([(target, sizes)], shape, meta.where)
            boxes.setdefault(number, []).append((target, sizes))
            here, there = (tuple(slice(o, o + s) for o, s in zip(at, sizes, strict=True)) for at in (target, start))
            array = slots[number][1]
            array[here] = source.view(array.dtype).reshape(source_shape)[there]
        for tiles in boxes.values():
            check_boxes(tiles, shape, meta.where)
        return {number: (dtype, array.reshape(-1).view(np.uint8)) for number, (dtype, array) in slots.items()}


def predict(
    number: int, dtype: Dtype, size: int, slots: Slots, parameters: bytes, where: str
) -> tuple[Bytes, Bytes | None]:
    """What predictor ``number`` makes of its slots: the bytes of a block of ``size`` bytes, and its context array."""
    if number == 6:
        return linear(dtype, size, slots, parameters, where), None
    wanted, length = PREDICTORS[number]
    if sorted(slots) != list(range(wanted)) or len(parameters) != length:
        fail(where, f"damaged: slots or parameters that predictor {number} does not have")
    if number == 0:
        return np.zeros(size, np.uint8), None
    kinds = {slot_dtype.name for slot_dtype, _ in slots.values()}
    if number == 1 and kinds == {dtype.name}:
        return slots[0][1], None
    if number == 7 and kinds == {dtype.name}:
        one, other = (to_image(slots[k][1].view(f"<u{dtype.word}"), dtype) for k in (0, 1))
        return from_image((one & other) + ((one ^ other) >> one.dtype.type(1)), dtype).view(np.uint8), None
    if number == 5 and kinds < {"float32", "bfloat16"} and dtype.kind == "float" and dtype.word in (2, 4):
        # The highest 16 bits: a sign, 8 bits of exponent, some of the mantissa.
        halves = slots[0][1].view("<u2")[slots[0][0].word // 2 - 1 :: slots[0][0].word // 2]
        if halves.size * dtype.word == size:
            return np.zeros(size, np.uint8), (((halves >> 7 & 255) + 1) >> 1).astype(np.uint8)
    if kinds != {"float32"} or dtype.name not in (("bfloat16", "float16") if number == 2 else ("float32",)):
        fail(where, f"damaged: slots of dtypes that predictor {number} does not have")
    with np.errstate(all="ignore"):
        if number == 2:
            return cast(slots[0][1].view("<u4"), dtype), None
        base = slots[0][1].view("<f4")
        first, second = (slots[k][1].view("<f4").astype(np.float64) for k in (1, 2))
        if number == 3:
            rate, epsilon, decay = struct.unpack("<ddf", parameters)
            predicted = base * np.float32(decay) + (rate * (first / (np.sqrt(second) + epsilon))).astype(np.float32)
        else:
            beta1, beta2 = struct.unpack("<dd", parameters)
            gradient = (first - beta1 * second) / (1.0 - beta1)
            predicted = (base * np.float32(beta2) + (1.0 - beta2) * (gradient * gradient)).astype(np.float32)
    words: NDArray[Any] = np.where(np.isnan(predicted), base.view("<u4"), predicted.view("<u4"))
    return words.view(np.uint8), None


def linear(dtype: Dtype, size: int, slots: Slots, parameters: bytes, where: str) -> Bytes:
    """Predictor 6: a sum of features of its slots, each with a coefficient, rounded once."""
    data = Cursor(parameters, where)
    terms = [struct.unpack("<BBBdd", data.take(19)) for _ in range(data.number(1))]
    data.end()
    used = {0} | {slot for op, a, b, *_ in terms for slot in ((a, b) if op else (a,))}
    known = all(op <= 3 and (op or not b) for op, _, b, *_ in terms) and 1 <= len(terms) <= 8 and max(used) < 5
    if not known or set(slots) != used or {d.name for d, _ in slots.values()} | {dtype.name} != {"float32"}:
        fail(where, "damaged: slots or terms that predictor 6 does not have")
    wide = {number: words.view("<f4").astype(np.float64) for number, (_, words) in slots.items()}
    total = np.zeros(0)
    with np.errstate(all="ignore"):
        for number, (op, a, b, constant, coefficient) in enumerate(terms):
            x, y = wide[a], wide[b if op else 0]
            features = (x, x * y, x / (np.sqrt(y) + constant), np.sign(x - constant * y))
            total = total + coefficient * features[op] if number else coefficient * features[op]
        predicted = total.astype(np.float32)
    base = slots[0][1].view("<u4")
    words: NDArray[Any] = np.where(np.isnan(predicted), base, predicted.view("<u4"))
    return words.view(np.uint8)


def cast(words: NDArray[Any], dtype: Dtype) -> Bytes:
    """float32 words rounded to 16 bits, to nearest, ties to even; every NaN becomes the same one."""
    nan = (words & np.uint32(0x7FFFFFFF)) > 0x7F800000
    if dtype.name == "bfloat16":
        up = np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
        rounded = ((words + up) >> np.uint32(16)).astype("<u2")
        rounded[nan] = 0x7FC0
    else:
        rounded = words.view("<f4").astype("<f2").view("<u2")
        rounded[nan] = 0x7E00
    result: Bytes = rounded.view(np.uint8)
    return result


def decode_words(coder: int, payload: Cursor, prediction: Bytes, keys: Bytes | None, dtype: Dtype) -> Bytes:
    """The bytes of a block, by coder "planes", "rans", "narrow" or "rows"."""
    if coder == 4:
        return read_rows(payload, prediction, keys, dtype)
    if coder == 3:
        return read_narrow(payload, prediction, keys, dtype)
    if coder == 1:
        return add_residual(prediction, read_planes(payload, prediction.size, dtype.word), dtype)
    return add_residual(prediction, read_rans(payload, prediction, keys, dtype), dtype)


def read_narrow(payload: Cursor, prediction: Bytes, keys: Bytes | None, dtype: Dtype) -> Bytes:
    """Coder "narrow": words shifted down to fewer bytes, or the numbers of values in a list, by coder "rans"."""
    kind, method = np.dtype(f"<u{dtype.word}"), payload.number(1)
    words: NDArray[Any] = prediction.view(kind)
    if method == 1:
        shift, width = payload.number(1), payload.number(1)
        if shift >= 8 * dtype.word or width not in (2, 4):
            payload.fail("a field of the head of coder narrow is out of its range")
        whole = dtype.kind == "float" and 8 * dtype.word - shift == 8 * width
        inner = DTYPES[{2: (5, 11), 4: (7, 12)}[width][whole]]
        guess = (words >> kind.type(shift)).astype(f"<u{width}").view(np.uint8)
        narrow: NDArray[Any] = decode_words(2, payload, guess, keys, inner).view(f"<u{width}").astype(kind)
        block: Bytes = (narrow << kind.type(shift)).view(np.uint8)
        return block
    if method != 2 or prediction.any() or keys is not None:
        payload.fail(f"coder narrow with method {method}, or a list of values with a prediction")
    listed: NDArray[Any] = np.frombuffer(payload.take(dtype.word * payload.number(2)), kind)
    middle = np.full(words.size, listed.size >> 1, "<u2").view(np.uint8)
    places = decode_words(2, payload, middle, None, DTYPES[5]).view("<u2")
    if places.max(initial=0) >= listed.size:
        payload.fail("the number of a value that is not in the list of coder narrow")
    words = listed[places]
    return words.view(np.uint8)


def read_rows(payload: Cursor, prediction: Bytes, keys: Bytes | None, dtype: Dtype) -> Bytes:
    """Coder "rows": rows of words in classes, each class by coder "rans"."""
    words = prediction.view(f"<u{dtype.word}")
    row, bits = payload.number(1), payload.number(1)
    if not 6 <= row <= 16 or bits not in (1, 2):
        payload.fail("a field of the head of coder rows is out of its range")
    lengths = [payload.number(4) for _ in range(1 << bits)]
    rows = words.size >> row
    flags = np.unpackbits(np.frombuffer(payload.take((bits * rows + 7) // 8), np.uint8), bitorder="little")
    if flags[bits * rows :].any():
        payload.fail("a bit beyond the last row of coder rows")
    classes = flags[: bits * rows].reshape(rows, bits) @ (1 << np.arange(bits))
    number = np.full(words.size, (1 << bits) - 1)
    number[: rows << row] = np.repeat(classes, 1 << row)
    block = np.empty_like(words)
    for here, length in enumerate(lengths):
        part = Cursor(payload.take(length), payload.where)
        taken = np.flatnonzero(number == here)
        if taken.size:
            guess, known = words[taken].view(np.uint8), None if keys is None else keys[taken]
            block[taken] = decode_words(2, part, guess, known, dtype).view(words.dtype)
        part.end()
    return block.view(np.uint8)


def read_planes(payload: Cursor, size: int, word: int) -> Bytes:
    """Coder "planes": the bytes of words, from one plane for each byte of a word, the most significant first."""
    count = size // word
    words = np.empty((count, word), np.uint8)
    heads = [(payload.number(1), payload.number(4)) for _ in range(word)]
    for significance, (method, length) in zip(reversed(range(word)), heads, strict=True):
        body = payload.take(length)
        if method == 0 and length == count:
            words[:, significance] = np.frombuffer(body, np.uint8)
        elif method == 1 and count:
            words[:, significance] = np.frombuffer(unzstd(body, count, payload.where), np.uint8)
        elif method == 2 and count and length == 1:
            words[:, significance] = body[0]
        else:
            payload.fail(f"an unknown plane: method {method}, {length} bytes for {count} words")
    return words.reshape(-1)


def read_rans(payload: Cursor, prediction: Bytes, keys: Bytes | None, dtype: Dtype) -> Bytes:
    """Coder "rans": a symbol for each word, in the context of the prediction or of given keys, and raw bits below."""
    kind, bits = np.dtype(f"<u{dtype.word}"), 8 * dtype.word
    words: NDArray[Any] = prediction.view(kind)
    method = payload.number(1)
    if dtype.word not in (2, 4) or not words.size or method > 2:
        payload.fail(f"coder rans with method {method} for {words.size} words of {dtype.word} bytes")
    if method == 0:
        return np.repeat(np.frombuffer(payload.take(dtype.word), kind), words.size).view(np.uint8)
    if method == 2:
        packed, key_shift, contexts = payload.take(3)
        low, extra, *sizes = payload.varints(4)
        shift, precision, lanes_log2 = 4 * (packed & 7), 9 + (packed >> 3 & 3), 2 * (packed >> 5)
        sizes = [sizes[0], 0, payload.varint() if extra else 0, sizes[1]]
    else:
        head = struct.unpack("<5BHH4I", payload.take(25))
        shift, precision, lanes_log2, key_shift, contexts, low, extra, *sizes = head
    known = shift % 4 == 0 and shift < bits and 9 <= precision <= 12
    known = known and lanes_log2 in ((0, 2, 4, 6) if method == 2 else (4, 6))
    known = known and 1 <= contexts <= 16 and low < 2048 and extra >> contexts == 0
    known = known and (not extra or shift + 8 < bits)
    if not known or not (keys is not None if key_shift == 255 else max(1, bits - 11) <= key_shift < bits):
        payload.fail("a field of the header of coder rans is out of its range")
    data = payload.take(sizes[0])
    if method == 2:
        alternating = [not shift and not extra >> c & 1 for c in range(contexts)]
        table = CompactTables(payload, data).frequencies(alternating, 1 << precision)
    else:
        table = rans_tables(payload, data, contexts, 1 << precision)
    raw, at = np.zeros(words.size, np.uint64), 0
    for width, there in ((2, shift & 16), (1, shift & 8)):
        if there:
            part = np.frombuffer(payload.take(width * words.size), f"<u{width}").astype(np.uint64)
            raw, at = raw | part << np.uint64(at), at + 8 * width
    if shift & 4:
        pairs = np.frombuffer(payload.take((words.size + 1) // 2), np.uint8)
        halves = np.stack((pairs & 15, pairs >> 4), axis=1).reshape(-1)
        if halves[words.size :].any():
            payload.fail("a bit beyond the last word")
        raw |= halves[: words.size].astype(np.uint64) << np.uint64(at)
    if method == 2:
        # The pieces are what the rest leaves; an odd byte is left over.
        rest = sizes[2] + dtype.word * sizes[3] + (4 << lanes_log2)
        sizes[1] = max(0, len(payload.data) - payload.at - rest) // 2
    stream = np.frombuffer(payload.take(2 * sizes[1]), "<u2").astype(np.int64)
    extras = np.frombuffer(payload.take(sizes[2]), np.uint8)
    escapes = np.frombuffer(payload.take(dtype.word * sizes[3]), kind)
    states = np.frombuffer(payload.take(4 << lanes_log2), "<u4").astype(np.int64)
    if keys is None or key_shift != 255:
        keys = (words << kind.type(1)) >> kind.type(key_shift)
    key = keys.astype(np.int64)
    context = np.clip(key - low, 0, contexts - 1)
    symbols = rans_symbols(payload, context, table, precision, stream, states)
    more = (extra >> context & 1).astype(bool)
    if np.count_nonzero(more) != extras.size or np.count_nonzero(symbols == 255) != escapes.size:
        payload.fail("other numbers of raw bytes or escapes than its symbols ask for")
    symbols[symbols == 255] = escapes
    raw[more] |= extras.astype(np.uint64) << np.uint64(shift)
    z: NDArray[Any] = (raw | symbols.astype(np.uint64) << (shift + 8 * more).astype(np.uint64)).astype(kind)
    return z.view(np.uint8)


def rans_tables(payload: Cursor, data: memoryview, contexts: int, whole: int) -> NDArray[np.int64]:
    """Frequencies, of shape (contexts, 256), from adaptive Rice codes of their differences."""
    bits = iter(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tolist())

    def take(count: int) -> int:
        return sum(next(bits) << i for i in range(count))

    table = np.zeros((contexts, 256), np.int64)
    try:
        for row in table:
            used, before, total, count = take(8), 0, 4, 1
            for symbol in range(used):
                k = next(k for k in range(32) if count << k >= total)
                quotient = next((q for q in range(16) if not take(1)), 16)
                value = quotient << k | take(k) if quotient < 16 else take(14)
                total, count = total + value, count + 1
                if count == 8:
                    total, count = total >> 1, count >> 1
                before += -(value + 1 >> 1) if value & 1 else value >> 1
                row[symbol] = before
            row[255] = whole - row[:255].sum()
            if not used or row.min() < 0 or not row[used - 1] or not row[255]:
                payload.fail("tables that no encoder makes")
    except RuntimeError:  # what StopIteration becomes inside a generator
        payload.fail("its tables end early")
    rest = list(bits)
    if len(rest) > 7 or any(rest):
        payload.fail("bits beyond its tables")
    return table


class CompactTables:
    """Tables of a compact payload: roots of frequencies, by an arithmetic coder with adaptive bits."""

    def __init__(self, payload: Cursor, data: memoryview) -> None:
        self.payload, self.data, self.at = payload, bytes(data), 0
        self.low, self.high = 0, 0xFFFFFFFF
        self.value = int.from_bytes(self.data[:4].ljust(4, b"\0"), "big")
        self.models: dict[tuple[str, int], list[int]] = {}  # probability of a one, of 65536, and how often it was used

    def fail(self) -> NoReturn:
        self.payload.fail("tables that no encoder makes")

    def even(self, one: int = 32768) -> int:
        middle = self.low + ((self.high - self.low) * one >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while not (self.low ^ self.high) >> 24:
            following = self.data[self.at + 4] if self.at + 4 < len(self.data) else 0
            self.value = (self.value << 8 & 0xFFFFFFFF) | following
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, (self.high << 8 & 0xFFFFFFFF) | 255
            self.at += 1
        return bit

    def bit(self, name: str, number: int = 0) -> int:
        model = self.models.setdefault((name, number), [32768, 0])
        one, bit = model[0], self.even(model[0])
        model[1] = min(model[1] + 1, 25)
        rate = 131072 // (2 * model[1] + 3)
        one = one + ((65536 - one) * rate >> 16) if bit else one - (one * rate >> 16)
        model[0] = min(max(one, 1024), 64512)
        return bit

    def number(self, name: str) -> int:
        length, found = 0, 1
        while length < 15 and self.bit(name + ", unary", length):
            length += 1
        for i in reversed(range(length)):
            found = found << 1 | (self.bit(name + ", next", length) if i == length - 1 else self.even())
        return found - 1

    def signed(self, name: str) -> int:
        if self.bit(name + ", zero"):
            return 0
        negative = self.bit(name + ", negative")
        size = 1 + self.number(name)
        return -size if negative else size

    def long(self, length: int, kept_from: int) -> int:
        """A level of so many bits, without its lowest ones beyond ``kept_from``."""
        if not 0 <= length <= 14:
            self.fail()
        dropped = min(max(length - kept_from, 0), max(length - 1, 0))
        level = int(length > 0)
        for _ in range(max(length - 1, 0) - dropped):
            level = level << 1 | self.even()
        return level << dropped

    def levels(self, used: int, escape: int, alternating: bool, lengths: list[int]) -> list[int]:
        """The levels of one context; changes the lengths of the first two for the next context."""
        level = [0] * 255 + [escape]
        if used > 1:
            lengths[1] += self.signed("second")
            level[1] = self.long(lengths[1], 14)
        for s in range(2, used):
            quarters = 3 * level[s - 2] + level[s - 1] if alternating else 2 * (level[s - 2] + level[s - 1])
            quarters = 4 * level[1] if s == 2 else quarters
            near = (quarters >= 6) + (quarters >= 16) + (quarters >= 48)
            whole = (quarters + 2) // 4
            level[s] = whole + self.signed(f"near {near}") if whole else self.number("none")
            if not 0 <= level[s] < 1 << 14:
                self.fail()
        others = min(sum(v * v for v in level[1:]), 0xFFFFFFFF)
        root = math.isqrt(others)
        lengths[0] += self.signed("first")
        level[0] = self.long(lengths[0], (root + (others - root * root > root)).bit_length())
        if not level[used - 1]:
            self.fail()
        return level

    def frequencies(self, alternating: list[bool], whole: int) -> NDArray[np.int64]:
        used, lengths, table = 0, [0, 0], []
        for signs in alternating:
            used += self.signed("used")
            if not 0 <= used <= 255:
                self.fail()
            escape = self.number("escape")
            if escape >= 1 << 14:
                self.fail()
            level = self.levels(used, escape, signs, lengths) if used else [0] * 256
            table.append(scaled([v * v for v in level], whole))
        tails = [(self.low + (0xFFFFFFFF >> 8 * n)) & ~(0xFFFFFFFF >> 8 * n) for n in range(5)]
        size = next(n for n in range(5) if tails[n] <= self.high)
        if self.data[self.at :] != tails[size].to_bytes(4, "big")[:size] or self.at > len(self.data):
            self.fail()
        return np.array(table, np.int64)


def scaled(weights: list[int], whole: int) -> list[int]:
    """Frequencies in proportion to the weights of symbols, of which the last is the escape."""
    if not any(weights[:-1]):
        return [1] + [0] * 254 + [whole - 1]
    total = sum(weights)
    found = [max((n * whole + total // 2) // total, int(n > 0)) for n in weights]
    found[-1] = max(1, found[-1])
    while left := whole - sum(found):
        best = found.index(max(found))
        most = max(1, found[best] // 8)
        found[best] += max(-most, min(most, left))
    return found


def rans_symbols(
    payload: Cursor,
    context: NDArray[np.int64],
    table: NDArray[np.int64],
    precision: int,
    stream: NDArray[np.int64],
    states: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Word i comes from state i modulo their number; words and 16-bit pieces are read from the last to the first."""
    cell = np.repeat(np.arange(table.size), table.reshape(-1))
    frequency = table.reshape(-1)[cell]
    slot = np.arange(cell.size) % (1 << precision) - (np.cumsum(table, axis=1) - table).reshape(-1)[cell]
    symbols, left = np.empty(context.size, np.int64), stream.size
    if (states < 1 << 15).any() or (states >> 31).any():
        payload.fail("a state out of its range")
    for at in reversed(range(0, context.size, states.size)):
        here = context[at : at + states.size]
        x = states[: here.size]
        entry = (here << precision) + (x & (1 << precision) - 1)
        symbols[at : at + states.size] = cell[entry] % 256
        x = frequency[entry] * (x >> precision) + slot[entry]
        short = x < 1 << 15
        count = int(np.count_nonzero(short))
        if count > left:
            payload.fail("its 16-bit pieces end early")
        x[short] = x[short] << 16 | stream[left - count : left]
        left -= count
        states[: here.size] = x
    if left or (states != 1 << 15).any():
        payload.fail("states that do not end where they should")
    return symbols


def add_residual(prediction: Bytes, residual: Bytes, dtype: Dtype) -> Bytes:
    """Adds modulo 2^w; for floats, to images of the words that are ordered as the floats are."""
    kind = np.dtype(f"<u{dtype.word}")
    z = residual.view(kind)
    one = kind.type(1)
    words = from_image(to_image(prediction.view(kind), dtype) + ((z >> one) ^ -(z & one)), dtype)
    return words.astype(kind, copy=False).view(np.uint8)


def to_image(words: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """The images of words, which for floats are ordered as the floats are."""
    top = words.dtype.type(1 << (8 * dtype.word - 1))
    return np.where(words & top, ~words, words ^ top) if dtype.kind == "float" else words


def from_image(image: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """The words that have these images."""
    top = image.dtype.type(1 << (8 * dtype.word - 1))
    return np.where(image & top, image ^ top, ~image) if dtype.kind == "float" else image


# ---- output ---------------------------------------------------------------------------------------------------------


class Output:
    """Writes the artifacts of a step into a folder. A file gets its name when it is complete."""

    def __init__(self, records: Records, out: Path) -> None:
        self.records, self.out = records, out
        self.taken: set[str] = set()

    def claim(self, *parts: str) -> Path:
        """A new file for the parts of a name, the last its ending. No name in a store leads out of the folder."""
        stem = ".".join(re.sub(r"^\.", "%2E", quote(part, safe=""))[:100] for part in parts[:-1])
        tries = (f"{stem}{f'~{n}' if n else ''}{parts[-1]}" for n in itertools.count())
        name = next(name for name in tries if name.lower() not in self.taken)
        self.taken.add(name.lower())
        return self.out / name if not (self.out / name).exists() else fail(str(self.out / name), "is there already")

    @contextmanager
    def writing(self, path: Path) -> Iterator[BinaryIO]:
        partial = path.with_name(path.name + ".partial")
        try:
            with open(partial, "wb") as file:
                yield file
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        print(path)

    def artifact(self, name: str) -> None:
        """All files of one artifact."""
        main, summary = self.claim(name, ".safetensors"), self.claim(name, ".objects.json")
        tensors: dict[str, Any] = {}
        objects: dict[str, Any] = {}
        named = []
        for entry in self.records.manifest.entries:
            if entry.artifact == name and entry.encoding == "file":
                self.file(entry)
        for entry in self.records.manifest.entries:
            if entry.artifact != name or entry.role == "file":
                continue
            path = parse_json(entry.path.encode(), f"path of {entry.fqn}") if entry.path else None
            if entry.is_object:
                objects[entry.fqn] = {"path": path, **self.object(entry)}
                continue
            file = main
            if safetensors_type(entry) is None:
                file = self.claim(name, entry.fqn, ".bin")
                with self.writing(file) as out:
                    self.tensor(out, 0, entry)
            else:
                named.append(entry)
            facts = {"dtype": entry.dtype.name, "shape": entry.shape, "role": entry.role}
            tensors[entry.fqn] = {"path": path, "file": file.name, **facts, "requires_grad": entry.requires_grad}
        if named:
            with self.writing(main) as out:
                self.safetensors(out, named)
        text = {
            "about": "Values are JSON or have one member: a tag (docs/format.md, section 10) with its value. "
            "Data is base64 of little-endian elements in C order. A path is a place in the nested state, if known.",
            "step": [self.records.manifest.header[key] for key in ("branch", "step", "generation")],
            "tensors": tensors,
            "objects": objects,
        }
        with self.writing(summary) as out:
            out.write(json.dumps(text, indent=1).encode() + b"\n")

    def safetensors(self, file: BinaryIO, entries: list[Entry]) -> None:
        """The length of the header (u64), the header (JSON), the data without gaps."""
        entries = sorted(entries, key=lambda entry: (-entry.dtype.size, entry.fqn))  # so that all data is aligned
        ends = list(itertools.accumulate((entry.size for entry in entries), initial=0))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for entry, place in zip(entries, itertools.pairwise(ends), strict=True):
            dtype, shape = safetensors_type(entry) or ("", ())
            header[entry.fqn] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(struct.pack("<Q", len(text)) + text)
        for entry, start in zip(entries, ends, strict=False):
            self.tensor(file, 8 + len(text) + start, entry)

    def tensor(self, file: BinaryIO, start: int, entry: Entry, low: int = 0, high: int | None = None) -> None:
        """The bytes [low, high) of a tensor's elements in C order from ``start`` on, written block by block."""
        shape, size = entry.shape, entry.dtype.size
        high = entry.size if high is None else high
        strides = [size * math.prod(shape[d + 1 :]) for d in range(len(shape))]
        for offsets, sizes, data in self.blocks(entry, low, high):
            split = len(shape)  # one row of the box from dimension split - 1 on is one run in the file
            while split > 0 and sizes[split - 1] == shape[split - 1]:
                split -= 1
            split = max(split - 1, 0)
            run = size * math.prod(sizes[split:])
            rows = itertools.product(*(range(o, o + s) for o, s in zip(offsets[:split], sizes[:split], strict=True)))
            for i, row in enumerate(rows):
                at = sum(o * n for o, n in zip((*row, *offsets[split:]), strides, strict=True))
                first, last = max(at, low), min(at + run, high)
                if first < last:
                    file.seek(start + first - low)
                    file.write(data[i * run + first - at : i * run + last - at])

    def blocks(self, entry: Entry, low: int = 0, high: int | None = None) -> Iterator[tuple[Shape, Shape, memoryview]]:
        """The blocks of an entry that may have some of its bytes [low, high), one by one: offsets, sizes, bytes."""
        manifest = self.records.manifest
        strides = [entry.dtype.size * math.prod(entry.shape[d + 1 :]) for d in range(len(entry.shape))]
        for at, size, numbers in entry.shards:
            boxes = grid(at, size, entry.block_elements, len(numbers), entry.fqn)
            for number, (offsets, sizes) in zip(numbers, boxes, strict=True):
                first = sum(o * n for o, n in zip(offsets, strides, strict=True))
                last = sum((o + s - 1) * n for o, s, n in zip(offsets, sizes, strides, strict=True))
                if high is not None and (first >= high or last + entry.dtype.size <= low):
                    continue
                ref = manifest.identities[manifest.block_index[number]], manifest.block_row[number]
                try:
                    data = self.records.decode(ref)
                except ReaderError as error:
                    fail(f"{entry.fqn}, block {number}", str(error))
                if data.size != math.prod(sizes) * entry.dtype.size:
                    fail(f"{entry.fqn}, block {number}", f"damaged: {data.size} bytes for the sizes {sizes}")
                yield offsets, sizes, data.data

    def file(self, entry: Entry) -> None:
        """A file that was imported: literal bytes around tensors (section 10, Files)."""
        info = parse_json(b"".join(block for *_, block in self.blocks(entry)), entry.fqn)
        entries = {other.fqn: other for other in self.records.manifest.entries if not other.is_object}
        path, head = str(info["path"]), int(info["structure"])
        body = entries[f"body:{path}"]
        if entry.fqn != f"file:{path}" or any(p in {"", ".", ".."} or "\0" in p for p in path.split("/")):
            fail(entry.fqn, "damaged: its path leads out of the folder")
        target = self.out / "files" / path
        if target.exists():
            fail(str(target), "is there already")
        target.parent.mkdir(parents=True, exist_ok=True)
        memory = io.BytesIO()
        self.tensor(memory, 0, body, 0, head)
        structure = parse_json(memory.getvalue(), body.fqn)
        with self.writing(target) as out:
            at = 0
            for number, start, length in structure["segments"]:
                source, low = (entries[structure["entries"][number - 1]], start) if number else (body, head + start)
                if min(number, start, length) < 0 or low + length > source.size:
                    fail(entry.fqn, f"damaged: {source.fqn} has no bytes {low} to {low + length}")
                self.tensor(out, at, source, low, low + length)
                at += length
            out.flush()
            if at != info["size"] or self.sha256(Path(out.name)) != info["sha256"]:
                fail(entry.fqn, "damaged: the file is not the one that was imported")

    @staticmethod
    def sha256(path: Path) -> str:
        whole = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                whole.update(piece)
        return whole.hexdigest()

    def object(self, entry: Entry) -> dict[str, Any]:
        """What the summary says of an object; one that is not a typed tree goes into a file of its own."""
        data = b"".join(block for *_, block in self.blocks(entry))
        if entry.encoding == "tree":
            cursor = Cursor(data, entry.fqn)
            tree = parse_json(bytes(cursor.take(cursor.number(8))), entry.fqn)
            rest = Cursor(data[cursor.at :], f"{entry.fqn}, binary data")
            value = readable(tree, rest)
            rest.end()
            return {"encoding": "tree", "value": value}
        pickled = entry.encoding == "torch"
        file = self.claim(entry.artifact, entry.fqn, ".pickle" if pickled else ".bin")
        with self.writing(file) as out:
            out.write(data)
        what = "is a pickle: to load it is to run code that it chooses" if pickled else "is of an unknown encoding"
        print(f"warning: {shown(entry.fqn)} {what}; it was copied as it is: {file}", file=sys.stderr)
        return {"encoding": entry.encoding, "file": file.name}


def safetensors_type(entry: Entry) -> tuple[str, Shape] | None:
    """The dtype and shape in a safetensors header, or None where it cannot say them."""
    name, shape = entry.dtype.safetensors, entry.shape
    if name == "F4" and shape:  # two values in each byte; safetensors counts values
        return name, (*shape[:-1], 2 * shape[-1])
    return None if name in {"-", "F4"} or entry.fqn == "__metadata__" else (name, shape)


def readable(tree: Any, data: Cursor) -> Any:
    """A typed tree (section 10) with its binary parts, which follow one another, in base64; else as it is."""
    if isinstance(tree, list):
        return [readable(value, data) for value in tree]
    if not isinstance(tree, dict):
        return tree
    tag, value = next(iter(tree.items())) if len(tree) == 1 else data.fail("an object in its JSON that is not a tag")
    if tag not in {"bytes", "bytearray", "tensor", "parameter", "array", "scalar"}:
        return {tag: readable(value, data)}
    facts = dict(value) if isinstance(value, dict) else {"at": value}
    match facts.pop("at", None):
        case [data.at, int(size)] if size >= 0:
            facts["base64"] = base64.b64encode(data.take(size)).decode()
        case place:
            data.fail(f"damaged: {tag!r} at {place!r}")
    if facts.get("dtype") in DTYPES:
        facts["dtype"] = DTYPES[facts["dtype"]].name
    return {tag: facts}


# ---- commands -------------------------------------------------------------------------------------------------------


def shown(text: str) -> str:
    """Text of a store, safe for a terminal."""
    return text if text.isprintable() else repr(text)


def summary(header: dict[str, Any]) -> str:
    """A step in one line."""
    metrics = header.get("metrics")
    pairs = metrics.items() if isinstance(metrics, dict) else ()
    words = [f"{name}={value['float'] if isinstance(value, dict) else value}" for name, value in pairs]
    size, stored = (format(header[name], ",") for name in ("raw_bytes", "stored_bytes"))
    kind = "key" if header.get("distance") == 0 else "delta"
    facts = f"generation {header['generation']}  {header.get('created')}  {kind}  {size} bytes, {stored} stored"
    return shown("  ".join([facts, *words]))


def run(folder: Folder, chosen: argparse.Namespace) -> None:
    """Carries out one command."""
    if chosen.command == "list":
        damaged = 0
        for branch, steps in folder.steps().items():
            print(f"{branch}: {len(steps)} steps")
            for step, generation in sorted(steps.items()):
                try:
                    print(f"{step:>14}  {summary(read_header(folder, branch, step, generation)[1])}")
                except (LookupError, TypeError, ValueError) as error:
                    damaged += 1
                    print(f"{step:>14}  {shown(str(error))}")
        return fail(str(folder.path), f"{damaged} steps cannot be read") if damaged else None
    manifest = Manifest(folder, *folder.find(chosen.step))
    artifacts = list(dict.fromkeys(entry.artifact for entry in manifest.entries))
    if chosen.command == "show":
        print(f"{manifest.header['branch']}:{manifest.header['step']}  {summary(manifest.header)}")
        for e in manifest.entries:
            what = f"object ({e.encoding})" if e.is_object else f"{e.dtype.name} {list(e.shape)}"
            words = (e.artifact, e.fqn, what, e.role, f"{len(e.shards)} shards", f"{e.size:,} bytes")
            print("  " + "  ".join(map(shown, words)))
        return
    for name in set(chosen.only) - set(artifacts):
        fail(name, f"the step has no such artifact; it has {', '.join(map(shown, artifacts))}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    output = Output(Records(folder, manifest), chosen.out)
    for name in artifacts:
        if not chosen.only or name in chosen.only:
            output.artifact(name)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(usage=str(__doc__).partition("\n\n")[2].partition("\n\nIt needs")[0].strip())
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in ("list", "show", "restore")}
    parsers["show"].add_argument("step")
    parsers["restore"].add_argument("step")
    parsers["restore"].add_argument("--out", type=Path, required=True)
    parsers["restore"].add_argument("--only", action="append", default=[])
    store = Path(__file__).resolve().parent
    if arguments and arguments[0] not in parsers and not arguments[0].startswith("-"):
        store, arguments = Path(arguments[0]), arguments[1:]
    chosen = parser.parse_args(arguments)
    missing = [name for name, module in (("xxhash", xxhash), ("blake3", blake3)) if not module]
    if missing:
        print(f"note: {' and '.join(missing)} cannot be imported; addresses are not checked", file=sys.stderr)
    try:
        run(Folder(store), chosen)
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError, MemoryError, RecursionError) as error:
        text = str(error) if isinstance(error, ReaderError | OSError) else f"cannot be read: {error!r}"
        print("error: " + " ".join(text.split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
