"""A second reader of the store format, with numpy and zstandard alone, written from ``docs/format.md`` only.

It shares no code with the package, so that a mistake in one shows as a difference between the two. It takes
whole stores in folders for granted: hashes, parity and signatures are not looked at (what it may use has neither XXH3
nor BLAKE3 nor Ed25519). Section numbers are those of the page.

``python reader.py STORE`` prints the SHA-256 of every tensor, object and file of every step.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

__all__ = ["FormatError", "Reader"]

Bytes = NDArray[np.uint8]
Array = NDArray[Any]


class FormatError(Exception):
    """The bytes are not what the format says."""


def demand(condition: object, what: str) -> None:
    if not condition:
        raise FormatError(what)


# --- Section 4: dtypes, boxes, blocks


@dataclass(frozen=True)
class DType:
    """Bytes of an element, bytes of a word, and whether words are ordered as floats."""

    name: str
    size: int
    word: int
    floating: bool


DTYPES = {
    code: DType(*row)
    for code, row in enumerate(
        (
            ("bool", 1, 1, False),
            ("uint8", 1, 1, False),
            ("int8", 1, 1, False),
            ("int16", 2, 2, False),
            ("uint16", 2, 2, False),
            ("int32", 4, 4, False),
            ("uint32", 4, 4, False),
            ("int64", 8, 8, False),
            ("uint64", 8, 8, False),
            ("float16", 2, 2, True),
            ("bfloat16", 2, 2, True),
            ("float32", 4, 4, True),
            ("float64", 8, 8, True),
            ("complex32", 4, 2, True),
            ("complex64", 8, 4, True),
            ("complex128", 16, 8, True),
            ("float8_e4m3fn", 1, 1, True),
            ("float8_e4m3fnuz", 1, 1, True),
            ("float8_e5m2", 1, 1, True),
            ("float8_e5m2fnuz", 1, 1, True),
            ("float8_e8m0fnu", 1, 1, False),
            ("float4_e2m1fn_x2", 1, 1, False),
        ),
        start=1,
    )
}
UINT8, FLOAT16, BFLOAT16, FLOAT32 = 2, 10, 11, 12


def unsigned(size: int) -> np.dtype[Any]:
    return np.dtype(f"<u{size}")


@dataclass(frozen=True)
class Box:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.sizes, strict=True))


def grid(shard: Box, limit: int) -> Iterator[Box]:
    """The blocks of a shard, in C order of their offsets."""
    if math.prod(shard.sizes) == 0:
        return
    if not shard.sizes:
        yield shard
        return
    inner = [math.prod(shard.sizes[d + 1 :]) for d in range(len(shard.sizes))]
    cut = next(d for d, elements in enumerate(inner) if elements <= limit)
    rows = max(1, limit // inner[cut])
    edges = []
    for d, (start, size) in enumerate(zip(shard.offsets, shard.sizes, strict=True)):
        end = start + size
        if d < cut:
            edges.append(list(range(start, end + 1)))
        elif d == cut:
            first = (start // rows + 1) * rows
            edges.append([start, *range(first, end, rows), end])
        else:
            edges.append([start, end])
    for place in np.ndindex(*[len(edge) - 1 for edge in edges]):
        starts = tuple(edge[k] for edge, k in zip(edges, place, strict=True))
        ends = tuple(edge[k + 1] for edge, k in zip(edges, place, strict=True))
        yield Box(starts, tuple(end - start for start, end in zip(starts, ends, strict=True)))


# --- Bytes one after another


class Cursor:
    """Takes fields from bytes, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        demand(0 <= length <= len(self.data) - self.at, "ends early")
        self.at += length
        return self.data[self.at - length : self.at]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def one(self, layout: str) -> Any:
        return self.unpack(layout)[0]

    def words(self, count: int, size: int) -> Array:
        return np.frombuffer(self.take(count * size), unsigned(size))

    def varint(self) -> int:
        found = shift = 0
        while True:
            byte = self.take(1)[0]
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found

    def varints(self, count: int) -> tuple[int, ...]:
        return tuple(self.varint() for _ in range(count))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        demand(self.at == len(self.data), f"{len(self.data) - self.at} bytes left over")


def unzstd(frame: bytes, size: int) -> bytes:
    found = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    demand(len(found) == size, "a frame of another size")
    return found


# --- Section 9: column tables


def table(data: bytes) -> dict[str, Any]:
    """Columns by name: arrays of int64, lists of bytes, or lists of str."""
    head = Cursor(data)
    raw, compressed = head.unpack("II")
    cursor = Cursor(unzstd(head.take(compressed), raw) if raw else b"")
    head.end()
    columns: dict[str, Any] = {}
    for _ in range(cursor.varint()):
        name = cursor.take(cursor.varint()).decode()
        demand(name not in columns, "a column twice")
        kind, count = cursor.one("B"), cursor.varint()
        if kind == 0:
            mode, width = cursor.unpack("BB")
            planes = np.frombuffer(cursor.take(count * width), np.uint8).reshape(width, count)
            values = np.zeros(count, np.uint64)
            for k in range(width):
                values |= planes[k].astype(np.uint64) << np.uint64(8 * k)
            demand(mode in (0, 1), "unknown mode")
            if mode == 1:
                half = values >> np.uint64(1)
                values = np.cumsum(np.where(values & np.uint64(1), ~half, half).view(np.int64)).view(np.uint64)
            columns[name] = values.astype(np.int64)
        elif kind == 1:
            length = cursor.varint()
            columns[name] = [cursor.take(length) for _ in range(count)]
        else:
            demand(kind == 2, "unknown kind")
            columns[name] = [cursor.take(length).decode() for length in cursor.varints(count)]
    cursor.end()
    return columns


# --- Section 5: records


@dataclass(frozen=True)
class Need:
    slot: int
    dtype: int
    address: bytes
    boxes: tuple[tuple[int, ...], Box, tuple[int, ...]] | None  # source shape, box of the source, destination


@dataclass(frozen=True)
class Record:
    dtype: int
    predictor: int
    coder: int
    address: bytes
    shape: tuple[int, ...]
    needs: tuple[Need, ...]
    parameters: bytes
    payload: bytes


def parse_record(data: bytes) -> Record:
    head = Cursor(data)
    magic, dtype, predictor, coder, flags, meta_length, payload_length = head.unpack("4sBBBBII")
    demand(magic == b"DKR1" and flags == 0, "no record")
    address = head.take(16)
    head.take(8)
    meta, payload = Cursor(head.take(meta_length)), head.take(payload_length)
    head.end()
    shape = meta.varints(meta.varint())
    needs = []
    for _ in range(meta.varint()):
        slot = meta.varint()
        bits, source_dtype = meta.unpack("BB")
        source = meta.take(16)
        boxes = None
        if not bits & 1:
            n = meta.varint()
            source_shape, offsets, sizes, destination = (meta.varints(n) for _ in range(4))
            boxes = (source_shape, Box(offsets, sizes), destination)
        needs.append(Need(slot, source_dtype, source, boxes))
    parameters = meta.take(meta.varint())
    meta.end()
    return Record(dtype, predictor, coder, address, shape, tuple(needs), parameters, payload)


def fill_slots(record: Record, sources: list[Bytes]) -> dict[int, tuple[int, Bytes]]:
    """Each input slot: its dtype's code, and its bytes."""
    slots: dict[int, tuple[int, Bytes]] = {}
    for need, source in zip(record.needs, sources, strict=True):
        size = DTYPES[need.dtype].size
        if need.boxes is None:
            demand(source.size == math.prod(record.shape) * size, "a whole need of another length")
            slots[need.slot] = need.dtype, source
            continue
        _, target = slots.setdefault(need.slot, (need.dtype, np.zeros(math.prod(record.shape) * size, np.uint8)))
        shape, box, destination = need.boxes
        part = source.reshape(*shape, size)[box.slices]
        target.reshape(*record.shape, size)[Box(destination, box.sizes).slices] = part
    return slots


# --- Section 5: predictors


@dataclass(frozen=True)
class Prediction:
    """An array of words, and perhaps the context array."""

    words: Array
    context: Array | None = None


def image(words: Array, floating: bool) -> Array:
    if not floating:
        return words
    bits = 8 * words.itemsize
    top = words.dtype.type(1 << (bits - 1))
    return np.where(words & top, ~words, words ^ top)


def unimage(images: Array, floating: bool) -> Array:
    if not floating:
        return images
    top = images.dtype.type(1 << (8 * images.itemsize - 1))
    return np.where(images & top, images ^ top, ~images)


def predict(record: Record, slots: dict[int, tuple[int, Bytes]]) -> Prediction:
    dtype = DTYPES[record.dtype]
    word = unsigned(dtype.word)
    count = math.prod(record.shape) * dtype.size // dtype.word
    match record.predictor:
        case 0:
            return Prediction(np.zeros(count, word))
        case 1:
            return Prediction(slots[0][1].view(word))
        case 2:
            return Prediction(cast(slots[0][1].view("<f4"), record.dtype))
        case 3 | 4 | 6:
            return Prediction(numeric(record, {slot: data.view("<f4") for slot, (_, data) in slots.items()}))
        case 5:
            code, data = slots[0]
            bits = data.view("<u4") >> np.uint32(23) if code == FLOAT32 else data.view("<u2") >> np.uint16(7)
            exponent = bits.astype(np.int64) & 255
            return Prediction(np.zeros(count, word), (exponent + 1) >> 1)
        case 7:
            first, second = (image(slots[k][1].view(word), dtype.floating) for k in (0, 1))
            half = (first >> word.type(1)) + (second >> word.type(1)) + (first & second & word.type(1))
            return Prediction(unimage(half, dtype.floating))
    raise FormatError(f"unknown predictor {record.predictor}")


def cast(values: Array, dtype: int) -> Array:
    """Float32 rounded to bfloat16 or float16, to nearest, ties to even."""
    if dtype == FLOAT16:
        with np.errstate(over="ignore"):
            words = values.astype("<f2").view("<u2")
        return np.where(np.isnan(values), np.uint16(0x7E00), words)
    bits = values.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def numeric(record: Record, slots: dict[int, Array]) -> Array:
    """Predictors 3, 4 and 6: float64 in the order written; the word of slot 0 where the result is no number."""
    wide = {slot: values.astype(np.float64) for slot, values in slots.items()}
    parameters = Cursor(record.parameters)
    with np.errstate(all="ignore"):
        if record.predictor == 3:
            rate, epsilon, decay = parameters.unpack("ddf")
            step = (rate * (wide[1] / (np.sqrt(wide[2]) + epsilon))).astype(np.float32)
            found = slots[0] * np.float32(decay) + step
        elif record.predictor == 4:
            beta1, beta2 = parameters.unpack("dd")
            g = (wide[1] - beta1 * wide[2]) / (1 - beta1)
            kept = slots[0] * np.float32(beta2)
            found = (kept.astype(np.float64) + (1 - beta2) * (g * g)).astype(np.float32)
        else:
            total: Array | None = None
            for _ in range(parameters.one("B")):
                op, a, b, constant, coefficient = parameters.unpack("BBBdd")
                term = coefficient * feature(op, wide[a], wide.get(b), constant)
                total = term if total is None else total + term
            demand(total is not None, "no terms")
            found = np.asarray(total).astype(np.float32)
    parameters.end()
    return np.where(np.isnan(found), slots[0].view("<u4"), found.view("<u4"))


def feature(op: int, a: Array, b: Array | None, constant: float) -> Array:
    if op == 0:
        return a
    assert b is not None
    if op == 1:
        return a * b
    if op == 2:
        return a / (np.sqrt(b) + constant)
    demand(op == 3, "unknown term")
    return np.sign(a - constant * b)


# --- Section 5: coders


def join(z: Array, prediction: Array, floating: bool) -> Array:
    """The words that a residual stands for."""
    one = z.dtype.type(1)
    r = np.where(z & one, ~(z >> one), z >> one)
    return unimage(r + image(prediction, floating), floating)


def decode(record: Record, prediction: Prediction) -> Array:
    """The words of a record."""
    dtype = DTYPES[record.dtype]
    match record.coder:
        case 0:
            return np.frombuffer(record.payload, unsigned(dtype.word))
        case 1:
            return join(planes(record.payload, prediction.words), prediction.words, dtype.floating)
        case 2:
            return rans(record.payload, prediction, dtype.floating)
        case 3:
            return narrow(record.payload, prediction, dtype.floating)
        case 4:
            return rows(record.payload, prediction, dtype.floating)
    raise FormatError(f"unknown coder {record.coder}")


def planes(payload: bytes, like: Array) -> Array:
    cursor = Cursor(payload)
    heads = [cursor.unpack("BI") for _ in range(like.itemsize)]
    z = np.zeros(like.size, like.dtype)
    for significance, (method, length) in zip(reversed(range(like.itemsize)), heads, strict=True):
        body = cursor.take(length)
        if method == 1:
            body = unzstd(body, like.size)
        elif method == 2:
            body *= like.size
        demand(method in (0, 1, 2) and len(body) == like.size, "a plane of another size")
        z |= np.frombuffer(body, np.uint8).astype(like.dtype) << like.dtype.type(8 * significance)
    cursor.end()
    return z


def rans(payload: bytes, prediction: Prediction, floating: bool) -> Array:
    cursor = Cursor(payload)
    words = prediction.words
    method = cursor.one("B")
    if method == 0:
        z = np.repeat(cursor.words(1, words.itemsize), words.size)
        cursor.end()
    else:
        demand(method in (1, 2), "unknown method")
        z = Coded(cursor, prediction, compact=method == 2).z()
    return join(z, words, floating)


class Bits:
    """A bit string, bits of a byte from the least significant one."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tolist()
        self._at = 0

    def bit(self) -> int:
        demand(self._at < len(self._bits), "bits end early")
        self._at += 1
        return int(self._bits[self._at - 1])

    def number(self, bits: int) -> int:
        return sum(self.bit() << k for k in range(bits))

    def end(self) -> None:
        left = self._bits[self._at :]
        demand(len(left) < 8 and not any(left), "bits left over")


def frequencies(bits: Bits, precision: int) -> list[int]:
    """Those of the 256 symbols of one context."""
    alphabet = bits.number(8)
    found, before, m, n = [], 0, 4, 1
    for _ in range(alphabet):
        k = 0
        while n << k < m:
            k += 1
        ones = 0
        while ones < 16 and bits.bit():
            ones += 1
        v = bits.number(14) if ones == 16 else ones << k | bits.number(k)
        before += -(v + 1) // 2 if v & 1 else v // 2
        found.append(before)
        m, n = m + v, n + 1
        if n == 8:
            m, n = m // 2, n // 2
    escape = (1 << precision) - sum(found)
    demand(escape >= 1 and min(found) >= 0, "frequencies that cannot be")
    return [*found, *[0] * (255 - alphabet), escape]


class Levels:
    """The tables of a compact payload, as the arithmetic decoder finds them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._dropped = data, 0
        self._low, self._high = 0, 2**32 - 1
        self._value = int.from_bytes((data + bytes(4))[:4], "big")
        self._p: dict[tuple[str, int], int] = {}
        self._uses: dict[tuple[str, int], int] = {}

    def _decide(self, p: int) -> int:
        m = self._low + (self._high - self._low) * p // 65536
        bit = int(self._value <= m)
        self._low, self._high = (self._low, m) if bit else (m + 1, self._high)
        while self._low >> 24 == self._high >> 24:
            at = self._dropped + 4
            byte = self._data[at] if at < len(self._data) else 0
            self._low = self._low % 2**24 * 256
            self._high = self._high % 2**24 * 256 + 255
            self._value = self._value % 2**24 * 256 + byte
            self._dropped += 1
        return bit

    def _even(self) -> int:
        return self._decide(32768)

    def _bit(self, model: str, i: int = 0) -> int:
        p = self._p.get((model, i), 32768)
        bit = self._decide(p)
        j = self._uses[model, i] = min(25, self._uses.get((model, i), 0) + 1)
        r = 131072 // (2 * j + 3)
        p += (65536 - p) * r // 65536 if bit else -(p * r // 65536)
        self._p[model, i] = min(64512, max(1024, p))
        return bit

    def _number(self, name: str) -> int:
        ones = 0
        while ones < 15 and self._bit(name + " unary", ones):
            ones += 1
        found = 1
        for k in range(ones):
            found = 2 * found + (self._even() if k else self._bit(name + " next", ones))
        return found - 1

    def _difference(self, name: str) -> int:
        if self._bit(name + " zero"):
            return 0
        sign = -1 if self._bit(name + " below") else 1
        return sign * (1 + self._number(name))

    def _long(self, length: int, kept: int) -> int:
        demand(0 <= length <= 14, "the length of a level")
        if length == 0:
            return 0
        level, without = 1, min(max(length - kept, 0), length - 1)
        for _ in range(length - 1 - without):
            level = 2 * level + self._even()
        return level << without

    def all(self, alternating: list[bool]) -> list[list[int]]:
        """256 levels of each context."""
        found: list[list[int]] = []
        a, first, second = 0, 0, 0
        for t_is_0 in alternating:
            a += self._difference("used")
            demand(0 <= a <= 255, "the number of levels")
            v = [0] * 256
            v[255] = self._number("escape")
            if a > 1:
                second += self._difference("second")
                v[1] = self._long(second, 14)
            for s in range(2, a):
                e = 4 * v[1] if s == 2 else 3 * v[s - 2] + v[s - 1] if t_is_0 else 2 * (v[s - 2] + v[s - 1])
                m = (e + 2) // 4
                near = sum(e >= bound for bound in (6, 16, 48))
                v[s] = m + self._difference(f"near {near}") if m else self._number("none")
            if a:
                q = min(sum(level**2 for level in v), 2**32 - 1)
                # The root of a whole number is never halfway between two.
                h = (math.isqrt(4 * q) + 1) // 2
                first += self._difference("first")
                v[0] = self._long(first, h.bit_length())
                demand(v[a - 1], "a last level of 0")
            demand(all(0 <= level < 2**14 for level in v), "a level out of its range")
            found.append(v)
        for k in range(5):
            unit = 256 ** (4 - k)
            least = -(-self._low // unit) * unit
            if least <= self._high:
                demand(self._data[self._dropped :] == least.to_bytes(4, "big")[:k], "the end of the tables")
                demand(len(self._data) >= self._dropped, "tables that end early")
                break
        return found


def apportioned(levels: list[int], whole: int) -> list[int]:
    """Frequencies from the levels of a context."""
    if not any(levels[:255]):
        return [1, *[0] * 254, whole - 1]
    squares = [v * v for v in levels]
    total = sum(squares)
    found = [max(v > 0, (v * whole + total // 2) // total) for v in squares]
    found[255] = max(1, found[255])
    while (missing := whole - sum(found)) != 0:
        largest = max(found)
        step = max(1, largest // 8)
        found[found.index(largest)] += max(-step, min(step, missing))
    return found


class Coded:
    """Methods 1 and 2 of the coder rans."""

    def __init__(self, cursor: Cursor, prediction: Prediction, *, compact: bool) -> None:
        self.words = prediction.words
        self.width = 8 * self.words.itemsize
        n = self.words.size
        if compact:
            packed, key_shift, contexts = cursor.unpack("BBB")
            low, extra, table_bytes, escape_count = (cursor.varint() for _ in range(4))
            extra_count, word_count = cursor.varint() if extra else 0, 0
            demand(packed < 128, "a bit that is not 0")
            self.shift, self.precision, lanes = packed % 8 * 4, packed // 8 % 4 + 9, packed // 32 * 2
            levels = Levels(cursor.take(table_bytes))
            rows = levels.all([self.shift == 0 and not extra >> c & 1 for c in range(contexts)])
            self.frequency = np.array([apportioned(row, 1 << self.precision) for row in rows], np.int64)
        else:
            self.shift, self.precision, lanes, key_shift, contexts, low, extra = cursor.unpack("BBBBBHH")
            table_bytes, word_count, extra_count, escape_count = cursor.unpack("4I")
            bits = Bits(cursor.take(table_bytes))
            self.frequency = np.array([frequencies(bits, self.precision) for _ in range(contexts)], np.int64)
            bits.end()
        self.lanes = 1 << lanes
        wide, byte, nibble = (bool(self.shift & bit) for bit in (16, 8, 4))
        self.raw = np.zeros(n, np.uint64)
        at = 0
        for present, size in ((wide, 2), (byte, 1)):
            if present:
                self.raw |= cursor.words(n, size).astype(np.uint64) << np.uint64(at)
                at += 8 * size
        if nibble:
            pairs = cursor.words(-(-n // 2), 1)
            halves = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)
            demand(not halves[n:].any(), "unused bits")
            self.raw |= halves[:n].astype(np.uint64) << np.uint64(at)
        if compact:
            word_count = (
                len(cursor.data) - cursor.at - extra_count - escape_count * self.words.itemsize - 4 * self.lanes
            ) // 2
            demand(word_count >= 0, "streams longer than the payload")
        self.stream = cursor.words(word_count, 2).astype(np.int64)
        self.extra_bytes = cursor.words(extra_count, 1)
        self.escapes = cursor.words(escape_count, self.words.itemsize)
        self.states = cursor.words(self.lanes, 4).astype(np.int64)
        cursor.end()
        if key_shift == 255:
            assert prediction.context is not None
            key = prediction.context
        else:
            doubled = self.words.astype(np.uint64) << np.uint64(1) & np.uint64((1 << self.width) - 1)
            key = (doubled >> np.uint64(key_shift)).astype(np.int64)
        self.context = np.clip(key - low, 0, contexts - 1)
        self.has_extra = (extra >> self.context & 1).astype(bool)

    def z(self) -> Array:
        symbols = self._symbols()
        escaped = symbols == 255
        high = symbols.astype(np.uint64)
        demand(np.count_nonzero(escaped) == self.escapes.size, "escapes left over")
        high[escaped] = self.escapes
        demand(np.count_nonzero(self.has_extra) == self.extra_bytes.size, "extra bytes left over")
        high[self.has_extra] = high[self.has_extra] << np.uint64(8) | self.extra_bytes
        z = high << np.uint64(self.shift) | self.raw
        return z.astype(self.words.dtype)

    def _symbols(self) -> Array:
        """From the last element to the first, as many at a time as there are lanes."""
        slots = 1 << self.precision
        starts = np.cumsum(self.frequency, axis=1) - self.frequency
        by_slot = np.stack([np.repeat(np.arange(256), row) for row in self.frequency])
        n, left = self.words.size, self.stream.size
        found = np.zeros(n, np.int64)
        for first in range((n - 1) // self.lanes * self.lanes, -1, -self.lanes):
            last = min(n, first + self.lanes)
            state = self.states[: last - first]
            context = self.context[first:last]
            slot = state & (slots - 1)
            symbol = by_slot[context, slot]
            found[first:last] = symbol
            state = self.frequency[context, symbol] * (state >> self.precision) + slot - starts[context, symbol]
            short = np.flatnonzero(state < 1 << 15)[::-1]
            demand(short.size <= left, "words end early")
            state[short] = state[short] << 16 | self.stream[left - short.size : left][::-1]
            left -= short.size
            self.states[: last - first] = state
        demand(left == 0 and (self.states == 1 << 15).all(), "states do not end where they should")
        return found


def narrow(payload: bytes, prediction: Prediction, floating: bool) -> Array:
    cursor = Cursor(payload)
    words = prediction.words
    method = cursor.one("B")
    if method == 1:
        shift, size = cursor.unpack("BB")
        small = unsigned(size)
        predicted = (words >> words.dtype.type(shift)).astype(small)
        inner = Prediction(predicted, prediction.context)
        y = rans(cursor.rest(), inner, floating and 8 * words.itemsize - shift == 8 * size)
        return (y.astype(np.uint64) << np.uint64(shift)).astype(words.dtype)
    demand(method == 2, "unknown method")
    count = cursor.one("H")
    listed = cursor.words(count, words.itemsize)
    numbers = rans(cursor.rest(), Prediction(np.full(words.size, count >> 1, "<u2")), False)
    demand((numbers < count).all(), "a value that is not listed")
    return listed[numbers]


def rows(payload: bytes, prediction: Prediction, floating: bool) -> Array:
    cursor = Cursor(payload)
    words = prediction.words
    log_row, bits = cursor.unpack("BB")
    lengths = cursor.unpack(f"{1 << bits}I")
    whole = words.size >> log_row
    packed = np.unpackbits(np.frombuffer(cursor.take(-(-whole * bits // 8)), np.uint8), bitorder="little")
    classes = packed[: whole * bits].reshape(whole, bits) @ (1 << np.arange(bits))
    of_word = np.concatenate(
        [np.repeat(classes, 1 << log_row), np.full(words.size - (whole << log_row), (1 << bits) - 1)]
    )
    found = np.zeros(words.size, words.dtype)
    for number, length in enumerate(lengths):
        body = cursor.take(length)
        at = of_word == number
        if at.any():
            context = None if prediction.context is None else prediction.context[at]
            found[at] = rans(body, Prediction(words[at], context), floating)
        else:
            demand(length == 0, "bytes for a class without words")
    cursor.end()
    return found


# --- Sections 3, 7 and 8: stores, index objects, manifests


@dataclass(frozen=True)
class Index:
    """Where the records of one index object lie, and what they need, as pairs of an identity and a row."""

    needs: list[list[tuple[bytes, int]]]
    pack: list[bytes]
    offset: list[int]
    length: list[int]


@dataclass(frozen=True)
class Entry:
    fqn: str
    kind: int
    role: str
    dtype: int
    block_elements: int
    shape: tuple[int, ...]
    shards: list[Box]
    blocks: list[list[tuple[bytes, int]]]


class Reader:
    """A store in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        demand(json.loads((root / "store.json").read_bytes())["format"] == 1, "another version")
        self._blocks: dict[tuple[bytes, int], tuple[bytes, Bytes]] = {}
        self._index = cache(self._read_index)
        self._pack = cache(self._read_pack)

    def steps(self) -> list[str]:
        """All steps, as ``BRANCH:STEP``."""
        found = {path.parent for path in self._root.glob("manifests/*/*/*")}
        return sorted(f"{path.parent.name}:{int(path.name)}" for path in found)

    def step(self, name: str) -> dict[str, bytes]:
        """The bytes of everything in a step: tensors and objects by FQN, and files as ``/PATH``."""
        branch, _, number = name.partition(":")
        newest = max((self._root / "manifests" / branch / f"{int(number):012d}").iterdir())
        entries, objects = self._manifest(newest.read_bytes())
        found = {entry.fqn: self._assemble(entry, objects) for entry in entries}
        for entry in entries:
            if entry.role == "file" and entry.kind == 1:
                path = entry.fqn.removeprefix("file:")
                found[f"/{path}"] = file_bytes(json.loads(found[entry.fqn]), found[f"body:{path}"], found)
        return found

    def _manifest(self, data: bytes) -> tuple[list[Entry], dict[bytes, bytes]]:
        cursor = Cursor(data[:-8])
        magic, length, count = cursor.unpack("8sII")
        demand(magic == b"DKMANI01" and count == 4, "no manifest")
        lengths = cursor.unpack("4I")
        header = json.loads(cursor.take(length))
        demand(header["format"] == 1, "another version")
        cursor.take(8)
        columns, shards, blocks, closure = (table(cursor.take(size)) for size in lengths)
        cursor.end()
        places = list(zip(blocks["index"].tolist(), blocks["row"].tolist(), strict=True))
        entries = []
        dims = shard = block = coordinate = 0
        for k, fqn in enumerate(columns["fqn"]):
            ndim, count = int(columns["ndim"][k]), int(columns["shards"][k])
            shape = tuple(columns["shape"][dims : dims + ndim].tolist())
            boxes, refs = [], []
            for number in range(shard, shard + count):
                part = slice(coordinate, coordinate + ndim)
                boxes.append(Box(tuple(shards["offsets"][part].tolist()), tuple(shards["sizes"][part].tolist())))
                size = int(shards["blocks"][number])
                refs.append([(closure["identity"][i], row) for i, row in places[block : block + size]])
                coordinate, block = coordinate + ndim, block + size
            dims, shard = dims + ndim, shard + count
            head = (int(columns["kind"][k]), columns["role"][k], int(columns["dtype"][k]))
            entries.append(Entry(fqn, *head, int(columns["block_elements"][k]), shape, boxes, refs))
        demand(block == len(places), "blocks left over")
        return entries, dict(zip(closure["identity"], closure["object"], strict=True))

    def _assemble(self, entry: Entry, objects: dict[bytes, bytes]) -> bytes:
        size = DTYPES[entry.dtype].size
        found = np.zeros((*entry.shape, size), np.uint8)
        for shard, refs in zip(entry.shards, entry.blocks, strict=True):
            boxes = list(grid(shard, entry.block_elements))
            demand(len(boxes) == len(refs), "another number of blocks than the grid gives")
            for box, ref in zip(boxes, refs, strict=True):
                _, block = self._block(ref, objects)
                found[box.slices] = block.reshape(*box.sizes, size)
        return found.tobytes()

    def _block(self, ref: tuple[bytes, int], objects: dict[bytes, bytes]) -> tuple[bytes, Bytes]:
        """The address and bytes of a record, decoded with all that it needs."""
        if ref not in self._blocks:
            index = self._index(objects[ref[0]])
            at = index.offset[ref[1]]
            record = parse_record(self._pack(index.pack[ref[1]])[at : at + index.length[ref[1]]])
            sources = [self._block(need, objects) for need in index.needs[ref[1]]]
            demand([s[0] for s in sources] == [need.address for need in record.needs], "needs of another record")
            slots = fill_slots(record, [s[1] for s in sources])
            words = decode(record, predict(record, slots))
            self._blocks[ref] = record.address, words.view(np.uint8)
        return self._blocks[ref]

    def _read_index(self, name: bytes) -> Index:
        data = (self._root / "indexes" / name.hex()).read_bytes()
        cursor = Cursor(data[:-8])
        magic, *lengths = cursor.unpack("8s4I")
        demand(magic == b"DKINDX01", "no index")
        cursor.take(lengths[0])
        identity, location, _ = (table(cursor.take(length)) for length in lengths[1:])
        cursor.end()
        own = self._identity_of(name)
        refs = [own, *identity["refs"]]
        pairs = [
            (refs[ref], row)
            for ref, row in zip(identity["need_ref"].tolist(), identity["need_row"].tolist(), strict=True)
        ]
        ends = np.cumsum(identity["needs"]).tolist()
        needs = [pairs[end - count : end] for end, count in zip(ends, identity["needs"].tolist(), strict=True)]
        packs = [location["pack_name"][k] for k in location["pack"].tolist()]
        return Index(needs, packs, location["offset"].tolist(), location["length"].tolist())

    def _identity_of(self, name: bytes) -> bytes:
        """The identity of an index object, from a manifest that lists it."""
        return self._identities()[name]

    def _identities(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for path in self._root.glob("manifests/*/*/*"):
            _, objects = self._manifest(path.read_bytes())
            found.update({name: identity for identity, name in objects.items()})
        return found

    def _read_pack(self, name: bytes) -> bytes:
        data = (self._root / "packs" / name.hex()[:2] / name.hex()).read_bytes()
        demand(data[:8] == b"DKPACK01" and data[-8:] == b"DKPACKED", "no pack")
        return data


def file_bytes(info: dict[str, Any], body: bytes, step: dict[str, bytes]) -> bytes:
    """Section 10: a file, put together from literal bytes and tensors."""
    structure = json.loads(body[: info["structure"]])
    literal = Cursor(body[info["structure"] :])
    parts = []
    for entry, start, length in structure["segments"]:
        if entry == 0:
            demand(start == literal.at, "literal bytes out of order")
            parts.append(literal.take(length))
        else:
            parts.append(step[structure["entries"][entry - 1]][start : start + length])
    literal.end()
    found = b"".join(parts)
    demand(len(found) == info["size"] and hashlib.sha256(found).hexdigest() == info["sha256"], "not that file")
    return found


def main() -> None:
    """Print a line for everything in a store."""
    reader = Reader(Path(sys.argv[1]))
    for step in reader.steps():
        for name, data in sorted(reader.step(step).items()):
            sys.stdout.write(f"{hashlib.sha256(data).hexdigest()} {step} {name}\n")


if __name__ == "__main__":
    main()
