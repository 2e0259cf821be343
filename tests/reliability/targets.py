"""What the fuzzer feeds: each parser, with whole inputs to damage and a way to get the damage past checksums."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltackpt.codec import Encoded, decode_block
from deltackpt.errors import CorruptObjectError
from deltackpt.format.columns import decode_table
from deltackpt.format.index import decode_index
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import decode_header, decode_manifest
from deltackpt.format.pack import walk_pack
from deltackpt.format.parity import decode_parity, encode_parity
from deltackpt.format.pending import Mark, Pending, decode_mark, decode_pending, encode_mark, encode_pending
from deltackpt.format.record import Record, decode_record
from deltackpt.format.signature import decode_signature
from deltackpt.format.store_json import decode_store_json
from deltackpt.formats.parsers.pickles import parse_pickle
from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.recipe import FileInfo, encode_info, parse_info
from deltackpt.formats.tree_decode import decode_tree
from deltackpt.pipeline.slots import slot_inputs
from deltackpt.tensor.dtypes import by_code
from tests.reliability.mutations import fix_index, fix_manifest, fix_pack, fix_record, inside_frame, mutate

__all__ = ["TARGETS", "Target", "has_its_bases"]

GOLDEN = Path(__file__).parents[1] / "golden"

_LARGEST = 1 << 22

Forge = Callable[[bytearray, random.Random], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    Attributes:
        run: parses; raises only errors of ours.
        seeds: whole inputs.
        forge: what is done to a damaged input so that checks before the parser let it through.
        weight: its share of the inputs.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]
    forge: Forge = lambda data, _: bytes(data)
    weight: int = 1


def _golden(*names: str) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        for name in names:
            yield (GOLDEN / name).read_bytes()

    return seeds


def _packs() -> Iterator[bytes]:
    for path in (*sorted(GOLDEN.glob("*/*.pack")), GOLDEN / "format-v1" / "pack.bin"):
        yield path.read_bytes()


def _records() -> Iterator[bytes]:
    """Every record of the golden packs: all predictors and coders."""
    for pack in _packs():
        offsets = [offset for offset, _ in walk_pack(pack, source="golden")]
        for start, end in zip(offsets, [*offsets[1:], len(pack) - 16], strict=True):
            if end - start < 20_000:
                yield pack[start:end]


def _with(fix: Callable[[bytearray], object]) -> Forge:
    """Half of the inputs with their checksums put right."""

    def forge(data: bytearray, rng: random.Random) -> bytes:
        if rng.random() < 0.8:
            fix(data)
        return bytes(data)

    return forge


@cache
def _table() -> bytes:
    return (GOLDEN / "format-v1" / "table.bin").read_bytes()


def _forge_table(data: bytearray, rng: random.Random) -> bytes:
    whole = _table()
    if rng.random() < 0.2:
        return bytes(data)
    return inside_frame(whole, lambda raw: mutate(raw, rng, [raw]))


@cache
def _blocks() -> Mapping[bytes, NDArray[np.uint8]]:
    """The blocks of the golden packs by address, as far as what they need is there."""
    found: dict[bytes, NDArray[np.uint8]] = {}
    for data in _records():
        record = decode_record(data, source="golden")
        if all(need.address in found for need in record.needs):
            found[record.address] = _decode_block(record, found)
    return found


def has_its_bases(data: bytes) -> bool:
    """Whether the blocks that a record needs are those of golden records, not stand-ins."""
    return all(need.address in _blocks() for need in decode_record(data, source="golden").needs)


def _decode_record(data: bytes) -> object:
    """A record, and its block, of which no wrong length may come."""
    return _decode_block(decode_record(data, source="fuzz"), _blocks())


def _decode_block(record: Record, known: Mapping[bytes, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    dtype = by_code(record.dtype, where="fuzz", offset=0)
    size = int(np.prod(record.shape, dtype=np.int64)) * dtype.itemsize
    if size > _LARGEST:
        raise CorruptObjectError("more than the fuzzer wants to wait for", where="fuzz")
    bases: dict[bytes, NDArray[np.uint8]] = {}
    for need in record.needs:
        shape = record.shape if need.tile is None else need.tile.source_shape
        length = int(np.prod(shape, dtype=np.int64)) * by_code(need.dtype, where="fuzz", offset=0).itemsize
        if length > _LARGEST:
            raise CorruptObjectError("more than the fuzzer wants to wait for", where="fuzz")
        base = known.get(need.address)
        bases[need.address] = base if base is not None and base.size == length else np.zeros(length, dtype=np.uint8)
    inputs = slot_inputs(record.shape, record.needs, bases, source="fuzz")
    encoded = Encoded(record.predictor, record.coder, record.params, memoryview(record.payload))
    block = decode_block(encoded, dtype, size, inputs, source="fuzz")
    if block.size != size:
        raise AssertionError(f"a block of {block.size} bytes instead of {size}")
    return block


def _decode_header(data: bytes) -> object:
    return decode_header(data, source="fuzz")


class _MemoryFile:
    """A file that is only in memory."""

    def __init__(self, data: bytes, name: str) -> None:
        self._path = Path(name)
        self._data = data

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size(self) -> int:
        return len(self._data)

    def bytes(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0 or start + length > self.size:
            raise CorruptObjectError("past the end", where="fuzz")
        return self._data[start : start + length]


def _parse_file(name: str) -> Callable[[bytes], object]:
    return lambda data: parse_file(_MemoryFile(data, name))


def _torch_files() -> Iterator[bytes]:
    import torch

    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tied = {"a": weight, "b": weight.t(), "c": {"d": torch.zeros(2, dtype=torch.bfloat16), "n": [1, "x", None]}}
    for legacy in (False, True):
        for value in (tied, {"state": {0: {"exp_avg": weight}}, "param_groups": [{"lr": 0.1, "params": [0]}]}):
            out = io.BytesIO()
            torch.save(value, out, _use_new_zipfile_serialization=not legacy)
            yield out.getvalue()


def _numpy_files() -> Iterator[bytes]:
    out = io.BytesIO()
    np.save(out, np.arange(6.0).reshape(2, 3))
    yield out.getvalue()
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3), b=np.ones((2, 2), np.int32))
    yield out.getvalue()


def _safetensors() -> Iterator[bytes]:
    from safetensors.numpy import save

    yield save({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.int64)}, {"format": "pt"})


def _pickles() -> Iterator[bytes]:
    value: Any = {"a": [1, 2.5, "text", None, True, (1, 2), {3}, b"bytes"], "b": {"c": 1 << 70, "d": complex(1, 2)}}
    for protocol in range(6):
        yield pickle.dumps(value, protocol=protocol)


def _trees() -> Iterator[bytes]:
    import torch

    from deltackpt.formats.tree_encode import encode_tree

    value = {"a": [1, 2.5, (3, "x")], "t": torch.arange(4), "n": np.arange(3), 5: {b"k"}, "f": float("nan")}
    encoded = encode_tree(value)
    assert encoded is not None
    yield encoded


_TIME = "2026-01-01T00:00:00.000+00:00"


def _pendings() -> Iterator[bytes]:
    yield encode_pending(Pending("main", 1000, (StepKey("main", 900, 1),), _TIME, _TIME, "host", 12, 34))


def _marks() -> Iterator[bytes]:
    yield encode_mark(Mark(_TIME, (StepKey("main", 900, 1),), (bytes(32),), (bytes(range(32)),), ("0" * 32,)))
    yield encode_mark(Mark(_TIME))


def _infos() -> Iterator[bytes]:
    yield encode_info(FileInfo("model.pt", 10, 0o644, 12345, "0" * 64, "torch", 7))


TARGETS: dict[str, Target] = {
    "manifest": Target(
        lambda d: decode_manifest(d, source="fuzz"), _golden("format-v1/manifest.bin"), _with(fix_manifest), 2
    ),
    "header": Target(_decode_header, _golden("format-v1/manifest.bin"), _with(fix_manifest)),
    "index": Target(lambda d: decode_index(d, source="fuzz"), _golden("format-v1/index.bin"), _with(fix_index), 2),
    "table": Target(
        lambda d: decode_table(d, source="fuzz", offset=0), _golden("format-v1/table.bin"), _forge_table, 2
    ),
    "record": Target(_decode_record, _records, _with(fix_record), 6),
    "pack": Target(lambda d: list(walk_pack(d, source="fuzz")), _golden("format-v1/pack.bin"), _with(fix_pack)),
    "store.json": Target(lambda d: decode_store_json(d, source="fuzz"), _golden("format-v1/store.json")),
    "parity": Target(
        lambda d: decode_parity(d, source="fuzz"), lambda: iter([encode_parity(bytes(range(256)) * 40, 0.2)])
    ),
    "signature": Target(lambda d: decode_signature(d, source="fuzz"), lambda: iter([b"DKSIGN01" + bytes(96)])),
    "pending": Target(lambda d: decode_pending(d, source="fuzz"), _pendings),
    "mark": Target(lambda d: decode_mark(d, source="fuzz"), _marks),
    "tree": Target(lambda d: decode_tree(d, "fuzz"), _trees, weight=2),
    "file info": Target(lambda d: parse_info(d, "file:model.pt"), _infos),
    "pickle": Target(lambda d: parse_pickle(d, where="fuzz"), _pickles, weight=3),
    "torch file": Target(_parse_file("model.pt"), _torch_files, weight=3),
    "numpy file": Target(_parse_file("x.npz"), _numpy_files, weight=2),
    "safetensors": Target(_parse_file("x.safetensors"), _safetensors, weight=2),
}
