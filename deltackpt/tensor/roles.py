"""Which artifact a part of a state belongs to, and what a tensor is to training. Decided from names only.

A *path* is the place of a value in the nested state: strings are keys of dicts, integers are positions in lists. A path
component that says what is below it is a *marker*, and the first marker of a path decides:

- `optim`: `optim`, `optims`, `optimizer` or `optimizers`, also as words of a longer name (`optimizer_g`);
  `opt` and `opt_state`
- `model`: `model`, `module`, `state_dict`, `model_state`, `model_state_dict`, `model_weights`
- `config`: `config`, `cfg`, `hparams`, `hyper_parameters`
- `train`: `scheduler`, `dataloader`, `loader`, `sampler`, `scaler`, `rng`, `callbacks` or `loops`, also as words of a
  longer name (`lr_scheduler`)

Without a marker:

1. what a dict holds that has a list `param_groups` is `optim`, and so is what lies as if in the `state` of one;
2. what is under `train`, `train_state`, `trainer` or `trainer_state` is `train`;
3. other tensors, and a module's `_extra_state`, are `model`: a state may be a model's without a dict around it. But
   where another part of the state is marked as the model, they are `train`;
4. other objects are `train`.

A value at the top of the state may belong to a flat one, whose keys are names with dots. Of such a path, of one
component, the first word marks, and only these count: for tensors `optim` and, if it speaks of `rng`, `train`; for
objects `config`, and `optim` where more words follow (`{"optimizer": "adamw"}` is a setting). In a state that was saved
without being flattened an object may be all of a model or optimizer, and every marker counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

__all__ = ["ARTIFACTS", "Path", "classify", "classify_all", "is_counter", "marker_end", "optimizer_roots", "role_of"]

Path = tuple[str | int, ...]

ARTIFACTS: Final = ("model", "optim", "train", "config")

# In this order: an `optimizer_scheduler` is a scheduler.
_MARKERS: Final = {
    "train": re.compile(
        "(?:.+_)?(?:scheduler|schedulers|dataloader|dataloaders|loader|sampler|scaler|rng|callbacks|loops)(?:_.+)?"
    ),
    "optim": re.compile("(?:.+_)?(?:optim|optims|optimizer|optimizers)(?:_.+)?|opt|opt_state"),
    "model": re.compile("model|module|state_dict|model_state|model_state_dict|model_weights"),
    "config": re.compile("config|cfg|hparams|hyper_parameters"),
}
_WEAK_TRAIN: Final = frozenset({"train", "train_state", "trainer", "trainer_state"})
_FLAT_RNG: Final = re.compile("(?:.+_)?rng(?:_.+)?")

_ROLES: Final = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "momentum_buffer": "momentum"}
_OPTIMIZER_STATE: Final = frozenset(
    {*_ROLES, "acc_delta", "exp_inf", "grad_avg", "max_exp_avg_sq", "prev", "square_avg", "step", "step_size", "sum"}
)
_MASTERS: Final = frozenset(
    {
        "fp32_param",
        "fp32_params",
        "main_param",
        "master",
        "master_param",
        "master_params",
        "master_weight",
        "master_weights",
    }
)
_COUNTERS: Final = frozenset({"num_batches_tracked", "step"})
_BUFFERS: Final = frozenset({"causal_mask", "inv_freq", "num_batches_tracked", "running_mean", "running_var"})


def classify(
    path: Path,
    is_tensor: bool,
    *,
    flattened: bool = True,
    optimizers: Collection[Path] = (),
    has_model: bool = False,
) -> str:
    """The artifact of one value of a state.

    Args:
        path: its place; ``(fqn,)`` where that is not known.
        is_tensor: whether it is a tensor.
        flattened: whether dicts in the state were taken apart, so that no object is one.
        optimizers: the paths of dicts in the state that are an optimizer's (``optimizer_roots``).
        has_model: whether a part of the state is marked as the model.

    Returns:
        One of ``ARTIFACTS``.
    """
    artifact = _marked(path) if len(path) > 1 else _marked_flat(path, is_tensor, flattened)
    if artifact is not None:
        return artifact
    if _is_optimizer_state(path) or any(_is_below(path, root) for root in optimizers):
        return "optim"
    if path and path[0] in _WEAK_TRAIN:
        return "train"
    is_model = is_tensor or str(path[-1] if path else "").endswith("_extra_state")
    return "model" if is_model and not has_model else "train"


def classify_all(entries: Mapping[str, tuple[Path | None, bool]]) -> dict[str, str]:
    """The artifacts of all values of a state; they say more about each other than each does alone.

    Args:
        entries: by FQN, the path (None where it is not known) and whether it is a tensor.

    Returns:
        By FQN, one of ``ARTIFACTS``.
    """
    known = [path for path, _ in entries.values() if path is not None]
    optimizers = optimizer_roots(known)
    has_model = any(len(path) > 1 and marker_end(path, "model") for path in known)
    return {
        fqn: classify(
            (fqn,) if path is None else path,
            is_tensor,
            flattened=path is not None,
            optimizers=optimizers,
            has_model=has_model,
        )
        for fqn, (path, is_tensor) in entries.items()
    }


def optimizer_roots(paths: Iterable[Path]) -> frozenset[Path]:
    """The places of all dicts that have a list ``param_groups``."""
    return frozenset(
        path[:position]
        for path in paths
        for position, component in enumerate(path[:-1])
        if component == "param_groups" and isinstance(path[position + 1], int)
    )


def marker_end(path: Path, artifact: str) -> int:
    """How many leading components of a path name the artifact rather than a place in it: up to its marker, or 0."""
    for position, component in enumerate(path):
        found = _marker(component)
        if found is not None:
            return position + 1 if found == artifact else 0
    return 0


def role_of(path: Path, artifact: str) -> str:
    """What a tensor is to training: weight, exp_avg, exp_avg_sq, momentum, master, buffer or other.

    Args:
        path: its place; ``(fqn,)`` where that is not known.
        artifact: what ``classify`` gave for it.
    """
    words = _words(path)
    if not _MASTERS.isdisjoint(words):
        return "master"
    last = words[-1] if words else ""
    if artifact == "optim":
        return _ROLES.get(last, "other")
    if artifact == "model":
        return "buffer" if last in _BUFFERS else "weight"
    return "other"


def _words(path: Path) -> list[str]:
    return [word for component in path for word in str(component).split(".")]


def _marker(component: str | int) -> str | None:
    if isinstance(component, int):
        return None
    return next((artifact for artifact, names in _MARKERS.items() if names.fullmatch(component)), None)


def _marked(path: Path) -> str | None:
    return next((found for found in map(_marker, path) if found is not None), None)


def _marked_flat(path: Path, is_tensor: bool, flattened: bool) -> str | None:
    words = _words(path)
    found = _marker(words[0]) if words else None
    if is_tensor:
        counts = found == "optim" or (found == "train" and _FLAT_RNG.fullmatch(words[0]) is not None)
    else:
        counts = not flattened or found == "config" or (found == "optim" and len(words) > 1)
    return found if counts else None


def _is_optimizer_state(path: Path) -> bool:
    """Whether a path reads like ``state.<parameter>.exp_avg`` or ``param_groups.<group>.lr``."""
    words = _words(path)
    if "param_groups" in words[:-1]:
        return True
    return len(words) > 2 and words[-1] in _OPTIMIZER_STATE and "state" in words[:-2]


def _is_below(path: Path, root: Path) -> bool:
    if not root:
        # The whole state is an optimizer's, but it may have more in it.
        return bool(path) and path[0] in ("state", "param_groups")
    return len(path) > len(root) and path[: len(root)] == root


def is_counter(fqn: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of this name counts how often something was done, as the ``step`` of Adam does.

    Such a number says nothing of how much a layer changed, and is far larger than what does.
    """
    return fqn.rpartition(".")[2] in _COUNTERS and math.prod(shape) == 1
