"""Loads of weights and moments whose chains share records, where one of these is damaged."""

from __future__ import annotations

import pytest
import torch

from deltackpt.backend.memory import MemoryBackend
from deltackpt.format.keys import pack_key
from deltackpt.testing import flip_bits
from tests.dcp import replicated
from tests.dcp.states import blank, load_state, new_store, save_state


def test_what_cannot_be_read_is_named_and_what_does_not_need_it_loads() -> None:
    backend, (saved,) = MemoryBackend(), replicated.trained(1)
    store = new_store(backend, block_elements=2**14)
    save_state(store, 0, saved)
    manifest = store.step(0).manifest
    block = manifest.block_range(manifest.find("optim.state.embedding.weight.exp_avg"), 0)[0]
    index = store.opened.index(manifest.indexes[int(manifest.block_index[block])].object)
    row = int(manifest.block_row[block])
    pack = index.location.packs[int(index.location.pack[row])]
    flip_bits(backend, pack_key(pack.name), int(index.location.offset[row]) + int(index.location.length[row]) // 2)
    state = blank(saved)
    with pytest.raises(BaseException, match=r"needed for optim\.state\.embedding\.weight\.exp_avg of step main:0"):
        load_state(store, 0, state)
    del state["optim"]["state"]["embedding.weight"]["exp_avg"]
    loaded = load_state(store, 0, state)
    assert torch.equal(loaded["model"]["embedding.weight"], saved["model"]["embedding.weight"])
