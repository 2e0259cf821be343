"""Which objects that steps need are not what was written. Reads everything, trusts nothing that is remembered."""

from __future__ import annotations

from collections.abc import Iterator

from deltackpt.backend.base import Backend
from deltackpt.errors import BackendError, DeltackptError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import decode_index
from deltackpt.format.keys import index_key, pack_key, parse_index_key, parse_manifest_key, parse_pack_key
from deltackpt.format.manifest import Manifest, decode_manifest

__all__ = ["is_whole", "needed_objects", "read_whole"]


def needed_objects(manifest: Manifest) -> Iterator[str]:
    """The keys of the index objects and packs that a step needs."""
    yield from (index_key(entry.object) for entry in manifest.indexes)
    yield from (pack_key(pack.name) for pack in manifest.packs)


def is_whole(key: str, data: bytes) -> bool:
    """Whether bytes are those that the object of this key was written with.

    Packs and index objects are named by their BLAKE3. A manifest has checksums, and says its own place.
    """
    name = parse_pack_key(key) or parse_index_key(key)
    if name is not None and blake3_digest(data) != name:
        return False
    try:
        if parse_index_key(key) is not None:
            decode_index(data, source=key)
        return name is not None or decode_manifest(data, source=key).header.key == parse_manifest_key(key)
    except DeltackptError:
        return False


def read_whole(backend: Backend, key: str) -> tuple[bytes, bool]:
    """What there is of an object, and whether that is all of it as it was written. Nothing where it is gone.

    Raises:
        BackendError: the place where it lives failed; the object may be whole.
    """
    try:
        data = backend.get(key)
    except BackendError:
        raise
    except DeltackptError:
        return b"", False
    return data, is_whole(key, data)
