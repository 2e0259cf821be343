"""Signature objects: section 13 of ``docs/format.md``. Who vouches for a manifest, and with it for all below it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from deltackpt.errors import CorruptObjectError
from deltackpt.format.hashing import Buffer, blake3_digest
from deltackpt.format.keys import MANIFESTS, StepKey, manifest_key
from deltackpt.format.magic import check_magic

__all__ = ["SIGNATURES", "Signature", "decode_signature", "encode_signature", "signature_key", "signed_message"]

MAGIC = b"DKSIGN01"
SIGNATURES = "signatures/"
_BODY = struct.Struct("<8s32s64s")


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature (RFC 8032).

    Attributes:
        public_key: 32 bytes, of whoever signed.
        signature: 64 bytes.
    """

    public_key: bytes
    signature: bytes


def signature_key(key: StepKey, public_key: bytes) -> str:
    """The key of the signature that the owner of a public key (32 bytes) gave a manifest."""
    return f"{SIGNATURES}{manifest_key(key).removeprefix(MANIFESTS)}/{public_key.hex()}"


def signed_message(store_id: str, key: StepKey, manifest: Buffer) -> bytes:
    """What is signed: this manifest, at this place, in this store, so that none can stand in for another.

    Args:
        store_id: the 32 hex digits of ``store.json``.
        manifest: the bytes of the manifest.
    """
    return b"\0".join((b"deltackpt manifest 1", bytes.fromhex(store_id), manifest_key(key).encode())) + blake3_digest(
        manifest
    )


def encode_signature(signature: Signature) -> bytes:
    """The bytes of a signature object."""
    return _BODY.pack(MAGIC, signature.public_key, signature.signature)


def decode_signature(data: Buffer, *, source: str) -> Signature:
    """The signature object that ``data`` is. Says nothing of whether the signature is right.

    Raises:
        TruncatedObjectError, CorruptObjectError, UnknownVersionError: it is none.
    """
    check_magic(data, MAGIC, "signature", source=source)
    if memoryview(data).nbytes != _BODY.size:
        raise CorruptObjectError(
            f"a signature object has {_BODY.size} bytes, not {memoryview(data).nbytes}", where=source
        )
    _, public_key, signature = _BODY.unpack(data)
    return Signature(public_key, signature)
