"""Stores put together byte by byte from docs/format.md, with nothing of deltackpt: a second writer, to test readers.

It is written for clarity, for small tensors. A tensor is given as the bytes of its elements in C order.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import xxhash
import zstandard

Box = tuple[tuple[int, ...], tuple[int, ...]]

# Code: name, element bytes, word bytes, kind.
DTYPES = {
    1: ("bool", 1, 1, "int"),
    2: ("uint8", 1, 1, "int"),
    3: ("int8", 1, 1, "int"),
    4: ("int16", 2, 2, "int"),
    5: ("uint16", 2, 2, "int"),
    6: ("int32", 4, 4, "int"),
    7: ("uint32", 4, 4, "int"),
    8: ("int64", 8, 8, "int"),
    9: ("uint64", 8, 8, "int"),
    10: ("float16", 2, 2, "float"),
    11: ("bfloat16", 2, 2, "float"),
    12: ("float32", 4, 4, "float"),
    13: ("float64", 8, 8, "float"),
    14: ("complex32", 4, 2, "float"),
    15: ("complex64", 8, 4, "float"),
    16: ("complex128", 16, 8, "float"),
    17: ("float8_e4m3fn", 1, 1, "float"),
    18: ("float8_e4m3fnuz", 1, 1, "float"),
    19: ("float8_e5m2", 1, 1, "float"),
    20: ("float8_e5m2fnuz", 1, 1, "float"),
    21: ("float8_e8m0fnu", 1, 1, "int"),
    22: ("float4_e2m1fn_x2", 1, 1, "int"),
}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def varints(*values: int) -> bytes:
    return b"".join(map(varint, values))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=True).compress(data)


def xxh64(data: bytes) -> bytes:
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def address(data: bytes) -> bytes:
    return xxhash.xxh3_128_intdigest(data).to_bytes(16, "big")


# ---- section 9 ----


def ints(values: Sequence[int], mode: int = 0, width: int | None = None) -> tuple[int, int, bytes]:
    """A column of integers; ``width`` is the narrowest one unless given."""
    stored = list(values)
    if mode == 1:
        steps = [b - a for a, b in zip([0, *stored], stored, strict=False)]
        stored = [2 * d if d >= 0 else -2 * d - 1 for d in steps]
    if width is None:
        width = next(w for w in (1, 2, 4, 8) if max(stored, default=0) < 1 << 8 * w)
    planes = (bytes(value >> 8 * k & 255 for value in stored) for k in range(width))
    return 0, len(stored), bytes([mode, width]) + b"".join(planes)


def digests(values: Sequence[bytes], length: int) -> tuple[int, int, bytes]:
    return 1, len(values), varint(length) + b"".join(values)


def strings(values: Sequence[str]) -> tuple[int, int, bytes]:
    texts = [value.encode() for value in values]
    return 2, len(texts), varints(*map(len, texts)) + b"".join(texts)


def table(columns: dict[str, tuple[int, int, bytes]]) -> bytes:
    body = varint(len(columns))
    for name, (kind, count, values) in columns.items():
        body += varint(len(name.encode())) + name.encode() + bytes([kind]) + varint(count) + values
    frame = zstd(body)
    return struct.pack("<II", len(body), len(frame)) + frame


# ---- sections 4 and 5 ----


def grid(shard: Box, block_elements: int) -> list[Box]:
    """The blocks of a shard: every element of it is put in its block, one by one."""
    offsets, sizes = shard
    if not sizes:
        return [((), ())]
    if not math.prod(sizes):
        return []
    inner = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
    d = min(d for d in range(len(sizes)) if inner[d] <= block_elements)
    rows = max(1, block_elements // inner[d])
    blocks: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*(range(o, o + s) for o, s in zip(offsets, sizes, strict=True))):
        blocks.setdefault((*index[:d], index[d] // rows), []).append(index)
    boxes = []
    for elements in blocks.values():
        low = tuple(map(min, zip(*elements, strict=True)))
        high = tuple(map(max, zip(*elements, strict=True)))
        boxes.append((low, tuple(b - a + 1 for a, b in zip(low, high, strict=True))))
    return boxes


def take(data: bytes, shape: tuple[int, ...], box: Box, size: int) -> bytes:
    """The bytes of a box of a tensor."""
    array = np.frombuffer(data, np.dtype((np.void, size))).reshape(shape)
    return array[tuple(slice(o, o + s) for o, s in zip(*box, strict=True))].tobytes()


def residual(data: bytes, prediction: bytes, dtype: int) -> bytes:
    """z of section 5, word by word in Python's integers."""
    _, _, word, kind = DTYPES[dtype]
    bits = 8 * word
    ones, top = (1 << bits) - 1, 1 << (bits - 1)

    def image(x: int) -> int:
        if kind == "int":
            return x
        return x ^ ones if x & top else x ^ top

    out = bytearray()
    for at in range(0, len(data), word):
        value, predicted = (int.from_bytes(b[at : at + word], "little") for b in (data, prediction))
        r = (image(value) - image(predicted)) % (1 << bits)
        z = (r << 1 & ones) ^ (ones if r & top else 0)
        out += z.to_bytes(word, "little")
    return bytes(out)


def planes(z: bytes, word: int) -> bytes:
    """The payload of coder 1: constant planes where it can be, else zstd and raw in turn."""
    heads, bodies = b"", b""
    for number in range(word):
        plane = z[word - 1 - number :: word]
        method = 0 if not plane else 2 if len(set(plane)) == 1 else 1 - number % 2
        body = plane if method == 0 else zstd(plane) if method == 1 else plane[:1]
        heads += struct.pack("<BI", method, len(body))
        bodies += body
    return heads + bodies


def record(
    dtype: int,
    predictor: int,
    coder: int,
    data_address: bytes,
    shape: Sequence[int],
    needs: Sequence[bytes],
    payload: bytes,
) -> bytes:
    meta = varints(len(shape), *shape, len(needs)) + b"".join(needs) + varint(0)
    head = b"DKR1" + struct.pack("<BBBBII", dtype, predictor, coder, 0, len(meta), len(payload)) + data_address
    return head + xxh64(head + meta + payload) + meta + payload


@dataclass
class Row:
    """A record of an index."""

    dtype: int
    predictor: int
    coder: int
    data: bytes
    depth: int
    needs: list[tuple[HandStep, int]]
    artifact: str
    offset: int
    length: int


@dataclass
class Tensor:
    """An entry of a manifest and where its blocks are."""

    dtype: int
    shape: tuple[int, ...]
    data: bytes
    block_elements: int
    shards: list[Box]
    blocks: list[tuple[Box, HandStep, int]]
    columns: dict[str, Any]

    def counts(self) -> list[int]:
        """How many blocks each shard has."""
        if len(self.shards) == 1:
            return [len(self.blocks)]
        return [len(grid(shard, self.block_elements)) for shard in self.shards]


@dataclass
class HandStep:
    """One step in the making: one index, and one pack for each artifact."""

    root: Path
    branch: str
    number: int
    generation: int = 1
    rows: list[Row] = field(default_factory=list)
    packs: dict[str, bytearray] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    # Set by put_records; an identity that is there already stays, and is then a wrong one.
    identity: bytes = b""
    index_name: bytes = b""
    index_size: int = 0
    pack_names: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def record(
        self,
        dtype: int,
        shape: tuple[int, ...],
        data: bytes,
        needs: Sequence[tuple[HandStep, int, tuple[tuple[int, ...], ...] | None]] = (),
        *,
        raw: bool = False,
        artifact: str = "model",
        wrong: dict[str, Any] | None = None,
    ) -> int:
        """Adds a record of ``data``; ``wrong`` replaces parts of it.

        A need is (step, row, tile); a tile is (source shape, offsets, sizes, offsets here), or None for a whole need.
        """
        size, word = DTYPES[dtype][1:3]
        element = np.dtype((np.void, size))
        slot = np.zeros(shape, element)
        texts = []
        for step, row, tile in needs:
            source = step.rows[row].data
            text = varint(0) + bytes([tile is None, dtype]) + address(source)
            if tile is None:
                slot = np.frombuffer(source, element).reshape(shape)
            else:
                source_shape, start, sizes, here = tile
                text += varint(len(shape)) + varints(*source_shape, *start, *sizes, *here)
                box = take(source, source_shape, (start, sizes), size)
                to = tuple(slice(o, o + s) for o, s in zip(here, sizes, strict=True))
                slot[to] = np.frombuffer(box, element).reshape(sizes)
            texts.append(text)
        parts: dict[str, Any] = {"dtype": dtype, "predictor": int(bool(needs)), "coder": int(not raw)}
        parts |= {"data_address": address(data), "shape": shape, "needs": texts} | (wrong or {})
        if "payload" not in parts:
            parts["payload"] = data if raw else planes(residual(data, slot.tobytes(), dtype), word)
        encoded = record(**parts)
        pack = self.packs.setdefault(artifact, bytearray(b"DKPACK01" + len(self.packs).to_bytes(16, "little")))
        ids = (parts["dtype"], parts["predictor"], parts["coder"])
        depth = 1 + max((step.rows[row].depth for step, row, _ in needs), default=0)
        references = [(step, row) for step, row, _ in needs]
        self.rows.append(Row(*ids, data, depth, references, artifact, len(pack), len(encoded)))
        pack += encoded
        return len(self.rows) - 1

    def tensor(
        self,
        fqn: str,
        dtype: int,
        shape: tuple[int, ...],
        data: bytes,
        *,
        block_elements: int = 1 << 18,
        shards: Sequence[Box] | None = None,
        base: Tensor | None = None,
        artifact: str = "model",
        raw: bool = False,
        **columns: Any,
    ) -> Tensor:
        """Adds a tensor, block by block against the blocks of ``base`` that overlap it (all of them, if given)."""
        shards = [((0,) * len(shape), shape)] if shards is None else list(shards)
        tensor = Tensor(dtype, shape, data, block_elements, shards, [], {"artifact": artifact, **columns})
        for box in itertools.chain(*(grid(shard, block_elements) for shard in shards)):
            needs = [] if base is None else list(overlaps(box, base))
            block = take(data, shape, box, DTYPES[dtype][1])
            tensor.blocks.append((box, self, self.record(dtype, box[1], block, needs, artifact=artifact, raw=raw)))
        self.tensors[fqn] = tensor
        return tensor

    def object(self, fqn: str, encoding: str, data: bytes, **columns: Any) -> Tensor:
        return self.tensor(fqn, 2, (len(data),), data, kind=1, encoding=encoding, **columns)

    # ---- sections 6 to 8 ----

    def commit(self, header: dict[str, Any] | None = None) -> None:
        self.put_records()
        key = f"manifests/{self.branch}/{self.number:012d}/{self.generation:06d}"
        self._put(key, self._manifest(header or {}))

    def put_records(self) -> None:
        for artifact, pack in self.packs.items():
            count = sum(row.artifact == artifact for row in self.rows)
            data = bytes(pack) + struct.pack("<Q", count) + b"DKPACKED"
            name = blake3.blake3(data).digest()
            self.pack_names[artifact] = name, len(data)
            self._put(f"packs/{name.hex()[:2]}/{name.hex()}", data)
        index = self._index()
        self.index_name, self.index_size = blake3.blake3(index).digest(), len(index)
        self._put(f"indexes/{self.index_name.hex()}", index)

    def _put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _index(self) -> bytes:
        rows = self.rows
        refs = list({id(step): step for row in rows for step, _ in row.needs if step is not self}.values())
        needs = [need for row in rows for need in row.needs]
        identity = table(
            {
                "refs": digests([step.identity for step in refs], 32),
                "address": digests([address(row.data) for row in rows], 16),
                "dtype": ints([row.dtype for row in rows]),
                "predictor": ints([row.predictor for row in rows]),
                "coder": ints([row.coder for row in rows]),
                "raw": ints([len(row.data) for row in rows]),
                "depth": ints([row.depth for row in rows], mode=1),
                "needs": ints([len(row.needs) for row in rows], width=8),
                "need_ref": ints([0 if step is self else 1 + refs.index(step) for step, _ in needs]),
                "need_row": ints([row for _, row in needs], mode=1),
            }
        )
        self.identity = self.identity or blake3.blake3(identity).digest()
        artifacts = list(self.packs)
        location = table(
            {
                "pack_name": digests([self.pack_names[a][0] for a in artifacts], 32),
                "pack_size": ints([self.pack_names[a][1] for a in artifacts]),
                "pack_artifact": strings(artifacts),
                "pack": ints([artifacts.index(row.artifact) for row in rows]),
                "offset": ints([row.offset for row in rows], mode=1),
                "length": ints([row.length for row in rows]),
            }
        )
        shards = [(fqn, *shard) for fqn, t in self.tensors.items() for shard in t.shards]
        placement = table(
            {
                "fqn": strings([fqn for fqn, *_ in shards]),
                "ndim": ints([len(offsets) for _, offsets, _ in shards]),
                "offsets": ints([o for _, offsets, _ in shards for o in offsets]),
                "sizes": ints([s for _, _, sizes in shards for s in sizes]),
                "blocks": ints([count for t in self.tensors.values() for count in t.counts()]),
                "block_ref": ints([0] * sum(len(t.blocks) for t in self.tensors.values())),
                "block_row": ints([row for t in self.tensors.values() for _, _, row in t.blocks]),
            }
        )
        header = json.dumps({"branch": self.branch, "step": self.number, "writer": 0, "bases": []}).encode()
        sections = [header, identity, location, placement]
        body = b"DKINDX01" + struct.pack("<4I", *map(len, sections)) + b"".join(sections)
        return body + xxh64(body)

    def _closure(self) -> tuple[list[HandStep], list[tuple[bytes, int]]]:
        """The steps whose indexes, and the packs, that some block needs."""
        todo = [(step, row) for t in self.tensors.values() for _, step, row in t.blocks]
        seen: set[tuple[int, int]] = set()
        steps: dict[int, HandStep] = {}
        packs: dict[tuple[bytes, int], None] = {}
        while todo:
            step, row = todo.pop()
            if (id(step), row) in seen:
                continue
            seen.add((id(step), row))
            steps[id(step)] = step
            packs[step.pack_names[step.rows[row].artifact]] = None
            todo += step.rows[row].needs
        return list(steps.values()), list(packs)

    def _manifest(self, changes: dict[str, Any]) -> bytes:
        steps, packs = self._closure()
        tensors = list(self.tensors.values())

        def column(name: str, default: Any) -> list[Any]:
            return [t.columns.get(name, default) for t in tensors]

        entries = table(
            {
                "fqn": strings(list(self.tensors)),
                "kind": ints(column("kind", 0)),
                "artifact": strings(column("artifact", "model")),
                "role": strings(column("role", "weight")),
                "dtype": ints([t.dtype for t in tensors]),
                "block_elements": ints([t.block_elements for t in tensors]),
                "flags": ints(column("flags", 0)),
                "ndim": ints([len(t.shape) for t in tensors]),
                "shape": ints([n for t in tensors for n in t.shape]),
                "shards": ints([len(t.shards) for t in tensors]),
                "path": strings(column("path", "")),
                "encoding": strings(column("encoding", "")),
            }
        )
        boxes = [shard for t in tensors for shard in t.shards]
        shards = table(
            {
                "offsets": ints([o for offsets, _ in boxes for o in offsets]),
                "sizes": ints([s for _, sizes in boxes for s in sizes]),
                "blocks": ints([count for t in tensors for count in t.counts()]),
            }
        )
        order = [id(step) for step in steps]
        blocks = table(
            {
                "index": ints([order.index(id(step)) for t in tensors for _, step, _ in t.blocks]),
                "row": ints([row for t in tensors for _, _, row in t.blocks], mode=1),
            }
        )
        closure = table(
            {
                "identity": digests([step.identity for step in steps], 32),
                "object": digests([step.index_name for step in steps], 32),
                "size": ints([step.index_size for step in steps]),
                "pack_name": digests([name for name, _ in packs], 32),
                "pack_size": ints([size for _, size in packs]),
            }
        )
        raw_bytes = sum(len(t.data) for t in tensors)
        header = {
            "format": 1,
            "branch": self.branch,
            "step": self.number,
            "generation": self.generation,
            "created": "2026-01-02T03:04:05Z",
            "parent": None,
            "key": [self.branch, self.number],
            "distance": 0,
            "depth": 1,
            "raw_bytes": raw_bytes,
            "stored_bytes": raw_bytes,
            "restore_bytes": raw_bytes,
            "metrics": {},
            "artifacts": {},
            "writer": {},
        }
        text = json.dumps(header | changes).encode()
        sections = [entries, shards, blocks, closure]
        head = b"DKMANI01" + struct.pack("<6I", len(text), 4, *map(len, sections)) + text
        body = head + xxh64(head) + b"".join(sections)
        return body + xxh64(body)


def overlaps(box: Box, base: Tensor) -> Any:
    """The needs that predict a block at ``box`` from ``base``: whole where the boxes are equal, else tiles."""
    for (offsets, sizes), step, row in base.blocks:
        if (offsets, sizes) == box:
            yield step, row, None
            continue
        low = tuple(map(max, offsets, box[0]))
        high = tuple(min(a + b, c + d) for a, b, c, d in zip(offsets, sizes, *box, strict=True))
        if all(a < b for a, b in zip(low, high, strict=True)):
            source = tuple(a - o for a, o in zip(low, offsets, strict=True))
            here = tuple(a - o for a, o in zip(low, box[0], strict=True))
            yield step, row, (sizes, source, tuple(b - a for a, b in zip(low, high, strict=True)), here)


def create(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    config = {"format": 1, "id": "0" * 32, "created": "2026-01-02T03:04:05Z", "options": {}}
    (root / "store.json").write_text(json.dumps(config | changes))
    return root
