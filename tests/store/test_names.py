"""Tags, notes, branches, and the ways to write a step that rest on them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from deltackpt.api import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import (
    CorruptObjectError,
    InvalidArgumentError,
    InvalidNameError,
    StepNotFoundError,
    UnknownVersionError,
)
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.format.names import (
    BranchStart,
    Note,
    Tag,
    decode_branch_start,
    decode_note,
    decode_tag,
    encode_branch_start,
    encode_note,
    encode_tag,
)
from deltackpt.store.opened import OpenStore, create_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.specs import BestRef, StepRef, TagRef, TimeRef, parse_step
from deltackpt.testing.arrays import load_manifest, save_step
from deltackpt.testing.faults import flip_bits
from tests.store.helpers import small_state

TIME = "2026-01-31T12:00:00Z"
NOON = datetime(2026, 6, 7, 12, tzinfo=timezone.utc)


class Clock:
    now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def opened() -> OpenStore:
    """Steps 1 to 4, saved at noon of June 7 to 10; a fifth on a branch."""
    created = create_store(MemoryBackend(), StoreOptions(block_elements=64))
    clock = Clock()
    store = OpenStore(created.backend, created.config, clock=clock)
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.5], start=1):
        clock.now = NOON + timedelta(days=step - 1)
        save_step(store, small_state(step), step=step, metrics={"loss": loss, "acc": loss})
    save_step(store, small_state(5), step=5, branch="rl", metrics={"loss": 9.0})
    return store


@pytest.fixture
def store(opened: OpenStore) -> Store:
    return Store(opened)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (7, StepRef("main", 7)),
        ("7", StepRef("main", 7)),
        ("latest", StepRef("main", None)),
        ("rl:7", StepRef("rl", 7)),
        ("rl:latest", StepRef("rl", None)),
        ("tag:paper", TagRef("paper")),
        ("best:loss", BestRef("main", "loss", False)),
        ("best:acc", BestRef("main", "acc", True)),
        ("best:eval/acc:min", BestRef("main", "eval/acc", False)),
        ("best:loss:max", BestRef("main", "loss", True)),
        ("best:a:b", BestRef("main", "a:b", True)),
        ("rl:best:loss", BestRef("rl", "loss", False)),
        ("@2026-06-07", TimeRef("main", NOON.replace(hour=23, minute=59, second=59, microsecond=999_999))),
        ("@2026-06-07T12:30", TimeRef("main", NOON.replace(minute=30, second=59, microsecond=999_999))),
        ("@2026-06-07T12:30:05Z", TimeRef("main", NOON.replace(minute=30, second=5, microsecond=999_999))),
        ("rl:@2026-06-07T12:30", TimeRef("rl", NOON.replace(minute=30, second=59, microsecond=999_999))),
    ],
)
def test_steps_are_written_in_many_ways(spec: int | str, expected: object) -> None:
    assert parse_step(spec) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "x",
        "-1",
        "1.0",
        "best:",
        "tag:",
        "tag:../x",
        "@",
        "@June",
        "@2026-13-01",
        "@9999-12-31T25:00",
        "a:b:1",
        ":1",
    ],
)
def test_other_texts_are_no_steps(spec: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_step(spec)


def test_each_way_finds_its_step(store: Store) -> None:
    store.tag(3, "paper")
    specs = ["tag:paper", "best:loss", "best:loss:max", "best:acc", "@2026-06-08", "@2026-06-09T12:00", "rl:best:loss"]
    found = {spec: store.step(spec).key.step for spec in specs}
    assert found == {
        "tag:paper": 3,
        "best:loss": 2,
        "best:loss:max": 1,
        "best:acc": 1,
        "@2026-06-08": 2,
        "@2026-06-09T12:00": 3,
        "rl:best:loss": 5,
    }
    assert store.step("best:loss", branch="rl").key.step == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tag:nothing", "there is no tag 'nothing'"),
        ("best:mmlu", "no step of branch main has a number for the metric 'mmlu'.*acc, loss"),
        ("@2026-06-06", "no step from before 2026-06-06.*first was saved at 2026-06-07T12:00"),
        ("nowhere:best:loss", "branch nowhere has no steps"),
    ],
)
def test_what_is_not_there_is_said(store: Store, spec: str, message: str) -> None:
    with pytest.raises(StepNotFoundError, match=message):
        store.step(spec)


def test_tags_are_names_of_steps(store: Store) -> None:
    store.tag("latest", "paper")
    store.tag(4, "paper")
    with pytest.raises(InvalidArgumentError, match="'paper' is on step main:4"):
        store.tag(1, "paper")
    store.tag("rl:5", "paper", move=True)
    store.tag(4, "v1")
    store.tag(4, "a")
    assert {info.step: info.tags for info in store.steps(None) if info.tags} == {4: ("a", "v1"), 5: ("paper",)}
    assert store.step(4).info.tags == ("a", "v1")
    store.untag("paper")
    with pytest.raises(StepNotFoundError, match=r"there is no tag 'paper'.*tags: a, v1"):
        store.untag("paper")
    with pytest.raises(StepNotFoundError, match="no step main:9"):
        store.tag(9, "x")
    with pytest.raises(InvalidNameError):
        store.tag(4, "no/slash")


def test_notes_come_over_what_was_recorded_and_later_ones_over_earlier(store: Store, opened: OpenStore) -> None:
    store.annotate(2, {"mmlu": 0.3, "loss": 0.5})
    opened.clock.now += timedelta(seconds=1)  # type: ignore[attr-defined]
    store.annotate("best:loss", {"mmlu": 0.4})
    assert store.steps()[1].metrics == {"loss": 0.5, "acc": 1.0, "mmlu": 0.4}
    assert store.step(2).info == store.steps()[1]
    assert store.step("best:mmlu").key.step == 2
    with pytest.raises(InvalidArgumentError, match="nothing to note"):
        store.annotate(2, {})
    with pytest.raises(InvalidArgumentError, match="is a list"):
        store.annotate(2, {"x": [1]})  # type: ignore[dict-item]


def test_notes_do_not_pass_to_another_save_of_the_step(store: Store, opened: OpenStore) -> None:
    store.annotate(2, {"mmlu": 0.3})
    opened.clock.now += timedelta(seconds=1)  # type: ignore[attr-defined]
    save_step(opened, small_state(9), step=2)
    assert store.step(2).info.metrics == {}


def test_a_damaged_step_hides_no_other(store: Store, opened: OpenStore, caplog: pytest.LogCaptureFixture) -> None:
    flip_bits(opened.backend, manifest_key(StepKey("main", 2, 1)), 40)
    assert [info.step for info in store.steps()] == [1, 3, 4]
    assert "step main:2 is left out" in caplog.text
    assert store.step("best:loss").key.step == 3


def test_a_branch_starts_at_a_step_of_another(store: Store, opened: OpenStore) -> None:
    made = store.branch("anneal", at=3)
    assert (made.name, made.start, made.steps, made.newest) == ("anneal", "main:3", 0, None)
    assert store.branch("anneal", at="main:3") == made
    assert store.branches() == ["anneal", "main", "rl"]
    header = save_step(opened, small_state(3), step=4, branch="anneal")
    assert header.parent == StepKey("main", 3, 1)
    # All of it is a duplicate of the step where the branch starts.
    assert {entry.object for entry in load_manifest(opened, 4, "anneal").indexes} <= {
        entry.object for entry in load_manifest(opened, 3).indexes
    }
    # Numbers may begin anew.
    assert save_step(opened, small_state(3), step=1, branch="anneal").parent == StepKey("main", 3, 1)
    assert save_step(opened, small_state(3), step=5, branch="anneal").parent == StepKey("anneal", 4, 1)
    store.branch("deep", at="anneal:1")
    assert save_step(opened, small_state(3), step=9, branch="deep").parent == StepKey("anneal", 1, 1)


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("main", 1, "branch main is there already"),
        ("rl", 1, "branch rl is there already"),
        ("anneal", 2, "branch anneal begins at main:3"),
        ("tag", 1, "cannot be called 'tag'"),
        ("best", 1, "cannot be called 'best'"),
        ("a/b", 1, "cannot be the name of a branch"),
        ("new", 9, "there is no step main:9"),
    ],
)
def test_branches_that_cannot_be_made(store: Store, name: str, at: int, message: str) -> None:
    store.branch("anneal", at=3)
    with pytest.raises((InvalidArgumentError, StepNotFoundError), match=message):
        store.branch(name, at=at)


TAG = Tag("main", 7, TIME)
START = BranchStart(StepKey("main", 7, 2), TIME)
NOTE = Note(TIME, TIME, {"a": 1, "b": 0.5, "c": "x", "d": None, "e": True})


def test_the_objects_come_back() -> None:
    assert decode_tag(encode_tag(TAG), source="x") == TAG
    assert decode_branch_start(encode_branch_start(START), source="x") == START
    assert decode_note(encode_note(NOTE), source="x") == NOTE


@pytest.mark.parametrize(
    ("decode", "data", "change", "error"),
    [
        (decode_tag, encode_tag(TAG), {"version": 2}, UnknownVersionError),
        (decode_tag, encode_tag(TAG), {"branch": "../x"}, CorruptObjectError),
        (decode_tag, encode_tag(TAG), {"step": -1}, CorruptObjectError),
        (decode_tag, encode_tag(TAG), {"created": "now"}, CorruptObjectError),
        (decode_branch_start, encode_branch_start(START), {"start": ["main", 7]}, CorruptObjectError),
        (decode_branch_start, encode_branch_start(START), {"version": 2}, UnknownVersionError),
        (decode_note, encode_note(NOTE), {"saved": 7}, CorruptObjectError),
        (decode_note, encode_note(NOTE), {"metrics": []}, CorruptObjectError),
        (decode_note, encode_note(NOTE), {"metrics": {"a": [1]}}, CorruptObjectError),
        (decode_note, encode_note(NOTE), {"version": 2}, UnknownVersionError),
    ],
)
def test_each_field_is_checked(decode: Any, data: bytes, change: dict[str, Any], error: type[Exception]) -> None:
    valid = json.loads(data)
    decode(json.dumps(valid | {"later": 1}).encode(), source="x")
    with pytest.raises(error):
        decode(json.dumps(valid | change).encode(), source="x")
    with pytest.raises(CorruptObjectError):
        decode(data[:-1], source="x")
