"""Sizes and speeds of the codec and its peers on a real training run.

Run ``python -m benchmarks.codecs --out results.json``. Ours goes from a block's bytes to a record's bytes and back:
addresses, checksums and framing are in its times. Times are seconds of processor time, the best of some rounds, on one
core. Every figure is from a verified round trip.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Peer, peers
from benchmarks.trajectory import INTERVALS, ROLES, Trajectory
from deltackpt.codec import Candidate, CodecOptions, Encoded, Workspace, decode_block, encode_block
from deltackpt.codec.kernels import status
from deltackpt.codec.registry import PREVIOUS
from deltackpt.codec.residual import to_residual
from deltackpt.format.hashing import address
from deltackpt.format.record import Need, Record, decode_record, frame_record
from deltackpt.tensor.dtypes import DType, by_name

BLOCK = 1 << 20
OURS = "deltackpt"
_OPTIONS = CodecOptions()
_ROOM = 4096  # before a payload, for header and meta of a record

Words = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        role, step: what was coded; steps of the RL-like run begin with ``rl``.
        codec: by name.
        bits: per element, all overhead included.
        bound: the conditional entropy of the residual given the exponent of its prediction, per element.
        encode, decode: 10^9 bytes of raw input a second.
    """

    role: str
    step: str
    codec: str
    bits: float
    bound: float
    encode: float
    decode: float


def _best(action: Callable[[], T], rounds: int) -> tuple[T, float]:
    best, result = float("inf"), None
    for _ in range(rounds):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    assert result is not None
    return result, best


def _entropy(symbols: Words) -> float:
    """Bits of all symbols by their frequencies, with Miller and Madow's term for those that a sample misses."""
    counts = np.unique(symbols, return_counts=True)[1].astype(np.float64)
    return float((counts * np.log2(symbols.size / counts)).sum() + (counts.size - 1) / (2 * np.log(2)))


def bound(values: Words, base: Words | None, dtype: DType) -> float:
    """Bits an element by the best of some shifts; the bits below a shift count as they are."""
    bits = 8 * dtype.word_bytes
    best = float("inf")
    for guess in (None, base):
        z = to_residual(values, guess, dtype.kind)
        keys = np.zeros(z.size, np.int64) if guess is None else (guess << guess.dtype.type(1)) >> (bits - 8)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        groups = np.split(z[order], edges)
        for shift in (0,) if bits == 16 else (12, 14, 16, 20, 24):
            best = min(best, shift * z.size + sum(_entropy(group >> group.dtype.type(shift)) for group in groups))
    return best / values.size


def _encode(
    data: NDArray[np.uint8], base: NDArray[np.uint8] | None, at: bytes, dtype: DType, space: Workspace
) -> memoryview:
    """A block's bytes to a record's; ``at`` is the base's address, which a store knows already."""
    offers = [] if base is None else [Candidate(PREVIOUS, {0: (dtype, base)})]
    encoded = encode_block(data, dtype, offers, _OPTIONS, workspace=space, room=_ROOM)
    needs = () if encoded.choice is None else (Need(0, dtype.code, at, None),)
    shape = (data.size // dtype.itemsize,)
    record = Record(
        dtype.code, encoded.predictor, encoded.coder, address(data.data), shape, needs, b"", encoded.payload
    )
    assert encoded.buffer is not None
    framed = memoryview(frame_record(record, encoded.buffer.data, _ROOM))
    # Whoever gets a record in a pipeline copies it into a pack, and then the buffer is free again.
    space.give(encoded.buffer)
    return framed


def _decode(
    record: bytes, base: NDArray[np.uint8] | None, dtype: DType, space: Workspace, out: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A record's bytes to the block's, with every check that a store makes."""
    parsed = decode_record(record, source="record")
    inputs = {0: (dtype, base)} if parsed.needs and base is not None else {}
    encoded = Encoded(parsed.predictor, parsed.coder, parsed.params, memoryview(parsed.payload))
    size = parsed.shape[0] * dtype.itemsize
    data = decode_block(encoded, dtype, size, inputs, source="record", workspace=space, out=out)
    assert address(data.data) == parsed.address
    return data


def _blocks(values: Words, base: Words | None) -> Iterator[tuple[Words, Words | None]]:
    for start in range(0, values.size, BLOCK):
        here = slice(start, start + BLOCK)
        yield values[here].copy(), None if base is None else base[here].copy()


def _ours(values: Words, base: Words | None, dtype: DType, rounds: int) -> tuple[int, float, float]:
    size, spent, space = 0, [0.0, 0.0], Workspace()
    for block, known in _blocks(values, base):
        data, other = block.view(np.uint8), None if known is None else known.view(np.uint8)
        at = b"\0" * 16 if other is None else address(other.data)
        framed, seconds = _best(lambda d=data, o=other, a=at: _encode(d, o, a, dtype, space), rounds)  # type: ignore[misc]
        record, out = bytes(framed), np.empty_like(data)
        decoded, back = _best(lambda r=record, o=other, t=out: _decode(r, o, dtype, space, t), rounds)  # type: ignore[misc]
        assert decoded.tobytes() == data.tobytes()
        size += len(record)
        spent = [spent[0] + seconds, spent[1] + back]
    return size, spent[0], spent[1]


def _theirs(peer: Peer, values: Words, base: Words | None, rounds: int) -> tuple[int, float, float]:
    size, spent = 0, [0.0, 0.0]
    for block, known in _blocks(values, base):
        data = peer.prepare(block, known)
        packed, seconds = _best(lambda d=data: peer.encode(d), rounds)  # type: ignore[misc]
        decoded, back = _best(lambda p=packed: peer.decode(p), rounds)  # type: ignore[misc]
        assert bytes(decoded) == data
        size += len(packed)
        spent = [spent[0] + seconds, spent[1] + back]
    return size, spent[0], spent[1]


def _rows_of(role: str, step: str, values: Words, base: Words, rounds: int) -> Iterator[Row]:
    dtype = by_name("bfloat16" if role == "bf16" else "float32")
    limit, raw = bound(values, base, dtype), values.nbytes / 1e9

    def row(name: str, size: int, encode: float, decode: float) -> Row:
        return Row(role, step, name, 8 * size / values.size, limit, raw / encode, raw / decode)

    yield row(OURS, *_ours(values, base, dtype, rounds))
    for peer in peers(dtype.itemsize):
        yield row(peer.name, *_theirs(peer, values, base, rounds))


def _cases() -> Iterator[tuple[str, str, str]]:
    for role in ROLES:
        for interval in INTERVALS:
            yield role, str(interval), "0"
    for interval in INTERVALS[:2]:
        yield "bf16", f"rl{interval}", "rl0"


def _whole(rows: list[Row]) -> Iterator[Row]:
    """The fp32 state as a whole: weights and both moments, in one figure."""
    parts = ("weights", "exp_avg", "exp_avg_sq")
    for step in map(str, INTERVALS):
        here = [row for row in rows if row.step == step and row.role in parts]
        for codec in dict.fromkeys(row.codec for row in here):
            mine = [row for row in here if row.codec == codec]
            bits, limit = (sum(getattr(row, name) for row in mine) / len(parts) for name in ("bits", "bound"))
            encode, decode = (len(parts) / sum(1 / getattr(row, name) for row in mine) for name in ("encode", "decode"))
            yield Row("state", step, codec, bits, limit, encode, decode)


def _show(row: Row, best: float) -> str:
    share = f"{row.bits / best:6.3f} of the best peer" if row.codec == OURS and best else ""
    over = f"bound {row.bound:7.3f} ({100 * (row.bits / row.bound - 1):+5.1f}%)" if row.codec == OURS else " " * 24
    return (
        f"{row.role:11} {row.step:>5}  {row.codec:22} {row.bits:7.3f} bits  {over}  "
        f"{row.encode:5.2f} / {row.decode:5.2f} GB/s  {share}"
    )


def main() -> None:
    """Measure, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--cache", type=Path, default=Path(".bench/trajectory"), help="folder of the training run")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure the best of so many")
    parser.add_argument("--only", default="", help="roles to measure, separated by commas; all of them if empty")
    options = parser.parse_args()
    trajectory = Trajectory(options.cache)
    wanted = options.only.split(",") if options.only else [*ROLES]
    rows: list[Row] = []
    print(f"kernels: {status().path}; {platform.machine()}; blocks of {BLOCK} elements")
    for role, step, base in _cases():
        if role in wanted:
            values, known = trajectory.words(role, step), trajectory.words(role, base)
            rows += _print(list(_rows_of(role, step, values, known, options.rounds)))
    if {"weights", "exp_avg", "exp_avg_sq"} <= set(wanted):
        for step in map(str, INTERVALS):
            rows += _print([row for row in _whole(rows) if row.step == step])
    if options.out is not None:
        report = {"kernels": asdict(status()), "block": BLOCK, "rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _print(rows: list[Row]) -> list[Row]:
    best = min((row.bits for row in rows if row.codec != OURS), default=0.0)
    for row in rows:
        print(_show(row, best), flush=True)
    return rows


if __name__ == "__main__":
    main()
