"""``deltackpt copy``: steps from one store to another."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption
from deltackpt.cli.output import Output
from deltackpt.errors import StoreNotFoundError
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "copy"
EXAMPLE = "deltackpt copy runs/gpt archive/gpt --steps 1000..5000 --only model"


def command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Path or URL of the store to copy from.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The store to copy to; made if it is not there.")],
    steps: Annotated[
        list[str] | None,
        typer.Option("--steps", metavar="STEP", help="A step, or 1000..5000 for all of these; may be repeated."),
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="The branch; all branches if none.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="ARTIFACT", help="Only this artifact of each step, such as model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy steps with all that is known of them; run it again after an interruption, and it does what is missing."""
    output = Output(as_json)
    opened = Store.open(source)
    try:
        to = Store.open(target)
    except StoreNotFoundError:
        to = Store.create(target, **opened.options.to_mapping())  # type: ignore[arg-type]
    with output.progress("copying steps") as tick:
        report = opened.copy_to(to, steps, branch=branch, only=only, progress=tick)
    if output.json:
        output.document(
            {
                "url": opened.url,
                "target": to.url,
                "steps": [
                    {"branch": s.branch, "step": s.step, "how": s.how, "stored_bytes": s.stored_bytes}
                    for s in report.steps
                ],
                "tags": list(report.tags),
                "parity": report.parity,
                "unprotected": report.unprotected,
                "signed": report.signed,
            }
        )
        return
    there = sum(step.how == "there" for step in report.steps)
    output.table(
        ["step", "how", ">stored"],
        ([f"{s.branch}:{s.step}", s.how, format_size(s.stored_bytes)] for s in report.steps),
    )
    output.line()
    total = sum(step.stored_bytes for step in report.steps)
    line = f"copied {count(len(report.steps) - there, 'step')} to {to.url}, {format_size(total)}"
    output.line(line + (f"; {count(there, 'step')} {'was' if there == 1 else 'were'} there" if there else ""))
    if report.unprotected:
        output.line(f"{count(report.unprotected, 'object')} lack parity there: run `deltackpt protect {to.url}`")
    if report.signed:
        signed = f"{count(report.signed, 'step')} {'was' if report.signed == 1 else 'were'} signed in {opened.url}"
        output.line(f"{signed}; a signature holds in one store only: run `deltackpt sign {to.url}`")
