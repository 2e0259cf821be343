"""From exceptions to what the command line says about them, and its exit codes."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from typing import Any

import typer

from deltackpt.errors import (
    BackendError,
    CorruptObjectError,
    DeltackptError,
    MissingObjectError,
    TransientBackendError,
    UnknownVersionError,
    UntrustedObjectError,
)

__all__ = ["EXIT_CLOSED", "EXIT_INTERRUPTED", "Failure", "describe"]

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT
EXIT_CLOSED = 141  # as a shell reports SIGPIPE
_EXIT_UNEXPECTED = 1

_DAMAGE_HINT = "run `deltackpt verify STORE --deep` to see which steps and tensors this concerns; others can be read"

# In place of hints that speak of what the command line has no option for.
_OPTION_HINTS: dict[type[DeltackptError], str] = {
    UntrustedObjectError: "if you trust whoever wrote the store, pass --trust-objects",
}

# Arguments in Python (`force=True`, `only='model'`, `max_shard_bytes=`), as hints have them, are options here.
_ARGUMENT = re.compile(r"\b([a-z]+(?:_[a-z]+)*)=(?:True\b|'([^']*)'|(\d+)\b|(?=[ ;,]|$))")
_RENAMED = {"max_shard_bytes": "max-shard-size", "base_memory": "memory", "threads": "workers"}

# What to do about errors that do not say so themselves; the first class that fits. docs/errors.md says more.
_HINTS: tuple[tuple[type[DeltackptError], str], ...] = (
    (UnknownVersionError, "use a newer deltackpt"),
    (TransientBackendError, "try again"),
    (BackendError, "check the disk, the permissions and the free space there"),
)

# What the library behind typer raises for wrong arguments; typer exports its subclasses only.
_UsageError = typing.cast("type[Exception]", typer.BadParameter.__mro__[1])


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a command failed.

    Attributes:
        kind: of the error, as in ``docs/errors.md``; ``usage`` or ``internal`` for what is no ``DeltackptError``.
        message: what went wrong, in one sentence.
        where: the object, file or name it concerns.
        offset: the byte in it.
        hint: what to do next.
        exit_code: of the process.
    """

    kind: str
    message: str
    where: str | None
    offset: int | None
    hint: str | None
    exit_code: int

    @property
    def text(self) -> str:
        """The place and the message in one line."""
        place = "" if self.where is None else self.where if self.offset is None else f"{self.where}, byte {self.offset}"
        return f"{place}: {self.message}" if place else self.message


def describe(error: BaseException) -> Failure:
    """What to say about an exception."""
    if isinstance(error, DeltackptError):
        return Failure(error.kind, error.message, error.where, error.offset, _hint(error), error.exit_code)
    if isinstance(error, _UsageError):
        return _describe_usage(error)
    return Failure(
        kind="internal",
        message=f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}",
        where=None,
        offset=None,
        hint="this is a bug; please report it, with the traceback that DELTACKPT_DEBUG=1 shows",
        exit_code=_EXIT_UNEXPECTED,
    )


def _hint(error: DeltackptError) -> str | None:
    if type(error) in _OPTION_HINTS and "=True" in (error.hint or ""):
        return _OPTION_HINTS[type(error)]
    hint = None if error.hint is None else _ARGUMENT.sub(_as_option, error.hint)
    if isinstance(error, (CorruptObjectError, MissingObjectError)) and "deltackpt verify" not in (hint or ""):
        # Hints of backends name a likely cause.
        return "; ".join(filter(None, [hint, _DAMAGE_HINT]))
    return hint or next((hint for cls, hint in _HINTS if isinstance(error, cls)), None)


def _as_option(found: re.Match[str]) -> str:
    name = _RENAMED.get(found[1], found[1].replace("_", "-"))
    value = found[2] or found[3]
    return f"--{name} {value}" if value else f"--{name}"


def _describe_usage(error: Any) -> Failure:
    context = error.ctx
    command = "deltackpt" if context is None else context.command_path
    return Failure("usage", error.format_message(), None, None, f"see `{command} --help`", int(error.exit_code))
