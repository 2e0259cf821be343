"""Steps that a command passes over because they are damaged: named, and in the exit code."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from deltackpt.cli.failure import describe
from deltackpt.cli.output import Output
from deltackpt.store.listing import DamagedStep

__all__ = ["exit_as_damaged", "warn_of_damaged"]


def warn_of_damaged(output: Output, damaged: Sequence[DamagedStep]) -> None:
    """Name the steps, why each cannot be read, and what to do, on standard error."""
    for step in damaged:
        output.error_line("warning", f"{step.name} is left out: {describe(step.error).text}", "bold yellow")
    hint = describe(damaged[0].error).hint if damaged else None
    if hint is not None:
        output.error_line("hint", hint, "bold")


def exit_as_damaged(damaged: Sequence[DamagedStep]) -> None:
    """End the command, where there are such steps, with the exit code of the first one's error.

    Raises:
        typer.Exit: there are some.
    """
    if damaged:
        raise typer.Exit(describe(damaged[0].error).exit_code)
