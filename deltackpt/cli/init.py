"""``deltackpt init``: make a store."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError, ObjectExistsError
from deltackpt.format.keys import CONFIG_YAML
from deltackpt.store.config import config_template
from deltackpt.store.options import CHAINS, StoreOptions
from deltackpt.text import format_size, parse_size

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
    read_factor: Annotated[
        float,
        typer.Option(
            metavar="X", help="How many times its own bytes a read of weights alone may take, for smaller steps."
        ),
    ] = _DEFAULTS.read_factor,
    config: Annotated[
        bool, typer.Option("--config", help="Also write a commented deltackpt.yaml, to be edited.")
    ] = False,
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
        read_factor=read_factor,
    )
    written = _write_config(made) if config else None
    options = made.options.to_mapping()
    about = made.opened.config
    if output.json:
        output.document(
            {
                "url": made.url,
                "id": made.id,
                "format": about.format,
                "created": about.created,
                "options": options,
                "config": written,
            }
        )
        return
    output.line(f"made a store at {made.url}")
    output.facts(
        (name.replace("_", "-"), format_size(made.options.pack_bytes) if name == "pack_bytes" else str(value))
        for name, value in options.items()
    )
    if written is not None:
        output.line(f"wrote {written}, in which all of this can be changed")
    output.line("save into it with deltackpt.dcp.DeltaStorageWriter, then look with `deltackpt log`")


def _write_config(store: Store) -> str:
    """Put the template of a configuration into a store; where it is."""
    try:
        store.opened.backend.put_if_absent(CONFIG_YAML, config_template(store.options))
    except ObjectExistsError as error:
        raise ObjectExistsError(
            "there is a configuration already; the store is made, and goes by it",
            where=f"{store.url}/{CONFIG_YAML}",
            hint="edit it",
        ) from error
    return f"{store.url}/{CONFIG_YAML}"
