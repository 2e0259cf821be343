"""A few processes that are started once and then run functions together, each time in a new group over gloo."""

from __future__ import annotations

import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

__all__ = ["Ranks"]

_TIMEOUT = 120


# What ranks need, loaded once and inherited: to load torch takes each process 3 s of processor time.
_LOADED = ["torch.distributed.checkpoint", "torch.distributed.tensor.parallel", "torch._dynamo", "tests.dcp.jobs"]


class Ranks:
    """Processes that wait for work. A new group among them costs milliseconds."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_LOADED)
        self._folder = tempfile.TemporaryDirectory(prefix="deltackpt-ranks-")
        self._runs = 0
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call ``function(rank, world, *arguments)`` on ``world`` ranks of one group; what each of them returned.

        Raises:
            AssertionError: one of them raised, or took longer than two minutes.
        """
        self._runs += 1
        meeting = Path(self._folder.name) / f"group-{self._runs}"
        pipes = self._pipes[:world]
        for rank, pipe in enumerate(pipes):
            pipe.send((rank, world, str(meeting), function, arguments))
        answers = []
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(_TIMEOUT), f"rank {rank} of {world} does not answer"
            answers.append(pipe.recv())
        failed = [f"rank {rank}:\n{words}" for rank, (good, words) in enumerate(answers) if not good]
        assert not failed, "\n".join(failed)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
    warnings.filterwarnings("ignore", "Please use DTensor instead and we are deprecating ShardedTensor")
    while True:
        try:
            rank, world, meeting, function, arguments = pipe.recv()
        except EOFError:
            return
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=_TIMEOUT // 2),
        )
        try:
            answer = (True, function(rank, world, *arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        finally:
            dist.destroy_process_group()
        pipe.send(answer)
