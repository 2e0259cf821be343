"""Sign the steps of a store, and check who signed them.

A manifest names everything below it by BLAKE3, so a signature over a manifest vouches for the whole step. Tags and
annotations are not signed.
"""

from __future__ import annotations

from deltackpt.errors import BackendError, DeltackptError, MissingObjectError, SignatureError
from deltackpt.format.keys import StepKey, manifest_key
from deltackpt.format.signature import decode_signature, encode_signature, signature_key, signed_message
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import OpenStore
from deltackpt.store.signing_keys import SigningKey, TrustedKey

__all__ = ["check_signature", "sign_steps"]


def sign_steps(store: OpenStore, key: SigningKey) -> tuple[list[StepKey], int]:
    """Sign every visible step that this key has not signed.

    Returns:
        The steps signed now, and how many were signed before.

    Raises:
        CorruptObjectError: a manifest is damaged; it is not signed, and neither are those after it.
    """
    signed, before = [], 0
    for step in visible_steps(store):
        if _is_signed(store, step.key, key.trusted):
            before += 1
            continue
        store.manifest(step.key)  # a damaged one is not vouched for
        data = store.backend.get(manifest_key(step.key))
        signature = key.sign(signed_message(store.config.id, step.key, data))
        store.backend.put(signature_key(step.key, key.public_key), encode_signature(signature))
        signed.append(step.key)
    return signed, before


def _is_signed(store: OpenStore, step: StepKey, key: TrustedKey) -> bool:
    try:
        check_signature(store, step, key)
    except SignatureError:
        return False
    return True


def check_signature(store: OpenStore, step: StepKey, trusted: TrustedKey) -> None:
    """Demand that the owner of a key signed a step as it is now.

    Raises:
        SignatureError: they did not, or something was changed since.
        BackendError: the store cannot be read.
    """
    name = signature_key(step, trusted.public_key)
    try:
        signature = decode_signature(store.backend.get(name), source=name)
        manifest = store.backend.get(manifest_key(step))
    except MissingObjectError as error:
        raise SignatureError(
            "this key has not signed the step", where=manifest_key(step), hint="its owner can: `deltackpt sign`"
        ) from error
    except BackendError:
        raise
    except DeltackptError as error:
        raise SignatureError(error.message, where=name) from error
    if not trusted.accepts(signature, signed_message(store.config.id, step, manifest)):
        raise SignatureError(
            "the signature is not of this manifest",
            where=manifest_key(step),
            hint="the step was changed or put here by somebody else: do not use it",
        )
