"""The example, run as its docstring says: killed in the middle of a save, and taken up on half as many ranks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deltackpt import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "fsdp2_resume.py"


def torchrun(ranks: int, store: Store, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *(str(EXAMPLE), "--store", store.url, *options),
        ],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losses(done: subprocess.CompletedProcess[str]) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+) loss (\S+)", done.stdout)}


def test_a_run_that_was_killed_while_saving_goes_on_with_fewer_ranks(tmp_path: Path) -> None:
    whole = Store.create(tmp_path / "whole")
    uninterrupted = torchrun(1, whole, "--steps", "8", "--save-every", "8")
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    # Other numbers of ranks add up gradients in another order: 32-bit sums differ in their last digits.
    expected = {step: pytest.approx(loss, rel=1e-5) for step, loss in losses(uninterrupted).items()}
    assert list(expected) == [1, 2, 3, 4, 5, 6, 7, 8]

    store = Store.create(tmp_path / "store")
    killed = torchrun(4, store, "--steps", "8", "--die-saving", "6")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert losses(killed) == {step: expected[step] for step in range(1, 7)}
    # The packs of other ranks are there, but no step 6.
    assert [info.step for info in store.steps()] == [2, 4]
    assert store.verify(deep=True).ok

    resumed = torchrun(2, store, "--steps", "8")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(resumed) == {step: expected[step] for step in range(5, 9)}
    assert [info.step for info in store.steps()] == [2, 4, 6, 8]
    assert [info.writer["world_size"] for info in store.steps()] == [4, 4, 2, 2]
    assert store.verify(deep=True).ok
