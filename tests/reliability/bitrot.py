"""Bit rot: flip stored bits, and see that every one that matters is reported and none reaches a tensor.

``python -m tests.reliability.bitrot --flips 100000`` prints what was tried and found.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np

from deltackpt import Store
from deltackpt.backend.base import Backend
from deltackpt.backend.memory import MemoryBackend
from deltackpt.errors import CorruptObjectError, DeltackptError
from deltackpt.format.keys import INDEXES, MANIFESTS, PACKS, STORE_JSON, pack_key
from deltackpt.pipeline.chains import chain_of
from deltackpt.pipeline.verify import VerifyReport, verify_store
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore, create_store, open_store
from deltackpt.store.options import StoreOptions
from deltackpt.testing.arrays import load_step, save_step
from deltackpt.testing.faults import flip_bits
from tests.reliability.checks import Place, digest, digests

__all__ = ["Flip", "flip_every_byte", "flip_many", "load_entries", "main", "record_map", "small_store"]

# How many entries of a damaged store are loaded, of each batch.
_LOADED = 100


@dataclass(frozen=True, slots=True)
class Flip:
    """One flipped byte, and what came of it.

    Attributes:
        reported: whether a deep verification named the object.
        refused: whether some step could not be read.
    """

    key: str
    offset: int
    reported: bool
    refused: bool


def flip_every_byte(backend: Backend, mask: int, every: int = 1) -> Iterator[Flip]:
    """Flip each byte (or every ``every``-th) of all that steps need, alone, and look at the store; put it back."""
    expected = digests(open_store(backend))
    for prefix in (STORE_JSON, MANIFESTS, INDEXES, PACKS):
        for info in list(backend.list(prefix)):
            whole = backend.get(info.key)
            for offset in range(info.size % every, info.size, every):
                flip_bits(backend, info.key, offset, mask)
                yield _look(backend, info.key, offset, expected)
                backend.put(info.key, whole)


def _look(backend: Backend, key: str, offset: int, expected: Mapping[Place, bytes]) -> Flip:
    try:
        store = open_store(backend)
        report = verify_store(store, deep=True, threads=1)
    except DeltackptError:
        return Flip(key, offset, reported=True, refused=True)
    refused = False
    for place, held in expected.items():
        try:
            found = digest(load_step(open_store(backend), f"{place[0]}:{place[1]}"))
        except DeltackptError:
            refused = True
        else:
            assert found == held, f"byte {offset} of {key}: {place} reads as something else"
    return Flip(key, offset, any(key in problem.where for problem in report.problems), refused)


def record_map(store: OpenStore) -> dict[str, list[tuple[int, int, set[str]]]]:
    """For each pack, its records that steps need: where each begins and ends, and the entries that need it."""
    users: dict[RecordRef, set[str]] = {}
    places: dict[RecordRef, tuple[str, int, int]] = {}
    for step in visible_steps(store):
        manifest = store.manifest(step.key)
        lookup = index_lookup(store, manifest)
        for number, entry in enumerate(manifest.entries):
            name = f"{step.key.branch}:{step.key.step} {entry.fqn}"
            for shard in range(entry.shards):
                for block in manifest.block_range(number, shard):
                    identity = manifest.indexes[int(manifest.block_index[block])].identity
                    for ref in chain_of(RecordRef(identity, int(manifest.block_row[block])), lookup):
                        users.setdefault(ref, set()).add(name)
                        location = lookup(ref.identity).location
                        start = int(location.offset[ref.row])
                        pack = pack_key(location.packs[int(location.pack[ref.row])].name)
                        places[ref] = (pack, start, start + int(location.length[ref.row]))
    found: dict[str, list[tuple[int, int, set[str]]]] = {}
    for ref, (pack, start, end) in places.items():
        found.setdefault(pack, []).append((start, end, users[ref]))
    return found


def flip_many(backend: Backend, count: int, rng: random.Random) -> tuple[int, set[str]]:
    """Flip random bits of the packs of a store, all of them, and look once; the store is left damaged.

    Returns:
        How many flips hit a record that some step needs, and the entries of steps, ``BRANCH:STEP FQN``, that they harm.
    """
    store = open_store(backend)
    records = record_map(store)
    packs = {info.key: info.size for info in backend.list(PACKS)}
    keys, sizes = list(packs), list(packs.values())
    damage: dict[str, bytearray] = {}
    places: list[tuple[str, int]] = []
    for key in rng.choices(keys, weights=sizes, k=count):
        data = damage.setdefault(key, bytearray(backend.get(key)))
        offset = rng.randrange(len(data))
        data[offset] ^= 1 << rng.randrange(8)
        places.append((key, offset))
    harmed: set[str] = set()
    hit: set[tuple[str, int]] = set()
    for key, data in damage.items():
        whole = backend.get(key)
        offsets = {offset for changed, offset in places if changed == key}
        for start, end, users in records.get(key, ()):
            inside = {offset for offset in offsets if start <= offset < end}
            hit.update((key, offset) for offset in inside)
            # A bit that was flipped twice is what it was.
            if inside and data[start:end] != whole[start:end]:
                harmed |= users
        if bytes(data) != whole:
            backend.put(key, data)
    hits = sum(place in hit for place in places)
    report = verify_store(open_store(backend), deep=True, threads=2)
    _compare(report, harmed, damage)
    return hits, harmed


def load_entries(backend: Backend, expected: Mapping[str, bytes], harmed: Set[str]) -> None:
    """Load entries of a damaged store, each by itself: all are exact but harmed ones that are refused.

    A load checks the blocks that it gives out: damage to what these are decoded from need not change them.

    Args:
        expected: what they held before; keys are ``BRANCH:STEP FQN``.
    """
    store = Store(open_store(backend))
    for name, held in expected.items():
        step, _, fqn = name.partition(" ")
        try:
            found = store.step(step).tensor(fqn).numpy().tobytes()
        except CorruptObjectError:
            assert name in harmed, f"{name} is whole and cannot be read"
        else:
            assert found == held, f"{name} reads as something else"


def _compare(report: VerifyReport, harmed: set[str], damage: Mapping[str, object]) -> None:
    """What is reported is what was harmed, and nothing else."""
    named = {name for problem in report.problems for name in problem.affected}
    assert named <= harmed, f"reported without reason: {sorted(named - harmed)[:3]}"
    assert harmed <= named, f"not reported: {sorted(harmed - named)[:3]}"
    assert {problem.where for problem in report.problems} <= set(damage)


def small_store(backend: Backend) -> None:
    """Two steps of one tensor in two blocks: a key step and a delta."""
    store = create_store(backend, StoreOptions(block_elements=64))
    values = np.linspace(1, 2, 90, dtype=np.float32)
    for step in range(2):
        save_step(store, {"w": values * np.float32(1 + 1e-6 * step)}, step=step)


def _big_store(backend: Backend) -> None:
    """Six steps of 300 tensors, so that one flip harms little and most stay whole."""
    store = create_store(backend, StoreOptions(key_every=3))
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1_500_000).astype(np.float32)
    for step in range(6):
        save_step(store, {f"w{part}": piece for part, piece in enumerate(np.split(values, 300))}, step=step, threads=2)
        values = (values * (1 + 1e-5 * rng.standard_normal(values.size))).astype(np.float32)


def main(arguments: list[str] | None = None) -> int:
    """Flip as often as asked for; print what was found, as it is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.bitrot", description=__doc__)
    parser.add_argument("--flips", type=int, default=100_000, help="how many bits of a big store to flip in all")
    parser.add_argument("--batch", type=int, default=500, help="how many of them at once")
    parser.add_argument("--first", type=int, default=0, metavar="BATCH", help="go on at this batch of a run cut off")
    options = parser.parse_args(arguments)
    missed = 0 if options.first else _flip_small()
    whole = MemoryBackend()
    _big_store(whole)
    size = sum(info.size for info in whole.list())
    held = {
        f"{place[0]}:{place[1]} {fqn}": data
        for place in digests(open_store(whole))
        for fqn, data in load_step(open_store(whole), f"{place[0]}:{place[1]}").items()
    }
    hits = harmed = loaded = 0
    for batch in range(options.first, -(-options.flips // options.batch)):
        backend = MemoryBackend()
        for info in whole.list():
            backend.put(info.key, whole.get(info.key))
        rng = random.Random(batch)
        found = flip_many(backend, options.batch, rng)
        chosen = rng.sample(sorted(held), _LOADED)
        load_entries(backend, {name: held[name] for name in chosen}, found[1])
        hits, harmed, loaded = hits + found[0], harmed + len(found[1]), loaded + len(chosen)
        if batch % 10 == 9 or (batch + 1) * options.batch >= options.flips:
            sys.stdout.write(
                f"big store of {size} bytes, to batch {batch}: {(batch + 1 - options.first) * options.batch} bits "
                f"flipped, {options.batch} at a time: {hits} in records that steps need, all reported, with the "
                f"{harmed} entries of steps that they harm and no other; {loaded} entries loaded, exact or refused\n"
            )
            sys.stdout.flush()
    return missed


def _flip_small() -> int:
    """Flip every byte of a small store; how many flips did harm and were not reported."""
    small = MemoryBackend()
    small_store(small)
    flips = list(flip_every_byte(small, 0x01))
    missed = [flip for flip in flips if flip.refused and not flip.reported]
    silent = sum(not flip.reported for flip in flips)
    sys.stdout.write(
        f"small store: {len(flips)} bytes flipped, one at a time: {len(flips) - silent} reported, {silent} without any "
        f"effect, {len(missed)} missed\n"
    )
    sys.stdout.flush()
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
