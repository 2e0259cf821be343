from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from deltackpt.backend.local import LocalBackend
from deltackpt.errors import ObjectExistsError


def race(backend: LocalBackend, name: str, rounds: int, barrier_key: str) -> list[int]:
    """Put this process's name under the same keys as the other one; the rounds that it won."""
    # Both processes are there when both have put their mark: the store is all they share.
    backend.put(f"{barrier_key}/{name}", b"")
    while len(list(backend.list(f"{barrier_key}/"))) < 2:
        pass
    won = []
    for number in range(rounds):
        try:
            backend.put_if_absent(f"race/{number:03}", name.encode() * 1000)
        except ObjectExistsError:
            continue
        won.append(number)
    return won


def test_two_processes_race_for_every_object(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    rounds = 60
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {name: pool.submit(race, backend, name, rounds, "here") for name in ("one", "two")}
        won = {name: future.result(timeout=120) for name, future in futures.items()}
    assert sorted(won["one"] + won["two"]) == list(range(rounds))
    for name, numbers in won.items():
        for number in numbers:
            assert backend.get(f"race/{number:03}") == name.encode() * 1000
    assert list(tmp_path.rglob(".*")) == []


def test_errors_come_back_from_another_process(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a", b"")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(backend.put_if_absent, "a", b"").exception(timeout=120)
    assert isinstance(error, ObjectExistsError)
    assert error.where == str(tmp_path / "a")
    assert error.errno is not None
