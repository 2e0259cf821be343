"""One rank of ``benchmarks.save_load``: a sharded AdamW state that moves as in training, saved and loaded."""

from __future__ import annotations

import gc
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from benchmarks.save_load_peers import PEERS, Files, OurStore, Peer, Throttle

__all__ = ["DEEP", "Plan", "run_rank"]

State = dict[str, Any]

# The last step of a chain that is loaded is so many records deep.
DEEP = 8

_COLUMNS = 1024
_LARGEST = 4 << 20  # elements of one tensor, over all ranks


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        nbytes: of the state, over all ranks.
        ranks: how many processes hold it.
        threads: how many each may use.
        repeats: how often each is measured.
        rates: bytes a second, over all ranks, at which a delta step is saved through a throttle.
        peers: the names of those who save.
    """

    nbytes: int
    ranks: int
    threads: int
    repeats: int
    rates: Sequence[float]
    peers: Sequence[str]


class Training:
    """Weights and moments in fp32, this rank's rows of them, and steps of AdamW on gradients of noise and drift."""

    def __init__(self, nbytes: int) -> None:
        world, rank = dist.get_world_size(), dist.get_rank()
        mesh = init_device_mesh("cpu", (world,))
        self._random = torch.Generator().manual_seed(1 + rank)
        self.steps = 0
        # Gradients are pieces of it: to make as much noise anew for each takes longer than a save.
        self._noise = torch.randn(2 * _LARGEST, generator=self._random)
        self.local: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.state: State = {}
        rows = max(1, nbytes // (3 * 4 * _COLUMNS * world))
        each = max(1, min(rows, _LARGEST // (_COLUMNS * world)))
        for number in range(math.ceil(rows / each)):
            shape = (min(each, rows - number * each), _COLUMNS)
            weight = torch.randn(shape, generator=self._random) * 0.02
            first, second = torch.zeros(shape), torch.zeros(shape)
            self.local.append((weight, first, second, torch.randn(shape, generator=self._random) * 1e-3))
            names = (f"model.layers.{number}.weight", *(f"optim.state.layers.{number}.weight.{m}" for m in _MOMENTS))
            for name, tensor in zip(names, (weight, first, second), strict=True):
                self.state[name] = DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False)
        self.state["step"] = 0
        for _ in range(3):
            self.step()

    def step(self) -> None:
        """One step of training, in place."""
        self.steps += 1
        correct = math.sqrt(1 - 0.95**self.steps) / (1 - 0.9**self.steps)
        for weight, first, second, drift in self.local:
            start = int(torch.randint(self._noise.numel() - weight.numel(), (), generator=self._random))
            noise = self._noise[start : start + weight.numel()].view(weight.shape)
            gradient = torch.add(drift, noise, alpha=1e-2)
            first.lerp_(gradient, 0.1)
            second.mul_(0.95).addcmul_(gradient, gradient, value=0.05)
            weight.mul_(1 - 1e-5).addcdiv_(first, second.sqrt().add_(1e-8), value=-1e-4 * correct)
        self.state["step"] = self.steps

    def digest(self) -> float:
        """A number that tells whether a load gave the state back."""
        return float(sum(t.sum(dtype=torch.float64) for tensors in self.local for t in tensors[:3]))


_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Meter:
    """Seconds of the slowest rank, and the most memory that any rank took beyond what it had."""

    def __init__(self) -> None:
        self.memory = 0

    def time(self, call: Callable[[], object]) -> float:
        gc.collect()
        dist.barrier()
        before = _reset_peak()
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        both = torch.tensor([seconds, float(_peak() - before)], dtype=torch.float64)
        dist.all_reduce(both, dist.ReduceOp.MAX)
        self.memory = max(self.memory, int(both[1]))
        return float(both[0])


def _reset_peak() -> int:
    """The resident bytes now, from which the peak is counted again."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _measure(peer: Peer, training: Training, plan: Plan) -> dict[str, Any]:
    """Saves a step whole, steps after it, and loads two of them, once. Ours are ``DEEP`` steps of a chain; of others,
    for which one step is like another, only as many as there is something to measure.
    """
    peer.begin()
    sync, background = _Meter(), _Meter()
    state, last = training.state, training.steps
    found: dict[str, Any] = {"key save": sync.time(lambda: peer.save(last, state)), "key bytes": peer.stored(last)}
    key = deep = (last, training.digest())
    chain = peer.name == OurStore.name
    deltas, blocked = [], []
    for number in range(1, DEEP if chain else 3):
        if not chain and number == 1 and plan.repeats == 1:
            continue
        training.step()
        step = training.steps
        if number % 3 == 2:
            wait: list[Callable[[], object]] = []
            blocked.append(background.time(lambda: wait.append(peer.start(step, state))))  # noqa: B023
            background.time(wait[0])
        else:
            deltas.append(sync.time(lambda: peer.save(step, state)))  # noqa: B023
        found["delta bytes"] = peer.stored(step)
        deep = (step, training.digest())
    found["delta save"] = min(deltas, default=found["key save"])
    found["blocked"] = min(blocked)
    found["save memory"], found["async memory"] = sync.memory, background.memory
    meter = _Meter()
    for name, (step, digest) in (("key load", key), ("deep load", deep)):
        found[name] = meter.time(lambda: peer.load(step, state))  # noqa: B023
        if training.digest() != digest:
            raise RuntimeError(f"{peer.name} did not give step {step} back")
    found["load memory"] = meter.memory
    return found


def _throttled(peers: Sequence[Peer], training: Training, rates: Sequence[float]) -> list[dict[str, float]]:
    """How long a delta step takes where the disk is slow."""
    rows = []
    if rates:  # bases that are one step away, whatever was saved in between
        for peer in peers:
            peer.save(training.steps, training.state)
    for rate in rates:
        training.step()
        row: dict[str, float] = {"rate": rate}
        for peer in peers:
            throttle = Throttle(rate / dist.get_world_size())
            row[peer.name] = _Meter().time(lambda: peer.save(training.steps, training.state, throttle))  # noqa: B023
        rows.append(row)
    return rows


def run_rank(rank: int, plan: Plan, folder: Path) -> None:
    """What one process does; rank 0 writes ``results.json``."""
    torch.set_num_threads(plan.threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=plan.ranks)
    group = dist.new_group(backend="gloo")
    training = Training(plan.nbytes)
    peers = {name: PEERS[name](folder, plan.threads, group) for name in plan.peers}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for _ in range(plan.repeats):
        for name, peer in peers.items():
            training.step()
            rounds[name].append(_measure(peer, training, plan))
            if name != OurStore.name:
                peer.begin()  # at once: disks have room for a few states
    # Seconds and bytes of the best round; memory of the worst.
    best = {
        name: {what: (max if "memory" in what else min)(r[what] for r in found) for what in found[0]}
        for name, found in rounds.items()
    }
    training.step()
    slow = [peer for name, peer in peers.items() if name in (OurStore.name, Files.name)]
    throttled = _throttled(slow, training, plan.rates)
    if rank == 0:
        raw = sum(t.nbytes for tensors in training.local for t in tensors[:3]) * plan.ranks
        (folder / "results.json").write_text(json.dumps({"raw": raw, "peers": best, "throttled": throttled}))
    dist.barrier()
    dist.destroy_process_group()
