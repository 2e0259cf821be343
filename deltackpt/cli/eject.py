"""``deltackpt eject``: every step of a store as files, for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.documents import error_document
from deltackpt.cli.failure import describe
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "eject"
EXAMPLE = "deltackpt eject runs/gpt --out checkpoints/"


def command(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to; made if it is not there.")],
    trust_objects: Annotated[
        bool,
        typer.Option(
            "--trust-objects",
            help="Load objects that are pickles. They can run any code: only for stores of people you trust.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every step as files, with their hashes; run it again after an interruption, and it writes what is missing.

    A step that cannot be written is listed at the end; the exit code is then that of the first such error.
    """
    output = Output(as_json)
    opened = Store.open(store)
    total = len(opened.steps(None))
    with output.progress("writing steps") as tick:
        report = opened.eject(
            out,
            trust_objects=trust_objects,
            progress=None if tick is None else lambda done, _: tick(done, total),
        )
    if output.json:
        output.document(
            {
                "url": opened.url,
                "out": str(out),
                "steps": [
                    {"branch": s.branch, "step": s.step, "folder": str(s.folder), "status": s.status, "bytes": s.size}
                    for s in report.steps
                ],
                "failed": [
                    {"branch": s.branch, "step": s.step, "error": error_document(describe(s.error))}
                    for s in report.failed
                    if s.error is not None
                ],
            }
        )
    else:
        output.table(
            ["step", "folder", ">size", "status"],
            ([f"{s.branch}:{s.step}", str(s.folder), format_size(s.size), s.status] for s in report.steps),
        )
        output.line()
        good = [step for step in report.steps if step.status != "failed"]
        output.line(f"{count(len(good), 'step')} in {out}, {format_size(sum(s.size for s in good))}")
        for step in report.failed:
            assert step.error is not None
            failure = describe(step.error)
            output.error_line("error", f"step {step.branch}:{step.step}: {failure.text}", "bold red")
            if failure.hint is not None:
                output.error_line("hint", failure.hint, "bold")
    if report.failed:
        assert report.failed[0].error is not None
        raise typer.Exit(report.failed[0].error.exit_code)
