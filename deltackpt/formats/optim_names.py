"""The state of an optimizer with its parameters by name, as OLMo's ``optim.pt`` has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from deltackpt.errors import UnsupportedDataError

__all__ = ["by_name"]


def by_name(optim: object, model: Mapping[str, torch.Tensor]) -> object:
    """The same state with names in place of integer ids; unchanged where it has names, or is no optimizer's state.

    Args:
        optim: what ``optimizer.state_dict()`` gave.
        model: the model's tensors, in the order of its state dict.

    Raises:
        UnsupportedDataError: which parameter an id means cannot be told for sure.
    """
    if not isinstance(optim, Mapping) or not isinstance(optim.get("param_groups"), Sequence):
        return optim
    groups = optim["param_groups"]
    ids = [number for group in groups for number in group["params"]]
    if not ids or not all(type(number) is int for number in ids):
        return optim
    names = _recorded(groups) or _in_order(optim, ids, model)
    known = dict(zip(ids, names, strict=True))
    state = {known[number]: value for number, value in optim["state"].items()}
    renamed = [{**group, "params": [known[number] for number in group["params"]]} for group in groups]
    return {**optim, "state": state, "param_groups": renamed}


def _recorded(groups: Sequence[Mapping[str, object]]) -> list[str] | None:
    """The names that the groups themselves list, if each does."""
    names: list[str] = []
    for group in groups:
        own, params = group.get("param_names"), group["params"]
        if not isinstance(own, Sequence) or not isinstance(params, Sequence) or len(own) != len(params):
            return None
        names += own
    return names


def _in_order(optim: Mapping[str, object], ids: list[int], model: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of the model in its order, where one group has all of them and every moment has its weight's shape."""
    groups, state = optim["param_groups"], optim["state"]
    assert isinstance(groups, Sequence)
    assert isinstance(state, Mapping)
    names = list(model)
    fits = len(groups) == 1 and len(ids) == len(names)
    for number, name in zip(ids, names, strict=False):
        for moment in state.get(number, {}).values():
            if isinstance(moment, torch.Tensor) and moment.ndim and moment.shape != model[name].shape:
                fits = False
    if not fits:
        raise UnsupportedDataError(
            "which parameters the ids of the optimizer mean cannot be told from its state",
            where="optim",
            hint="restore it with the format torch, or save optimizers with get_state_dict(), which has names",
        )
    return names
