"""The codecs that ours is measured against. Each gets what it compresses best from what a delta leaves.

What XOR and byte planes a peer is given are not in its times; where it makes them itself (z4ai), they are.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks.measure import Task

__all__ = ["MODULES", "Peer", "peers"]

# Of those that are not needed otherwise; a peer whose module is not there is left out.
MODULES = ("zipnn", "blosc2", "openzl", "z4ai")

Bytes = NDArray[np.uint8]
Words = NDArray[Any]
Pack = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Peer:
    """One codec.

    Attributes:
        name: as in the table.
        task: of a block and its base.
    """

    name: str
    task: Callable[[Words, Words], Task]


def _on(prepare: Callable[[Words, Words], Bytes], encode: Pack, decode: Pack) -> Callable[[Words, Words], Task]:
    """The task of compressing what ``prepare`` makes of a block and its base."""

    def task(block: Words, base: Words) -> Task:
        given = prepare(block, base)
        data = given.tobytes()
        return Task(given, lambda: [encode(data)], lambda packed: np.frombuffer(decode(bytes(packed[0])), np.uint8))

    return task


def _raw(block: Words, base: Words) -> Bytes:
    return block.copy().view(np.uint8)


def _xor(block: Words, base: Words) -> Bytes:
    return (block ^ base).view(np.uint8)


def _planes(block: Words, base: Words) -> Bytes:
    """Byte planes of the XOR, one after another."""
    return np.ascontiguousarray(_xor(block, base).reshape(block.size, block.itemsize).T).reshape(-1)


def _zstd(level: int) -> tuple[Pack, Pack]:
    # One object for each call: they are not to be shared by threads.
    return (
        lambda data: zstandard.ZstdCompressor(level=level).compress(data),
        lambda data: zstandard.ZstdDecompressor().decompress(data),
    )


def _dcp() -> tuple[Pack, Pack]:
    """What torch's DCP does with ``_extensions=[ZStandard()]``: one zstd stream of the tensor's bytes."""
    from torch.distributed.checkpoint._extension import ZStandard

    def encode(data: bytes) -> bytes:
        out = io.BytesIO()
        stream = ZStandard().transform_to(out)
        stream.write(data)
        # Closing it would close what is below it, as DCP knows too.
        getattr(stream, "flush")(zstandard.FLUSH_FRAME)  # noqa: B009  # typed as a plain file
        return out.getvalue()

    return encode, lambda data: ZStandard().transform_from(io.BytesIO(data)).read()


def _zipnn(itemsize: int) -> tuple[Pack, Pack]:
    import zipnn

    def codec() -> Any:
        return zipnn.ZipNN(bytearray_dtype="float32" if itemsize == 4 else "bfloat16", threads=1)

    return lambda data: bytes(codec().compress(bytearray(data))), lambda data: bytes(codec().decompress(data))


def _blosc(itemsize: int) -> tuple[Pack, Pack]:
    import blosc2

    blosc2.set_nthreads(1)
    settings: dict[str, Any] = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE]}

    def encode(data: bytes) -> bytes:
        packed: bytes = blosc2.compress2(data, typesize=itemsize, nthreads=1, **settings)
        return packed

    def decode(data: bytes) -> bytes:
        unpacked: bytes = blosc2.decompress2(data, nthreads=1)
        return unpacked

    return encode, decode


def _openzl(itemsize: int) -> tuple[Pack, Pack]:
    """A graph that splits words into byte planes and codes each by its entropy."""
    import openzl.ext as zl

    word = np.dtype(f"<u{itemsize}")

    def encode(data: bytes) -> bytes:
        compressor, context = zl.Compressor(), zl.CCtx()
        planes = zl.nodes.TransposeSplit()(compressor, zl.graphs.Entropy())
        compressor.select_starting_graph(zl.nodes.ConvertNumToStructLE()(compressor, planes))
        compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        context.ref_compressor(compressor)
        packed: bytes = context.compress([zl.Input(zl.Type.Numeric, np.frombuffer(data, word))])
        return packed

    def decode(data: bytes) -> bytes:
        unpacked: bytes = zl.DCtx().decompress(data)[0].content.as_bytes()
        return unpacked

    return encode, decode


def _z4ai(block: Words, base: Words) -> Task:
    """Its own delta of two checkpoints."""
    import z4ai

    dtype = "float32" if block.itemsize == 4 else "bfloat16"
    data, known = block.tobytes(), base.tobytes()
    return Task(
        block.copy().view(np.uint8),
        lambda: [z4ai.compress_delta(data, known, dtype=dtype, threads=1)],
        lambda packed: np.frombuffer(z4ai.decompress_delta(bytes(packed[0]), known), np.uint8),
    )


def peers(itemsize: int) -> Iterator[Peer]:
    """All peers that are installed, for words of so many bytes."""
    there = {name for name in MODULES if importlib.util.find_spec(name) is not None}
    for level in (1, 3):
        yield Peer(f"zstd-{level} on XOR planes", _on(_planes, *_zstd(level)))
    yield Peer("DCP ZStandard", _on(_raw, *_dcp()))
    if "zipnn" in there:
        yield Peer("ZipNN", _on(_raw, *_zipnn(itemsize)))
        yield Peer("ZipNN on XOR", _on(_xor, *_zipnn(itemsize)))
    if "blosc2" in there:
        yield Peer("blosc2 shuffle on XOR", _on(_xor, *_blosc(itemsize)))
    if "openzl" in there:
        yield Peer("OpenZL on XOR", _on(_xor, *_openzl(itemsize)))
    if "z4ai" in there:
        yield Peer("z4ai delta", _z4ai)
