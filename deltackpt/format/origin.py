"""Whom an error concerns: the bytes being decoded, or the caller who wants something encoded."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.errors import CorruptObjectError, DeltackptError, InvalidArgumentError

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where checked content comes from, so that one check serves encoder and decoder.

    Attributes:
        source: the object being decoded, or None while encoding.
        offset: the byte in it at which the checked part starts.
    """

    source: str | None = None
    offset: int | None = None

    def error(self, message: str) -> DeltackptError:
        """``CorruptObjectError`` while decoding, ``InvalidArgumentError`` while encoding."""
        if self.source is None:
            return InvalidArgumentError(message)
        return CorruptObjectError(
            message, where=self.source, offset=self.offset, hint="run `deltackpt verify --deep` to see what is affected"
        )
