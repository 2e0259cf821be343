"""The flat entries of a step -> the nested state they were saved from, and the parts that files are made of. Pure.

DCP flattens a state before it saves it, and loses some of its shape: keys of dicts become strings, and empty dicts
vanish. What an optimizer needs of that is put back here: parameter ids as integers, and an empty ``state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from deltackpt.errors import CorruptObjectError
from deltackpt.tensor.roles import Path, marker_end, optimizer_roots

__all__ = ["Entry", "nest", "split_parts"]

# Lists are extended to the largest index that occurs; only empty dicts leave gaps.
_MAX_GAPS: Final = 1 << 16
_MAX_DEPTH: Final = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a step.

    Attributes:
        fqn: its name.
        path: its place in the nested state, strings for keys of dicts and integers for positions in lists; None where
            it is not known.
        artifact: which artifact it belongs to.
        value: the tensor or object.
    """

    fqn: str
    path: Path | None
    artifact: str
    value: object

    @property
    def place(self) -> Path:
        """Its place; under its name where that is not known."""
        return (self.fqn,) if self.path is None else self.path


def split_parts(entries: Iterable[Entry]) -> dict[str, object]:
    """The nested state of each artifact, as its file holds it.

    Components that only name the artifact are left out where all of its entries share them: from ``{"app": {"model":
    sd, "optim": od}}`` the parts are ``sd`` and ``od`` themselves. An artifact without such a name, or with several,
    stays nested as it was; so do the members of ``train``, but a ``train`` that is its only member is left out.

    Returns:
        By artifact, in the order of the entries.

    Raises:
        CorruptObjectError: two entries want the same place, or a place is no place in a state.
    """
    by_artifact: dict[str, list[Entry]] = {}
    for entry in entries:
        by_artifact.setdefault(entry.artifact, []).append(entry)
    parts: dict[str, object] = {}
    for artifact, members in by_artifact.items():
        skip = len(_shared_prefix(artifact, [entry.place for entry in members]))
        parts[artifact] = nest((entry.fqn, entry.place[skip:], entry.value) for entry in members)
    return parts


def _shared_prefix(artifact: str, places: list[Path]) -> Path:
    if artifact == "train":
        alone = all(len(place) > 1 and place[0] == "train" for place in places)
        return ("train",) if alone else ()
    roots = optimizer_roots(places) if artifact == "optim" else frozenset()
    prefixes = {_prefix(artifact, place, roots) for place in places}
    return prefixes.pop() if len(prefixes) == 1 else ()


def _prefix(artifact: str, place: Path, optimizers: frozenset[Path]) -> Path:
    end = marker_end(place, artifact)
    if end:
        return place[:end]
    return next((root for root in optimizers if place[: len(root)] == root), ())


@dataclass(slots=True)
class _Node:
    """A dict (string keys) or list (integer keys) in the making."""

    members: dict[str | int, object] = field(default_factory=dict)


def nest(items: Iterable[tuple[str, Path, object]]) -> object:
    """The nested state of values and their places.

    Positions that are missing in a list become empty dicts, which is what DCP leaves out. A dict with ``param_groups``
    whose groups list their ``params`` gets its ``state`` back if that was empty, and where the params are integers, so
    are the keys of ``state`` that are their decimal form.

    Args:
        items: FQN (for errors), place and value. The empty place is that of a state that is one value.

    Raises:
        CorruptObjectError: two entries want the same place, or a place is no place in a state.
    """
    top = _Node()
    for fqn, place, value in items:
        node = top
        if len(place) > _MAX_DEPTH:
            _fail(fqn, f"it is more than {_MAX_DEPTH} levels deep")
        # The state itself is the only member of `top`, so that it needs no rules of its own.
        full: Path = ("", *place)
        for component in full[:-1]:
            _check_kind(node, component, fqn)
            child = node.members.setdefault(component, _Node())
            if not isinstance(child, _Node):
                _fail(fqn, "it lies inside another entry")
            node = child
        _check_kind(node, full[-1], fqn)
        if full[-1] in node.members:
            _fail(fqn, "another entry is there")
        # Wrapped, so that a value is never taken for a node.
        node.members[full[-1]] = (value,)
    return _finish(top.members.get("", _Node()))


def _check_kind(node: _Node, component: object, fqn: str) -> None:
    if (
        not isinstance(component, (str, int))
        or isinstance(component, bool)
        or (isinstance(component, int) and component < 0)
    ):
        _fail(fqn, f"{component!r} is neither a key nor a position")
    first = next(iter(node.members), component)
    if isinstance(first, int) != isinstance(component, int):
        _fail(fqn, "the same container would be a dict and a list")


def _fail(fqn: str, reason: str) -> NoReturn:
    raise CorruptObjectError(
        f"the entry has no place in the nested state: {reason}",
        where=fqn,
        hint="read tensors one by one, by name; run `deltackpt verify --deep` on the store",
    )


def _finish(node: object) -> object:
    if isinstance(node, tuple):
        return node[0]
    assert isinstance(node, _Node)
    members = {component: _finish(member) for component, member in node.members.items()}
    if members and isinstance(next(iter(members)), int):
        return [members.get(position, {}) for position in range(_length(members))]
    return _restore_optimizer(members, state_is_nested=isinstance(node.members.get("state"), _Node))


def _length(members: Mapping[str | int, object]) -> int:
    length = 1 + max(position for position in members if isinstance(position, int))
    if length > len(members) + _MAX_GAPS:
        _fail(str(length - 1), "a list cannot be that long")
    return length


def _restore_optimizer(members: dict[str | int, object], *, state_is_nested: bool) -> dict[str | int, object]:
    params = _listed_params(members.get("param_groups"))
    if params is None:
        return members
    if "state" not in members:
        return {"state": {}, **members}
    state = members["state"]
    if state_is_nested and isinstance(state, dict) and all(type(param) is int for param in params):
        ids = {str(param): param for param in params}
        members["state"] = {ids.get(key, key): value for key, value in state.items()}
    return members


def _listed_params(groups: object) -> list[object] | None:
    """All that the groups of an optimizer list as their params; None if these are not an optimizer's groups."""
    if not isinstance(groups, list):
        return None
    params: list[object] = []
    for group in groups:
        listed = group.get("params") if isinstance(group, dict) else None
        if not isinstance(listed, list):
            return None
        params += listed
    return params
