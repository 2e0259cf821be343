"""``deltackpt verify``: is everything there, and is it what was written?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.cli.text import count, format_size
from deltackpt.errors import CorruptObjectError
from deltackpt.pipeline.verify import Problem, VerifyReport

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "verify"
EXAMPLE = "deltackpt verify runs/gpt --deep"

_STEPS_SHOWN = 5
_NAMES_SHOWN = 3


def command(
    store: StoreArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every pack and decode every record that a step needs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that every step has all it needs; with --deep, that all of it is what was written.

    Where something is wrong, the exit code is 20, and what is listed says which steps and tensors it concerns.
    """
    output = Output(as_json)
    opened = Store.open(store)
    with output.progress("verifying steps") as tick:
        report = opened.verify(deep=deep, progress=tick)
    if output.json:
        output.document(_document(opened.url, deep, report))
    else:
        _print(output, deep, report)
    if not report.ok:
        raise typer.Exit(CorruptObjectError.exit_code)


def _split(affected: str) -> tuple[str, str | None]:
    """Step and FQN (None: all of the step) of what a problem affects; the name of a step has no spaces."""
    step, _, fqn = affected.partition(" ")
    return step, fqn or None


def _document(url: str, deep: bool, report: VerifyReport) -> dict[str, object]:
    return {
        "url": url,
        "deep": deep,
        "ok": report.ok,
        "steps": report.steps,
        "indexes": report.indexes,
        "packs": report.packs,
        "records": report.records,
        "unreferenced_bytes": report.unreferenced_bytes,
        "problems": [
            {
                "kind": problem.kind,
                "where": problem.where,
                "offset": problem.offset,
                "message": problem.message,
                "affected": [{"step": step, "fqn": fqn} for step, fqn in map(_split, problem.affected)],
            }
            for problem in report.problems
        ],
    }


def _print(output: Output, deep: bool, report: VerifyReport) -> None:
    parts = [
        count(report.steps, "step"),
        count(report.indexes, "index", "indexes"),
        count(report.packs, "pack"),
        *[count(report.records, "record") + " decoded"] * deep,
    ]
    output.line(f"checked {', '.join(parts)}")
    if report.unreferenced_bytes:
        unlisted = (
            "are in no step: left by saves that failed or still run" if report.ok else "are in no step that reads"
        )
        output.line(f"{format_size(report.unreferenced_bytes)} {unlisted}")
    if report.ok:
        output.line("no problems" + ("" if deep else "; --deep also checks the contents"), "green")
        return
    output.line()
    output.table(
        ["kind", "~where", ">byte", "~what is wrong", "~affected steps and tensors"],
        (
            [
                problem.kind,
                problem.where,
                "" if problem.offset is None else f"{problem.offset}",
                problem.message,
                _summary(problem),
            ]
            for problem in report.problems
        ),
    )
    output.line()
    output.line(f"{count(len(report.problems), 'problem')}; what is not listed can be read", "bold red")
    output.error_line("hint", "get the objects back from a copy of the store, or save the affected steps anew", "bold")


def _summary(problem: Problem) -> str:
    """What a problem affects, by step, and only the first few where there are many."""
    steps: dict[str, list[str]] = {}
    for step, fqn in map(_split, problem.affected):
        steps.setdefault(step, []).extend([] if fqn is None else [fqn])
    named = [f"{step} ({_few(fqns, _NAMES_SHOWN)})" if fqns else step for step, fqns in steps.items()]
    return _few(named, _STEPS_SHOWN, "; ") or "-"


def _few(names: Sequence[str], most: int, separator: str = ", ") -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return separator.join([*names[:most], *more])
