"""Predictors against the optimizer that they imitate: torch's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltackpt.codec import Candidate, Choice, decode_block, encode_block
from deltackpt.codec.predictors import linear
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST, LINEAR, MEAN, PREVIOUS, SCALE, predictor
from deltackpt.codec.types import Shape, Slot
from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.dtypes import DType, by_name
from tests.codec.helpers import OPTIONS, as_bytes, special_words

F32 = by_name("float32")
Bytes = NDArray[np.uint8]
Moments = dict[str, torch.Tensor]


def as_words(tensor: torch.Tensor) -> Bytes:
    """A copy of a tensor's bytes."""
    found: Bytes = tensor.detach().contiguous().view(torch.uint8).reshape(-1).numpy().copy()
    return found


def adam_steps(optimizer: str, steps: int, **options: float | tuple[float, float]) -> tuple[Moments, Moments]:
    """The weight, exp_avg and exp_avg_sq of a matrix before and after the last of some steps on noisy gradients."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(96, 64) * 0.02)
    adam = getattr(torch.optim, optimizer)([weight], **options)
    before: Moments = {}
    for step in range(steps):
        if step == steps - 1:
            state = adam.state[weight]
            before = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")} | {"w": weight.detach().clone()}
        weight.grad = torch.randn(96, 64) * torch.rand(96, 1) + 0.1 * weight.detach()
        adam.step()
    state = adam.state[weight]
    return before, {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")} | {"w": weight.detach().clone()}


def bits_and_round_trip(data: Bytes, dtype: DType, number: int, inputs: Mapping[int, tuple[DType, Bytes]]) -> float:
    """Bits an element that the predictor costs; the block must come back."""
    encoded = encode_block(data, dtype, [Candidate(number, inputs)], OPTIONS)
    assert encoded.predictor == number
    assert decode_block(encoded, dtype, data.size, inputs, source="test").tobytes() == data.tobytes()
    return 8 * (len(encoded.payload) + len(encoded.params)) * dtype.itemsize / data.size


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("AdamW", {"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}),
        ("AdamW", {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.0}),
        ("AdamW", {"lr": 3e-5, "betas": (0.85, 0.98), "eps": 1e-6}),
        ("Adam", {"lr": 1e-3, "betas": (0.9, 0.99)}),
    ],
)
def test_one_step_of_adam_costs_next_to_nothing(
    optimizer: str, options: dict[str, float | tuple[float, float]]
) -> None:
    before, after = adam_steps(optimizer, 20, **options)
    m, v = (F32, as_words(after["exp_avg"])), (F32, as_words(after["exp_avg_sq"]))
    weight = {0: (F32, as_words(before["w"])), 1: m, 2: v}
    second = {0: (F32, as_words(before["exp_avg_sq"])), 1: m, 2: (F32, as_words(before["exp_avg"]))}
    assert bits_and_round_trip(as_words(after["w"]), F32, ADAM_WEIGHT, weight) < 2
    assert bits_and_round_trip(as_words(after["exp_avg_sq"]), F32, ADAM_SECOND, second) < 2
    # As differences alone they cost many times as much.
    assert bits_and_round_trip(as_words(after["exp_avg_sq"]), F32, PREVIOUS, {0: second[0]}) > 12


def test_moments_of_another_weight_are_not_taken() -> None:
    before, after = adam_steps("AdamW", 20, lr=1e-3)
    other = {name: tensor.flip(0).contiguous() for name, tensor in after.items()}
    inputs = {
        0: (F32, as_words(before["w"])),
        1: (F32, as_words(other["exp_avg"])),
        2: (F32, as_words(other["exp_avg_sq"])),
    }
    candidates = [Candidate(PREVIOUS, {0: inputs[0]}), Candidate(ADAM_WEIGHT, inputs)]
    assert encode_block(as_words(after["w"]), F32, candidates, OPTIONS).predictor == PREVIOUS


def test_partners_that_cost_too_much_to_read_are_not_taken() -> None:
    before, after = adam_steps("AdamW", 20, lr=1e-3)
    data = as_words(after["w"])
    inputs = {
        0: (F32, as_words(before["w"])),
        1: (F32, as_words(after["exp_avg"])),
        2: (F32, as_words(after["exp_avg_sq"])),
    }
    alone = encode_block(data, F32, [Candidate(PREVIOUS, {0: inputs[0]})], OPTIONS)

    def chosen(read_bytes: int) -> int:
        offers = [Candidate(PREVIOUS, {0: inputs[0]}), Candidate(ADAM_WEIGHT, inputs, read_bytes=read_bytes)]
        return encode_block(data, F32, offers, OPTIONS).predictor

    assert chosen(len(alone.payload)) == ADAM_WEIGHT
    assert chosen(3 * len(alone.payload)) == PREVIOUS


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_cast_copy_costs_nothing(name: str) -> None:
    dtype = by_name(name)
    master = torch.randn(5000) * torch.logspace(-12, 6, 5000)
    copy = master.to(getattr(torch, name))
    assert bits_and_round_trip(as_words(copy), dtype, CAST, {0: (F32, as_words(master))}) < 0.1


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_the_cast_is_torchs_for_every_kind_of_number(name: str) -> None:
    dtype = by_name(name)
    words = np.array([*special_words(F32), *range(0, 1 << 32, 104_729)], dtype="<u4")
    expected = as_words(torch.from_numpy(words.view("<f4")).to(getattr(torch, name))).view("<u2")
    shape = Shape(dtype, words.size)
    got = predictor(CAST, source="test").predict(shape, {0: Slot(F32, words)}, b"", source="test").values
    assert got is not None
    is_nan = np.isnan(words.view("<f4"))
    assert np.array_equal(got[~is_nan], expected[~is_nan])
    # torch keeps or drops the sign and payload of a NaN as the machine does; ours is always the same.
    assert np.isnan(got[is_nan].view("<f2")).all() if name == "float16" else (got[is_nan] == 0x7FC0).all()


def momentum_steps(steps: int, **options: Any) -> tuple[Moments, Moments]:
    """The weight and momentum of a matrix before and after the last of some steps of SGD on noisy gradients."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(96, 64) * 0.02)
    sgd = torch.optim.SGD([weight], lr=0.03, momentum=0.9, **options)
    before: Moments = {}
    for step in range(steps):
        if step == steps - 1:
            before = {"m": sgd.state[weight]["momentum_buffer"].clone(), "w": weight.detach().clone()}
        weight.grad = torch.randn(96, 64) * torch.rand(96, 1) + 0.1 * weight.detach()
        sgd.step()
    return before, {"m": sgd.state[weight]["momentum_buffer"].clone(), "w": weight.detach().clone()}


def slots_from(**tensors: torch.Tensor) -> dict[int, tuple[DType, Bytes]]:
    """Inputs of predictor linear, by what they are."""
    numbers = {"base": 0, "first": 1, "second": 2, "first_before": 3, "second_before": 4}
    return {numbers[name]: (F32, as_words(tensor)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.01}, {"dampening": 0.5}])
def test_one_step_of_momentum_costs_next_to_nothing(options: dict[str, float]) -> None:
    before, after = momentum_steps(6, **options)
    inputs = slots_from(base=before["w"], first=after["m"])
    assert bits_and_round_trip(as_words(after["w"]), F32, LINEAR, inputs) < 2


def test_nesterov_takes_the_momentum_before_too() -> None:
    before, after = momentum_steps(6, nesterov=True)
    inputs = slots_from(base=before["w"], first=after["m"], first_before=before["m"])
    assert bits_and_round_trip(as_words(after["w"]), F32, LINEAR, inputs) < 2.5


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98)])
def test_one_step_of_lion_costs_next_to_nothing(betas: tuple[float, float]) -> None:
    """``w' = w (1 - rate decay) - rate sign(b1 m + (1 - b1) g)``, ``m' = b2 m + (1 - b2) g``."""
    torch.manual_seed(0)
    weight, first, gradient = (torch.randn(96, 64) * size for size in (0.02, 1e-3, 1e-2))
    moved = weight * (1 - 1e-4 * 0.1) - 1e-4 * torch.sign(betas[0] * first + (1 - betas[0]) * gradient)
    after = betas[1] * first + (1 - betas[1]) * gradient
    inputs = slots_from(base=weight, first=after, first_before=first)
    assert bits_and_round_trip(as_words(moved), F32, LINEAR, inputs) < 2


def test_some_steps_of_adam_cost_less_than_a_difference() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(128, 128) * 0.02)
    adam = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.95))
    states = []
    for step in range(40):
        weight.grad = torch.randn(128, 128) * torch.rand(128, 1)
        adam.step()
        if step in (35, 39):
            state = adam.state[weight]
            states.append((weight.detach().clone(), state["exp_avg"].clone(), state["exp_avg_sq"].clone()))
    (w0, m0, v0), (w1, m1, v1) = states
    inputs = slots_from(base=w0, first=m1, second=v1, first_before=m0, second_before=v0)
    alone = bits_and_round_trip(as_words(w1), F32, PREVIOUS, {0: inputs[0]})
    assert bits_and_round_trip(as_words(w1), F32, LINEAR, inputs) < alone - 0.7


def scaled(name: str) -> tuple[DType, Bytes, dict[int, tuple[DType, Bytes]]]:
    """First moments of widely different sizes, and second ones of the size of their squares."""
    torch.manual_seed(0)
    size = torch.logspace(-8, 0, 20_000)[torch.randperm(20_000)]
    first, second = torch.randn(20_000) * size, (size * torch.rand(20_000)).square()
    return F32, as_words(first), {0: (by_name(name), as_words(second.to(getattr(torch, name))))}


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_first_moments_cost_less_beside_second_ones(name: str) -> None:
    dtype, data, inputs = scaled(name)
    alone = len(encode_block(data, dtype, [], OPTIONS).payload)
    encoded = encode_block(data, dtype, [Candidate(SCALE, inputs)], OPTIONS)
    assert encoded.predictor == SCALE
    assert len(encoded.payload) < 0.96 * alone
    assert decode_block(encoded, dtype, data.size, inputs, source="test").tobytes() == data.tobytes()


def test_byte_planes_need_no_context() -> None:
    """A block that goes to a coder without contexts is not made to need another one."""
    pattern = np.tile(np.random.default_rng(0).integers(0, 1 << 32, 500, dtype="<u4"), 40)
    data, scale = pattern.view(np.uint8), (pattern >> np.uint32(1)).view(np.uint8)
    encoded = encode_block(data, F32, [Candidate(SCALE, {0: (F32, scale)})], OPTIONS, Choice(0, b"", 1.0))
    assert (encoded.predictor, encoded.choice) == (0, None)
    assert decode_block(encoded, F32, data.size, {}, source="test").tobytes() == data.tobytes()


WORDS = st.lists(st.one_of(st.integers(0, (1 << 32) - 1), st.sampled_from(special_words(F32))), min_size=1, max_size=40)


def fitted(number: int, data: Bytes, inputs: Mapping[int, tuple[DType, Bytes]]) -> bytes:
    """The parameters of a predictor for a block; any, where none fit it."""
    shape = Shape(F32, data.size // 4)
    slots = {slot: Slot(dtype, part.view(dtype.word)) for slot, (dtype, part) in inputs.items()}
    found = predictor(number, source="test").fit(data.view("<u4"), shape, slots)
    plain = {ADAM_WEIGHT: bytes(20), ADAM_SECOND: bytes(16), LINEAR: b"\2" + bytes(19) + b"\1\1\2" + bytes(16)}
    return plain.get(number, b"") if found is None else found


@given(
    words=WORDS,
    base=WORDS,
    first=WORDS,
    second=WORDS,
    number=st.sampled_from([ADAM_WEIGHT, ADAM_SECOND, SCALE, LINEAR, MEAN]),
)
def test_anything_at_all_comes_back(
    words: list[int], base: list[int], first: list[int], second: list[int], number: int
) -> None:
    """Infinities, NaNs, negative second moments, denormals: predictions may be bad, never wrong."""
    size = min(map(len, (words, base, first, second)))
    data = as_bytes(words[:size], F32)
    slots = predictor(number, source="test").slots
    inputs = {slot: (F32, as_bytes(part[:size], F32)) for slot, part in zip(slots, (base, first, second), strict=False)}
    encoded = encode_block(data, F32, [Candidate(number, inputs)], OPTIONS, Choice(0, fitted(number, data, inputs)))
    used = {} if encoded.choice is None else inputs
    assert decode_block(encoded, F32, data.size, used, source="test").tobytes() == data.tobytes()


@pytest.mark.parametrize("number", [ADAM_WEIGHT, ADAM_SECOND])
def test_predictions_do_not_depend_on_the_threads_flags(number: int) -> None:
    """A training loop may flush denormals; a reader elsewhere does not."""
    before, after = adam_steps("AdamW", 5, lr=1e-3)
    tiny = 1e-38
    inputs = {
        0: (F32, as_words(before["w"] * tiny)),
        1: (F32, as_words(after["exp_avg"] * tiny)),
        2: (F32, as_words(after["exp_avg_sq"] * tiny)),
    }
    data = as_words(after["w"] * tiny)
    expected = encode_block(data, F32, [Candidate(number, inputs)], OPTIONS)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert encode_block(data, F32, [Candidate(number, inputs)], OPTIONS) == expected
        flushes = torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert flushes, "the caller's own setting must be as it was"


@pytest.mark.parametrize(
    ("number", "slots", "params"),
    [
        (CAST, (0,), b"x"),
        (CAST, (), b""),
        (CAST, (0, 1), b""),
        (ADAM_WEIGHT, (0, 1), bytes(20)),
        (ADAM_WEIGHT, (0, 1, 2), bytes(19)),
        (ADAM_SECOND, (0, 1, 2), bytes(20)),
        (ADAM_SECOND, (1, 2), bytes(16)),
        (LINEAR, (0,), b""),
        (LINEAR, (0,), b"\0"),
        (LINEAR, (0,), b"\1" + bytes(18)),
        (LINEAR, (0,), b"\2" + bytes(19)),
        (LINEAR, (0,), b"\x09" + bytes(9 * 19)),
        (LINEAR, (0,), b"\1\4" + bytes(18)),
        (LINEAR, (0,), b"\1\0\0\1" + bytes(16)),
        (LINEAR, (0, 1), b"\1" + bytes(19)),
        (LINEAR, (0,), b"\1\0\1" + bytes(17)),
        (LINEAR, (1,), b"\1\0\1" + bytes(17)),
        (LINEAR, (0, 5), b"\1\0\5" + bytes(17)),
        (SCALE, (0,), b"x"),
        (SCALE, (1,), b""),
        (SCALE, (), b""),
        (MEAN, (0,), b""),
        (MEAN, (0, 1, 2), b""),
        (MEAN, (0, 1), b"x"),
    ],
)
def test_what_does_not_fit_is_refused(number: int, slots: tuple[int, ...], params: bytes) -> None:
    dtype = by_name("bfloat16") if number == CAST else F32
    inputs = {slot: Slot(F32, np.zeros(4, "<u4")) for slot in slots}
    with pytest.raises(CorruptObjectError, match="takes"):
        predictor(number, source="packs/x").predict(Shape(dtype, 4), inputs, params, source="packs/x")


@given(params=st.binary(min_size=20, max_size=20))
def test_hostile_parameters_give_a_prediction_or_an_error_but_nothing_else(params: bytes) -> None:
    inputs = {slot: Slot(F32, np.array(special_words(F32), "<u4")) for slot in range(3)}
    shape = Shape(F32, inputs[0].words.size)
    for number, size in ((ADAM_WEIGHT, 20), (ADAM_SECOND, 16)):
        found = predictor(number, source="x").predict(shape, inputs, params[:size], source="x").values
        assert found is not None
        assert not np.isnan(found.view("<f4"))[~np.isnan(inputs[0].words.view("<f4"))].any()


@given(st.lists(st.floats(1.0, 2.0**90), min_size=1, max_size=50))
def test_bits_of_errors_are_near_the_logarithm_and_whole_numbers_of_a_unit(values: list[float]) -> None:
    found = linear._bits(np.array(values))
    exact = sum(math.log2(value) for value in values)
    assert exact - 0.09 * len(values) <= found <= exact + 1e-6
    assert (found * 2**20).is_integer()


def test_bits_of_errors_that_are_no_numbers_are_many() -> None:
    assert linear._bits(np.array([np.inf, np.nan])) == 200.0
