"""``deltackpt branch``: make, list and delete branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from deltackpt.api import BranchInfo, Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.text import count

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "branch"
EXAMPLE = "deltackpt branch runs/gpt anneal-5000 --at 5000"


def command(
    store: StoreArgument,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The branch. Without it, all are listed.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="STEP", help="Make it: the step that it starts at.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it with all its steps.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List branches as a tree, make one that starts at a step, or delete one with its steps.

    A branch is whole by itself: it stays so when the one that it starts in is deleted.
    """
    output = Output(as_json)
    if (name is None and (at is not None or delete)) or (at is not None and delete):
        raise InvalidArgumentError("that is neither a list nor one branch", hint=f"for example: {EXAMPLE}")
    if name is not None and at is None and not delete:
        raise InvalidArgumentError(f"what about branch {name}?", hint="give --at STEP to make it, or --delete")
    opened = Store.open(store)
    deleted: list[str] = []
    spared: list[str] = []
    if name is not None and at is not None:
        opened.branch(name, at=at)
    elif name is not None:
        removed = opened.delete_branch(name)
        deleted = list(dict.fromkeys(f"{key.branch}:{key.step}" for key in removed.manifests))
        spared = list(dict.fromkeys(f"{key.branch}:{key.step}" for key in removed.spared))
    infos = opened.branch_infos()
    if output.json:
        output.document(
            {
                "url": opened.url,
                "branches": [
                    {"name": info.name, "start": info.start, "steps": info.steps, "newest": info.newest}
                    for info in infos
                ],
                "deleted": deleted,
                "spared": spared,
            }
        )
        return
    if delete:
        output.line(f"{count(len(deleted), 'step')} deleted; their bytes come free with the next `deltackpt gc`")
        for step in spared:
            output.error_line("note", f"{step} stays for now: a save in progress builds on it", "yellow")
    elif at is not None:
        made = next(info for info in infos if info.name == name)
        output.line(f"branch {made.name} starts at {made.start}")
    elif infos:
        output.table(["branch", "starts at", ">steps", ">newest"], _tree(infos))
    else:
        output.line("no branches yet")


def _tree(infos: Sequence[BranchInfo]) -> list[list[str]]:
    """Each branch below the one that it starts in."""
    above = {info.name: None if info.start is None else info.start.rpartition(":")[0] for info in infos}
    rows = []

    def add(parent: str | None, depth: int) -> None:
        for info in infos:
            if (above[info.name] if above[info.name] in above else None) == parent:
                newest = "" if info.newest is None else str(info.newest)
                rows.append(["  " * depth + info.name, info.start or "", str(info.steps), newest])
                add(info.name, depth + 1)

    add(None, 0)
    return rows
