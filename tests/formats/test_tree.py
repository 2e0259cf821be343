"""Typed trees: what they hold, they hold exactly; what they would lose, they refuse."""

from __future__ import annotations

import enum
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from deltackpt.formats.tree import MAX_DEPTH
from deltackpt.formats.tree_decode import decode_tree
from deltackpt.formats.tree_encode import encode_tree
from tests.formats.values import TORCH_DTYPES, a_tensor, identical, values


def through_tree(value: object) -> object:
    data = encode_tree(value)
    assert data is not None
    return decode_tree(data, "object")


@settings(max_examples=400, deadline=None)
@given(values)
def test_a_value_comes_back_with_its_types_and_bits(value: object) -> None:
    assert identical(through_tree(value), value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        5e-324,
        struct.unpack(">d", bytes.fromhex("fff8deadbeef0001"))[0],
        float("inf"),
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        1 << 20_000,
        "\ud83d\ude00",
        "\ud83d",
        "\U0001f600",
        'a\0\n"\\\x7f\u2028',
        {1: "int", True + 1: "two", "1": "str", 1.5: "float", (): "tuple", b"1": "bytes", None: "none"},
        {True: 1},
        {1: True, 0: False},
        OrderedDict([("z", 1), ("a", 2)]),
        Counter({"a": 2, "b": -1}),
        {frozenset({1, 2}), (1, (2.0, None)), np.float32(1.5)},
        torch.Size([]),
        [torch.device("cpu"), torch.device("cpu", 0)],
        torch.get_rng_state(),
        np.array("nothing but text"),
        np.zeros((0, 5), dtype="<f4"),
        torch.zeros((0, 2**40)),
        np.str_("é"),
        np.datetime64("NaT"),
        [[], (), {}, set(), frozenset(), b"", bytearray(), ""],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_at_the_edges(value: object) -> None:
    assert identical(through_tree(value), value)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 1)])
def test_tensors_of_every_dtype(dtype: Any, shape: tuple[int, ...]) -> None:
    tensor = a_tensor(dtype, shape)
    restored = through_tree([tensor])
    assert identical(restored, [tensor])


def test_what_comes_back_can_be_written_to_and_shares_nothing() -> None:
    data = encode_tree((torch.zeros(4), np.zeros(4), torch.zeros(3)))
    assert data is not None
    restored: Any = decode_tree(data, "object")
    tensor, array, part = restored
    tensor[0] = 7
    array[0] = 7
    assert identical(decode_tree(data, "object"), (torch.zeros(4), np.zeros(4), torch.zeros(3)))
    assert tensor.untyped_storage().nbytes() == 16
    assert part.data_ptr() % 16 == 0


def test_parameters_and_gradients_wanted() -> None:
    value = [
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.arange(2), requires_grad=False),
        torch.ones(1, dtype=torch.complex64, requires_grad=True),
    ]
    assert identical(through_tree(value), value)


def test_a_state_dict_keeps_its_metadata() -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    restored = through_tree(state)
    assert identical(restored, state)
    torch.nn.BatchNorm1d(3).load_state_dict(restored)  # type: ignore[arg-type]
    assert restored._metadata[""] == {"version": 2}  # type: ignore[attr-defined]


def test_part_of_a_larger_storage_is_kept_alone() -> None:
    part = torch.arange(1000.0)[500:503]
    data = encode_tree(part)
    assert data is not None
    assert len(data) < 150
    assert identical(decode_tree(data, "object"), part)


def test_an_immutable_object_may_occur_twice() -> None:
    betas = (0.9, 0.95)
    assert identical(through_tree([betas, betas, "x", "x"]), [betas, betas, "x", "x"])


def test_members_of_sets_have_one_order() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)  # their hashes collide, so the first one in comes first
    assert encode_tree(one) == encode_tree(other)
    assert encode_tree(frozenset(one)) == encode_tree(frozenset(other))


class _Str(str):
    __slots__ = ()


class _Color(enum.IntEnum):
    RED = 1


class _Dict(dict[str, int]):
    pass


class _Pair(NamedTuple):
    a: int
    b: int


class _Subclass(torch.Tensor):
    pass


def _lossy() -> dict[str, object]:
    shared: list[int] = [1]
    tensor = torch.zeros(4)
    array = np.zeros(4)
    cycle: list[object] = []
    cycle.append(cycle)
    with_grad = torch.ones(2, requires_grad=True)
    with_grad.sum().backward()
    hooked = torch.ones(2, requires_grad=True)
    hooked.register_hook(lambda grad: grad)
    named = torch.ones(2)
    named.note = "attribute"  # type: ignore[attr-defined]
    tuples: tuple[object, ...] = ()
    for _ in range(MAX_DEPTH // 2):
        tuples = (tuples, tuples, 1)
    deep: list[object] = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    counter = Counter("ab")
    counter.note = 1  # type: ignore[attr-defined]
    return {
        "a subclass of str": _Str("x"),
        "an enum": _Color.RED,
        "a subclass of dict": _Dict(),
        "a defaultdict": defaultdict(int),
        "a namedtuple": _Pair(1, 2),
        "an object": object(),
        "a function": len,
        "a list twice": [shared, shared],
        "a list in a tuple twice": [(shared,), (shared,)],
        "a dict twice": [{"a": 1}] * 2,
        "a bytearray twice": [bytearray(1)] * 2,
        "a cycle": cycle,
        "too deep": deep,
        "tuples of tuples": tuples,
        "a tensor twice": [tensor, tensor],
        "two views of one storage": [tensor[:2], tensor[2:]],
        "a tensor and an array of its memory": [tensor, tensor.numpy()],
        "overlapping arrays": [array[:3], array[2:]],
        "an array twice": {"a": array, "b": array},
        "a transposed tensor": torch.zeros(2, 3).t(),
        "an expanded tensor": torch.zeros(1).expand(3),
        "a Fortran array": np.asfortranarray(np.zeros((2, 3))),
        "an array with steps": np.zeros(6)[::2],
        "a gradient": with_grad,
        "a hook": hooked,
        "a graph": with_grad * 2,
        "an attribute": named,
        "attributes of a counter": counter,
        "a subclass of Tensor": torch.ones(2).as_subclass(_Subclass),
        "a conjugate view": torch.ones(2, dtype=torch.complex64).conj(),
        "a negative view": torch.ones(2, dtype=torch.complex64).conj().imag,
        "a sparse tensor": torch.eye(2).to_sparse(),
        "a meta tensor": torch.empty(2, device="meta"),
        "objects in an array": np.array([None]),
        "a structured array": np.zeros(2, dtype=[("a", "<i4")]),
        "a long double": np.longdouble(1),
        "a masked array": np.ma.masked_array([1], [True]),
        "text that ends in a zero": np.str_("a\0"),
        "a void scalar": np.void(b"ab"),
        "a type": int,
        "a tensor as a key": {torch.ones(1): 1},
        "sets of sets of sets": {frozenset({frozenset({frozenset({1})})})},
    }


@pytest.mark.parametrize("name", _lossy())
def test_what_would_be_lost_is_refused(name: str) -> None:
    assert encode_tree(_lossy()[name]) is None


def test_the_largest_depth_is_allowed() -> None:
    deep: list[object] = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert identical(through_tree(deep), deep)
    nested: dict[str, object] = {}
    for _ in range(MAX_DEPTH - 1):
        nested = {"a": nested}
    assert identical(through_tree(nested), nested)


def test_the_bytes_are_those_of_the_format() -> None:
    value = {"lr": 0.1, 2: (torch.tensor([1, 2], dtype=torch.int16), b"xyz")}
    text = (
        b'{"dict":[["lr",0.1],[2,{"tuple":[{"tensor":{"dtype":4,"shape":[2],"requires_grad":false,"at":[0,4]}},'
        b'{"bytes":[4,3]}]}]]}'
    )
    assert encode_tree(value) == struct.pack("<Q", len(text)) + text + b"\x01\0\x02\0xyz"
