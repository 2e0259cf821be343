from __future__ import annotations

from dataclasses import fields

import pytest

from deltackpt.errors import InvalidArgumentError
from deltackpt.store.options import CHAINS, StoreOptions

LIMITS = {
    "key_every": (1, 1 << 31),
    "max_depth": (1, 1 << 31),
    "block_elements": (1, 1 << 27),
    "pack_bytes": (1024, 1 << 34),
    "level": (-7, 22),
}


def test_every_option_is_tested() -> None:
    assert {f.name for f in fields(StoreOptions)} == {"chain", "read_factor", *LIMITS}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    low, high = LIMITS[name]
    for value in (low, high):
        assert getattr(StoreOptions.from_mapping({name: value}), name) == value
    wrong: list[object] = [low - 1, high + 1, float(low), str(low), True, None]
    for other in wrong:
        with pytest.raises(InvalidArgumentError, match=rf"{name} must be an integer from {low} to {high}"):
            StoreOptions.from_mapping({name: other})


def test_limits_of_the_read_factor() -> None:
    for value in (1, 1.0, 2.5, 1000):
        assert StoreOptions.from_mapping({"read_factor": value}).read_factor == value
    wrong: list[object] = [0.99, 0, -1, 1001, float("nan"), float("inf"), "2", True, None]
    for other in wrong:
        with pytest.raises(InvalidArgumentError, match="read_factor must be a number from 1 to 1000"):
            StoreOptions.from_mapping({"read_factor": other})


@pytest.mark.parametrize("chain", ["", "Previous", "newer", None, 1])
def test_unknown_chains(chain: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"unknown chain .*previous, anchor"):
        StoreOptions.from_mapping({"chain": chain})


@pytest.mark.parametrize("chain", CHAINS)
def test_options_survive_as_a_mapping(chain: str) -> None:
    options = StoreOptions(chain, 3, 4, 5, 6000, 7, 1.5)
    assert StoreOptions.from_mapping(options.to_mapping()) == options
    assert StoreOptions.from_mapping({}) == StoreOptions()


def test_unknown_options_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"store.json: unknown option 'colour' .*key_every"):
        StoreOptions.from_mapping({"colour": 1}, source="store.json")
