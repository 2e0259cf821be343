"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = [
    "DEFAULT_MEMORY",
    "BranchOption",
    "IntoOption",
    "JsonOption",
    "MemoryOption",
    "PatternOption",
    "StepArgument",
    "StoreArgument",
    "WorkersOption",
]

DEFAULT_MEMORY = "384MiB"
"""Of :data:`MemoryOption`."""

StoreArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STORE", help="Path or URL of the store.")]

StepArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="STEP", help="1000, latest, tag:NAME, best:METRIC[:min|max] or @2026-06-07; BRANCH:... if not main."
    ),
]

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output instead of text.")
]

BranchOption: TypeAlias = Annotated[str, typer.Option("--branch", metavar="NAME", help="The line of steps to add to.")]

IntoOption: TypeAlias = Annotated[str, typer.Option("--store", metavar="STORE", help="Path or URL of the store.")]

PatternOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="PATH",
        help="Which paths in there are checkpoints: 'ckpt_{step}.pt'.",
    ),
]

WorkersOption: TypeAlias = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="How many threads work; one a core by default.")
]

MemoryOption: TypeAlias = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="For blocks that the next step is predicted from.")
]
