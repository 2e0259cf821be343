"""Weights find their moments and copies, whatever a state calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.state_dict_saver import save

import deltackpt
from deltackpt.codec.registry import ADAM_SECOND, ADAM_WEIGHT, CAST, LINEAR, PREVIOUS, SCALE, ZERO
from deltackpt.dcp import DeltaStorageWriter
from deltackpt.dcp.entries import classify_entries
from deltackpt.pipeline.chains import chain_of
from deltackpt.pipeline.items import Place, SaveItem
from deltackpt.pipeline.partners import ItemGroup, Partners, group_items
from deltackpt.store.base import RecordRef, index_lookup
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import DType, by_name
from deltackpt.tensor.torch_bridge import from_torch_dtype

State = Mapping[str, object]


def unread(box: Box) -> NDArray[np.uint8]:
    raise AssertionError("planning reads nothing")


def items_of(state: State, *, paths: bool = True) -> list[SaveItem]:
    """The tensors of a state as a save gets them, in the order of the state."""
    flat, places = flatten_state_dict(dict(state))
    tensors = {fqn: value for fqn, value in flat.items() if isinstance(value, torch.Tensor)}
    kinds = classify_entries(places if paths else {}, {fqn: fqn in tensors for fqn in flat})
    return [
        SaveItem(
            fqn,
            "tensor",
            from_torch_dtype(tensor.dtype),
            Box.whole(tuple(tensor.shape)),
            *kinds[fqn],
            places[fqn] if paths else (fqn,),
            unread,
        )
        for fqn, tensor in tensors.items()
    ]


def names(groups: list[ItemGroup]) -> set[tuple[str, ...]]:
    return {tuple(item.fqn for item in group.items) for group in groups if len(group.items) > 1}


def model_and_optimizer(layers: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Layers of one shape, more than ten, so that names do not sort as numbers do."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer)
    return model, optimizer


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def expected(layers: int, model: str, optim: list[str]) -> set[tuple[str, ...]]:
    parameters = [f"{n}.{part}" for n in range(layers) for part in ("weight", "bias")]
    return {(f"{optim[k]}.exp_avg", f"{optim[k]}.exp_avg_sq", f"{model}.{name}") for k, name in enumerate(parameters)}


@pytest.mark.parametrize("paths", [True, False])
def test_counted_parameters_are_matched_in_order(paths: bool) -> None:
    model, optimizer = model_and_optimizer(12)
    state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
    groups = group_items(items_of(state, paths=paths))
    assert names(groups) == expected(12, "model", [f"optim.state.{k}" for k in range(24)])


def test_named_parameters_are_matched_by_name_in_any_order() -> None:
    model, optimizer = model_and_optimizer(3)
    named = dict(model.named_parameters())
    states = {name: optimizer.state[parameter] for name, parameter in reversed(named.items())}
    for optim in ({"state": states}, {f"state.{n}.{k}": v for n, s in states.items() for k, v in s.items()}):
        groups = group_items(items_of({"model": model.state_dict(), "optim": optim}))
        assert names(groups) == expected(3, "model", [f"optim.state.{name}" for name in named])


def test_copies_join_their_masters() -> None:
    model, optimizer = model_and_optimizer(2)
    half = {name: value.bfloat16() for name, value in model.state_dict().items()}
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "train": {"weights_bf16": half}}
    for group in group_items(items_of(state)):
        if group.items[0].role == "exp_avg":
            assert [item.dtype.name for item in group.items] == ["float32", "float32", "float32", "bfloat16"]
            assert group.items[3].fqn.removeprefix("train.weights_bf16.") == group.items[2].fqn.removeprefix("model.")
            assert group.partners == (
                Partners(exp_avg_sq=1),
                Partners(exp_avg=0),
                Partners(exp_avg=0, exp_avg_sq=1),
                Partners(master=2),
            )


def test_moments_without_a_weight_still_belong_together() -> None:
    _, optimizer = model_and_optimizer(1)
    groups = group_items(items_of({"optim": optimizer.state_dict()}))
    assert names(groups) == {(f"optim.state.{k}.exp_avg", f"optim.state.{k}.exp_avg_sq") for k in range(2)}


FLOAT32, BFLOAT16 = by_name("float32"), by_name("bfloat16")
ROLES = ["weight", "master", "exp_avg", "exp_avg_sq", "momentum", "other"]


@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(ROLES),
            st.sampled_from([("a",), ("m", "a"), ("o", "state", "0", "exp_avg"), ("o", "state", "a", "x"), ("s.a.b",)]),
            st.sampled_from([FLOAT32, BFLOAT16]),
            st.sampled_from([(2,), (2, 3), ()]),
        ),
        max_size=12,
    )
)
def test_every_item_is_in_one_group_with_items_of_its_box(
    drawn: list[tuple[str, Place, DType, tuple[int, ...]]],
) -> None:
    items = [
        SaveItem(str(n), "tensor", dtype, Box.whole(shape), "model", role, place, unread)
        for n, (role, place, dtype, shape) in enumerate(drawn)
    ]
    groups = group_items(items)
    assert sorted(int(item.fqn) for group in groups for item in group.items) == list(range(len(items)))
    for group in groups:
        assert len({item.box for item in group.items}) == 1
        for position, partners in enumerate(group.partners):
            for partner in (partners.exp_avg, partners.exp_avg_sq, partners.momentum, partners.master):
                moments = {group.items[position].role, group.items[partner or 0].role} == {"exp_avg", "exp_avg_sq"}
                assert partner is None or partner < position or moments


def predictors(store: deltackpt.Store, step: int, prefix: str) -> set[int]:
    manifest = store.step(step).manifest
    lookup = index_lookup(store.opened, manifest)
    found = set()
    for number, entry in enumerate(manifest.entries):
        if entry.fqn.startswith(prefix):
            for block in manifest.block_range(number, 0):
                index = lookup(manifest.indexes[int(manifest.block_index[block])].identity)
                found.add(int(index.identity.predictor[manifest.block_row[block]]))
    return found


def test_a_run_saved_at_every_step_uses_its_optimizer_and_comes_back_exactly() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(96, 96), torch.nn.Linear(96, 96))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    store = deltackpt.Store.create("memory://partners", chain="previous", key_every=4)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    for step in range(9):
        model(torch.randn(64, 96)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        copies = {name: value.bfloat16() for name, value in model.state_dict().items()}
        state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "train": {"copies": copies}}
        flat, _ = flatten_state_dict(state)
        kept[step] = {fqn: value.clone() for fqn, value in flat.items() if isinstance(value, torch.Tensor)}
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert ADAM_WEIGHT in predictors(store, 2, "model.")
    assert ADAM_SECOND in predictors(store, 2, "optim.")
    assert CAST in predictors(store, 2, "train.")
    # A copy predicted from its master does not make a key step less of one: it needs no other step.
    assert [info.is_key for info in store.steps()] == [step % 4 == 0 for step in range(9)]
    assert CAST in predictors(store, 4, "train.")
    infos = store.steps()
    assert infos[2].stored_bytes < 0.5 * infos[0].stored_bytes
    for step, tensors in kept.items():
        loaded = store.step(step).load()
        for fqn, tensor in tensors.items():
            got = loaded[fqn]
            assert isinstance(got, torch.Tensor)
            assert torch.equal(got.view(torch.uint8), tensor.view(torch.uint8)) if tensor.ndim else got == tensor
    assert store.verify(deep=True).ok


def test_the_order_of_moments_is_the_one_that_pays() -> None:
    """After one step the second moment follows from the first one; later the first one is coded beside the second."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(256, 256))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.95))
    scales = torch.logspace(-6, 0, 256)[:, None]
    store = deltackpt.Store.create("memory://order", key_every=3)
    kept = []
    for step in range(43):
        weight.grad = torch.randn(256, 256) * scales
        optimizer.step()
        if step in (1, 2, 41, 42):
            state = {"model": {"w": weight.detach()}, "optim": optimizer.state_dict()}
            kept.append((step, optimizer.state[weight]["exp_avg"].clone()))
            save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert predictors(store, 1, "optim.state.0.exp_avg") == {SCALE, ZERO}
    assert predictors(store, 2, "optim.state.0.exp_avg") == {PREVIOUS, ADAM_SECOND}
    assert SCALE in predictors(store, 41, "optim.state.0.exp_avg")
    assert ADAM_SECOND not in predictors(store, 41, "optim.state.0.exp_avg")
    # What a partner of the same step is needed for does not make a key step less of one.
    assert [info.is_key for info in store.steps()] == [True, False, False, True]
    assert SCALE in predictors(store, 42, "optim.state.0.exp_avg")
    for step, tensor in kept:
        assert torch.equal(store.step(step).tensor("optim.state.0.exp_avg"), tensor)
    assert store.verify(deep=True).ok


def test_weights_follow_from_their_momentum() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(96, 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    store = deltackpt.Store.create("memory://momentum", key_every=8)
    kept = []
    for step in range(4):
        model(torch.randn(64, 96)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(model.weight.detach().clone())
        state = {"model": model.state_dict(), "optim": optimizer.state_dict()}
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    groups = group_items(items_of({"model": model.state_dict(), "optim": optimizer.state_dict()}))
    assert names(groups) == {
        (f"optim.state.{number}.momentum_buffer", f"model.{name}") for number, name in enumerate(("weight", "bias"))
    }
    assert LINEAR in predictors(store, 2, "model.weight")
    for step, weight in enumerate(kept):
        assert torch.equal(store.step(step).tensor("model.weight"), weight)
    assert store.verify(deep=True).ok


def test_moments_that_are_equal_are_stored_once() -> None:
    """Before the first step both are zero, in whatever order they would be resolved."""
    zeros = torch.zeros(64, 64)
    state = {"optim": {"state": {0: {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}}, "param_groups": []}}
    store = deltackpt.Store.create("memory://equal")
    for step in range(2):
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    assert predictors(store, 0, "optim.state.0.exp_avg") == {ZERO}
    assert torch.equal(store.step(1).tensor("optim.state.0.exp_avg_sq"), zeros)
    assert store.verify(deep=True).ok


def test_a_save_under_flushed_denormals_loads_without() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64) * 1e-36)
    optimizer = torch.optim.AdamW([weight], lr=1e-37, eps=1e-38)
    store = deltackpt.Store.create("memory://denormals")
    kept = []
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        for step in range(3):
            weight.grad = torch.randn(64, 64) * 1e-19
            optimizer.step()
            kept.append(weight.detach().clone())
            state = {"model": {"w": weight.detach()}, "optim": optimizer.state_dict()}
            save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    finally:
        torch.set_flush_denormal(False)
    for step, tensor in enumerate(kept):
        assert torch.equal(store.step(step).tensor("model.w").view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize("steps", [4, 12, 48])
def test_weights_behind_many_moments_are_decoded_with_few_blocks_held(steps: int) -> None:
    """A weight needs its moments, and those the moments of all steps before: in a bad order all are held at once."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    store = deltackpt.Store.create(f"memory://moments-{steps}", chain="previous", key_every=1000)
    for step in range(steps):
        weight.grad = torch.randn(64, 64)
        optimizer.step()
        state = {"model": {"w": weight.detach()}, "optim": optimizer.state_dict()}
        save(state, storage_writer=DeltaStorageWriter(store, step=step), no_dist=True)
    manifest = store.step(steps - 1).manifest
    lookup = index_lookup(store.opened, manifest)
    block = manifest.block_range(manifest.find("model.w"), 0)[0]
    ref = RecordRef(manifest.indexes[int(manifest.block_index[block])].identity, int(manifest.block_row[block]))
    chain = chain_of(ref, lookup)
    assert len(chain) > 2 * steps
    uses = Counter(need for needs in chain.values() for need in needs)
    held: set[RecordRef] = set()
    most = 0
    for record, needs in chain.items():
        assert held.issuperset(needs)
        held.add(record)
        most = max(most, len(held))
        uses.subtract(needs)
        held -= {need for need in needs if uses[need] == 0}
    # The same for 12 steps as for 48.
    assert most <= 10
