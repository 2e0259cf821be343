"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = ["JsonOption", "StepArgument", "StoreArgument"]

StoreArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STORE", help="Path or URL of the store.")]

StepArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="STEP", help="1000, latest, BRANCH:1000 or BRANCH:latest; the branch is main if none.")
]

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output instead of text.")
]
