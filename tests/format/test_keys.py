from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltackpt.errors import InvalidArgumentError, InvalidNameError
from deltackpt.format import keys
from deltackpt.format.keys import StepKey
from deltackpt.testing.strategies import step_keys

DIGEST = bytes(range(32))
HEX = DIGEST.hex()


@given(step_keys())
def test_manifest_keys_come_back(key: StepKey) -> None:
    assert keys.parse_manifest_key(keys.manifest_key(key)) == key


@given(step_keys(), step_keys())
def test_keys_of_one_branch_sort_like_steps(a: StepKey, b: StepKey) -> None:
    b = StepKey(a.branch, b.step, b.generation)
    assert (a < b) == (keys.manifest_key(a) < keys.manifest_key(b))


def test_keys_are_as_the_format_says() -> None:
    key = StepKey("main", 1000, 2)
    assert keys.manifest_key(key) == "manifests/main/000000001000/000002"
    assert keys.branch_prefix("main") == "manifests/main/"
    assert keys.step_prefix("main", 1000) == "manifests/main/000000001000/"
    assert keys.pack_key(DIGEST) == f"packs/00/{HEX}"
    assert keys.index_key(DIGEST) == f"indexes/{HEX}"
    assert keys.parse_pack_key(keys.pack_key(DIGEST)) == DIGEST
    assert keys.parse_index_key(keys.index_key(DIGEST)) == DIGEST
    assert str(key) == "main:1000 (generation 2)"


@pytest.mark.parametrize(
    "key",
    [
        "manifests/main/000000001000/000000",
        "manifests/main/000000001000",
        "manifests/main/1000/000001",
        "manifests/main/000000001000/000001.tmp",
        "manifests/main/000000001000/000001\n",
        "manifests/../000000001000/000001",
        "manifests/a/b/000000001000/000001",
        "manifests/main/00000000\u0661000/000001",
        "packs/main/000000001000/000001",
        "",
    ],
)
def test_other_keys_are_no_manifests(key: str) -> None:
    assert keys.parse_manifest_key(key) is None


@pytest.mark.parametrize("key", [f"packs/01/{HEX}", f"packs/00/{HEX.upper()}", f"packs/00/{HEX}0", f"packs/{HEX}", ""])
def test_other_keys_are_no_packs(key: str) -> None:
    assert keys.parse_pack_key(key) is None


@pytest.mark.parametrize("key", [f"indexes/{HEX[:-1]}", f"indexes/{HEX}.tmp", f"packs/00/{HEX}", ""])
def test_other_keys_are_no_indexes(key: str) -> None:
    assert keys.parse_index_key(key) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "-x", ".x", "ä", "a b", "a\n", "a\0", "x" * 129, 7, None]
)
def test_bad_branches_are_refused(name: object) -> None:
    with pytest.raises(InvalidNameError, match="cannot be the name of a branch"):
        keys.check_branch(name)


@pytest.mark.parametrize("name", ["main", "0", "_", "a.b-c_d", "x" * 128])
def test_good_branches_are_taken(name: str) -> None:
    assert keys.check_branch(name) == name


@pytest.mark.parametrize(
    "key", [StepKey("main", -1, 1), StepKey("main", 10**12, 1), StepKey("main", 0, 0), StepKey("main", 0, 10**6)]
)
def test_steps_out_of_range_are_refused(key: StepKey) -> None:
    with pytest.raises(InvalidArgumentError, match="out of range"):
        keys.manifest_key(key)


def test_digests_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="32 bytes"):
        keys.pack_key(b"short")


@given(st.text(max_size=40))
def test_any_text_can_be_asked_for(text: str) -> None:
    for prefix in ("", "manifests/", "packs/", "indexes/"):
        found = keys.parse_manifest_key(prefix + text)
        assert found is None or keys.manifest_key(found) == prefix + text
        pack = keys.parse_pack_key(prefix + text)
        assert pack is None or keys.pack_key(pack) == prefix + text
