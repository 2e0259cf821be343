"""Make and delete branches."""

from __future__ import annotations

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import StepKey, branch_key, check_branch
from deltackpt.format.names import BranchStart
from deltackpt.store.names import find_branch_start, put_branch_start
from deltackpt.store.opened import OpenStore
from deltackpt.store.remove import Removed, remove_steps
from deltackpt.store.specs import DEFAULT_BRANCH
from deltackpt.store.visible import visible_steps

__all__ = ["delete_branch", "make_branch"]


def make_branch(store: OpenStore, name: str, start: StepKey) -> BranchStart:
    """Make a branch that starts at a step. Making it again is no error.

    Raises:
        InvalidArgumentError: it has steps and starts anew, or it starts elsewhere, or the name is reserved.
    """
    check_branch(name)
    held = find_branch_start(store, name)
    if held is None and (name == DEFAULT_BRANCH or visible_steps(store, name)):
        raise InvalidArgumentError(f"branch {name} is there already", where=store.url, hint="choose another name")
    return put_branch_start(store, name, start)


def delete_branch(store: OpenStore, name: str) -> Removed:
    """Delete all steps of a branch, and then the branch. Those that a save in progress builds on stay, and so does it.

    Raises:
        StepNotFoundError: there is no such branch.
    """
    steps = visible_steps(store, name)
    if not steps and find_branch_start(store, name) is None:
        raise StepNotFoundError(f"there is no branch {name}", where=store.url, hint="list them with `deltackpt branch`")
    removed = remove_steps(store, [(step.key.branch, step.key.step) for step in steps])
    if not removed.spared:
        store.backend.delete(branch_key(name))
    return removed
