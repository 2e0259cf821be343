"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = ["JsonOption", "StepArgument", "StoreArgument"]

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
