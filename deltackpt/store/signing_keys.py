"""Keys for signatures: Ed25519 (RFC 8032) by the package ``cryptography``, in PEM files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deltackpt.errors import BackendError, InvalidArgumentError, MissingPackageError, ObjectExistsError
from deltackpt.format.signature import Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SigningKey", "TrustedKey", "make_keys"]

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, read from a file by :meth:`read`."""

    _key: Ed25519PrivateKey

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SigningKey:
        """The key in a PEM file (PKCS #8, not encrypted), as :func:`make_keys` writes it.

        Raises:
            InvalidArgumentError: the file is no such key.
            BackendError: it cannot be read.
            MissingPackageError: ``cryptography`` is not installed.
        """
        _demand_cryptography()
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        def load(data: bytes) -> Ed25519PrivateKey | None:
            key = serialization.load_pem_private_key(data, password=None)
            return key if isinstance(key, ed25519.Ed25519PrivateKey) else None

        return cls(_read_key(path, "private", load))

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._key.public_key().public_bytes_raw()

    @property
    def trusted(self) -> TrustedKey:
        """The public key that its signatures are checked with."""
        return TrustedKey(self._key.public_key())

    def sign(self, message: bytes) -> Signature:
        """The signature of a message."""
        return Signature(self.public_key, self._key.sign(message))


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, read from a file by :meth:`read`."""

    _key: Ed25519PublicKey

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TrustedKey:
        """The key in a PEM file (SubjectPublicKeyInfo), as :func:`make_keys` writes it.

        Raises:
            InvalidArgumentError: the file is no such key.
            BackendError: it cannot be read.
            MissingPackageError: ``cryptography`` is not installed.
        """
        _demand_cryptography()
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        def load(data: bytes) -> Ed25519PublicKey | None:
            key = serialization.load_pem_public_key(data)
            return key if isinstance(key, ed25519.Ed25519PublicKey) else None

        return cls(_read_key(path, "public", load))

    @property
    def public_key(self) -> bytes:
        """Its 32 bytes."""
        return self._key.public_bytes_raw()

    def accepts(self, signature: Signature, message: bytes) -> bool:
        """Whether its owner signed the message so."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature.signature, message)
        except InvalidSignature:
            return False
        return signature.public_key == self.public_key


def make_keys(path: str | os.PathLike[str]) -> Path:
    """Write a new private key to ``path``, for its owner alone to read, and its public key beside it.

    Returns:
        The file of the public key: ``path`` with ``.pub`` added.

    Raises:
        ObjectExistsError: one of the files is there; neither was written.
        BackendError: they cannot be written.
        MissingPackageError: ``cryptography`` is not installed.
    """
    _demand_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    private = Path(path)
    public = private.with_name(private.name + ".pub")
    for file in (private, public):
        if file.exists():
            raise ObjectExistsError("the file is there already", where=str(file), hint="choose another name")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(private, secret, 0o600)
    _write(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def _demand_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise MissingPackageError(
            "signatures need the package cryptography", hint="install it: pip install 'deltackpt[signing]'"
        )


def _read_key(path: str | os.PathLike[str], which: str, load: Callable[[bytes], Key | None]) -> Key:
    """The key in a file.

    Args:
        which: "private" or "public", for messages.
        load: makes a key of the file's bytes, or None where they hold another kind; raises TypeError where a password
            is missing and ValueError where they hold no key.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BackendError(f"cannot read the key: {error.strerror or error}", where=os.fspath(path)) from error
    key, cause = None, None
    try:
        key = load(data)
    except (TypeError, ValueError) as error:
        cause = error
    if key is None:
        raise InvalidArgumentError(
            f"this is no {which} Ed25519 key in PEM form" + (f": {cause}" if cause else ""),
            where=os.fspath(path),
            hint="`deltackpt keygen FILE` makes a pair of keys: FILE and FILE.pub",
        ) from cause
    return key


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except OSError as error:
        raise BackendError(f"cannot write the key: {error.strerror or error}", where=str(path)) from error
