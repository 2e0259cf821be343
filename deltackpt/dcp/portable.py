"""Errors that survive the way to other ranks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from deltackpt.errors import DeltackptError

__all__ = ["portable", "portable_errors"]


def portable(error: Exception) -> Exception:
    """The error itself if it survives a pickle, which is how DCP takes it to other ranks; else one with its words.

    Of an error that cannot be pickled DCP would tell nobody: the rank that has it leaves the collective, and all
    others wait there.
    """
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - bytes made on this line
    except Exception:  # a pickle can raise anything
        replacement = DeltackptError(f"{type(error).__name__}: {error}")
        replacement.__cause__ = error
        return replacement
    return error


@contextmanager
def portable_errors() -> Iterator[None]:
    """Raises what is raised inside as an error that can be pickled."""
    try:
        yield
    except Exception as error:
        carried = portable(error)
        if carried is error:
            raise
        raise carried from error
