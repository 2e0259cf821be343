"""What else keeps checkpoints in order, for :mod:`benchmarks.intervals`. What each keeps is read back and compared."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import blake3
import torch
import zstandard
from pyfastcdc import FastCDC
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

__all__ = ["PEERS", "Keeper", "Peer", "available"]


class Keeper(Protocol):
    """Keeps checkpoints in order."""

    def take(self, folder: Path) -> int:
        """Keep one more, and look whether it comes back; how many bytes that took."""
        ...


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


class _Files:
    """The files as they are: what ``torch.save`` wrote."""

    def take(self, folder: Path) -> int:
        return sum(len(data) for _, data in _files(folder))


class _Coded:
    """Each file by itself, through a codec."""

    def __init__(self, encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> None:
        self._encode, self._decode = encode, decode

    def take(self, folder: Path) -> int:
        total = 0
        for name, data in _files(folder):
            packed = self._encode(data)
            _same(self._decode(packed), data, name)
            total += len(packed)
        return total


class _Chunks:
    """Chunks cut by content, 64 KiB on average, each once: as Xet stores files, with zstd in place of LZ4.

    Args:
        lengths: by the hash of a chunk, the bytes of its compressed form, which was decompressed and compared. Keepers
            that share it do not compress a chunk again.
    """

    def __init__(self, lengths: dict[bytes, int]) -> None:
        self._lengths, self._own = lengths, set[bytes]()
        self._compressor, self._decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def take(self, folder: Path) -> int:
        total = 0
        for name, data in _files(folder):
            end = 0
            for chunk in FastCDC(65536).cut_buf(data) if data else ():
                digest, end = blake3.blake3(chunk.data).digest(), end + len(chunk.data)
                if digest not in self._lengths:
                    packed = self._compressor.compress(bytes(chunk.data))
                    _same(self._decompressor.decompress(packed), data[end - len(chunk.data) : end], name)
                    self._lengths[digest] = len(packed)
                total += 32 + (0 if digest in self._own else self._lengths[digest])
                self._own.add(digest)
            if end != len(data):
                raise AssertionError(f"{name} is not all in its chunks")
        return total


class _Dcp:
    """``torch.distributed.checkpoint`` with its own extension for zstd."""

    def take(self, folder: Path) -> int:
        state = {path.stem: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))}
        with tempfile.TemporaryDirectory(prefix="deltackpt-intervals-") as out:
            writer = FileSystemWriter(out, _extensions=[ZStandard()])
            dcp_save(state, storage_writer=writer, no_dist=True)
            loaded = _blank(state)
            dcp_load(loaded, storage_reader=FileSystemReader(out), no_dist=True)
            _same_state(loaded, state)
            return sum(path.stat().st_size for path in Path(out).iterdir())


def _blank(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, Mapping):
        return {name: _blank(member) for name, member in value.items()}
    return value


def _same_state(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        words = {2: torch.int16, 4: torch.int32}.get(wanted.element_size(), wanted.dtype)
        assert torch.equal(found.contiguous().view(words), wanted.contiguous().view(words))
    elif isinstance(wanted, Mapping):
        assert set(found) == set(wanted)
        for name, member in wanted.items():
            _same_state(found[name], member)
    else:
        assert found == wanted


def _same(found: bytes, wanted: bytes, name: str) -> None:
    if found != wanted:
        raise AssertionError(f"{name} came back changed")


def _zstd() -> Keeper:
    return _Coded(zstandard.ZstdCompressor(level=3).compress, zstandard.ZstdDecompressor().decompress)


def _zipnn() -> Keeper:
    """Whole words only: zipnn 0.5 crashes on some other lengths."""
    module = importlib.import_module("zipnn")

    def codec() -> Any:
        return module.ZipNN(input_format="byte", bytearray_dtype="float32", threads=1)

    def encode(data: bytes) -> bytes:
        words = len(data) // 4 * 4
        return bytes(codec().compress(bytearray(data[:words]))) + data[words:] + bytes([len(data) - words])

    def decode(packed: bytes) -> bytes:
        rest = packed[-1]
        head, tail = packed[: len(packed) - 1 - rest], packed[len(packed) - 1 - rest : -1]
        return bytes(codec().decompress(bytearray(head))) + tail

    def guarded(data: bytes) -> bytes:
        return encode(data) if len(data) >= 4096 else data + b"\xff"

    def opened(packed: bytes) -> bytes:
        return packed[:-1] if packed[-1] == 0xFF else decode(packed)

    return _Coded(guarded, opened)


@dataclass(frozen=True, slots=True)
class Peer:
    """Something else that keeps checkpoints.

    Attributes:
        make: a keeper that has none yet.
        packages: what it is made of.
        alone: whether a checkpoint takes the same bytes whichever came before it.
    """

    make: Callable[[], Keeper]
    packages: tuple[str, ...]
    alone: bool = True


PEERS: Mapping[str, Peer] = {
    "torch.save": Peer(_Files, ("torch",)),
    "DCP + ZStandard": Peer(_Dcp, ("torch", "zstandard")),
    "zstd -3": Peer(_zstd, ("zstandard",)),
    "ZipNN": Peer(_zipnn, ("zipnn",)),
    "chunks": Peer(functools.partial(_Chunks, {}), ("pyfastcdc", "zstandard"), alone=False),
}
"""By name."""


def available() -> list[str]:
    """The peers whose modules are installed."""
    return [name for name in PEERS if name != "ZipNN" or importlib.util.find_spec("zipnn") is not None]
