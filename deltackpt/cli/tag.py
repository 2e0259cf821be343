"""``deltackpt tag``: name a step, or list the names."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.store.names import read_tags

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "tag"
EXAMPLE = "deltackpt tag runs/gpt 5000 paper"


def command(
    store: StoreArgument,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="The step. Without it, all tags are listed.")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its tag.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Take the tag from the step that has it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Name a step: then `tag:NAME` means it everywhere, and `prune --keep-tag NAME` keeps it."""
    output = Output(as_json)
    if (step is None) != (name is None):
        raise InvalidArgumentError("which step is to get which tag?", hint=f"for example: {EXAMPLE}")
    opened = Store.open(store)
    if step is not None and name is not None:
        opened.tag(step, name, move=move)
    tags = sorted(read_tags(opened.opened).items())
    if output.json:
        output.document(
            {
                "url": opened.url,
                "tags": [{"name": n, "branch": t.branch, "step": t.step, "created": t.created} for n, t in tags],
            }
        )
    elif name is not None:
        tag = dict(tags)[name]
        output.line(f"{name} is {tag.branch}:{tag.step}")
    elif tags:
        output.table(["tag", "step"], ([n, f"{t.branch}:{t.step}"] for n, t in tags))
    else:
        output.line("no tags yet")
