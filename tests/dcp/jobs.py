"""What ranks do in the tests of several processes. Results are small and plain: they go through a pipe."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import init_from_local_shards
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard as ShardOfTensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor
from torch.futures import Future
from torch.optim import AdamW

from deltackpt import Store
from deltackpt.dcp import DeltaStorageReader, DeltaStorageWriter
from deltackpt.errors import InvalidArgumentError
from deltackpt.store.opened import OpenStore
from deltackpt.testing import Fault, FaultyBackend, assert_round_trip

State = dict[str, Any]
Digests = dict[str, str]


class Model(nn.Module):
    """Parameters with more, as many and fewer rows than ranks, some of them not divisible."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)
        self.uneven = nn.Linear(8, 11)
        self.narrow = nn.Linear(11, 3)
        self.norm = nn.LayerNorm(3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.uneven(self.embedding(tokens)))
        result: torch.Tensor = self.norm(self.narrow(hidden))
        return result


class Sharded:
    """A model and its optimizer, sharded over all ranks of the group; on one process alone, not sharded."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Model()
        if dist.is_initialized():
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            for layer in (self.model.uneven, self.model.narrow):
                fully_shard(layer, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        self.optimizer = AdamW(self.model.parameters(), lr=1e-2)
        self.trained = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.trained)
            tokens = torch.randint(0, 64, (16,), generator=generator)
            self.optimizer.zero_grad()
            self.model(tokens).square().mean().backward()
            self.optimizer.step()
            self.trained += 1

    def state(self) -> State:
        model, optim = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optim": optim, "trained": self.trained}

    def load(self, store: str, step: int | str) -> None:
        state = self.state()
        load(state, storage_reader=DeltaStorageReader(store, step))
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
        self.trained = state["trained"]

    def save(self, store: str, step: int, **options: Any) -> Digests:
        state = self.state()
        save(state, storage_writer=DeltaStorageWriter(store, step, **options))
        return digests(state)


def digests(state: State) -> Digests:
    """Name to a hash of type, shape and bytes; sharded tensors are gathered first, so all ranks must call this."""
    found = {}
    flat, _ = flatten_state_dict(state)
    for name, value in flat.items():
        if isinstance(value, torch.Tensor):
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            data = whole.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found[name] = f"{whole.dtype} {tuple(whole.shape)} {hashlib.sha256(data).hexdigest()}"
        else:
            found[name] = repr(value)
    return found


def begin(rank: int, world: int, store: str, step: int) -> Digests:
    """Train from scratch and save."""
    run = Sharded(seed=1)
    run.train(step)
    return run.save(store, step)


def go_on(rank: int, world: int, store: str, step: int, more: int) -> tuple[Digests, Digests]:
    """Load a step into a fresh run, train ``more`` steps, and save the next; what was loaded and what was saved."""
    run = Sharded(seed=2)
    run.train(1)
    run.load(store, step)
    loaded = digests(run.state())
    run.train(more)
    return loaded, run.save(store, step + 1)


def a_tensor(seed: int, *shape: int) -> torch.Tensor:
    """Random numbers, the same on all ranks."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def replicated(step: int) -> State:
    """A state that every rank has whole, as with DDP. It does not compress, and half of it changes every step."""
    weights = {f"layers.{number}.weight": a_tensor(number + (number % 2) * 100 * step, 40, 50) for number in range(12)}
    return {"model": weights, "optim": {"lr": 0.1, "betas": (0.9, 0.95)}, "step": step}


def save_replicated(rank: int, world: int, store: str, steps: list[int], caching: bool) -> list[bytes]:
    """Save some steps, with plans that are cached if asked to; what this rank reported, pickled."""
    planner = DefaultSavePlanner(enable_plan_caching=caching)
    reported = []
    for step in steps:
        writer = Reporting(store, step)
        save(replicated(step), storage_writer=writer, planner=planner)
        reported.append(writer.reported)
    return reported


def load_replicated(rank: int, world: int, store: str, step: int) -> bool:
    """Whether a step is what was saved."""
    expected = replicated(step)
    state: State = {
        "model": {name: torch.zeros_like(value) for name, value in expected["model"].items()},
        "optim": {"lr": None, "betas": None},
        "step": None,
    }
    load(state, storage_reader=DeltaStorageReader(store, step))
    return digests(state) == digests(expected)


class Reporting(DeltaStorageWriter):
    """Keeps what goes to the coordinator, as DCP pickles it."""

    reported = b""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        future = super().write_data(plan, planner)
        self.reported = pickle.dumps(future.value())
        return future


def report_sharded(rank: int, world: int, store: str, layers: int, rows: int) -> tuple[int, int]:
    """Save a state of many sharded tensors with long names; the tensors, and the bytes that this rank reported."""
    mesh = init_device_mesh("cpu", (world,))
    names = [f"model.layers.{n}.{part}.weight" for n in range(layers) for part in ("attention.wq", "feed_forward.w1")]
    state = {name: distribute_tensor(torch.ones(rows, 2), mesh, [Shard(0)]) for name in names}
    writer = Reporting(store, rows)
    save(state, storage_writer=writer)
    return len(names), len(writer.reported)


class UnpicklableError(Exception):
    """What a planner or plugin of somebody else may raise."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.cause = lambda: message


class FailingPlanner(DefaultSavePlanner):
    """Fails at the last tensor that it is asked for."""

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.index == max((item.index for item in self.plan.items), key=lambda index: index.fqn):
            raise UnpicklableError("the planner failed")
        return super().resolve_data(write_item)


class FailingLoader(DefaultLoadPlanner):
    """Fails at every tensor."""

    def resolve_tensor(self, read_item: Any) -> torch.Tensor:
        raise UnpicklableError("the planner failed")


def a_failing_store(url: str, fault: Fault) -> Store:
    """The store at ``url`` through a backend that fails."""
    opened = Store.open(url).opened
    return Store(OpenStore(FaultyBackend(opened.backend, [fault]), opened.config, opened.options))


def fail(rank: int, world: int, store: str) -> list[str]:
    """Saves and loads that fail on one rank, between others that succeed; the words of every error."""
    bad_rank, words = world - 1, []

    def lost() -> UnpicklableError:
        return UnpicklableError("the backend failed")

    def attempt(step: int, failing: Store | str | None = None, planner: SavePlanner | None = None) -> None:
        try:
            save(replicated(step), storage_writer=DeltaStorageWriter(failing or store, step), planner=planner)
        except CheckpointException as error:
            words.append(str(error))

    attempt(1)
    attempt(2, planner=FailingPlanner() if rank == bad_rank else None)
    for fault_rank, fault in (
        (bad_rank, Fault("put", prefix="packs/")),
        (bad_rank, Fault("put", prefix="indexes/", error=lost)),
        (0, Fault("put_if_absent", prefix="manifests/", error=lost)),
        (0, Fault("list", error=lost)),
    ):
        attempt(2, a_failing_store(store, fault) if rank == fault_rank else None)
    attempt(1)
    attempt(3)
    try:
        state = {"model": {"layers.0.weight": torch.zeros(40, 50)}}
        planner = FailingLoader() if rank == bad_rank else DefaultLoadPlanner()
        load(state, storage_reader=DeltaStorageReader(store, 3), planner=planner)
    except CheckpointException as error:
        words.append(str(error))
    return words


def save_in_the_background(rank: int, world: int, store: str) -> None:
    """Two saves of sharded tensors, each while the tensors already change again."""
    mesh = init_device_mesh("cpu", (world,))
    tensor = distribute_tensor(a_tensor(7, 50, 6), mesh, [Shard(0)])
    group = dist.new_group(backend="gloo")
    for step in (1, 2):
        response = async_save({"w": tensor}, storage_writer=DeltaStorageWriter(store, step), process_group=group)
        with torch.no_grad():
            tensor.mul_(1.5)
        (response if not hasattr(response, "upload_completion") else response.upload_completion).result(timeout=60)


def a_mesh(world: int, rows: int) -> DeviceMesh:
    """A mesh of ``rows`` by the rest, or a line where ``rows`` is 0."""
    shape, names = ((rows, world // rows), ("outer", "inner")) if rows else ((world,), ("all",))
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def save_placed(rank: int, world: int, store: str, step: int, rows: int, placements: list[Placement]) -> None:
    """Save tensors of several shapes with these placements."""
    mesh = a_mesh(world, rows)
    state = {name: distribute_tensor(value, mesh, placements) for name, value in placed_values().items()}
    save(state, storage_writer=DeltaStorageWriter(store, step))


def load_placed(
    rank: int, world: int, store: str, steps: list[int], layouts: list[tuple[int, list[Placement]]]
) -> list[bool]:
    """Whether such tensors, placed like each of these, load as what was saved in each of the steps."""
    answers = []
    for rows, placements in layouts:
        mesh = a_mesh(world, rows)
        expected = {name: distribute_tensor(value, mesh, placements) for name, value in placed_values().items()}
        for step in steps:
            state: State = {name: torch.zeros_like(value) for name, value in expected.items()}
            load(state, storage_reader=DeltaStorageReader(store, step))
            answers.append(all(torch.equal(state[name].to_local(), expected[name].to_local()) for name in expected))
    return answers


def placed_values() -> dict[str, torch.Tensor]:
    return {
        "even": a_tensor(1, 64, 96),
        "odd": a_tensor(2, 67, 45).bfloat16(),
        "few": a_tensor(3, 2, 999),
        "cube": a_tensor(4, 13, 14, 15),
        "none": torch.zeros(0, 4),
    }


class LateReader(DeltaStorageReader):
    """On every rank but the first, looks for its step after another one was committed, the first one was replaced and
    gc has run: all of that in the last rank's process, while the first one knows its step already."""

    def read_metadata(self, *args: Any, **unused: Any) -> Metadata:
        dist.barrier()
        found = super().read_metadata() if dist.get_rank() == 0 else None
        dist.barrier()
        if dist.get_rank() == dist.get_world_size() - 1:
            for step, content in ((2, 2), (1, 3)):
                writer = DeltaStorageWriter(self._store, step, overwrite=step == 1)
                save(replicated(content), storage_writer=writer, no_dist=True)
            self._store.gc(wait=False)
        dist.barrier()
        return super().read_metadata() if found is None else found


def load_latest_while_another_commits(rank: int, world: int, store: str, shape: int) -> str:
    """The step that this rank has the values of, or the error."""
    state: State = {"model": {"layers.1.weight": torch.zeros(40, 50)}, "step": None}
    try:
        load(state, storage_reader=LateReader(store, "latest"))
    except CheckpointException as error:
        return str(error)
    loaded: torch.Tensor = state["model"]["layers.1.weight"]
    same = [step for step in (1, 2, 3) if torch.equal(loaded, a_tensor(1 + 100 * step, 40, 50))]
    return f"{state['step']} {same}"


def save_stages(rank: int, world: int, store: str) -> None:
    """Each rank has another part of the state, as with pipeline parallelism; only the first describes the optimizer."""
    state: State = {"custom": {"moments": {f"w{rank}": torch.full((5,), float(rank))}}}
    if rank == 0:
        state["custom"]["param_groups"] = [{"lr": 0.1}]
    save(state, storage_writer=DeltaStorageWriter(store, 1))


def save_without_collectives(rank: int, world: int, store: str) -> str:
    """The error of a save that asks for no collectives."""
    try:
        save(replicated(1), storage_writer=DeltaStorageWriter(store, 1), use_collectives=False)
    except Exception as error:
        return str(error)
    return ""


def save_alone(rank: int, world: int, store: str) -> None:
    """One rank of several saves what it has, by itself."""
    if rank == 1:
        save(replicated(1), storage_writer=DeltaStorageWriter(store, 1), no_dist=True)
    dist.barrier()


def save_on_some(rank: int, world: int, store: str) -> None:
    """Saves in which not every rank has something to say: a group of two of them, and a state that one has alone."""
    pair = dist.new_group([1, 3])
    if rank in (1, 3):
        save(replicated(1), storage_writer=DeltaStorageWriter(store, 1), process_group=pair)
        state = {"model": {"layers.3.weight": torch.zeros(40, 50)}, "step": None}
        load(state, storage_reader=DeltaStorageReader(store, 1), process_group=pair)
        assert torch.equal(state["model"]["layers.3.weight"], a_tensor(103, 40, 50))  # type: ignore[index]
    dist.barrier()
    save(replicated(2) if rank == 0 else {}, storage_writer=DeltaStorageWriter(store, 2))
    save(
        replicated(3),
        storage_writer=DeltaStorageWriter(store, 3),
        planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
    )


def save_sharded_tensor(rank: int, world: int, store: str) -> bool:
    """A tensor of the older kind that FSDP1 makes, saved, changed and loaded; whether it is what was saved."""
    rows = slice(rank * 3, rank * 3 + 3)
    whole = a_tensor(5, 3 * world, 4)

    def shards(value: torch.Tensor) -> ShardedTensor:
        local = ShardOfTensor.from_tensor_and_offsets(value[rows].clone(), [rank * 3, 0], rank)
        return init_from_local_shards([local], whole.shape)

    save({"w": shards(whole)}, storage_writer=DeltaStorageWriter(store, 1))
    state = {"w": shards(torch.zeros_like(whole))}
    load(state, storage_reader=DeltaStorageReader(store, 1))
    return torch.equal(state["w"].local_shards()[0].tensor, whole[rows])


def load_what_is_not_there(rank: int, world: int, store: str) -> list[str]:
    """The errors of loads of a step that no rank, or only this one of two, can find."""
    words = []
    for step in (9, 9 if rank == 1 else 1):
        try:
            load({"step": None}, storage_reader=DeltaStorageReader(store, step))
        except CheckpointException as error:
            words.append(str(error))
    return words


def disagree(rank: int, world: int, store: str) -> str:
    """The error of a save in which every rank names another step."""
    try:
        save(replicated(1), storage_writer=DeltaStorageWriter(store, 1 + rank))
    except CheckpointException as error:
        return str(error)
    return ""


def round_trip(rank: int, world: int, store: str) -> str:
    """Check a sharded run, and the error of a check without a store."""
    run = Sharded(seed=5)
    run.train(2)
    assert_round_trip(run.state(), store=store)
    try:
        assert_round_trip({"x": torch.zeros(1)})
    except InvalidArgumentError as error:
        return error.message
    return ""
