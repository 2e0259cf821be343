"""Folders that torch.distributed.checkpoint wrote, imported as files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from deltackpt.api import Store
from deltackpt.errors import DamagedFileError, UnsafeFileError
from deltackpt.formats.parsers.dcp import read_dcp_metadata
from deltackpt.formats.parsers.source import SourceFile
from tests.dcp.folder_jobs import full_state, save_dcp
from tests.dcp.ranks import Ranks
from tests.importing.files import import_source, new_store, originals, restored, source_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """A folder that three ranks saved."""
    folder = tmp_path_factory.mktemp("dcp") / "step-3"
    ranks.run(3, save_dcp, str(folder))
    return folder


def test_a_sharded_tensor_is_one_entry(saved: Path) -> None:
    store = new_store(block_elements=4)
    import_source(store, source_of(saved))
    assert restored(store) == originals(saved)
    step = Store(store).step(1)
    full = full_state()
    for name in ("rows", "same", "flat"):
        assert step.tensor(f"model.{name}").equal(full[name])
    entries = {entry.fqn: entry for entry in step.entries("model.")}
    assert entries["model.rows"].shards == entries["model.flat"].shards == 3
    # Columns are not consecutive in the whole tensor: each part is an entry of its own.
    parts = [step.tensor(f"model.columns@0_{at}") for at in (0, 2, 4)]
    assert torch.cat(parts, 1).equal(full["columns"])
    assert entries["model.rows"].path == ("model", "rows")


def test_a_tensor_of_which_a_part_is_missing_is_kept_in_parts(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        if file.name != "__1_0.distcp":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)
    step = Store(store).step(1)
    assert step.tensor("model.rows@0_0").equal(full_state()["rows"][:3])
    assert "model.rows" not in {entry.fqn for entry in step.entries()}


def test_a_truncated_part_is_refused(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[:-100] if file.name == "__2_0.distcp" else data)
    store = new_store()
    with pytest.raises(DamagedFileError, match="said to end at") as caught:
        import_source(store, source_of(tmp_path))
    assert caught.value.where == str(tmp_path / "__2_0.distcp")
    assert not list(store.backend.list("manifests/"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_are_those_of_the_save(tmp_path: Path) -> None:
    state = {
        "model": {"w": torch.randn(4, 3), "none": torch.empty(0, 2), "scalar": torch.tensor(2.0)},
        "optim": {"state": {"w": {"exp_avg": torch.ones(4, 3), "step": torch.tensor(1.0)}}, "lr": 0.1},
    }
    save(state, checkpoint_id=tmp_path)
    store = new_store()
    import_source(store, source_of(tmp_path))
    assert restored(store) == originals(tmp_path)
    kinds = {e.fqn: (e.artifact, e.role) for e in Store(store).step(1).entries() if e.role != "file"}
    assert kinds == {
        "model.w": ("model", "weight"),
        "model.none": ("model", "weight"),
        "model.scalar": ("model", "weight"),
        "optim.state.w.exp_avg": ("optim", "exp_avg"),
        "optim.state.w.step": ("optim", "other"),
    }


def metadata_with(path: str, start: object = 0, length: object = 4) -> bytes:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    index = MetadataIndex("w", torch.Size([0]))
    return pickle.dumps(Metadata({}, storage_data={index: _StorageInfo(path, start, length)}))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_metadata_that_names_files_outside_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / ".metadata").write_bytes(metadata_with(path))
    with pytest.raises(UnsafeFileError, match="outside its folder"):
        read_dcp_metadata(SourceFile(tmp_path / ".metadata"))


@pytest.mark.parametrize(
    "data", [pickle.dumps({}), pickle.dumps([1]), b"", b"no pickle", metadata_with("a", -1), metadata_with("a", 0, "x")]
)
def test_what_is_no_metadata_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(data)
    with pytest.raises(DamagedFileError):
        read_dcp_metadata(SourceFile(tmp_path / ".metadata"))
