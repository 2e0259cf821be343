from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.fuzz import CORPUS, fuzz, try_input
from tests.reliability.targets import TARGETS, has_its_bases


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_gets_an_error_of_ours(name: str) -> None:
    tried = fuzz(name, 300, seed=1)
    assert tried.failures == ()


@pytest.mark.parametrize("name", TARGETS)
def test_whole_input_is_taken(name: str) -> None:
    """Otherwise the fuzzer would only see the first check. Some golden records need blocks of no pack."""
    seeds = [seed for seed in TARGETS[name].seeds() if name != "record" or has_its_bases(seed)]
    assert len(seeds) > (250 if name == "record" else 0)
    assert all(try_input(TARGETS[name], seed) for seed in seeds)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs_that_once_did_harm(path: Path) -> None:
    try_input(TARGETS[path.parent.name], path.read_bytes())
