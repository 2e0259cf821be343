"""``deltackpt untag``: take a tag away."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "untag"
EXAMPLE = "deltackpt untag runs/gpt paper"


def command(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tag.")],
    as_json: JsonOption = False,
) -> None:
    """Take a tag away. The step stays."""
    output = Output(as_json)
    opened = Store.open(store)
    opened.untag(name)
    if output.json:
        output.document({"url": opened.url, "removed": name})
    else:
        output.line(f"there is no tag {name} any more")
