"""What a load decodes: the chains of a weight and its moments share records, and each is decoded once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deltackpt import Store
from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import pack_key
from deltackpt.pipeline.decode import BlockDecoder, chain_of_all
from deltackpt.pipeline.plan_load import BlockRead, group_reads
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.testing import flip_bits
from tests.dcp import replicated
from tests.dcp.states import blank, load_state, new_store, save_state

STEPS = 5


@pytest.fixture(scope="module")
def states() -> list[dict[str, Any]]:
    return replicated.trained(STEPS)


def a_store(states: list[dict[str, Any]], backend: MemoryBackend | None = None) -> Store:
    store = new_store(backend, block_elements=2**14, chain="previous")
    for step, state in enumerate(states):
        save_state(store, step, state)
    return store


def wanted_refs(store: Store, step: int, prefix: str = "") -> list[RecordRef]:
    manifest = store.step(step).manifest
    return [
        RecordRef(manifest.indexes[int(manifest.block_index[block])].identity, int(manifest.block_row[block]))
        for number, entry in enumerate(manifest.entries)
        if entry.fqn.startswith(prefix)
        for shard in range(entry.shards)
        for block in manifest.block_range(number, shard)
    ]


def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[RecordRef]:
    counts: Counter[RecordRef] = Counter()
    original = BlockDecoder._decode_step

    def counting(self: BlockDecoder, ref: RecordRef, *rest: Any) -> NDArray[np.uint8]:
        counts[ref] += 1
        return original(self, ref, *rest)

    monkeypatch.setattr(BlockDecoder, "_decode_step", counting)
    return counts


def test_each_record_of_a_chain_is_decoded_once(states: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(states)
    last = STEPS - 1
    refs = wanted_refs(store, last)
    chain = chain_of_all(refs, index_lookup(store.opened, store.step(last).manifest))
    counts = decoded(monkeypatch)
    loaded = load_state(store, last, blank(states[last]))
    assert set(counts) == set(chain)
    # Objects are loaded apart from tensors and share nothing with them.
    assert set(counts.values()) == {1}
    assert len(chain) > 2 * len(set(refs))
    for name, value in states[last]["model"].items():
        assert torch.equal(loaded["model"][name], value)
    # The weights alone take no moment that no weight is predicted from.
    counts.clear()
    load_state(store, last, {"model": blank(states[last]["model"])})
    lookup = index_lookup(store.opened, store.step(last).manifest)
    assert set(counts) == set(chain_of_all(wanted_refs(store, last, "model."), lookup))
    assert len(counts) < len(chain)


def test_what_cannot_be_read_is_named_and_the_rest_of_its_group_is_not(states: list[dict[str, Any]]) -> None:
    backend = MemoryBackend()
    store = a_store(states, backend)
    manifest = store.step(0).manifest
    number = manifest.find("optim.state.embedding.weight.exp_avg")
    block = manifest.block_range(number, 0)[0]
    index = store.opened.index(manifest.indexes[int(manifest.block_index[block])].object)
    row = int(manifest.block_row[block])
    pack = index.location.packs[int(index.location.pack[row])]
    flip_bits(backend, pack_key(pack.name), int(index.location.offset[row]) + int(index.location.length[row]) // 2)
    state = blank(states[0])
    with pytest.raises(BaseException, match=r"needed for optim\.state\.embedding\.weight\.exp_avg of step main:0"):
        load_state(store, 0, state)
    del state["optim"]["state"]["embedding.weight"]["exp_avg"]
    loaded = load_state(store, 0, state)
    assert torch.equal(loaded["model"]["embedding.weight"], states[0]["model"]["embedding.weight"])


def test_groups_are_of_reads_that_need_each_other(states: list[dict[str, Any]]) -> None:
    store = a_store(states)
    manifest = store.step(STEPS - 1).manifest
    lookup = index_lookup(store.opened, manifest)
    reads = [BlockRead(ref, ()) for ref in sorted(set(wanted_refs(store, STEPS - 1)))]
    groups = group_reads(reads, lookup)
    assert sorted(read.ref for group in groups for read in group) == [read.ref for read in reads]
    sizes = Counter(len(group) for group in groups)
    assert set(sizes) == {1, 2, 3}
    assert sizes[3] > 5
    # An index that is gone leaves its reads alone.
    assert group_reads(reads, index_lookup(store.opened, store.step(0).manifest)) == [[read] for read in reads]
