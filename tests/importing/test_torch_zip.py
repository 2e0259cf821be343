from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltackpt.api import Store
from deltackpt.errors import DamagedFileError, TensorNotFoundError, UnsafeFileError
from deltackpt.formats.recorded import read_infos, read_structure
from deltackpt.pipeline.save import write_items
from deltackpt.testing.arrays import load_manifest
from tests.importing.files import file_bytes, import_source, new_store, originals, restored, source_of

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
    data = torch.frombuffer(bytearray(os.urandom(max(count, 1))), dtype=torch.uint8)[:count]
    if dtype == torch.bool:
        data = data % 2
    return data.view(dtype).reshape(shape)


def names(store: Any, step: int = 1) -> dict[str, tuple[int, ...]]:
    entries = load_manifest(store, step).entries
    return {entry.fqn: entry.shape for entry in entries if entry.role != "file"}


def test_tensors_are_entries_and_the_file_comes_back(tmp_path: Path) -> None:
    state = {f"layer.{n}": tensor(dtype, 3, n + 1) for n, dtype in enumerate(DTYPES)}
    state["none"], state["scalar"] = torch.empty(0, 4), torch.tensor(7.5)
    state["parameter"] = torch.nn.Parameter(torch.randn(5))
    torch.save(state, tmp_path / "model.pt")
    store = new_store()
    import_source(store, source_of(tmp_path))

    assert restored(store) == originals(tmp_path)
    step = Store(store).step(1)
    for name, value in state.items():
        stored = step.tensor(f"model.{name}")
        assert stored.dtype == value.dtype
        assert stored.shape == value.shape
        assert stored.view(torch.uint8).equal(value.detach().view(torch.uint8)) if value.dim() else stored == value
    (info,) = read_infos(store, step.manifest, threads=1)
    assert (info.format, info.size) == ("torch-zip", (tmp_path / "model.pt").stat().st_size)
    assert info.sha256 == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert info.mtime_ns == (tmp_path / "model.pt").stat().st_mtime_ns


def test_tied_sliced_and_transposed_tensors(tmp_path: Path) -> None:
    w, big = torch.randn(4, 6), torch.randn(100, 30)
    flat = torch.randn(50)
    state = {
        **{"w": w, "tied": w, "other_shape": w.view(24)},
        **{"slice": big[10:20], "columns": torch.randn(6, 8)[:, 2:4], "transposed": torch.randn(5, 7).t()},
        **{"flat.a": flat[:20].view(4, 5), "flat.b": flat[20:], "expanded": torch.randn(3, 1).expand(3, 4)},
        **{"overlap.a": (o := torch.randn(10))[:6], "overlap.b": o[4:]},
        "bits": torch.randn(8).view(torch.int32),
    }
    torch.save(state, tmp_path / "model.pt")
    store = new_store()
    import_source(store, source_of(tmp_path))

    assert restored(store) == originals(tmp_path)
    found = names(store)
    assert found["model.w"] == found["model.tied"] == (4, 6)
    assert found["model.slice"] == (10, 30)
    assert found["model.flat.a"] == (4, 5)
    assert found["model.flat.b"] == (30,)
    assert found["model.transposed#storage"] == (5, 7)
    assert found["model.columns#storage"] == (48,)
    assert found["model.overlap.a#storage"] == (10,)
    manifest = load_manifest(store, 1)
    (info,) = read_infos(store, manifest, threads=1)
    views = {view.name: view for view in read_structure(store, manifest, info, threads=1).views}
    assert set(views) == {
        *("model.other_shape", "model.columns", "model.transposed", "model.expanded"),
        *("model.overlap.a", "model.overlap.b"),
    }
    step = Store(store).step(1)
    for name, view in views.items():
        entry = step.tensor(view.fqn).flatten()
        assert torch.as_strided(entry, view.shape, view.strides, view.offset).equal(state[name.removeprefix("model.")])
        assert step.tensor(name).equal(state[name.removeprefix("model.")])
        assert step.tensor(name).is_contiguous()
    assert step.tensor("model.transposed", (slice(1, 3), 2)).equal(state["transposed"][1:3, 2])
    with pytest.raises(TensorNotFoundError):
        step.tensor("model.none")
    assert set(step.load()) == set(found)
    assert step.tensor("model.tied").equal(w)
    assert step.tensor("model.flat.b").equal(flat[20:])


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    noise = torch.randn(300, 300)
    torch.save({"a": noise, "b": noise.clone(), "tied": noise}, tmp_path / "model.pt")
    store = new_store()
    header = import_source(store, source_of(tmp_path))
    assert header.raw_bytes > 3 * noise.nbytes
    assert header.stored_bytes < 1.01 * noise.nbytes


def test_a_second_step_of_the_same_files_stores_next_to_nothing(tmp_path: Path) -> None:
    torch.save({f"w{n}": torch.randn(50, 50) for n in range(50)}, tmp_path / "model.pt")
    store = new_store()
    first = import_source(store, source_of(tmp_path, 1))
    os.utime(tmp_path / "model.pt", (1, 1))
    second = import_source(store, source_of(tmp_path, 2))
    # Its description is new, since its time is; what refers to blocks is in the index.
    assert second.artifacts["model"].stored_bytes < 1000
    assert second.stored_bytes < first.stored_bytes / 50
    assert restored(store, 2) == originals(tmp_path)


def test_the_same_names_in_two_files_are_told_apart(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "x": torch.ones(2)}, tmp_path / "model.pt")
    torch.save({"w": torch.zeros(3), "y": torch.ones(2)}, tmp_path / "other.pt")
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert set(names(store)) == {"model.w", "model.x", "other.pt/model.w", "other.pt/model.y"}
    assert restored(store) == originals(tmp_path)


def test_an_optimizer_is_named_as_a_save_through_dcp_names_it(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "x.ckpt")
    store = new_store()
    import_source(store, source_of(tmp_path))
    entries = {e.fqn: (e.artifact, e.role) for e in load_manifest(store, 1).entries if e.role != "file"}
    assert entries == {
        "model.weight": ("model", "weight"),
        "model.bias": ("model", "weight"),
        **{
            f"optim.state.{n}.{moment}": ("optim", role)
            for n in range(2)
            for moment, role in (("step", "other"), ("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq"))
        },
    }


class Anything:
    def __init__(self) -> None:
        self.tensor = torch.arange(5)
        self.values = [1, {"x": {2, 3}}, b"bytes", 1 << 100, 2.5, None, ("a",)]


def test_arbitrary_objects_are_literal_and_their_tensors_found(tmp_path: Path) -> None:
    torch.save({"object": Anything(), "rng": torch.get_rng_state(), "numpy": np.arange(9)}, tmp_path / "train.pt")
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)
    assert any(shape == (5,) for shape in names(store).values())


def test_quantized_tensors_are_literal(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.randn(10), 0.1, 0, torch.qint8)
    for old in (False, True):
        torch.save({"q": quantized, "w": torch.ones(4)}, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
        store = new_store()
        import_source(store, source_of(tmp_path))
        assert set(names(store)) == {"model.w"}
        assert restored(store) == originals(tmp_path)


def test_torch_writes_zeros_where_it_computes_no_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(4)}, tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)


@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_file_is_refused(tmp_path: Path, old: bool) -> None:
    torch.save({"w": torch.randn(100)}, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
    data = (tmp_path / "m.pt").read_bytes()
    for length in {*range(50, len(data), 97), len(data) - 1}:
        (tmp_path / "m.pt").write_bytes(data[:length])
        store = new_store()
        with pytest.raises(DamagedFileError) as caught:
            import_source(store, source_of(tmp_path))
        assert str(tmp_path / "m.pt") in str(caught.value)
        assert not list(store.backend.list("manifests/"))


def test_every_changed_byte_that_a_checksum_covers_is_noticed(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(100)}, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    at = data.index(b"data/0")
    for place in range(at + 100, at + 400, 37):
        (tmp_path / "m.pt").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(DamagedFileError, match="checksum"):
            import_source(new_store(), source_of(tmp_path))


def test_a_file_that_changes_while_it_is_imported_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"w": torch.randn(100)}, tmp_path / "m.pt")

    def touch(*args: Any, **kwargs: Any) -> Any:
        receipt = write_items(*args, **kwargs)
        os.utime(tmp_path / "m.pt", (5, 5))
        return receipt

    monkeypatch.setattr("deltackpt.formats.importing.write.write_items", touch)
    store = new_store()
    with pytest.raises(DamagedFileError, match="changed while"):
        import_source(store, source_of(tmp_path))
    assert not list(store.backend.list("manifests/"))


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    """Nested states whose tensors share storages in all ways."""
    bases = [torch.randn(draw(st.integers(0, 40))).to(draw(st.sampled_from(DTYPES[:4]))) for _ in range(3)]

    def view() -> torch.Tensor:
        base = draw(st.sampled_from(bases))
        if draw(st.booleans()):
            return base
        ndim = draw(st.integers(0, 3))
        shape = [draw(st.integers(0, 3)) for _ in range(ndim)]
        strides = [draw(st.integers(0, 4)) for _ in range(ndim)]
        span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if all(shape) else 0
        if span > base.numel():
            return base
        return base.as_strided(shape, strides, draw(st.integers(0, base.numel() - span)))

    keys = st.sampled_from(["a", "b", "a.b", "model", "optimizer", "state", 0, 1])
    return draw(
        st.recursive(
            st.builds(view) | st.integers() | st.none() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
            max_leaves=8,
        ).map(lambda value: {"top": value})
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states(), old=st.booleans())
def test_any_file_of_torch_comes_back(tmp_path: Path, state: dict[str, Any], old: bool) -> None:
    torch.save(state, tmp_path / "any.pt", _use_new_zipfile_serialization=not old)
    store = new_store(block_elements=8)
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)


def test_long_files_are_cut_where_their_content_says_so(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "log.bin").write_bytes(data)
    store = new_store()
    first = import_source(store, source_of(tmp_path, 1))
    (tmp_path / "log.bin").write_bytes(data[:1_000_000] + b"inserted" + data[1_000_000:])
    second = import_source(store, source_of(tmp_path, 2))
    assert first.stored_bytes > 3_000_000
    assert second.stored_bytes < 600_000
    assert restored(store, 2) == originals(tmp_path)
    infos = read_infos(store, load_manifest(store, 1), threads=1)
    assert file_bytes(store, 1, infos[0]) == data


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3), "v": torch.zeros(3)}, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    directory = data.index(b"PK\x01\x02")
    # The second storage's entry points to the first's header.
    headers = [at for at in range(directory, len(data)) if data.startswith(b"PK\x01\x02", at)]
    by_name = {data[at + 46 : at + 46 + data[at + 28]].decode(): at for at in headers}
    one, other = (next(at for name, at in by_name.items() if name.endswith(end)) for end in ("data/0", "data/1"))
    changed = data[: other + 42] + data[one + 42 : one + 46] + data[other + 46 :]
    (tmp_path / "m.pt").write_bytes(changed)
    with pytest.raises(UnsafeFileError, match="overlaps"):
        import_source(new_store(), source_of(tmp_path))
