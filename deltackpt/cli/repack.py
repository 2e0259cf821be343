"""``deltackpt repack``: write a branch anew, smaller or quicker to restore."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.pipeline.repack import TARGETS, History, RepackReport
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "repack"
EXAMPLE = "deltackpt repack runs/gpt --max-depth 8 --dry-run"


def command(
    store: StoreArgument,
    branch: Annotated[str, typer.Option("--branch", metavar="NAME", help="The branch to write anew.")] = DEFAULT_BRANCH,
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="smallest, fastest (to restore), or key-every (a key step every --key-every steps).",
            autocompletion=lambda: list(TARGETS),
        ),
    ] = "smallest",
    max_depth: Annotated[
        int | None,
        typer.Option(metavar="D", help="The most records that one block may take to decode; 8, for fastest 2."),
    ] = None,
    key_every: Annotated[
        int | None, typer.Option(metavar="K", help="With the target key-every: a key step every K steps.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; estimate from samples what would come of it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the steps of a branch anew, each predicted from steps on both sides of it, in a tree of bounded depth.

    Every step stays as it is until its new form is complete. What that frees, gc deletes.
    """
    output = Output(as_json)
    opened = Store.open(store)
    with output.progress("writing steps") as tick:
        report = opened.repack(
            target,
            branch=branch,
            max_depth=max_depth,
            key_every=key_every,
            dry_run=dry_run,
            progress=tick,
        )
    if output.json:
        output.document({"url": opened.url, **asdict(report)})
    else:
        _print(output, report)


def _print(output: Output, report: RepackReport) -> None:
    output.table(
        ["", ">stored", ">depth", ">key steps", ">largest restore"],
        [_cells("before", report.before), _cells("estimate" if report.dry_run else "after", report.after)],
    )
    output.line()
    done = "would be written" if report.dry_run else "written"
    runs = f", runs of {report.shape.run}" if report.shape.run > 1 else ""
    output.line(f"{count(report.steps, 'step')} {done}: a key step every {report.shape.segment}{runs}")
    if report.spared:
        output.line(f"{count(len(report.spared), 'old generation')} kept for a save in progress")
    if not report.dry_run:
        output.line("what the old form took is deleted by gc")


def _cells(name: str, history: History) -> list[str]:
    restore = format_size(history.restore_bytes) if history.restore_bytes else ""
    return [name, format_size(history.stored_bytes), str(history.depth), str(history.keys), restore]
