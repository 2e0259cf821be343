"""``deltackpt restore``: get a step back as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StepArgument, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.cli.watched import WatchedBackend
from deltackpt.store.opened import open_store
from deltackpt.text import count, format_size, parse_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "restore"
EXAMPLE = "deltackpt restore runs/gpt 1000 --out restored/"


def command(
    store: StoreArgument,
    step: StepArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to make; it appears once all is there.")
    ],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="original: the imported files, byte for byte. torch: model.pt, optim.pt, train.pt, config.yaml. olmo: "
            "these four, as OLMo resumes from. safetensors, hf: weights as model.safetensors, under the names of the "
            "state or those of transformers. dcp: a folder for dcp.load. Default: original if imported, else torch.",
            autocompletion=lambda: ["original", "torch", "olmo", "safetensors", "hf", "dcp"],
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="ARTIFACT", help="Only this artifact, such as model.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder if it is there, with all that is in it.")
    ] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Where to cut files of safetensors and hf; 5GB if not given.",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", metavar="N", help="With olmo: rank0.pt and so on of N ranks, in place of whole files."),
    ] = None,
    trust_objects: Annotated[
        bool,
        typer.Option(
            "--trust-objects",
            help="Load objects that are pickles. They can run any code: only for stores of people you trust.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a step as files: those that were imported, or a format that other tools read."""
    output = Output(as_json)
    opened = Store.open(store)
    found = opened.step(step)
    name = f"{found.key.branch}:{found.key.step}"
    with output.progress(f"restoring {name}", size=True) as tick:
        if tick is not None:
            # Of one artifact nobody knows in advance how much of what its records need it shares with others.
            total = found.manifest.header.restore_bytes if only is None else None
            found = _watch(opened, lambda read: tick(read, total)).step(name)
        files = found.restore(
            out,
            file_format,
            only=only,
            force=force,
            trust_objects=trust_objects,
            max_shard_bytes=None if max_shard_size is None else parse_size(max_shard_size),
            ranks=ranks,
        )
    sizes = [(str(path), path.stat().st_size) for path in files]
    if output.json:
        output.document(
            {
                "url": opened.url,
                "branch": found.key.branch,
                "step": found.key.step,
                "generation": found.key.generation,
                "format": file_format or found.default_format,
                "files": [{"path": path, "bytes": size} for path, size in sizes],
            }
        )
        return
    output.table(["file", ">size"], ([path, format_size(size)] for path, size in sizes))
    output.line()
    output.line(f"restored {name} to {count(len(sizes), 'file')}, every block checked against its hash")


def _watch(store: Store, on_read: Callable[[int], None]) -> Store:
    """The same store, opened so that its reads are counted."""
    return Store(open_store(WatchedBackend(store.opened.backend, on_read)))
