from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltackpt.codec import Candidate, CodecOptions, decode_block, encode_block
from deltackpt.codec.registry import PREVIOUS
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DTYPES, DType, by_name
from tests.codec import reference
from tests.codec.helpers import OPTIONS, Bytes, as_bytes, inputs_of, noise, offered, round_trip, special_words

EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)

# Around one word, what a sample takes whole (8192), and the chunks of the residual (32768).
SIZES = (0, 1, 2, 255, 256, 257, 8191, 8192, 8193, 32767, 32768, 32769, 65537)


def near(base: Bytes, dtype: DType, seed: int = 1) -> Bytes:
    """Words at most 8 places from those of the base."""
    bits = 8 * dtype.word_bytes
    steps = np.random.default_rng(seed).integers(-8, 9, base.size // dtype.word_bytes).tolist()
    words = base.view(dtype.word).tolist()
    return as_bytes([reference.shifted(w, r, bits, dtype.kind) for w, r in zip(words, steps, strict=True)], dtype)


@EVERY_DTYPE
def test_special_values_come_back_bit_for_bit(dtype: DType) -> None:
    words = special_words(dtype)
    data = as_bytes(words, dtype)
    round_trip(data, dtype)
    round_trip(data, dtype, as_bytes(words[::-1], dtype))
    round_trip(data, dtype, as_bytes(words[1:] + words[:1], dtype))
    # Many of each, so that planes are compressed and not kept raw.
    many = as_bytes(sorted(words * 40), dtype)
    assert round_trip(many, dtype).coder == 1


def test_the_special_values_are_special() -> None:
    for name in ("float16", "float32", "float64"):
        values = as_bytes(special_words(by_name(name)), by_name(name)).view(name)
        signs = np.signbit(values)
        for sign in (True, False):
            mine = values[signs == sign]
            assert np.isinf(mine).any()
            assert np.isnan(mine).sum() > 10
            assert (mine == 0).any()
            assert ((mine != 0) & (abs(mine) < np.finfo(values.dtype).tiny)).sum() > 5


@EVERY_DTYPE
@pytest.mark.parametrize("base", ["none", "equal", "near", "far"])
def test_round_trip_with_every_kind_of_base(dtype: DType, base: str) -> None:
    words = 1000
    known = as_bytes(noise(dtype, words), dtype)
    if base == "none":
        assert round_trip(known, dtype).choice is None
    elif base == "equal":
        encoded = round_trip(known, dtype, known)
        rans = dtype.word_bytes in (2, 4)
        assert (encoded.predictor, encoded.coder, encoded.choice) == (1, 2 if rans else 1, 0)
        assert len(encoded.payload) == (1 + dtype.word_bytes if rans else 6 * dtype.word_bytes)
    elif base == "near":
        encoded = round_trip(near(known, dtype), dtype, known)
        assert (encoded.predictor, encoded.choice) == (1, 0)
        assert len(encoded.payload) < 0.9 * words + 6 * dtype.word_bytes
    else:
        encoded = round_trip(as_bytes(noise(dtype, words, seed=2), dtype), dtype, known)
        assert (encoded.predictor, encoded.coder, encoded.choice) == (0, 0, None)


@pytest.mark.parametrize("words", SIZES)
@pytest.mark.parametrize("name", ["uint8", "bfloat16", "float32", "complex128"])
def test_every_length(name: str, words: int) -> None:
    dtype = by_name(name)
    words -= words % (dtype.itemsize // dtype.word_bytes)
    base = as_bytes(noise(dtype, words), dtype)
    small = as_bytes((noise(dtype, words) & dtype.word.type(3)) + base.view(dtype.word), dtype)
    for data in (base, small, as_bytes(np.zeros(words, dtype.word), dtype)):
        round_trip(data, dtype)
        round_trip(data, dtype, base)
        round_trip(data, dtype, data)


@EVERY_DTYPE
@given(data=st.data())
@settings(max_examples=25)
def test_round_trip_of_anything(dtype: DType, data: st.DataObject) -> None:
    size = st.integers(0, 40)
    elements = data.draw(size) * dtype.itemsize
    block, base = (
        np.frombuffer(data.draw(st.binary(min_size=elements, max_size=elements)), np.uint8) for _ in range(2)
    )
    round_trip(block, dtype)
    round_trip(block, dtype, base)


@given(st.integers(1, 5000), st.integers(0, 255), st.sampled_from(DTYPES), st.integers(0, 3))
def test_never_more_than_raw(words: int, spread: int, dtype: DType, seed: int) -> None:
    """Also where some planes compress and others grow by a frame's header."""
    size = words * dtype.itemsize
    block = np.random.default_rng(seed).integers(0, spread + 1, size).astype(np.uint8)
    assert len(round_trip(block, dtype).payload) <= size
    assert len(round_trip(block, dtype, block[::-1].copy()).payload) <= size


def test_a_base_that_does_not_pay_is_not_used() -> None:
    """One percent of the bits is not worth reading another record."""
    dtype = by_name("float32")
    block = as_bytes(noise(dtype, 4096), dtype)
    base = block.copy()
    base.view("<u4")[:4080] = noise(dtype, 4080, seed=5)
    assert round_trip(block, dtype, base).choice is None
    assert round_trip(block, dtype, block).choice == 0


def test_what_a_reader_reads_besides_is_within_the_factor() -> None:
    """A base that is read for this block only, twice as large as the block alone."""
    dtype = by_name("float32")
    base = as_bytes(noise(dtype, 4096), dtype)
    block = near(base, dtype)
    candidates = offered(dtype, base, read_bytes=2 * block.size)
    for factor, taken in ((1.0, None), (2.0, None), (3.0, 0)):
        encoded = encode_block(block, dtype, candidates, CodecOptions(read_factor=factor))
        assert encoded.choice == taken, factor


def test_what_saying_the_inputs_takes_is_part_of_their_price() -> None:
    dtype = by_name("float32")
    base = as_bytes(noise(dtype, 100), dtype)
    block = near(base, dtype)
    cheap = round_trip(block, dtype, base, input_bytes=19)
    assert cheap.choice == 0
    assert len(cheap.payload) + 19 < block.size
    dear = round_trip(block, dtype, base, input_bytes=block.size - len(cheap.payload))
    assert dear.choice is None


@pytest.mark.parametrize("words", [40, 100, 300])
def test_no_record_is_longer_than_the_block_whatever_its_inputs_take(words: int) -> None:
    """Bits are estimated from a sample; what counts is what came out."""
    dtype = by_name("bfloat16")
    base = as_bytes(noise(dtype, words), dtype)
    block = near(base, dtype)
    taken = 0
    for spent in range(block.size):
        encoded = round_trip(block, dtype, base, input_bytes=spent)
        if encoded.choice is not None:
            assert len(encoded.payload) + spent < block.size
            taken += 1
    assert 0 < taken < block.size


def test_a_base_of_another_dtype_is_none() -> None:
    """Its words may be as wide, but they are ordered otherwise."""
    dtype, other = by_name("float32"), by_name("int32")
    block = as_bytes(noise(dtype, 64), dtype)
    assert encode_block(block, dtype, [Candidate(PREVIOUS, {0: (other, block)})], OPTIONS).choice is None
    encoded = encode_block(block, dtype, offered(dtype, block), OPTIONS)
    with pytest.raises(CorruptObjectError, match="slot 0 of the record's own dtype"):
        decode_block(encoded, dtype, block.size, {0: (other, block)}, source="test")


def test_what_comes_out_may_be_changed_and_what_goes_in_is_not() -> None:
    dtype = by_name("bfloat16")
    base = as_bytes(noise(dtype, 300), dtype)
    for block in (base, near(base, dtype), as_bytes(noise(dtype, 300, seed=9), dtype)):
        encoded = encode_block(block, dtype, offered(dtype, base), OPTIONS)
        before = base.tobytes()
        decoded = decode_block(
            encoded, dtype, block.size, inputs_of(dtype, None if encoded.choice is None else base), source="test"
        )
        decoded[:] = 0
        assert base.tobytes() == before


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int64"])
def test_the_same_bytes_every_time_and_on_every_thread(name: str) -> None:
    dtype = by_name(name)
    base = as_bytes(noise(dtype, 40_000), dtype)
    blocks = [near(base, dtype), as_bytes(noise(dtype, 40_000, seed=3) & dtype.word.type(0x7F), dtype), base] * 4
    offers = offered(dtype, base)
    expected = [encode_block(block, dtype, offers, OPTIONS) for block in blocks]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as executor:
            got = list(executor.map(lambda block: encode_block(block, dtype, offers, OPTIONS), blocks))
    finally:
        sys.setswitchinterval(interval)
    assert got == expected


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "complex64"])
def test_flushing_of_denormals_changes_nothing(name: str) -> None:
    """Whatever the training loop has set for its thread."""
    dtype = by_name(name)
    words = as_bytes(special_words(dtype) * 20, dtype)
    base = as_bytes([*special_words(dtype)[1:], 0] * 20, dtype)
    offers = offered(dtype, base)
    expected = encode_block(words, dtype, offers, OPTIONS)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0.0
        got = encode_block(words, dtype, offers, OPTIONS)
        used = inputs_of(dtype, None if got.choice is None else base)
        decoded = decode_block(got, dtype, words.size, used, source="test")
    finally:
        torch.set_flush_denormal(False)
    assert got == expected
    assert decoded.tobytes() == words.tobytes()


def test_levels_change_sizes_but_not_values() -> None:
    dtype = by_name("float32")
    values = np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)).astype("<f4")
    block = as_bytes(values.view("<u4"), dtype)
    sizes = []
    for level in (-7, 1, 19):
        encoded = encode_block(block, dtype, [], CodecOptions(level=level))
        sizes.append(len(encoded.payload))
        assert decode_block(encoded, dtype, block.size, {}, source="test").tobytes() == block.tobytes()
    assert sizes[0] > sizes[1] > sizes[2]
