"""The ranks of a training job, and how they agree on what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from deltackpt.dcp.portable import portable

__all__ = ["Peers"]

_Value = TypeVar("_Value")


class Peers:
    """All ranks of the default process group, or this process alone where there is none.

    Has two process groups of its own, over gloo: one for saves, whose collectives run in another thread than those of
    training, and one for :meth:`agree`. Making one is a collective: all ranks do it, at the same place.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world = dist.get_world_size() if together else 1
        self._saves = dist.new_group(backend="gloo") if together else None
        self._words = dist.new_group(backend="gloo") if together else None
        self._exchanged: tuple[dist.Work | None, torch.Tensor] | None = None
        if not together:
            # That DCP saves and loads in one process is what is wanted. It says so in the thread that saves, where
            # filters cannot be set for the time of a call.
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or", UserWarning)

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this rank decides and commits."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The process group for saves and loads; None without one."""
        return self._saves

    def agree(self, values: Sequence[int]) -> list[int]:
        """The largest of what any rank says, place by place. A collective of one small message."""
        if self.alone:
            return list(values)
        said = torch.tensor(list(values), dtype=torch.int64)
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._words)
        return [int(value) for value in said.tolist()]

    def exchange(self, values: Sequence[int]) -> list[int]:
        """As :meth:`agree`, but of what was said at the last call, zeros at the first: nobody waits for the slowest."""
        before = self._last_exchange(len(values))
        said = torch.tensor(list(values), dtype=torch.int64)
        work = dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._words, async_op=True)
        self._exchanged = (work, said)
        return before

    def _last_exchange(self, count: int) -> list[int]:
        if self._exchanged is None:
            return [0] * count
        work, said = self._exchanged
        self._exchanged = None
        if work is not None:
            work.wait()
        return [int(value) for value in said.tolist()]

    def share(self, make: Callable[[], _Value]) -> _Value:
        """What ``make`` gives on the first rank, where alone it is called. A collective.

        Raises:
            Exception: what it raises there, on all ranks.
        """
        if self.alone:
            return make()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except Exception as error:
                told[1] = portable(error)
        dist.broadcast_object_list(told, src=0, group=self._words)
        if told[1] is not None:
            raise told[1]
        value: _Value = told[0]
        return value

    def close(self) -> None:
        """Give the process groups up."""
        self._exchanged = None
        groups = [group for group in (self._saves, self._words) if group is not None]
        self._saves = self._words = None
        if dist.is_available() and dist.is_initialized():
            for group in groups:
                dist.destroy_process_group(group)
