"""A Checkpointer on several ranks: they decide, fail, are preempted and resume together."""

from __future__ import annotations

from pathlib import Path

from deltackpt import Store
from tests.dcp import loop_jobs
from tests.dcp.ranks import Ranks


def a_store(path: Path) -> str:
    return Store.create(path / "store").url


def test_the_first_rank_decides_for_all(ranks: Ranks, tmp_path: Path) -> None:
    url = a_store(tmp_path)
    # Ten minutes by the clock of rank 0 after the first moment, not by that of rank 1.
    assert ranks.run(2, loop_jobs.train_and_resume, url) == [[[1, 7], 7, True]] * 2
    info = Store.open(url).step(1).info
    assert info.metrics == {"loss": 1.0}
    assert info.writer["world_size"] == 2


def test_a_failure_on_one_rank_is_heard_by_all_at_the_same_step(ranks: Ranks, tmp_path: Path) -> None:
    first, second = ranks.run(2, loop_jobs.fail_and_go_on, a_store(tmp_path))
    assert first == second
    heard, kept = first
    ((step, name, words),) = heard
    assert step > 4
    assert name == "BackendError"
    assert words == "step main:4 was not saved: a fault injected by a test"
    assert kept[0] == 2
    assert kept[1] > 4


def test_a_signal_on_one_rank_saves_the_same_step_on_all(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(2, loop_jobs.preempted, a_store(tmp_path)) == [[6, 1, [6]]] * 2


def test_resume_from_what_every_rank_can_use(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(2, loop_jobs.lacking, a_store(tmp_path))
    assert found == [[3, "IncompleteStepError"]] * 2
