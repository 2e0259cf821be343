"""``deltackpt protect``: parity against damage."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import CorruptObjectError, InvalidArgumentError
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "protect"
EXAMPLE = "deltackpt protect runs/gpt --share 5%"


def command(
    store: StoreArgument,
    share: Annotated[
        str, typer.Option("--share", metavar="PERCENT", help="How much of each object may be damaged and be repaired.")
    ] = "5%",
    as_json: JsonOption = False,
) -> None:
    """Give every object that a step needs parity, from which `deltackpt verify --repair` repairs damage to it.

    Objects that have parity already are left as they are, so it can be run after every save.
    """
    output = Output(as_json)
    fraction = _share(share)
    opened = Store.open(store)
    with output.progress("computing parity") as tick:
        report = opened.protect(fraction, progress=tick)
    if output.json:
        output.document(
            {
                "url": opened.url,
                "share": fraction,
                "added": report.added,
                "kept": report.kept,
                "damaged": list(report.damaged),
                "parity_bytes": report.parity_bytes,
            }
        )
    else:
        output.line(f"{count(report.added, 'object')} protected now, {report.kept:,} before")
        output.line(f"all parity takes {format_size(report.parity_bytes)}")
        for key in report.damaged:
            output.error_line("warning", f"{key} is damaged already and got no parity", "bold red")
    if report.damaged:
        output.error_line("hint", "`deltackpt verify STORE --deep` says what that concerns", "bold")
        raise typer.Exit(CorruptObjectError.exit_code)


def _share(text: str) -> float:
    """``5%`` as 0.05."""
    hint = "write a percentage above 0% and up to 100%, such as 5%"
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r} is not a share", hint=hint) from error
    if not 0 < share <= 1:
        raise InvalidArgumentError(f"the share of parity cannot be {text!r}", hint=hint)
    return share
