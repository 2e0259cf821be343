"""``deltackpt sign``: vouch for the steps of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.text import count

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "sign"
EXAMPLE = "deltackpt sign runs/gpt --key lab.key"


def command(
    store: StoreArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key, made by `deltackpt keygen`.")],
    as_json: JsonOption = False,
) -> None:
    """Sign every step that this key has not signed yet; `deltackpt verify --signed-by` checks it."""
    output = Output(as_json)
    opened = Store.open(store)
    signed = opened.sign(key)
    if output.json:
        output.document({"url": opened.url, "signed": signed})
        return
    for step in signed:
        output.line(f"signed {step}")
    output.line(f"{count(len(signed), 'step')} signed now; all steps of the store are signed with this key")
