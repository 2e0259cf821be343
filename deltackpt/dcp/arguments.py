"""What users give to writers and readers, checked."""

from __future__ import annotations

import operator
import os
import re
from typing import Any

import numpy as np
import torch

from deltackpt.api import Store
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import MAX_STEP
from deltackpt.format.manifest import Metric
from deltackpt.pipeline.save import default_threads
from deltackpt.store.base_cache import parse_base_memory

__all__ = ["CheckpointId", "as_metric", "budgets", "check_step", "check_threads", "step_of_id"]

CheckpointId = str | os.PathLike[str]


def check_step(step: object) -> int:
    """A step's number, as an int; numpy's integers are taken as well.

    Raises:
        InvalidArgumentError: it is not an integer from 0 to ``MAX_STEP``.
    """
    number = operator.index(step) if hasattr(step, "__index__") and not isinstance(step, bool | torch.Tensor) else -1
    if not 0 <= number <= MAX_STEP:
        raise InvalidArgumentError(f"step must be an integer from 0 to {MAX_STEP}, not {step!r}")
    return number


def step_of_id(checkpoint_id: CheckpointId | None, who: str) -> int:
    """The step that a ``checkpoint_id`` such as ``runs/gpt/step-1000`` means: the digits that it ends with.

    Args:
        who: the class that could have been told the step, for the hint.

    Raises:
        InvalidArgumentError: it does not end in a number, or in one that is too large.
    """
    found = re.search("([0-9]+)/*$", "" if checkpoint_id is None else os.fspath(checkpoint_id))
    if found is None or int(found.group(1)) > MAX_STEP:
        raise InvalidArgumentError(
            "which step is this?" if checkpoint_id is None else f"which step is {os.fspath(checkpoint_id)!r}?",
            hint=f"pass step=N to {who}, or a checkpoint_id that ends in the number of the step",
        )
    return int(found.group(1))


def as_metric(name: object, value: Any) -> Metric:
    """A metric as it is recorded; tensors and numpy's scalars with one element become numbers.

    Raises:
        InvalidArgumentError: the name is not a string, or the value not a number, string, boolean or None.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the name of a metric must be a string, not {name!r}")
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and np.prod(value.shape) == 1:
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        result: Metric = value
        return result
    raise InvalidArgumentError(
        f"metric {name!r} is a {type(value).__name__}", hint="metrics are numbers, strings, booleans or None"
    )


def budgets(store: Store, base_memory: int | str | None, threads: int | None) -> tuple[int | str, int]:
    """Memory for bases and threads: what was asked for, else what the store's ``deltackpt.yaml`` says, else defaults.

    Raises:
        InvalidArgumentError: one of them makes no sense.
    """
    config = store.opened.writer_config
    memory = base_memory if base_memory is not None else config.base_memory
    parse_base_memory("auto" if memory is None else memory)
    threads = config.threads if threads is None else threads
    return "auto" if memory is None else memory, default_threads() if threads is None else check_threads(threads)


def check_threads(threads: int) -> int:
    """A number of threads.

    Raises:
        InvalidArgumentError: it is not an integer from 1 on.
    """
    if type(threads) is not int or threads < 1:
        raise InvalidArgumentError(f"threads must be an integer from 1 on, not {threads!r}")
    return threads
