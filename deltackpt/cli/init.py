"""``deltackpt init``: make a store."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.store.options import CHAINS, StoreOptions
from deltackpt.text import parse_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "init"
EXAMPLE = "deltackpt init runs/gpt --key-every 32"

_DEFAULTS = StoreOptions()


def command(
    store: StoreArgument,
    chain: Annotated[
        str,
        typer.Option(
            metavar="CHAIN",
            help="What deltas are taken against: previous (the step before), anchor (the last key step), skip (few "
            "deltas lead to any step), or auto (what measurements favour).",
            autocompletion=lambda: list(CHAINS),
        ),
    ] = _DEFAULTS.chain,
    key_every: Annotated[
        int, typer.Option(metavar="N", help="A step that needs no other at least every N steps.")
    ] = _DEFAULTS.key_every,
    max_depth: Annotated[
        int, typer.Option(metavar="N", help="The most records that one block may take to decode.")
    ] = _DEFAULTS.max_depth,
    block_elements: Annotated[
        int, typer.Option(metavar="N", help="The most elements of a block.")
    ] = _DEFAULTS.block_elements,
    pack_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="The size at which a pack is closed, such as 64MiB.")
    ] = f"{_DEFAULTS.pack_bytes >> 20}MiB",
    level: Annotated[int, typer.Option(metavar="N", help="The zstd level.")] = _DEFAULTS.level,
    as_json: JsonOption = False,
) -> None:
    """Make a new store in an empty or new folder."""
    output = Output(as_json)
    if store.lower().startswith("memory://"):
        raise InvalidArgumentError(
            "a store in memory would end with this command", where=store, hint="give a path, or file:///PATH"
        )
    made = Store.create(
        store,
        chain=chain,
        key_every=key_every,
        max_depth=max_depth,
        block_elements=block_elements,
        pack_bytes=parse_size(pack_bytes),
        level=level,
    )
    options = made.options.to_mapping()
    config = made.opened.config
    if output.json:
        output.document(
            {"url": made.url, "id": made.id, "format": config.format, "created": config.created, "options": options}
        )
        return
    output.line(f"made a store at {made.url}")
    output.facts((name.replace("_", "-"), str(value)) for name, value in options.items())
    output.line("save into it with deltackpt.dcp.DeltaStorageWriter, then look with `deltackpt log`")
