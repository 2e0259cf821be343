"""Several steps at once, as users write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deltackpt.errors import InvalidArgumentError, StepNotFoundError
from deltackpt.format.keys import StepKey, check_branch
from deltackpt.store.catalog import find_step
from deltackpt.store.opened import OpenStore
from deltackpt.store.specs import DEFAULT_BRANCH, parse_step
from deltackpt.store.visible import visible_steps

__all__ = ["find_steps"]

_RANGE = re.compile(r"(?:(?P<branch>[^:]+):)?(?P<first>[0-9]{0,12})\.\.(?P<last>[0-9]{0,12})")


def find_steps(store: OpenStore, specs: Iterable[int | str] | None, branch: str | None) -> list[StepKey]:
    """The steps that are meant, each once and in the order of branches and numbers, as they are now.

    Args:
        specs: what a single step may be written as, or ``"1000..5000"``: all from 1000 to 5000; either end may be left
            out, ``"BRANCH:"`` may come before. None for all.
        branch: the one that is meant where a spec names none; with no specs, None means all branches.

    Raises:
        StepNotFoundError: there is none of them.
        InvalidArgumentError: that is not how a step is written, or a range ends before it begins.
    """
    if specs is None:
        keys = [step.key for step in visible_steps(store, branch)]
        if branch is not None and not keys:
            raise StepNotFoundError(f"branch {branch} has no steps", where=store.url)
        return keys
    found: set[StepKey] = set()
    for spec in specs:
        between = _RANGE.fullmatch(str(spec))
        if between is None:
            found.add(find_step(store, parse_step(spec, branch or DEFAULT_BRANCH)).key)
            continue
        line = check_branch(between["branch"] or branch or DEFAULT_BRANCH)
        first, last = int(between["first"] or 0), int(between["last"] or 10**12)
        if last < first:
            raise InvalidArgumentError(
                f"the range {spec} ends before it begins", hint=f"write the lower number first: {last}..{first}"
            )
        inside = [s.key for s in visible_steps(store, line) if first <= s.key.step <= last]
        if not inside:
            raise StepNotFoundError(f"branch {line} has no steps in {spec}", where=store.url)
        found.update(inside)
    return sorted(found)
