"""``deltackpt estimate``: what keeping checkpoints would cost, measured on some that there are."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.format.keys import STORE_JSON
from deltackpt.pipeline.save import default_threads
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.text import count, format_size, parse_size

if TYPE_CHECKING:
    from deltackpt.estimate import Estimate
    from deltackpt.estimate.state import Checkpoint

__all__ = ["EXAMPLE", "NAME", "command", "parse_count"]

NAME = "estimate"
EXAMPLE = "deltackpt estimate checkpoints/ --params 7e9 --every 500 --steps 100000"

_LARGE = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="STORE|FILES...", help="A store; or files and folders, as `deltackpt import` takes."),
    ],
    params: Annotated[
        str | None,
        typer.Option("--params", metavar="N", help="Parameters of the model to be: 7e9 or 7B. As here by default."),
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", metavar="N", min=1, help="Training steps between checkpoints.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="Training steps in all; 100 checkpoints if none.")
    ] = None,
    price: Annotated[
        float, typer.Option("--price", metavar="P", min=0.0, help="Of keeping 10^9 bytes for a month.")
    ] = 0.023,
    disk: Annotated[
        str, typer.Option("--disk", metavar="RATE", help="What the disk or network takes and gives in a second.")
    ] = "1GB/s",
    checkpoints: Annotated[
        int, typer.Option("--checkpoints", metavar="N", min=2, help="Measure the newest N checkpoints.")
    ] = 3,
    sample: Annotated[
        str, typer.Option("--sample", metavar="SIZE", help="How much of each checkpoint to read, about.")
    ] = "128MiB",
    branch: Annotated[
        str, typer.Option("--branch", metavar="NAME", help="The line of steps of a store.")
    ] = DEFAULT_BRANCH,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", metavar="PATH", help="Which paths in FILES are checkpoints: 'ckpt_{step}.pt'."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what several ways to keep the checkpoints of a run would cost: bytes, money a month, seconds.

    Encodes a sample of two or more checkpoints in memory, and decodes and compares it. Writes nothing.
    """
    output = Output(as_json)
    from deltackpt.estimate import EstimateSettings, estimate

    parameters = None if params is None else parse_count(params)
    rate = parse_size(disk.removesuffix("/s"))
    found, notes = _find(sources, branch, pattern, checkpoints)
    with output.progress("encoding samples") as tick:
        result = estimate(
            found,
            EstimateSettings(parse_size(sample), default_threads()),
            every=every,
            steps=steps,
            price=price,
            disk=rate,
            parameters=parameters,
            progress=tick,
        )
    if output.json:
        output.document(_document(result, notes))
    else:
        _print(output, result, notes)


def parse_count(text: str) -> float:
    """A number of parameters: ``7e9``, ``7000000000`` or ``7B``; K, M, B and T are powers of a thousand.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:[eE][0-9]{1,2})?)([kKmMbBtT]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise InvalidArgumentError(f"{text!r} is not a number of parameters", hint="write it as 7e9 or 7B")
    return float(found[1]) * _LARGE[found[2].lower()]


def _find(sources: list[str], branch: str, pattern: str | None, most: int) -> tuple[list[Checkpoint], list[str]]:
    from deltackpt.estimate import checkpoints_of_files, checkpoints_of_store

    if len(sources) == 1 and ("://" in sources[0] or Path(os.path.expanduser(sources[0]), STORE_JSON).is_file()):
        return checkpoints_of_store(Store.open(sources[0]), branch=branch, most=most), []
    return checkpoints_of_files([Path(os.path.expanduser(source)) for source in sources], most=most, pattern=pattern)


def _document(result: Estimate, notes: list[str]) -> dict[str, object]:
    plan = result.plan
    return {
        "checkpoints": [{"name": name, "step": step} for name, step in result.checkpoints],
        "checkpoint_bytes": result.checkpoint_bytes,
        "sampled_bytes": result.sampled_bytes,
        "interval": result.rates.interval,
        "parameters": result.parameters,
        "kinds": [
            {
                "part": kind.part,
                "role": kind.role,
                "dtype": kind.dtype,
                "elements": result.elements.get(kind, 0),
                "raw_bits": kind.bits,
                "key_bits": rate.key,
                "delta_bits": rate.delta,
                "growth_bits": rate.growth,
                "growth_is_measured": rate.growth_is_measured,
            }
            for kind, rate in result.rates.kinds.items()
        ],
        "plan": {
            "parameters": result.projected_parameters,
            "every": plan.every,
            "steps": plan.steps,
            "price": plan.price,
            "disk": plan.disk,
        },
        "policies": [
            {
                "name": one.name,
                "saves": one.saves,
                "bytes": round(one.bytes),
                "monthly_cost": one.monthly_cost,
                "save_seconds": one.save_seconds,
                "restore_seconds": one.restore_seconds,
                "longest_restore_seconds": one.longest_restore_seconds,
                "restores": one.restores,
            }
            for one in result.projections
        ],
        "notes": notes,
    }


def _print(output: Output, result: Estimate, notes: list[str]) -> None:
    plan, rates = result.plan, result.rates
    steps = ", ".join(f"{step:,}" for _, step in result.checkpoints)
    output.line(
        f"measured on {format_size(result.sampled_bytes)} of each of the {format_size(result.checkpoint_bytes)} of "
        f"steps {steps}, {rates.interval:,.0f} steps apart"
    )
    output.line()
    output.table(
        ["part", "role", "dtype", ">elements", ">raw bits", ">key", ">delta", ">longer interval"],
        (
            [
                kind.part,
                kind.role,
                kind.dtype,
                f"{result.elements.get(kind, 0):,}",
                str(kind.bits),
                f"{rate.key:.2f}",
                f"{rate.delta:.2f}",
                f"+{rate.growth:.2f} {'measured' if rate.growth_is_measured else 'assumed'}",
            ]
            for kind, rate in sorted(rates.kinds.items())
        ),
    )
    output.line("bits an element; those of a delta grow by the last column with every doubling of the interval")
    output.line()
    output.line(
        f"{result.projected_parameters:,.0f} parameters, {plan.steps:,} steps, "
        f"{count(plan.saves, 'checkpoint')}; {plan.price:g} a month for 10^9 bytes, disk {plan.disk / 1e6:,.0f} MB/s"
    )
    full = result.projections[0].bytes
    output.table(
        ["policy", ">bytes", ">of full", ">cost a month", ">save", ">restore", ">longest", "restores"],
        (
            [
                one.name,
                format_size(round(one.bytes)),
                f"{100 * one.bytes / full:.1f}%",
                f"{one.monthly_cost:,.2f}",
                _seconds(one.save_seconds),
                _seconds(one.restore_seconds),
                _seconds(one.longest_restore_seconds),
                one.restores,
            ]
            for one in result.projections
        ),
    )
    output.line(f"seconds are those of one machine such as this, with {count(default_threads(), 'thread')}")
    for note in notes:
        output.line(note)


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"
