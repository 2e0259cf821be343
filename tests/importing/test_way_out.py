"""The script that every store has gives imported files back without this package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

import deltackpt
from tests.importing import layouts
from tests.importing.files import originals


def reader(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(store / "reader.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_come_back(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for step in (1, 2):
        folder = layouts.olmo(root, step)
        state = {"x": torch.randn(40, 30), "views": torch.randn(9, 4).t()}
        torch.save(state, folder / "extra.pt", _use_new_zipfile_serialization=False)
        dcp_save({"model": layouts.weights(step)}, checkpoint_id=folder / "parts")
        (folder / "log.bin").write_bytes(os.urandom(300_000))
        (folder / "empty").touch()
    store = deltackpt.Store.create(tmp_path / "store", block_elements=100)
    assert not store.import_checkpoints([root]).failed
    ran = reader(tmp_path / "store", "restore", "2", "--out", tmp_path / "out")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert originals(tmp_path / "out" / "files") == originals(root / "step2-unsharded")


def test_a_file_that_is_not_what_was_imported_does_not_appear(tmp_path: Path) -> None:
    layouts.olmo(tmp_path / "run", 1)
    store = deltackpt.Store.create(tmp_path / "store")
    assert not store.import_checkpoints([tmp_path / "run"]).failed
    script = tmp_path / "store" / "reader.py"
    # A reader that sees another hash stands for a store in which something was exchanged.
    script.write_text(script.read_text().replace('self.sha256(Path(out.name)) != info["sha256"]', "True"))
    ran = reader(tmp_path / "store", "restore", "1", "--out", tmp_path / "out", "--only", "model")
    assert ran.returncode == 1
    assert "not the one that was imported" in ran.stderr
    assert not originals(tmp_path / "out")
