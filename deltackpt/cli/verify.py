"""``deltackpt verify``: is everything there, and is it what was written?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import CorruptObjectError, InvalidArgumentError, SignatureError
from deltackpt.pipeline.repair import RepairReport
from deltackpt.pipeline.verify import Problem, VerifyReport
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "verify"
EXAMPLE = "deltackpt verify runs/gpt --deep"

_SOURCES = {"copy": "from another store", "duplicates": "from the same blocks in other packs"}
_STEPS_SHOWN = 5
_NAMES_SHOWN = 3


def command(
    store: StoreArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every pack and decode every record that a step needs.")
    ] = False,
    signed_by: Annotated[
        Path | None, typer.Option("--signed-by", metavar="FILE", help="Every step must be signed with this public key.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First put back what is damaged, from parity, --from, or the same blocks in other packs; then --deep.",
        ),
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", metavar="STORE", help="A store to take whole objects from, such as a copy.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the steps that --repair cannot repair.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that every step has all it needs; with --deep, that all of it is what was written.

    Where something is wrong, the exit code is 20, and what is listed says which steps and tensors it concerns.
    """
    if (source is not None or drop) and not repair:
        raise InvalidArgumentError("--from and --drop are for --repair", hint="add --repair")
    output = Output(as_json)
    opened = Store.open(store)
    repaired: RepairReport | None = None
    deep = deep or repair
    if repair:
        other = None if source is None else Store.open(source)
        with output.progress("repairing steps") as tick:
            repaired = opened.repair(source=other, drop=drop, progress=tick)
        if not output.json:
            _print_repair(output, repaired)
    with output.progress("verifying steps") as tick:
        report = opened.verify(deep=deep, signed_by=signed_by, progress=tick)
    if output.json:
        output.document(_document(opened.url, deep, report, repaired))
    else:
        _print(output, deep, report, _hint(report, repaired, source is not None))
    if not report.ok:
        raise typer.Exit(CorruptObjectError.exit_code)


def _split(affected: str) -> tuple[str, str | None]:
    """Step and FQN (None: all of the step) of what a problem affects; the name of a step has no spaces."""
    step, _, fqn = affected.partition(" ")
    return step, fqn or None


def _print_repair(output: Output, report: RepairReport) -> None:
    """What was repaired, what was not, and what that cost."""
    for done in report.repaired:
        how = (
            f"from parity, {count(done.sectors, 'sector')} rebuilt"
            if done.source == "parity"
            else _SOURCES[done.source]
        )
        output.line(f"repaired {done.key} {how}")
    for step in report.rewritten:
        output.line(f"wrote step {step} anew: its blocks were in other packs, too")
    for lost in report.lost:
        output.line(f"cannot repair {lost.key}: {lost.reason}; needed by {_few(lost.steps, _STEPS_SHOWN)}", "bold red")
    for step in report.dropped:
        output.line(f"removed step {step}")
    if not report.repaired and not report.lost:
        output.line(f"{count(report.checked, 'object')} read, nothing to repair")


def _repair_document(report: RepairReport) -> dict[str, object]:
    return {
        "checked": report.checked,
        "repaired": [{"key": done.key, "source": done.source, "sectors": done.sectors} for done in report.repaired],
        "lost": [{"key": lost.key, "reason": lost.reason, "steps": list(lost.steps)} for lost in report.lost],
        "rewritten": list(report.rewritten),
        "dropped": list(report.dropped),
    }


def _document(url: str, deep: bool, report: VerifyReport, repaired: RepairReport | None) -> dict[str, object]:
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
        "repair": None if repaired is None else _repair_document(repaired),
    }


def _print(output: Output, deep: bool, report: VerifyReport, hint: str) -> None:
    parts = [
        count(report.steps, "step"),
        count(report.indexes, "index", "indexes"),
        count(report.packs, "pack"),
        *[count(report.records, "record") + " decoded"] * deep,
    ]
    output.line(f"checked {', '.join(parts)}")
    if report.unreferenced_bytes:
        unlisted = (
            "are in no step: left by deleted steps, or by saves that failed or still run"
            if report.ok
            else "are in no step that reads"
        )
        output.line(f"{format_size(report.unreferenced_bytes)} {unlisted}")
    if report.ok:
        output.line("no problems" + ("" if deep else "; --deep also checks the contents"), "green")
        return
    output.line()
    output.table(
        ["kind", "~where", "~what is wrong", "~affected steps and tensors"],
        ([problems[0].kind, where, _wrong(problems), _summary(problems)] for where, problems in _by_object(report)),
    )
    output.line()
    objects = count(len(_by_object(report)), "object")
    output.line(f"{count(len(report.problems), 'problem')} in {objects}; what is not listed can be read", "bold red")
    output.error_line("hint", hint, "bold")


def _hint(report: VerifyReport, repaired: RepairReport | None, from_copy: bool) -> str:
    if all(problem.kind == SignatureError.kind for problem in report.problems):
        return "the owner of the key signs steps with `deltackpt sign`; what was changed by others is not to be trusted"
    if repaired is None:
        return "`--repair` puts objects back from parity, `--repair --from COPY` from a copy of the store"
    copy = "another copy of the store" if from_copy else "a copy of the store"
    return f"`--repair --from COPY` takes the rest from {copy}; `--repair --drop` removes the steps that stay damaged"


def _by_object(report: VerifyReport) -> list[tuple[str, list[Problem]]]:
    """The problems of each object, for one damaged pack may hold many broken records."""
    found: dict[str, list[Problem]] = {}
    for problem in report.problems:
        found.setdefault(problem.where, []).append(problem)
    return list(found.items())


def _wrong(problems: Sequence[Problem]) -> str:
    """What is wrong with an object, and at which byte, or at how many places."""
    places: dict[str, list[int | None]] = {}
    for problem in problems:
        places.setdefault(problem.message, []).append(problem.offset)
    named = []
    for message, offsets in places.items():
        one = "" if offsets[0] is None else f" (byte {offsets[0]})"
        named.append(message + (f" ({len(offsets)} places)" if len(offsets) > 1 else one))
    return _few(named, _NAMES_SHOWN, "; ")


def _summary(problems: Sequence[Problem]) -> str:
    """What problems affect, by step, and only the first few where there are many."""
    steps: dict[str, list[str]] = {}
    for affected in dict.fromkeys(name for problem in problems for name in problem.affected):
        step, fqn = _split(affected)
        steps.setdefault(step, []).extend([] if fqn is None else [fqn])
    named = [f"{step} ({_few(fqns, _NAMES_SHOWN)})" if fqns else step for step, fqns in steps.items()]
    return _few(named, _STEPS_SHOWN, "; ") or "-"


def _few(names: Sequence[str], most: int, separator: str = ", ") -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return separator.join([*names[:most], *more])
