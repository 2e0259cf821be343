"""Every kind of tensor that DCP can save comes back bit for bit, into every kind of tensor it can load into."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import nn

from deltackpt import Store
from deltackpt.errors import UnsupportedDataError
from deltackpt.tensor.dtypes import DType
from tests.dcp.states import State, bits, blank, load_state, save_state
from tests.formats.values import TORCH_DTYPES, a_tensor

NANS = {
    torch.float16: ("<H", [0x7E01, 0xFE00, 0x7C01, 0xFFFF, 0x8000, 0x0001]),
    torch.bfloat16: ("<H", [0x7FC1, 0xFFC0, 0x7F81, 0xFFFF, 0x8000, 0x0001]),
    torch.float32: ("<I", [0x7FC00001, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 1]),
    torch.float64: ("<Q", [0x7FF8000000000001, 0xFFF8 << 48, 0x7FF0000000000001, (1 << 64) - 1, 1 << 63, 1]),
}


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=lambda dtype: dtype.name)
def test_every_dtype_in_every_layout(delta_store: Store, dtype: DType) -> None:
    base = a_tensor(dtype, (13, 17))
    state = {
        "plain": base,
        "scalar": a_tensor(dtype, ()),
        "empty": a_tensor(dtype, (0,)),
        "empty_inside": a_tensor(dtype, (3, 0, 2)),
        "transposed": base.t(),
        "every_other": base[::2, 1::3],
        "row": base[3],
        "expanded": base[:1].expand(4, 17),
        "tail_of_storage": base[11:],
    }
    save_state(delta_store, 1, state)
    loaded = load_state(delta_store, 1, blank(state))
    for name, tensor in state.items():
        assert loaded[name].dtype is tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        assert bits(loaded[name]) == bits(tensor), name
    # Targets that are not contiguous are written in place, and nothing beside them.
    canvas = blank({"": a_tensor(dtype, (17, 26))})[""]
    view = canvas[:, ::2].t()
    load_state(delta_store, 1, {"plain": view})
    assert bits(view) == bits(base)
    assert not any(bits(canvas[:, 1::2]))


@pytest.mark.parametrize("dtype", NANS, ids=str)
def test_nan_payloads_and_denormals_survive_save_delta_and_load(delta_store: Store, dtype: torch.dtype) -> None:
    layout, words = NANS[dtype]
    data = bytearray(b"".join(struct.pack(layout, word) for word in words))
    tensor = torch.frombuffer(data, dtype=dtype)
    save_state(delta_store, 1, {"x": tensor})
    assert save_state(delta_store, 2, {"x": tensor.flip(0)}).generation == 1
    for step, expected in ((1, tensor), (2, tensor.flip(0))):
        assert bits(load_state(delta_store, step, {"x": torch.zeros(6, dtype=dtype)})["x"]) == bits(expected)
        assert bits(delta_store.step(step).tensor("x")) == bits(expected)


def test_gradients_views_and_lazy_bits(delta_store: Store) -> None:
    complex_tensor = a_tensor(next(d for d in TORCH_DTYPES if d.name == "complex64"), (5, 3))
    parameter = nn.Parameter(torch.randn(6, 4))
    state: State = {
        "parameter": parameter,
        "of_a_graph": parameter * 2,
        "conjugated": complex_tensor.conj(),
        "negated": complex_tensor.conj().imag,
        "view": parameter.detach()[2:4, 1:],
    }
    save_state(delta_store, 1, state)
    targets: State = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in state.items()}
    targets["parameter"] = nn.Parameter(torch.zeros(6, 4))
    loaded = load_state(delta_store, 1, dict(targets))
    for name, value in state.items():
        assert loaded[name] is targets[name]
        assert torch.equal(loaded[name], value.resolve_conj().resolve_neg()), name
    assert loaded["parameter"].requires_grad
    entries = {entry.fqn: entry for entry in delta_store.step(1).entries()}
    assert entries["parameter"].requires_grad
    assert not entries["view"].requires_grad


def test_lazily_conjugated_and_negated_targets(delta_store: Store) -> None:
    save_state(delta_store, 1, {"x": torch.arange(6.0).reshape(2, 3) * (1 + 2j)})
    memory = torch.zeros(2, 3, dtype=torch.complex64)
    load_state(delta_store, 1, {"x": memory.conj()})
    assert torch.equal(memory, torch.arange(6.0).reshape(2, 3) * (1 - 2j))


def test_a_load_under_inference_mode(delta_store: Store) -> None:
    save_state(delta_store, 1, {"x": torch.arange(200.0)})
    with torch.inference_mode():
        loaded = load_state(delta_store, 1, {"x": torch.zeros(200)})["x"]
        assert loaded.is_inference()
        assert torch.equal(loaded, torch.arange(200.0))
        save_state(delta_store, 2, {"x": loaded})
    assert torch.equal(delta_store.step(2).tensor("x"), torch.arange(200.0))


def test_tied_weights_are_stored_once(delta_store: Store) -> None:
    weight = a_tensor(TORCH_DTYPES[11], (40, 50))
    alone = save_state(delta_store, 1, {"a": weight}, branch="alone")
    tied = save_state(delta_store, 1, {"a": weight, "b": weight, "copy": weight.clone()}, branch="tied")
    assert tied.raw_bytes == 3 * alone.raw_bytes
    assert tied.stored_bytes < alone.stored_bytes + 1500
    assert tied.writer["duplicates"] == 2 * 40
    loaded = load_state(delta_store, 1, {name: torch.zeros(40, 50) for name in ("a", "b", "copy")}, branch="tied")
    assert all(bits(tensor) == bits(weight) for tensor in loaded.values())


def test_int8_with_scales_and_casts_on_load(delta_store: Store) -> None:
    values, scale = torch.randint(-128, 128, (30, 7), dtype=torch.int8), torch.rand(30, 1)
    exact = torch.arange(0, 64, dtype=torch.bfloat16)
    save_state(delta_store, 1, {"q": values, "scale": scale, "bf16": exact})
    loaded = load_state(
        delta_store,
        1,
        {
            "q": torch.zeros(30, 7, dtype=torch.int64),
            "scale": torch.zeros(30, 1, dtype=torch.float64),
            "bf16": torch.zeros(64),
        },
    )
    assert torch.equal(loaded["q"], values.long())
    assert torch.equal(loaded["scale"], scale.double())
    assert torch.equal(loaded["bf16"], exact.float())


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.eye(3).to_sparse(), "layout sparse_coo"),
        (lambda: torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8), "qint8"),
        (lambda: torch.zeros(3, device="meta"), "meta"),
    ],
)
def test_tensors_without_plain_bytes_fail_the_save_by_name(delta_store: Store, make: object, word: str) -> None:
    assert callable(make)
    with pytest.raises(BaseException, match=word) as caught:
        save_state(delta_store, 1, {"model": {"good": torch.ones(3), "bad": make()}})
    assert "model.bad" in str(caught.value)
    assert UnsupportedDataError.__name__ in str(caught.value)
    assert delta_store.steps() == []
