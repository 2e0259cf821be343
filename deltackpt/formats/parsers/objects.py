"""What a pickled object's attributes are, as far as the pickle says."""

from __future__ import annotations

from deltackpt.formats.parsers.pickles import Call, Pairs, Value

__all__ = ["counts_of", "fields_of", "pairs_of"]


def fields_of(value: Value) -> dict[str, Value]:
    """The attributes of an object, or the members of a dict that are named by text."""
    state = value.state if isinstance(value, Call) else value
    if isinstance(state, tuple):  # an object with slots: its dict, then its slots
        pairs = [pair for part in state if isinstance(part, Pairs) for pair in part.items]
    else:
        pairs = state.items if isinstance(state, Pairs) else []
    return {key: member for key, member in pairs if isinstance(key, str)}


def pairs_of(value: Value) -> list[tuple[str, Value]]:
    """The members of a dict that are named by text, in their order; none of anything else."""
    return [(key, member) for key, member in value.items if isinstance(key, str)] if isinstance(value, Pairs) else []


def counts_of(value: Value) -> tuple[int, ...] | None:
    """The numbers of a ``torch.Size``, which is pickled as a call with a tuple, or of a list; None of anything else."""
    numbers = value
    while isinstance(numbers, Call) and isinstance(numbers.args, tuple) and len(numbers.args) == 1:
        numbers = numbers.args[0]
    if isinstance(numbers, Call) and numbers.args == ():
        return ()
    if not isinstance(numbers, (list, tuple)) or len(numbers) > 64:
        return None
    return tuple(numbers) if all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) else None
