"""Payloads that nobody wrote: decoders give an error of ours or a block of the right size, and take little memory."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.codec import Encoded, decode_block, encode_block
from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError, UnknownVersionError
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from tests.codec.helpers import OPTIONS, Bytes, as_bytes, inputs_of, noise

F32 = by_name("float32")
U8 = by_name("uint8")
WORDS = 1024


def planes(*bodies: tuple[int, bytes]) -> bytes:
    heads = b"".join(struct.pack("<BI", method, len(body)) for method, body in bodies)
    return heads + b"".join(body for _, body in bodies)


def frame(data: bytes, *, content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_content_size=content_size).compress(data)


def decode(payload: bytes, dtype: DType = U8, size: int = WORDS, predictor: int = 0, coder: int = 1) -> Bytes:
    return decode_block(Encoded(predictor, coder, b"", payload), dtype, size, {}, source="packs/x")


def survives(payload: bytes, dtype: DType, size: int, *, base: Bytes | None = None) -> None:
    encoded = Encoded(0 if base is None else 1, 1, b"", payload)
    found: DeltackptError | None = None
    try:
        data = decode_block(encoded, dtype, size, inputs_of(dtype, base), source="packs/x")
        assert data.size == size
    except DeltackptError as error:
        found = error
    if found is not None:
        assert isinstance(found, (CorruptObjectError, UnknownVersionError))
        assert found.where == "packs/x"


@given(st.binary(max_size=200), st.sampled_from(DTYPES), st.integers(0, 40))
def test_random_bytes(payload: bytes, dtype: DType, elements: int) -> None:
    survives(payload, dtype, elements * dtype.itemsize)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.one_of(st.binary(max_size=30), st.binary(max_size=60).map(frame))),
        min_size=4,
        max_size=4,
    ),
    st.integers(0, 60),
)
def test_random_planes(bodies: list[tuple[int, bytes]], words: int) -> None:
    survives(planes(*bodies), F32, 4 * words)
    survives(planes(*bodies), F32, 4 * words, base=as_bytes(noise(F32, words), F32))


def good_payload() -> bytes:
    """Planes of all three methods."""
    words = noise(F32, WORDS) & np.uint32(0xFF)
    words[::7] |= np.uint32(0x0300)
    encoded = encode_block(as_bytes(words << np.uint32(7), F32), F32, [], OPTIONS)
    methods = {bytes(encoded.payload)[5 * k] for k in range(4)}
    assert methods == {0, 1, 2}
    return bytes(encoded.payload)


def test_every_truncation_is_found() -> None:
    payload = good_payload()
    for length in range(0, len(payload), 1 if len(payload) < 400 else 7):
        with pytest.raises(CorruptObjectError):
            decode(payload[:length], F32, 4 * WORDS)
    with pytest.raises(CorruptObjectError, match="1 bytes after the last plane"):
        decode(payload + b"\0", F32, 4 * WORDS)


def test_flips_give_errors_or_other_values_of_the_same_size() -> None:
    payload = bytearray(good_payload())
    changed = 0
    for at in [*range(60), *range(60, len(payload), 13)]:
        payload[at] ^= 0x41
        survives(bytes(payload), F32, 4 * WORDS)
        changed += 1
        payload[at] ^= 0x41
    assert changed > 100
    assert decode(bytes(payload), F32, 4 * WORDS).size == 4 * WORDS


@pytest.mark.parametrize("size", [0, 1, WORDS - 1, WORDS + 1, 2 * WORDS])
def test_a_payload_of_another_block(size: int) -> None:
    for method, body in ((0, bytes(WORDS)), (1, frame(bytes(WORDS)))):
        assert not decode(planes((method, body))).any()
        with pytest.raises(CorruptObjectError):
            decode(planes((method, body)), size=size)
    if size:
        assert decode(planes((2, b"\2")), size=size).tolist() == [1] * size
    else:
        with pytest.raises(CorruptObjectError):
            decode(planes((2, b"\2")), size=size)


def with_content_size(data: bytes, claimed: int) -> bytes:
    """A frame that decodes to ``data`` but claims another size."""
    compressed = bytearray(frame(data))
    # Four bytes of size follow the descriptor, and the window unless the frame is one segment.
    assert compressed[4] >> 6 == 2
    at = 5 if compressed[4] & 0x20 else 6
    assert struct.unpack_from("<I", compressed, at)[0] == len(data)
    compressed[at : at + 4] = struct.pack("<I", claimed)
    return bytes(compressed)


HUGE = 64 << 20

BOMBS = {
    "claims more": frame(bytes(HUGE)),
    "claims less than it has": with_content_size(bytes(HUGE), WORDS),
    "claims nothing": frame(bytes(HUGE), content_size=False),
    "claims more than it has": with_content_size(bytes(100_000), 1 << 31),
    "more frames follow": frame(bytes(WORDS)) + frame(bytes(HUGE)),
    "bytes follow": frame(bytes(WORDS)) + b"\0",
    "a frame to skip comes first": struct.pack("<II", 0x184D2A50, 4) + b"skip" + frame(bytes(WORDS)),
    "nothing but a frame to skip": struct.pack("<II", 0x184D2A50, 4) + b"skip",
    "a dictionary is asked for": b"\x28\xb5\x2f\xfd\x43" + b"\x00\x00\x00\x01\x02\x03" + b"\x01\x00\x00",
    "a window of 4 GiB": b"\x28\xb5\x2f\xfd\x80\xaf" + struct.pack("<I", WORDS) + b"\x01\x00\x00",
    "cut short": frame(np.random.default_rng(0).bytes(WORDS))[:-1],
    "no frame": b"zstd",
    "empty": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_no_memory(name: str) -> None:
    payload = planes((1, BOMBS[name]))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError):
            decode(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_this_is_how_memory_shows() -> None:
    """The test above would notice: both numpy's and zstandard's memory is traced."""
    for body in ((2, b"\0"), (1, frame(bytes(HUGE)))):
        tracemalloc.start()
        try:
            decode(planes(body), size=HUGE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak >= HUGE


@pytest.mark.parametrize(
    ("body", "words", "message"),
    [
        ((0, b""), 0, None),
        ((2, b"\0"), 0, "unknown plane method 2"),
        ((1, frame(b"")), 0, "unknown plane method 1"),
        ((2, b""), 4, "constant plane of 0 bytes"),
        ((2, b"\0\0"), 4, "constant plane of 2 bytes"),
        ((0, b"123"), 4, "raw plane of 3 bytes for 4 words"),
        ((3, b"1234"), 4, "unknown plane method 3"),
    ],
)
def test_rules_of_planes(body: tuple[int, bytes], words: int, message: str | None) -> None:
    if message is None:
        assert decode(planes(body), size=words).size == words
    else:
        with pytest.raises(CorruptObjectError, match=message):
            decode(planes(body), size=words)


def test_lengths_that_lie() -> None:
    with pytest.raises(TruncatedObjectError, match="ends in its table"):
        decode(b"\0\0\0\0", size=0)
    with pytest.raises(TruncatedObjectError, match="ends inside plane 0"):
        decode(struct.pack("<BI", 0, 0xFFFFFFFF) + bytes(4), size=4)


@pytest.mark.parametrize(
    ("encoded", "base", "message"),
    [
        (Encoded(0, 0, b"", b"abc"), None, "raw payload of 3 bytes for 4 words"),
        (Encoded(0, 0, b"", b"abcd"), b"abcd", "neither inputs nor parameters"),
        (Encoded(0, 0, b"x", b"abcd"), None, "neither inputs nor parameters"),
        (Encoded(1, 0, b"", b"abcd"), b"abcd", "coder raw takes no prediction"),
        (Encoded(1, 1, b"", planes((2, b"\0"))), None, "takes slot 0"),
        (Encoded(1, 1, b"", planes((2, b"\0"))), b"abc", "takes slot 0"),
        (Encoded(1, 1, b"x", planes((2, b"\0"))), b"abcd", "takes slot 0"),
    ],
)
def test_inputs_and_parameters_that_do_not_fit(encoded: Encoded, base: bytes | None, message: str) -> None:
    inputs = inputs_of(U8, None if base is None else np.frombuffer(base, np.uint8))
    with pytest.raises(CorruptObjectError, match=message):
        decode_block(encoded, U8, 4, inputs, source="packs/x")


def test_a_slot_that_the_predictor_does_not_have() -> None:
    base = np.frombuffer(b"abcd", np.uint8)
    with pytest.raises(CorruptObjectError, match="takes slot 0"):
        decode_block(Encoded(1, 1, b"", planes((2, b"\0"))), U8, 4, {0: (U8, base), 1: (U8, base)}, source="packs/x")


@pytest.mark.parametrize(("predictor", "coder", "message"), [(9, 1, "unknown predictor 9"), (0, 9, "unknown coder 9")])
def test_unknown_ids_are_named(predictor: int, coder: int, message: str) -> None:
    with pytest.raises(UnknownVersionError, match=message):
        decode(planes((2, b"\0")), predictor=predictor, coder=coder)


def test_a_frame_that_holds_less_than_it_claims() -> None:
    with pytest.raises(CorruptObjectError, match="does not decompress"):
        decode(planes((1, with_content_size(bytes(70_000), 80_000))), size=80_000)
