"""Saves by a process of DCP's own: the writer is pickled for each, and that process keeps the bases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

from deltackpt import Store
from deltackpt.dcp import DeltaStorageWriter


def _main(store_url: str, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    store, tensor = Store.open(store_url), torch.arange(5000.0)

    def save(step: int) -> None:
        response = async_save(
            {"w": tensor},
            storage_writer=DeltaStorageWriter(store, step, metrics={"loss": 1.0}),
            async_checkpointer_type=AsyncCheckpointerType.PROCESS,
        )
        (response.upload_completion if hasattr(response, "upload_completion") else response).result(timeout=120)

    for step in (1, 2):
        save(step)
        tensor[:100] += 1
    with pytest.raises(BaseException, match="StepExistsError"):
        save(2)
    save(3)
    dist.destroy_process_group()


def test_saves_in_another_process(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", block_elements=1000)
    subprocess.run(
        [sys.executable, __file__, store.url, str(tmp_path / "meeting")],
        check=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "localhost"},
    )
    infos = store.steps()
    assert [info.step for info in infos] == [1, 2, 3]
    assert all(info.metrics == {"loss": 1.0} for info in infos)
    assert [int(info.writer["bases_decoded"]) for info in infos] == [0, 0, 0]
    assert int(infos[1].writer["duplicates"]) == 4
    for step in (1, 2, 3):
        expected = torch.arange(5000.0)
        expected[:100] += step - 1
        assert torch.equal(store.step(step).tensor("w"), expected)


if __name__ == "__main__":
    _main(*sys.argv[1:])
