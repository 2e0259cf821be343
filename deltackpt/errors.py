"""Every error that deltackpt raises on purpose.

Each class has a stable ``kind`` (for programs), an exit code (for shells) and a message that names the object, the
place in it and the next step. Kinds and exit codes are part of the public interface and are listed in
``docs/errors.md``.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendError",
    "CommitConflictError",
    "CorruptObjectError",
    "DamagedFileError",
    "DeltackptError",
    "IncompleteCheckpointError",
    "IncompleteSaveError",
    "IncompleteStepError",
    "InvalidArgumentError",
    "InvalidNameError",
    "MissingObjectError",
    "MissingPackageError",
    "NotAStoreError",
    "ObjectExistsError",
    "SignatureError",
    "StepExistsError",
    "StepNotFoundError",
    "StoreExistsError",
    "StoreNotFoundError",
    "TensorNotFoundError",
    "TransientBackendError",
    "TruncatedObjectError",
    "UnknownVersionError",
    "UnsafeFileError",
    "UnsupportedDataError",
    "UntrustedObjectError",
]


class DeltackptError(Exception):
    """The base of all errors of this package.

    Args:
        message: what went wrong, in one sentence.
        where: the object, file or name it concerns.
        offset: the byte in ``where`` at which it was noticed.
        hint: what to do next.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        offset: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.offset = offset
        self.hint = hint

    def __str__(self) -> str:
        place = ""
        if self.where is not None:
            place = f"{self.where}: " if self.offset is None else f"{self.where}, byte {self.offset}: "
        return place + self.message + (f" ({self.hint})" if self.hint else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments survive a pickle: DCP carries errors between processes.
        return (_rebuild, (type(self), self.message, self.where, self.offset, self.hint))


def _rebuild(
    cls: type[DeltackptError], message: str, where: str | None, offset: int | None, hint: str | None
) -> DeltackptError:
    return cls(message, where=where, offset=offset, hint=hint)


class InvalidArgumentError(DeltackptError, ValueError):
    """An argument or an option has a value that makes no sense."""

    kind = "invalid-argument"
    exit_code = 2


class InvalidNameError(InvalidArgumentError):
    """A branch, key or file name is not allowed, for example because it would leave its folder."""

    kind = "invalid-name"


class StoreNotFoundError(DeltackptError):
    """Nothing is at the place where a store was to be opened."""

    kind = "store-not-found"
    exit_code = 10


class NotAStoreError(DeltackptError):
    """Something is there, but it is not a deltackpt store."""

    kind = "not-a-store"
    exit_code = 11


class StoreExistsError(DeltackptError):
    """A store was to be created where one is."""

    kind = "store-exists"
    exit_code = 12


class StepNotFoundError(DeltackptError, LookupError):
    """The store has no such step or branch."""

    kind = "step-not-found"
    exit_code = 13


class TensorNotFoundError(DeltackptError, LookupError):
    """The step has no such tensor, object or artifact."""

    kind = "tensor-not-found"
    exit_code = 14


class StepExistsError(DeltackptError):
    """The step is there already and overwriting it was not asked for."""

    kind = "step-exists"
    exit_code = 15


class CommitConflictError(DeltackptError):
    """Somebody else committed the same step first. Nothing of this save is visible."""

    kind = "commit-conflict"
    exit_code = 16


class IncompleteSaveError(DeltackptError):
    """A save ended with less than was planned. Nothing of it is visible."""

    kind = "incomplete-save"
    exit_code = 17


class CorruptObjectError(DeltackptError):
    """Stored bytes are not what was written."""

    kind = "corrupt-object"
    exit_code = 20


class TruncatedObjectError(CorruptObjectError):
    """A stored object ends before its content does."""

    kind = "truncated-object"
    exit_code = 21


class MissingObjectError(DeltackptError):
    """An object that the store refers to is gone."""

    kind = "missing-object"
    exit_code = 22


class UnknownVersionError(DeltackptError):
    """The data was written by a version or codec that this package does not know."""

    kind = "unknown-version"
    exit_code = 23


class IncompleteStepError(DeltackptError):
    """A step lacks what the operation needs, for example an artifact or a part of a tensor."""

    kind = "incomplete-step"
    exit_code = 24


class SignatureError(DeltackptError):
    """A step is not signed by the key that is trusted, or was changed after it was."""

    kind = "signature"
    exit_code = 25


class UntrustedObjectError(DeltackptError):
    """Loading would unpickle bytes from a store; that has to be asked for."""

    kind = "untrusted-object"
    exit_code = 30


class UnsupportedDataError(DeltackptError, TypeError):
    """A tensor or value of a type that cannot be stored or written in the wanted format."""

    kind = "unsupported-data"
    exit_code = 31


class MissingPackageError(DeltackptError, ImportError):
    """What was asked for needs a package that is not installed."""

    kind = "missing-package"
    exit_code = 32


class DamagedFileError(DeltackptError):
    """A file to be imported is truncated or damaged: it contradicts itself. Nothing of its step was committed."""

    kind = "damaged-file"
    exit_code = 33


class UnsafeFileError(DeltackptError):
    """A file to be imported is built to do harm: a bomb, a name that leaves its folder. Nothing was committed."""

    kind = "unsafe-file"
    exit_code = 34


class IncompleteCheckpointError(DeltackptError):
    """A checkpoint to be imported lacks files that a complete one of its layout has, and that was not to be."""

    kind = "incomplete-checkpoint"
    exit_code = 35


class BackendError(DeltackptError, OSError):
    """The place where bytes live failed: disk full, permission denied, I/O error."""

    kind = "backend"
    exit_code = 40

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), {"errno": self.errno})


class TransientBackendError(BackendError):
    """The same, for a cause that passes by itself: throttling, a timeout, a lost connection. Worth a retry."""

    kind = "backend-transient"
    exit_code = 42


class ObjectExistsError(BackendError):
    """A put-if-absent found the key taken."""

    kind = "object-exists"
    exit_code = 41
