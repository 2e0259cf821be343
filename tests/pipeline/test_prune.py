"""Pruning: what goes, what stays and why, what comes free; whatever goes, the rest stays as it is."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import StepKey, manifest_key, pack_key
from deltackpt.pipeline.prune import PruneReport, prune_store
from deltackpt.pipeline.rewrite import rewrite_step
from deltackpt.pipeline.save import SaveSettings
from deltackpt.store.collect import collect
from deltackpt.store.names import put_tag
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.pending import Announcement
from deltackpt.store.retention import Retention
from deltackpt.store.thin import thin_step
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import State, Stored, load_manifest, load_step, save_step, state_bytes
from deltackpt.testing.faults import flip_bits
from tests.pipeline.helpers import audit, floats, keys, near


def state(step: int) -> State:
    return {
        "w": Stored(near(floats(64, 16), seed=step)),
        "frozen": Stored(floats(32, 16, seed=7)),
        "m": Stored(near(floats(32, 16, seed=1), seed=step), artifact="optim", role="exp_avg"),
    }


@pytest.fixture
def store() -> OpenStore:
    return create_store(MemoryBackend(), StoreOptions(chain="previous", block_elements=64, key_every=4))


def fill(store: OpenStore, steps: range, branch: str = "main") -> None:
    for step in steps:
        save_step(store, state(step), step=step, branch=branch)


def numbers(store: OpenStore, branch: str = "main") -> list[int]:
    return [step.step for step in Store(store).steps(branch)]


def unlisted(store: OpenStore) -> int:
    listed = read_listed(store).objects()
    return sum(size for key, size in all_objects(store).items() if key not in listed)


def stored(store: OpenStore) -> int:
    return sum(info.size for info in store.backend.list("manifests/")) + sum(all_objects(store).values())


def assert_whole(store: OpenStore, steps: list[int], branch: str = "main") -> None:
    assert numbers(store, branch) == steps
    for step in steps:
        assert load_step(store, step, branch) == state_bytes(state(step))
        audit(store, step, branch)


def test_what_no_rule_keeps_goes(store: OpenStore) -> None:
    fill(store, range(10))
    before = stored(store)
    plan = Store(store).prune(Retention(keep_last=2, keep_every=4), dry_run=True)
    assert numbers(store) == list(range(10))
    assert (plan.dry_run, [k.step for k in plan.kept]) == (True, [0, 4, 8, 9])
    assert [p.step for p in plan.pruned] == [1, 2, 3, 5, 6, 7]
    assert {k.step: k.reasons for k in plan.kept} == {
        0: ("keep-every 4",),
        4: ("keep-every 4",),
        8: ("keep-last 2", "keep-every 4"),
        9: ("keep-last 2", "newest"),
    }
    report = Store(store).prune(Retention(keep_last=2, keep_every=4))
    assert (report.freed_bytes, report.pinned_bytes) == (plan.freed_bytes, plan.pinned_bytes)
    # Nothing but manifests goes at once; the rest is what no manifest lists.
    gone = before - stored(store)
    assert gone > 0
    assert report.freed_bytes == gone + unlisted(store)
    assert keys(store, "marks/") == keys(store, "pending/") == set()
    assert_whole(store, [0, 4, 8, 9])


def test_bytes_that_a_step_needs_of_pruned_ones_are_pinned_and_rebasing_frees_them(store: OpenStore) -> None:
    fill(store, range(7))  # keys are 0 and 4
    plan = Store(store).prune(Retention(keep_every=6), dry_run=True)
    assert [k.step for k in plan.kept] == [0, 6]
    pinned = {k.step: k.pinned_bytes for k in plan.kept}
    assert pinned[0] == 0 < pinned[6] == plan.pinned_bytes
    needed = {entry.object for entry in load_manifest(store, 6).indexes}
    owned = {name for name in needed if store.index(name).header.step in (4, 5)}
    assert len(owned) == 2

    before = stored(store) - unlisted(store)
    report = Store(store).prune(Retention(keep_every=6), rebase=True)
    assert report.rebased == ("main:6",)
    assert_whole(store, [0, 6])
    six = load_manifest(store, 6)
    assert six.header.is_key
    assert six.header.key.generation == 2
    assert list(read_listed(store).by_step) == [StepKey("main", 0, 1), StepKey("main", 6, 2)]
    left = stored(store) - unlisted(store)
    # Freed as said, and what was pinned, less what the step takes anew.
    assert before - left > report.freed_bytes
    again = Store(store).prune(Retention(keep_every=6), dry_run=True)
    assert (again.pruned, again.pinned_bytes, again.freed_bytes) == ((), 0, 0)


def test_a_rewritten_step_keeps_all_but_its_records(store: OpenStore) -> None:
    fill(store, range(3))
    save_step(store, state(3), step=3, metrics={"loss": 1.5})
    old = load_manifest(store, 3)
    Store(store).annotate(3, {"mmlu": 0.3})
    rewrite_step(store, old, settings=SaveSettings(1, 0))
    new = audit(store, 3)
    assert load_step(store, 3) == load_step(store, old) == state_bytes(state(3))
    assert new.header.is_key
    assert new.header.key == StepKey("main", 3, 2)
    assert (new.header.created, new.header.parent) == (old.header.created, old.header.parent)
    assert Store(store).steps()[-1].metrics == {"loss": 1.5, "mmlu": 0.3}
    assert new.entries == old.entries


def test_optimizers_alone_are_thinned(store: OpenStore) -> None:
    fill(store, range(6))
    before = stored(store)
    plan = Store(store).prune(Retention(keep_last=2), only="optim", dry_run=True)
    report = Store(store).prune(Retention(keep_last=2), only="optim")
    assert plan == dataclasses.replace(report, dry_run=True)
    assert [(p.step, p.artifacts) for p in report.pruned] == [(n, ("optim",)) for n in range(4)]
    assert numbers(store) == list(range(6))
    for step in range(6):
        expected = {name: data for name, data in state_bytes(state(step)).items() if step >= 4 or name != "m"}
        assert load_step(store, step) == expected
        audit(store, step)
        assert set(load_manifest(store, step).header.artifacts) == ({"model", "optim"} if step >= 4 else {"model"})
    assert 0 < unlisted(store) <= report.freed_bytes
    assert stored(store) < before
    assert Store(store).prune(Retention(keep_last=2), only="optim").pruned == ()


def test_a_step_with_nothing_else_goes_whole_when_it_is_thinned(store: OpenStore) -> None:
    fill(store, range(2))
    only_optim = {"m": Stored(floats(8, 8), artifact="optim", role="exp_avg")}
    save_step(store, only_optim, step=2)
    with pytest.raises(InvalidArgumentError, match="nothing would be left of step main:2"):
        thin_step(store, load_manifest(store, 2), ["optim"])
    assert keys(store, "pending/") == set()
    fill(store, range(3, 5))
    report = Store(store).prune(Retention(keep_last=1), only="optim")
    assert numbers(store) == [0, 1, 3, 4]
    assert [(p.step, p.artifacts) for p in report.pruned][2] == (2, ("optim",))


def test_the_newest_step_stays_unless_forced(store: OpenStore) -> None:
    fill(store, range(1, 4))
    assert [k.reasons for k in Store(store).prune(Retention(keep_tag="x")).kept] == [("newest",)]
    assert numbers(store) == [3]
    assert Store(store).prune(Retention(keep_tag="x"), force=True).kept == ()
    assert numbers(store) == []


def test_tags_and_notes_go_with_their_step(store: OpenStore) -> None:
    fill(store, range(4))
    for step in range(4):
        Store(store).tag(step, f"t{step}")
        Store(store).annotate(step, {"score": step})
    report = Store(store).prune(Retention(keep_tag="t1"))
    assert [(p.step, p.tags) for p in report.pruned] == [(0, ("t0",)), (2, ("t2",))]
    assert keys(store, "tags/") == {"tags/t1", "tags/t3"}
    assert len(keys(store, "notes/")) == 2
    fill(store, range(1))
    assert Store(store).steps()[0].metrics == {}


def test_a_step_that_a_save_builds_on_stays(store: OpenStore) -> None:
    fill(store, range(4))
    save = Announcement(store, "main", 9)
    save.claim([load_manifest(store, 1)])
    report = Store(store).prune(Retention(keep_last=1))
    assert report.spared == ("main:1",)
    assert_whole(store, [1, 3])
    save.withdraw()
    assert Store(store).prune(Retention(keep_last=1)).spared == ()
    assert_whole(store, [3])


def test_no_older_content_shows_where_a_lower_generation_stays(store: OpenStore) -> None:
    fill(store, range(2))
    save_step(store, state(7), step=0)
    save = Announcement(store, "main", 9)
    save.claim([store.manifest(StepKey("main", 0, 1))])
    assert set(Store(store).prune(Retention(keep_last=1)).spared) == {"main:0"}
    assert load_step(store, 0) == state_bytes(state(7))


def test_a_damaged_step_stays_and_is_named(store: OpenStore) -> None:
    fill(store, range(4))
    flip_bits(store.backend, manifest_key(StepKey("main", 1, 1)), 50)
    report = Store(store).prune(Retention(keep_last=1))
    assert report.damaged == ("main:1",)
    assert numbers(store) == [3]
    assert manifest_key(StepKey("main", 1, 1)) in keys(store, "manifests/")


def test_each_branch_is_pruned_by_itself(store: OpenStore) -> None:
    fill(store, range(4))
    Store(store).branch("tuned", at=3)
    Store(store).branch("empty", at=1)
    fill(store, range(4, 7), "tuned")
    assert [k.branch for k in Store(store).prune(Retention(keep_last=1)).kept] == ["main"] * 2
    assert numbers(store) == [1, 3]  # the branch "empty" starts at 1
    assert numbers(store, "tuned") == [4, 5, 6]
    report = Store(store).prune(Retention(keep_last=1), branch=None)
    assert [(k.branch, k.step) for k in report.kept] == [("main", 1), ("main", 3), ("tuned", 6)]
    assert report.kept[0].reasons == ("branch empty starts here and has no steps yet",)
    with pytest.raises(StepNotFoundError, match="branch nothing has no steps"):
        Store(store).prune(Retention(keep_last=1), branch="nothing")


def test_deleting_the_parent_leaves_a_branch_whole(store: OpenStore) -> None:
    fill(store, range(3))
    Store(store).branch("tuned", at="latest")
    fill(store, range(3, 5), "tuned")
    first = load_manifest(store, 3, "tuned")
    assert first.header.parent == StepKey("main", 2, 1)
    assert not first.header.is_key
    assert Store(store).delete_branch("main").spared == ()
    assert_whole(store, [3, 4], "tuned")
    fill(store, range(5, 6), "tuned")
    assert_whole(store, [3, 4, 5], "tuned")
    with pytest.raises(StepNotFoundError, match="there is no branch main"):
        Store(store).delete_branch("main")


def test_only_and_rebase_exclude_each_other(store: OpenStore) -> None:
    fill(store, range(2))
    with pytest.raises(InvalidArgumentError, match="exclude each other"):
        Store(store).prune(Retention(keep_last=1), only="optim", rebase=True)


def test_a_store_without_steps(store: OpenStore) -> None:
    put_tag(store, "x", StepKey("main", 1, 1))
    assert Store(store).prune(Retention(keep_last=1), branch=None) == PruneReport((), (), (), (), (), 0, 0, False)


def test_deltas_go_on_where_packs_that_nothing_needs_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    """An index lists all packs of its save, also those that gc deleted because no step that stayed needs them."""
    store = create_store(MemoryBackend(), StoreOptions(chain="previous"))
    frozen = floats(64, seed=1)
    moments = [Stored(floats(64, seed=9 + step), artifact="optim", role="exp_avg") for step in range(2)]
    for step, moment in enumerate(moments):
        save_step(store, {"w": frozen, "m": moment}, step=step)
    packs = keys(store, "packs/")
    prune_store(store, Retention(keep_last=1), branches=None, settings=SaveSettings(1, 0))
    collect(store, grace=timedelta(0))
    needed = {pack_key(pack.name) for pack in load_manifest(store, 1).packs}
    assert needed == keys(store, "packs/") < packs
    fresh = open_store(store.backend)
    save_step(fresh, {"w": frozen, "m": moments[1]}, step=2)
    assert caplog.records == []
    assert keys(store, "packs/") == needed
