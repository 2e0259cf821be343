"""``deltackpt check``: does a step fit what is to be resumed?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltackpt.api import Step, Store
from deltackpt.cli.options import JsonOption, StepArgument, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import IncompleteStepError, InvalidArgumentError
from deltackpt.text import count

if TYPE_CHECKING:
    from deltackpt.formats.check import CheckReport

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "check"
EXAMPLE = "deltackpt check runs/gpt latest --against config.yaml"

_SHOWN = 20


def command(
    store: StoreArgument,
    step: StepArgument,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="WHAT",
            help="A config.yaml of OLMo or config.json of transformers, a file or folder of weights, a folder of DCP, "
            "or another step of the store.",
        ),
    ],
    only: Annotated[
        str, typer.Option("--only", metavar="ARTIFACT", help="The artifact whose tensors are compared.")
    ] = "model",
    as_json: JsonOption = False,
) -> None:
    """Name the tensors that are missing, extra, of another shape or of another dtype, before a resume finds out.

    Where there are any, the exit code is 24. No tensor is read.
    """
    output = Output(as_json)
    opened = Store.open(store)
    found = opened.step(step)
    report = found.check(against if Path(against).exists() else _other_step(opened, against), only=only)
    name = f"{found.key.branch}:{found.key.step}"
    if output.json:
        output.document(
            {
                "url": opened.url,
                "branch": found.key.branch,
                "step": found.key.step,
                "against": report.against,
                "only": only,
                "ok": report.ok,
                "tensors": report.tensors,
                "missing": list(report.missing),
                "extra": list(report.extra),
                "shapes": [{"fqn": n, "has": list(a), "wanted": list(b)} for n, (a, b) in report.shapes.items()],
                "dtypes": [{"fqn": n, "has": a, "wanted": b} for n, (a, b) in report.dtypes.items()],
                "calls": [{"path": path, "names": list(names)} for path, names in report.calls.items()],
            }
        )
    else:
        _print(output, name, report)
        for warning in report.warnings:
            output.line(warning, "bold red")
    if not report.ok:
        raise typer.Exit(IncompleteStepError.exit_code)


def _other_step(store: Store, against: str) -> Step:
    try:
        return store.step(against)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            "there is no such file or folder, and it is not how a step is written",
            where=against,
            hint="name a config.yaml or config.json, a file or folder of weights, a folder of DCP, or a step of the "
            "store (1000, latest, BRANCH:1000, tag:NAME)",
        ) from error


def _print(output: Output, name: str, report: CheckReport) -> None:
    if report.ok:
        output.line(
            f"step {name} has all {count(report.tensors, 'tensor')} of {report.against}, and no others", "green"
        )
        return
    rows = [
        *(["missing", tensor, "", ""] for tensor in report.missing),
        *(["extra", tensor, "", ""] for tensor in report.extra),
        *(["shape", tensor, str(list(has)), str(list(want))] for tensor, (has, want) in report.shapes.items()),
        *(["dtype", tensor, has, want] for tensor, (has, want) in report.dtypes.items()),
    ]
    output.table(["problem", "tensor", "step has", "wanted"], rows[:_SHOWN])
    output.line()
    more = f"; {len(rows) - _SHOWN} more, --json lists all" if len(rows) > _SHOWN else ""
    output.line(f"{count(len(rows), 'difference')} between step {name} and {report.against}{more}", "bold red")
