"""``deltackpt keygen``: make a pair of keys for signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltackpt.cli.options import JsonOption
from deltackpt.cli.output import Output
from deltackpt.store.signing_keys import make_keys

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "keygen"
EXAMPLE = "deltackpt keygen lab.key"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The private key's file; the public one is FILE.pub.")],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of keys: a private one to sign steps with, and a public one to check them with."""
    output = Output(as_json)
    public = make_keys(file)
    if output.json:
        output.document({"private": str(file), "public": str(public)})
        return
    output.facts([("private", f"{file} (keep it to yourself)"), ("public", f"{public} (give it to readers)")])
