"""``deltackpt annotate``: add metrics that came after a step was saved."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StepArgument, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.manifest import Metric
from deltackpt.text import format_metrics

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "annotate"
EXAMPLE = "deltackpt annotate runs/gpt 5000 mmlu=0.31 suite=v2"

_NOT_FINITE = ("nan", "inf", "-inf")


def command(
    store: StoreArgument,
    step: StepArgument,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Numbers, true, false, null or text.")],
    as_json: JsonOption = False,
) -> None:
    """Add metrics that came after a step was saved, such as evaluations.

    `log --where`, `best:METRIC` and `prune --keep-best` read them like those recorded with the step.
    """
    output = Output(as_json)
    metrics = dict(map(_parse, values))
    opened = Store.open(store)
    opened.annotate(step, metrics)
    info = opened.step(step).info
    if output.json:
        output.document({"url": opened.url, "step": info.step, "branch": info.branch, "metrics": dict(info.metrics)})
    else:
        output.line(f"{info.branch}:{info.step}  {format_metrics(dict(info.metrics))}")


def _parse(text: str) -> tuple[str, Metric]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidArgumentError(f"{text!r} is not NAME=VALUE", hint=f"for example: {EXAMPLE}")
    if value in _NOT_FINITE:
        return name, float(value)
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, parsed if parsed is None or isinstance(parsed, (bool, int, float, str)) else value
