"""Power failures: whatever a disk makes of unsynced writes, committed steps are whole and half ones do not show."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from deltackpt.backend.durable import TEMPORARY_PREFIX
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.store.opened import open_store
from tests.reliability.actions import ACTIONS, Action, build_store, state
from tests.reliability.checks import check_store
from tests.reliability.powerloss import crash_states, recorded

SAMPLES = 4


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def as_backend(found: dict[str, bytes]) -> MemoryBackend:
    """The objects among the files of a state."""
    backend = MemoryBackend()
    for path, data in found.items():
        if not path.rsplit("/", 1)[-1].startswith(TEMPORARY_PREFIX):
            backend.put(path, data)
    return backend


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_power_fails_after_any_call(tmp_path: Path, action: Action) -> None:
    root = tmp_path / "store"
    build_store(LocalBackend(root, create=True))
    before = files(root)
    with recorded(root) as calls:
        action.run(open_store(LocalBackend(root)))
    assert len(calls) > 10
    seen: dict[tuple[bool, frozenset[tuple[str, bytes]]], object] = {}
    for done, found in crash_states(before, calls, SAMPLES, random.Random(1)):
        finished = done == len(calls)
        backend = as_backend(found)
        objects = frozenset((info.key, backend.get(info.key)) for info in backend.list())
        if (finished, objects) not in seen:
            steps = check_store(backend, action.possible(done=finished)).steps
            seen[finished, objects] = tuple(sorted(steps.items()))
    if action.before != action.after:
        assert len(set(seen.values())) > 1, "no failure came before the end"
    check_store(LocalBackend(root), action.possible(done=True), next_state=state(20))


def test_the_model_finds_a_missing_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without syncing files, a step shows whose bytes are not there: the test above would fail."""
    monkeypatch.setattr("deltackpt.backend.durable.os.fsync", lambda descriptor: None)
    root = tmp_path / "store"
    build_store(LocalBackend(root, create=True))
    before = files(root)
    with recorded(root) as calls:
        ACTIONS[0].run(open_store(LocalBackend(root)))
    calls[:] = [call for call in calls if call.name != "fsync"]
    broken = 0
    for done, found in crash_states(before, calls, 20, random.Random(1)):
        if done == len(calls):
            try:
                check_store(as_backend(found), ACTIONS[0].possible())
            except Exception:
                broken += 1
    assert broken > 0
