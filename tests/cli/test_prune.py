"""What the prune command refuses before anything goes, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltackpt import Store
from tests.cli.helpers import Run


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "no rule says which steps to keep", "--keep-last 3"),
        (["--keep-best", "2:los"], "has the metric 'los'", "loss"),
        (["--keep-tag", "papr"], "has the tag 'papr'", "paper"),
        (["--keep-last", "1", "--only", "optm"], "has the artifact 'optm'", "model"),
        (["--keep-last", "1", "--keep-best", "2:los", "--all"], "has the metric 'los'", "loss"),
    ],
)
def test_a_misspelt_name_prunes_nothing(cli: Run, store: Path, arguments: list[str], message: str, hint: str) -> None:
    Store.open(store).tag(100, "paper")
    ran = cli("prune", store, *arguments, "--json")
    assert ran.code == 2
    assert message in ran.error["message"]
    assert hint in ran.error["hint"]
    assert [info.step for info in Store.open(store).steps()] == [100, 200, 300]


def test_names_that_steps_have_are_taken(cli: Run, store: Path) -> None:
    Store.open(store).tag(100, "paper")
    ran = cli("prune", store, "--keep-tag", "paper", "--keep-tag", "*", "--keep-best", "1:loss", "--json")
    assert ran.code == 0
    assert [step["step"] for step in ran.document["pruned"]] == [200]


def test_tags_stay_with_steps_that_are_thinned(cli: Run, store: Path) -> None:
    opened = Store.open(store)
    opened.tag(100, "paper")
    artifact = sorted(opened.steps()[0].artifacts)[0]
    ran = cli("prune", store, "--keep-last", "1", "--only", artifact)
    assert "2 steps thinned" in ran.out
    assert "its tags go" not in ran.out
    assert Store.open(store).step("tag:paper").info.tags == ("paper",)
