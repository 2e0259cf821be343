from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import CorruptObjectError, InvalidArgumentError, NotAStoreError, UnknownVersionError
from deltackpt.format.store_json import StoreConfig, decode_store_json, encode_store_json

ID = "0123456789abcdef" * 2
TIME = "2026-01-31T12:00:00Z"
CONFIG = StoreConfig(1, ID, TIME, {"chain": "previous", "key_every": 16})


def decoded(data: bytes) -> StoreConfig:
    return decode_store_json(data, source="runs/gpt/store.json")


def test_a_configuration_comes_back() -> None:
    assert decoded(encode_store_json(CONFIG)) == CONFIG
    assert json.loads(encode_store_json(CONFIG))["format"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"[]", b"{}", b'{"name": "package", "format": 1}', b'{"id": 1}', b"\xff"]
)
def test_other_files_are_no_stores(data: bytes) -> None:
    with pytest.raises(NotAStoreError) as caught:
        decoded(data)
    assert caught.value.where == "runs/gpt/store.json"
    assert "deltackpt init" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 2}, UnknownVersionError, "format 2; this package knows 1"),
        ({"format": "1"}, CorruptObjectError, "'format'"),
        ({"format": True}, CorruptObjectError, "'format'"),
        ({"id": "xyz"}, CorruptObjectError, "'id'"),
        ({"id": ID.upper()}, CorruptObjectError, "'id'"),
        ({"created": "now"}, CorruptObjectError, "'created'"),
        ({"created": None}, CorruptObjectError, "'created'"),
        ({"options": []}, CorruptObjectError, "'options'"),
    ],
)
def test_each_field_is_checked(change: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = {"format": 1, "id": ID, "created": TIME, "options": {}}
    assert decoded(json.dumps(valid | {"later": "ignored"}).encode()).options == {}
    with pytest.raises(error, match=message):
        decoded(json.dumps(valid | change).encode())


@pytest.mark.parametrize(
    "config", [StoreConfig(1, "x", TIME, {}), StoreConfig(1, ID, "x", {}), StoreConfig(1, ID, TIME, {"x": object()})]
)
def test_bad_configurations_are_not_written(config: StoreConfig) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_store_json(config)


@given(st.binary(max_size=40))
def test_any_bytes_are_no_store(data: bytes) -> None:
    with pytest.raises(NotAStoreError):
        decoded(data)
