"""The protocol of savers and deleters, walked through in all interleavings.

First as a model: processes are programs of single steps on the objects of a store, and every state that any order of
steps can lead to is looked at. Then with the real code, one backend operation at a time, in all orders with few
switches from one process to another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

import pytest

from deltackpt.backend.base import Buffer, ObjectInfo
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import MissingObjectError
from deltackpt.store.catalog import visible_steps
from deltackpt.store.collect import collect
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.store.remove import remove_steps
from deltackpt.store.usage import all_objects, read_listed
from deltackpt.testing.arrays import State, load_step, save_step, state_bytes, write_step
from tests.pipeline.helpers import floats, near

Names = frozenset[str]


@dataclass(frozen=True)
class World:
    """A store: its packs, its manifests with what they list, the bases that savers announced, and marks."""

    objects: Names
    manifests: tuple[tuple[str, Names], ...]
    pendings: tuple[tuple[str, str], ...] = ()
    marks: tuple[tuple[str, Names, Names | None], ...] = ()  # id, what is marked, the saves it waits for

    def lists(self, manifest: str) -> Names | None:
        return dict(self.manifests).get(manifest)

    def listed(self) -> Names:
        return frozenset(name for _, names in self.manifests for name in names)

    def sound(self) -> bool:
        return self.listed() <= self.objects


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol; a test switches each of them off, to see that it is needed."""

    announce: bool = True
    read_marks: bool = True
    check_base: bool = True
    wait: bool = True
    list_again: bool = True
    mark: bool = True
    spare_named: bool = True
    expire_before_commit: bool = True
    faults: bool = True  # saves may fail, be killed, or take too long


@dataclass(frozen=True)
class Actor:
    """A process: its name, the number of its next step, and what it has found out."""

    name: str
    at: int = 0
    base: str = ""
    closure: Names = frozenset()
    found: Names = frozenset()
    late: bool = False  # its announcement has expired


Next = Iterator[tuple[World, Actor]]
END = 99


def with_pending(world: World, saver: str, base: str) -> World:
    others = tuple(p for p in world.pendings if p[0] != saver)
    return replace(world, pendings=tuple(sorted([*others, (saver, base)])))


def without_pending(world: World, saver: str) -> World:
    return replace(world, pendings=tuple(p for p in world.pendings if p[0] != saver))


def save(world: World, me: Actor, rules: Rules) -> Next:
    """Choose a base, announce, read the marks, check the base, write, commit, withdraw. It may be killed anywhere."""
    done = replace(me, at=END, base="", closure=frozenset())
    if me.at == 0:
        for base, names in world.manifests:
            yield world, replace(me, at=1, base=base, closure=names)
    elif me.at == 1:
        yield with_pending(world, me.name, me.base) if rules.announce else world, replace(me, at=2)
    elif me.at == 2:
        marked = frozenset(name for _, names, _ in world.marks for name in names) if rules.read_marks else frozenset()
        usable = me.base not in marked
        yield world, replace(me, at=3) if usable else replace(me, at=4, base="", closure=frozenset())
    elif me.at == 3:
        usable = not rules.check_base or world.lists(me.base) == me.closure
        yield world, replace(me, at=4) if usable else replace(me, at=4, base="", closure=frozenset())
    elif me.at == 4:
        own = frozenset([me.name])
        yield replace(world, objects=world.objects | own), replace(me, at=5, closure=me.closure | own)
    elif me.at == 5:
        if not (me.late and rules.expire_before_commit):
            manifest = (f"M{me.name}", me.closure)
            yield replace(world, manifests=tuple(sorted([*world.manifests, manifest], key=str))), replace(me, at=6)
        if me.late or rules.faults:
            yield world, replace(me, at=6)
    elif me.at == 6:
        yield without_pending(world, me.name), done
    if rules.faults and 1 < me.at <= 6 and not me.late:
        # Its time passes: for others it has ended.
        yield without_pending(world, me.name), replace(me, late=True)
        # It is killed, and its announcement stays until its time has passed: the step before.
        yield without_pending(world, me.name), done


def prune(world: World, me: Actor, rules: Rules) -> Next:
    """Mark a manifest, read the announcements, delete it unless it is named. ``p0`` takes M0, ``ps1`` that of s1."""
    manifest = f"M{me.name[1:]}"
    if me.at == 0:
        mark = (me.name, frozenset([manifest]), None)
        yield replace(world, marks=(*world.marks, mark)) if rules.mark else world, replace(me, at=1)
    elif me.at == 1:
        yield world, replace(me, at=2, found=frozenset(base for _, base in world.pendings))
    elif me.at == 2:
        spared = manifest in me.found and rules.spare_named
        kept = tuple(m for m in world.manifests if m[0] != manifest or spared)
        yield replace(world, manifests=kept), replace(me, at=3, found=frozenset())
    elif me.at == 3:
        yield without_mark(world, me.name), replace(me, at=END)


def without_mark(world: World, mark: str) -> World:
    return replace(world, marks=tuple(m for m in world.marks if m[0] != mark))


def gc(world: World, me: Actor, rules: Rules) -> Next:
    """List objects, list manifests, mark, note the saves; then finish, as ``finish`` does for any mark."""
    if me.at == 0:
        yield world, replace(me, at=1, found=world.objects)
    elif me.at == 1:
        yield world, replace(me, at=2, found=me.found - world.listed())
    elif me.at == 2:
        if not me.found:
            yield world, replace(me, at=END)
        else:
            mark = (me.name, me.found, None)
            yield replace(world, marks=(*world.marks, mark)) if rules.mark else world, replace(me, at=3)
    elif me.at == 3:
        waits = frozenset(saver for saver, _ in world.pendings)
        marks = tuple((n, names, waits if n == me.name else w) for n, names, w in world.marks)
        # It may be killed here, and leave the rest to others.
        yield replace(world, marks=marks), replace(me, at=4, base=me.name, closure=waits)
        yield replace(world, marks=marks), replace(me, at=END, found=frozenset())
    else:
        yield from finish(world, me, rules)


def finish(world: World, me: Actor, rules: Rules) -> Next:
    """Take up any mark of a gc, wait for the saves it names, list again, delete one object after another."""
    if me.at == 0:
        for mark, names, waits in world.marks:
            if waits is not None:
                yield world, replace(me, at=4, base=mark, found=names, closure=waits)
        if not any(waits is not None for *_, waits in world.marks):
            yield world, replace(me, at=END)
    elif me.at == 4:
        if not rules.wait or not {saver for saver, _ in world.pendings} & me.closure:
            yield world, replace(me, at=5, closure=frozenset())
    elif me.at == 5:
        yield world, replace(me, at=6, found=me.found - (world.listed() if rules.list_again else frozenset()))
    elif me.at == 6:
        for name in sorted(me.found)[:1]:
            yield replace(world, objects=world.objects - {name}), replace(me, found=me.found - {name})
        if not me.found:
            yield without_mark(world, me.base), replace(me, at=END, base="")


PROGRAMS = {"s": save, "p": prune, "g": gc, "f": finish}


def explore(actors: list[str], rules: Rules) -> tuple[int, World | None]:
    """Every state that the processes can reach in any order: how many, and one in which a manifest is broken."""
    start = World(frozenset({"x", "y"}), (("M0", frozenset({"x", "y"})), ("M1", frozenset({"y"}))))
    first = (start, tuple(Actor(name) for name in actors))
    seen, todo = {first}, [first]
    while todo:
        world, processes = todo.pop()
        if not world.sound():
            return len(seen), world
        for number, me in enumerate(processes):
            if me.at == END:
                continue
            for after, became in PROGRAMS[me.name[0]](world, me, rules):
                state = (after, (*processes[:number], became, *processes[number + 1 :]))
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
    return len(seen), None


@pytest.mark.parametrize("actors", [["s1", "p0", "g1"], ["s1", "p0", "g1", "f1"]], ids="-".join)
def test_no_order_of_steps_breaks_a_step(actors: list[str]) -> None:
    states, broken = explore(actors, Rules())
    assert broken is None
    assert states > 4000


def test_no_order_of_two_saves_breaks_a_step() -> None:
    states, broken = explore(["s1", "s2", "p0", "g1"], Rules(faults=False))
    assert broken is None
    assert states > 50_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("actors", "faults"),
    [(["s1", "s2", "p0", "g1"], True), (["s1", "s2", "p0", "ps1", "g1"], False), (["s1", "p0", "g1", "g2"], True)],
    ids=str,
)
def test_no_order_of_more_processes_breaks_a_step(actors: list[str], faults: bool) -> None:
    states, broken = explore(actors, Rules(faults=faults))
    assert broken is None
    assert states > 100_000


@pytest.mark.parametrize(
    "without",
    [
        Rules(announce=False),
        Rules(check_base=False),
        Rules(wait=False),
        Rules(list_again=False),
        Rules(expire_before_commit=False),
    ],
    ids=str,
)
def test_every_rule_is_needed(without: Rules) -> None:
    assert explore(["s1", "p0", "g1"], without)[1] is not None


@pytest.mark.parametrize(
    "without",
    [
        Rules(faults=False, read_marks=False),
        pytest.param(Rules(faults=False, spare_named=False), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_that_removers_and_savers_heed_each_other_is_needed(without: Rules) -> None:
    """s1 builds on M0 and is pruned itself once s2 builds on it."""
    assert explore(["s1", "s2", "p0", "ps1", "g1"], without)[1] is not None


# --- The real code ---------------------------------------------------------------------------------------------------


class Turnstile:
    """A backend on which two threads take turns: a schedule says after how many operations each switch comes.

    Only operations by which processes can affect each other count; others, and those of helper threads, just pass.
    """

    def __init__(self, inner: MemoryBackend, switches: Sequence[int]) -> None:
        self.inner = inner
        self.url = inner.url
        self.counts = [0, 0]
        self._switches = list(switches)
        self._left = self._switches.pop(0) if self._switches else None
        self._turn = 0
        self._done = [False, False]
        self._threads: dict[int, int] = {}
        self._condition = threading.Condition()

    def enter(self, number: int) -> None:
        with self._condition:
            self._threads[threading.get_ident()] = number

    def leave(self, number: int) -> None:
        with self._condition:
            self._done[number] = True
            self._turn = 1 - number
            self._condition.notify_all()

    def _pass(self, kind: str, key: str) -> None:
        number = self._threads.get(threading.get_ident())
        shared = (
            key.startswith(("pending/", "marks/", "manifests/"))
            or kind == "delete"
            or (kind, key) == ("list", "packs/")
        )
        if number is None or not shared:
            return
        with self._condition:
            while True:
                if self._turn == number and self._left == 0 and not self._done[1 - number]:
                    self._turn = 1 - number
                    self._left = self._switches.pop(0) if self._switches else None
                    self._condition.notify_all()
                if self._turn == number or self._done[1 - number]:
                    break
                assert self._condition.wait(30), "the other thread is stuck"
            self.counts[number] += 1
            if self._left:
                self._left -= 1

    def put(self, key: str, data: Buffer) -> None:
        self._pass("put", key)
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._pass("put_if_absent", key)
        self.inner.put_if_absent(key, data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._pass("get", key)
        return self.inner.get(key, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._pass("list", prefix)
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._pass("delete", key)
        self.inner.delete(key)


def state(step: int) -> State:
    return {"w": near(floats(16, 16), seed=step), "frozen": floats(8, 16, seed=5)}


@pytest.fixture(scope="module")
def prepared() -> MemoryBackend:
    """Steps 1 to 3, and the garbage of a save that was killed. Not to be changed."""
    store = create_store(MemoryBackend(), StoreOptions(chain="previous", block_elements=64))
    for step in (1, 2, 3):
        save_step(store, state(step), step=step)
    write_step(store, state(8), step=8)
    for found in list(store.backend.list("pending/")):
        store.backend.delete(found.key)
    assert isinstance(store.backend, MemoryBackend)
    return store.backend


def saver(store: OpenStore) -> None:
    save_step(store, state(4), step=4)


def deleter(store: OpenStore) -> None:
    """Prunes the step that the save would build on, too, and collects with what it has and with what it finds."""
    remove_steps(store, [("main", 2), ("main", 3)])
    for _ in range(2):
        collect(store, grace=timedelta(0), wait=False)


def race(prepared: MemoryBackend, first: int, switches: Sequence[int]) -> list[int]:
    """Both at once; ``first`` begins. Then nothing is broken, and what is garbage goes."""
    backend = MemoryBackend()
    for info in prepared.list():
        backend.put(info.key, prepared.get(info.key))
    turnstile = Turnstile(backend, switches)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        turnstile.enter(number)
        try:
            (saver, deleter)[number ^ first](open_store(turnstile))
        except BaseException as error:
            errors.append(error)
        finally:
            turnstile.leave(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    where = f"first {first}, switches after {switches}"
    assert errors == [], where
    store = open_store(backend)
    there = [step.key.step for step in visible_steps(store)]
    assert {1, 4} <= set(there), where
    for step in there:
        assert load_step(store, step) == state_bytes(state(step)), where
    assert not list(backend.list("pending/")), where
    for _ in range(2):
        collect(store, grace=timedelta(0), wait=False)
    assert not list(backend.list("marks/")), where
    listed = read_listed(store).objects()
    assert set(all_objects(store)) == listed, where
    return turnstile.counts


def two_switches(prepared: MemoryBackend, stride: int) -> int:
    """A begins, B comes in after i operations of A, A again after j of B: how many orders that are."""
    runs = 0
    for first in (0, 1):
        whole = race(prepared, first, [])
        for i in range(whole[0] + 1):
            # Where there is more to delete, B takes longer than it did alone.
            for j in range(1 + i % stride, 2 * whole[1], stride):
                race(prepared, first, [i, j])
                runs += 1
    return runs


def test_the_real_code_in_orders_with_two_switches(prepared: MemoryBackend) -> None:
    assert two_switches(prepared, 12) > 60


@pytest.mark.slow
def test_the_real_code_in_all_orders_with_two_switches(prepared: MemoryBackend) -> None:
    assert two_switches(prepared, 1) > 400


@pytest.mark.parametrize(
    "missing", ["deltackpt.store.collect.live_pendings", "deltackpt.store.pending.Announcement._put"]
)
def test_the_real_code_without_the_protocol_breaks(
    prepared: MemoryBackend, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Were nobody to announce a save, or to ask for saves, these orders would show it."""
    monkeypatch.setattr(missing, lambda *_: iter(()))
    with pytest.raises((AssertionError, MissingObjectError)):
        two_switches(prepared, 3)


@pytest.mark.slow
def test_the_real_code_in_many_orders_with_four_switches(prepared: MemoryBackend) -> None:
    random = Random(7)
    for _ in range(3000):
        race(prepared, random.randrange(2), [random.randrange(1, 12) for _ in range(4)])
