"""``deltackpt log``: list the steps of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, TypeVar

import typer

from deltackpt.api import Store
from deltackpt.cli.documents import error_document, step_document
from deltackpt.cli.failure import Failure, describe
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import StepKey
from deltackpt.store.catalog import DEFAULT_BRANCH, StepRef, VisibleStep, find_step, visible_steps
from deltackpt.store.listing import ListedStep, list_steps
from deltackpt.store.opened import OpenStore
from deltackpt.store.select import record_of_listed, select, sort_by
from deltackpt.store.usage import all_objects
from deltackpt.store.where import Record, parse_where
from deltackpt.text import count, format_metrics, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "log"
EXAMPLE = "deltackpt log runs/gpt --branch main -n 10"


@dataclass(frozen=True, slots=True)
class _Damaged:
    key: StepKey
    failure: Failure


_Placed = TypeVar("_Placed", VisibleStep, ListedStep)


def command(
    store: StoreArgument,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help=f"The branch to list; {DEFAULT_BRANCH} if not given.")
    ] = None,
    every_branch: Annotated[bool, typer.Option("--all", help="List all branches.")] = False,
    newest: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Only the newest N steps of each branch.")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="CONDITION", help="Only steps for which this holds, such as 'val_loss < 2.1'."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="NAME", help="In rising order of this value; -NAME: falling.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N of these.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the steps of a branch, oldest first, with their metrics and sizes.

    A step whose manifest is damaged does not hide the others: they are listed, and the exit code is that of the damage.
    """
    output = Output(as_json)
    if branch is not None and every_branch:
        raise InvalidArgumentError("--branch and --all exclude each other", hint="give one of them")
    opened = Store.open(store).opened
    chosen = None if every_branch else DEFAULT_BRANCH if branch is None else branch
    conditions = [parse_where(text) for text in where or []]
    steps = _visible(opened, chosen, named=branch is not None)
    # Headers are read of the steps that are shown, and of all only where their values decide which these are.
    rows, damaged = _read(opened, steps if conditions else _newest(steps, newest))
    if conditions:
        rows = _newest([row for row, _ in select(_records(rows), conditions)], newest)
    if reverse:
        rows, damaged = rows[::-1], damaged[::-1]
    if sort is not None:
        rows = [row for row, _ in sort_by(_records(rows), sort)]
    rows = rows[:limit]
    if output.json:
        output.document(
            {
                "url": opened.url,
                "branch": chosen,
                "other_bytes": _other_bytes(opened, rows),
                "steps": [step_document(row) for row in rows],
                "damaged": [
                    {
                        "step": found.key.step,
                        "branch": found.key.branch,
                        "generation": found.key.generation,
                        "error": error_document(found.failure),
                    }
                    for found in damaged
                ],
            }
        )
    else:
        _print(output, rows, damaged, with_branch=every_branch, of=len(steps), other=_other_bytes(opened, rows))
    if damaged:
        raise typer.Exit(damaged[0].failure.exit_code)


def _visible(opened: OpenStore, branch: str | None, *, named: bool) -> list[VisibleStep]:
    steps = visible_steps(opened, branch)
    if branch is not None and not steps and (named or visible_steps(opened)):
        find_step(opened, StepRef(branch, None))  # raises, and says which branches there are
    return steps


def _newest(steps: Sequence[_Placed], count: int | None) -> list[_Placed]:
    """The newest ``count`` of each branch, of steps that stand in the order of branches."""
    return [s for _, group in groupby(steps, key=lambda s: s.key.branch) for s in list(group)[-(count or 0) :]]


def _records(rows: Sequence[ListedStep]) -> list[tuple[ListedStep, Record]]:
    return [(row, record_of_listed(row)) for row in rows]


def _read(opened: OpenStore, steps: Sequence[VisibleStep]) -> tuple[list[ListedStep], list[_Damaged]]:
    listing = list_steps(opened, chosen=steps)
    return list(listing.steps), [_Damaged(step.key, describe(step.error)) for step in listing.damaged]


def _other_bytes(opened: OpenStore, rows: Sequence[ListedStep]) -> int | None:
    """Bytes of packs and indexes that none of the steps added, such as those that were saved for steps that are gone.

    None where steps of the store are not among those listed. Objects are listed only where headers say that steps are
    gone or were written anew.
    """
    shown = {(row.key.branch, row.key.step) for row in rows}
    if len(visible_steps(opened)) != len(rows):
        return None
    parents = [row.header.parent for row in rows]
    gone = any(parent is not None and (parent.branch, parent.step) not in shown for parent in parents)
    if not gone and all(row.key.generation == 1 for row in rows):
        return 0
    return max(0, sum(all_objects(opened).values()) - sum(row.header.stored_bytes for row in rows))


def _print(
    output: Output,
    rows: Sequence[ListedStep],
    damaged: Sequence[_Damaged],
    *,
    with_branch: bool,
    of: int,
    other: int | None,
) -> None:
    if rows:
        with_generation = any(row.header.key.generation > 1 for row in rows)
        columns = [">step", "created (UTC)", "kind", ">depth", ">raw", ">stored", ">ratio", "~metrics"]
        with_tags = any(row.tags for row in rows)
        columns[1:1] = [">generation"] * with_generation
        columns[-1:-1] = ["tags"] * with_tags
        columns[:0] = ["branch"] * with_branch
        output.table(columns, (_cells(row, with_branch, with_generation, with_tags) for row in rows))
        raw = sum(row.header.raw_bytes for row in rows)
        stored = sum(row.stored_bytes for row in rows)
        output.line()
        output.line(f"{count(len(rows), 'step')}: {format_size(raw)} in {format_size(stored)}")
        if other:
            output.line(f"{format_size(other)} more were saved for steps that are gone or were written anew")
    elif not damaged:
        output.line(f"none of {count(of, 'step')}" if of else "no steps yet")
    for found in damaged:
        output.error_line("error", f"{found.key.branch}:{found.key.step}: {found.failure.text}", "bold red")
    if damaged and damaged[0].failure.hint is not None:
        output.error_line("hint", damaged[0].failure.hint, "bold")


def _cells(row: ListedStep, with_branch: bool, with_generation: bool, with_tags: bool) -> list[str]:
    header = row.header
    return [
        *[header.key.branch] * with_branch,
        str(header.key.step),
        *[str(header.key.generation)] * with_generation,
        f"{header.created[:10]} {header.created[11:19]}",
        "key" if header.is_key else "delta",
        str(header.depth),
        format_size(header.raw_bytes),
        format_size(row.stored_bytes),
        f"{header.raw_bytes / row.stored_bytes:.2f}x",
        *[" ".join(row.tags)] * with_tags,
        format_metrics(dict(row.metrics)),
    ]
