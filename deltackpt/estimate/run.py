"""An estimate: match the checkpoints, sample them, try the sample, project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltackpt.errors import InvalidArgumentError
from deltackpt.estimate.policies import Plan, Projection, State, project_all
from deltackpt.estimate.rates import Rates, Speed, interval_of, measured_rates, measured_speed, with_growth
from deltackpt.estimate.sample import choose_units, read_units, sampled_items
from deltackpt.estimate.state import Checkpoint, Kind, elements_by_kind, kind_of, shared_items
from deltackpt.estimate.trial import TrialStep, run_trial
from deltackpt.pipeline.items import SaveItem
from deltackpt.pipeline.partners import group_items
from deltackpt.store.options import StoreOptions

__all__ = ["Estimate", "EstimateSettings", "estimate"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EstimateSettings:
    """How an estimate is made.

    Attributes:
        sample_bytes: about how much of each checkpoint is read; it takes up to four times as much memory for each.
        threads: how many encode and decode at once.
    """

    sample_bytes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was measured, and what follows from it.

    Attributes:
        checkpoints: names of those that were sampled, and their steps.
        sampled_bytes: how much of each was sampled.
        checkpoint_bytes: the size of the last of them.
        parameters: elements of its weights, each once.
        elements: of one checkpoint, by kind.
        rates: by kind, of whole checkpoints.
        plan: what was projected.
        projected_parameters: those of the run to be.
        projections: the policies, full copies first.
    """

    checkpoints: tuple[tuple[str, int], ...]
    sampled_bytes: int
    checkpoint_bytes: int
    parameters: int
    elements: dict[Kind, int]
    rates: Rates
    plan: Plan
    projected_parameters: float
    projections: tuple[Projection, ...]


def estimate(
    checkpoints: Sequence[Checkpoint],
    settings: EstimateSettings,
    *,
    every: int | None,
    steps: int | None,
    price: float,
    disk: float,
    parameters: float | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate what the checkpoints of a run will cost. Samples are read, encoded, decoded and compared in memory.

    Args:
        checkpoints: two or more of one run, in order of steps.
        every: training steps between the checkpoints of the run to be; None: as between these.
        steps: training steps of that run; None: such that there are 100 checkpoints.
        price, disk: see :class:`Plan`.
        parameters: of its model; None: as many as here.
        progress: called with the trials done and the trials in all.

    Raises:
        InvalidArgumentError: there are fewer than two checkpoints, they are not of one model, or a figure makes no
            sense.
    """
    shared = shared_items(checkpoints)
    numbers = [one.step for one in checkpoints]
    last = checkpoints[-1]
    elements = dict(elements_by_kind(last.items))
    own_parameters = _parameters(elements)
    interval = round(interval_of(numbers)) if every is None else every
    plan = Plan(interval, 100 * interval if steps is None else steps, price, disk)
    _check(plan)
    state = State(elements, last.other_bytes)
    if parameters is not None:
        if own_parameters == 0 or parameters <= 0:
            raise InvalidArgumentError(
                "the number of parameters is above 0, and needs weights in the checkpoints to scale from",
                where=last.name,
                hint="leave out --params",
            )
        state = state.scaled(parameters / own_parameters)
    measured = _measure(shared, numbers, settings, progress)
    return Estimate(
        checkpoints=tuple((one.name, one.step) for one in checkpoints),
        sampled_bytes=measured.sampled_bytes,
        checkpoint_bytes=last.tensor_bytes + last.other_bytes,
        parameters=own_parameters,
        elements=elements,
        rates=measured.whole,
        plan=plan,
        projected_parameters=own_parameters if parameters is None else parameters,
        projections=tuple(project_all(state, measured.whole, measured.weights, measured.speed, plan)),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    sampled_bytes: int
    whole: Rates
    weights: Rates | None
    speed: Speed


def _measure(
    shared: Sequence[Sequence[SaveItem]],
    numbers: Sequence[int],
    settings: EstimateSettings,
    progress: Progress | None,
) -> _Measured:
    """Sample checkpoints and try the sample: all of it, its first and last alone, and its weights alone."""
    block_elements = StoreOptions().block_elements
    groups = group_items(shared[0])
    units = choose_units(groups, settings.sample_bytes, block_elements=block_elements)
    items = sampled_items(groups, units)
    contents = [
        read_units(groups, units, {(item.fqn, item.box): item for item in own}, threads=settings.threads)
        for own in shared
    ]
    of_weights = [n for n, item in enumerate(items) if kind_of(item).part == "weights"]
    has_far, has_more = len(contents) > 2, 0 < len(of_weights) < len(items)
    trials = 1 + has_far + has_more
    done = 0

    def run(chosen: Sequence[int], which: Sequence[int]) -> list[TrialStep]:
        nonlocal done
        part = [[contents[c][n] for n in chosen] for c in which]
        found = run_trial([items[n] for n in chosen], part, threads=settings.threads, block_elements=block_elements)
        done += 1
        if progress is not None:
            progress(done, trials)
        return found

    everything, every_one = range(len(items)), range(len(contents))
    trial = run(everything, every_one)
    far = run(everything, (0, len(contents) - 1)) if has_far else None
    whole = measured_rates(elements_by_kind(items), numbers, trial, far)
    weights = whole if of_weights else None
    if has_more:
        alone = measured_rates(elements_by_kind([items[n] for n in of_weights]), numbers, run(of_weights, every_one))
        weights = with_growth(alone, whole)
    return _Measured(sum(data.size for data in contents[0]), whole, weights, measured_speed(trial))


def _parameters(elements: dict[Kind, int]) -> int:
    """Elements of the weights; of the masters where no others are there."""
    counts = [
        sum(n for kind, n in elements.items() if kind.part == "weights" and kind.role == "weight"),
        sum(n for kind, n in elements.items() if kind.role in ("weight", "master")),
    ]
    return next((count for count in counts if count), 0)


def _check(plan: Plan) -> None:
    if plan.every < 1 or plan.saves < 1:
        raise InvalidArgumentError(
            f"a run of {plan.steps:,} steps with a checkpoint every {plan.every:,} has none",
            hint="give --steps that are at least --every, and --every of at least 1",
        )
    if plan.price < 0 or plan.disk <= 0:
        raise InvalidArgumentError("a price is 0 or more, and a disk rate above 0")
