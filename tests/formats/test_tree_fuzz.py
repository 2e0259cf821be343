"""Trees from anywhere: every malformed one is a named error, and nothing else happens."""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, DeltackptError, TruncatedObjectError, UnknownVersionError
from deltackpt.formats.tree import MAX_DEPTH
from deltackpt.formats.tree_decode import decode_tree
from deltackpt.formats.tree_encode import encode_tree
from tests.formats.values import values


def a_tree(tree: object, binary: bytes = b"") -> bytes:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + binary


def decode_or_fail(data: bytes) -> None:
    try:
        decode_tree(data, "object")
    except DeltackptError as exc:
        assert exc.where == "object"  # noqa: PT017 - either outcome is right


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 8)
def test_random_bytes(data: bytes) -> None:
    decode_or_fail(data)


@settings(max_examples=400, deadline=None)
@given(values, st.data())
def test_mutated_trees(value: object, data: st.DataObject) -> None:
    tree = bytearray(encode_tree(value) or b"")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(tree) - 1)))
        tree[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    decode_or_fail(bytes(tree))


_tags = (
    "dict odict odict_attributes counter tuple set frozenset int float str complex bytes bytearray stream size "
    "dtype device layout memory_format tensor parameter array scalar nonsense"
)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["<f4", "|V0", "<U1", "7ff0000000000000", "-ff", "torch.nn", "torch.float16", "cuda:0", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_tags.split()), inner, min_size=1, max_size=1)
        | st.fixed_dictionaries(
            {"dtype": inner, "shape": inner, "at": st.just([0, 4]) | inner}, optional={"requires_grad": inner}
        )
    ),
    max_leaves=10,
)


@settings(max_examples=600, deadline=None)
@given(_json, st.binary(max_size=8))
def test_well_formed_json_with_the_wrong_content(tree: object, binary: bytes) -> None:
    decode_or_fail(a_tree(tree, binary))


def _tensor(**changes: object) -> dict[str, object]:
    return {"tensor": {"dtype": 12, "shape": [1], "requires_grad": False, "at": [0, 4], **changes}}


def _array(**changes: object) -> dict[str, object]:
    return {"array": {"dtype": "<f4", "shape": [1], "at": [0, 4], **changes}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (a_tree(b""), "parsed"),
        (a_tree(b"[1] 2"), "Extra data"),
        (a_tree(b'"\xff"'), "UTF-8"),
        (a_tree(b'{"tuple":[],"tuple":[]}'), "twice"),
        (a_tree(b"NaN"), "NaN"),
        (a_tree(b"1e999"), "too large"),
        (a_tree(b"9" * 5000), "too long"),
        (a_tree(2**63), "64 bits"),
        (a_tree({}), "one member"),
        (a_tree({"tuple": [], "set": []}), "one member"),
        (a_tree({"eval": "1"}), "unknown tag 'eval'"),
        (a_tree({"tuple": {}}), "list"),
        (a_tree({"dict": [[1]]}), "pairs"),
        (a_tree({"dict": [[[], 1]]}), "list cannot be a key"),
        (a_tree({"dict": [[{"tuple": [[]]}, 1]]}), "tuple cannot be a key"),
        (a_tree({"dict": [["a", 1], ["a", 2]]}), "key twice"),
        (a_tree({"dict": [[1, 1], [True, 2]]}), "key twice"),
        (a_tree({"set": [1, 1.0]}), "member twice"),
        (a_tree({"set": [{"dict": []}]}), "dict cannot be a key"),
        (a_tree({"odict_attributes": [[], {"dict": [[1, 2]]}]}), "strings as keys"),
        (a_tree({"int": "0x10"}), "hexadecimal"),
        (a_tree({"float": "3ff0000000000000"}), "finite"),
        (a_tree({"float": "xyz"}), "16 hex"),
        (a_tree({"str": [1114112]}), "1114111"),
        (a_tree({"str": [True]}), "integers"),
        (a_tree({"complex": [1.0]}), "two floats"),
        (a_tree({"complex": [1, 2]}), "two floats"),
        (a_tree({"size": [-1]}), "not negative"),
        (a_tree({"dtype": "torch.nn"}), "no dtype"),
        (a_tree({"dtype": "torch.os"}), "no dtype"),
        (a_tree({"dtype": "float32"}), "no dtype"),
        (a_tree({"device": "nowhere:1"}), "no device"),
        (a_tree({"bytes": [0]}), "offset and a length"),
        (a_tree({"bytes": [0, 5]}, b"1234"), "should follow"),
        (a_tree({"bytes": [1, 1]}, b"12"), "not at 1"),
        (a_tree([{"bytes": [0, 2]}, {"bytes": [0, 2]}], b"12"), "not at 0"),
        (a_tree({"bytes": [0, 2]}, b"123"), "belong to no value"),
        (a_tree({"stream": [{"bytes": [0, 1]}]}, b"1"), "its bytes and a position"),
        (a_tree({"stream": [{"bytes": [0, 1]}, -1]}, b"1"), "not negative"),
        (a_tree({"stream": ["text", 0]}), "must be bytes"),
        (a_tree(_tensor(shape=[2]), bytes(4)), "needs 8 bytes"),
        (a_tree(_tensor(shape=[2**62, 2**62, 0], at=[0, 0])), "shape"),
        (a_tree(_tensor(shape=[1] * 65), bytes(4)), "64 dimensions"),
        (a_tree(_tensor(dtype=True), bytes(4)), "number as its dtype"),
        (a_tree(_tensor(dtype=6, requires_grad=True), bytes(4)), "gradients"),
        (a_tree(_tensor(extra=1), bytes(4)), "exactly the members"),
        (a_tree(_array(dtype="|O"), bytes(4)), "dtype"),
        (a_tree(_array(dtype="<f4,<f4"), bytes(4)), "dtype"),
        (a_tree(_array(dtype="=f4"), bytes(4)), "dtype"),
        (a_tree(_array(dtype="|V0", at=[0, 0])), "dtype"),
        (a_tree(_array(dtype="<U1"), b"\xff" * 4), "1114111"),
        (a_tree(_array(shape=[3]), bytes(4)), "4 bytes"),
        (a_tree(_array(shape=[2**62, 2**62, 0], at=[0, 0])), "cannot be made"),
        (a_tree({"scalar": _array(shape=[1])["array"]}, bytes(4)), r"shape \[\]"),
        (a_tree(b"[" * 100_000 + b"]" * 100_000), "deeper"),
        (a_tree(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)), "deeper"),
        (a_tree(b'"\\""' + b"[" * 100_000), "deeper"),
    ],
)
def test_each_malformed_tree_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptObjectError, match=message) as caught:
        decode_tree(data, "object")
    assert caught.value.where == "object"


def test_short_data_is_truncated() -> None:
    whole = encode_tree([torch.ones(3), "text"])
    assert whole is not None
    for length in (0, 7, 8, 20):
        with pytest.raises(TruncatedObjectError):
            decode_tree(whole[:length], "object")
    for length in range(len(whole)):
        with pytest.raises(CorruptObjectError):
            decode_tree(whole[:length], "object")


def test_a_dtype_of_the_future_is_named() -> None:
    with pytest.raises(UnknownVersionError, match="200"):
        decode_tree(a_tree(_tensor(dtype=200), bytes(4)), "object")


def test_the_place_of_an_error_is_given() -> None:
    data = a_tree([{"bytes": [0, 3]}, {"bytes": [3, 9]}], b"123456")
    with pytest.raises(CorruptObjectError) as caught:
        decode_tree(data, "object")
    assert caught.value.offset == len(data) - 3
    with pytest.raises(CorruptObjectError) as caught:
        decode_tree(a_tree('["é", oops]'.encode()), "object")
    assert caught.value.offset == 8 + len('["é", '.encode())


def test_small_data_allocates_little() -> None:
    hostile = [
        a_tree(_tensor(shape=[2**50], at=[0, 2**52]), bytes(4)),
        a_tree(_array(shape=[2**50], at=[0, 2**52]), bytes(4)),
        a_tree(_array(dtype="|S999999999", shape=[0], at=[0, 0])),
        a_tree([{"bytes": [0, 4000]}] * 1000, bytes(4000)),
        struct.pack("<Q", 2**62) + b"[]",
    ]
    tracemalloc.start()
    try:
        for data in hostile:
            decode_or_fail(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
