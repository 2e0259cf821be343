"""What goes along with steps that are copied, beside their manifests: branch starts, notes, tags, parity.

All of it can be copied again: what is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from deltackpt.errors import CorruptObjectError
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.keys import MANIFESTS, PARITY, StepKey, manifest_key, note_prefix, parity_key
from deltackpt.format.parity import decode_parity
from deltackpt.format.signature import SIGNATURES
from deltackpt.pipeline.damage import needed_objects
from deltackpt.store.names import find_branch_start, put_branch_start, put_tag, read_tags
from deltackpt.store.opened import OpenStore

__all__ = ["copy_notes", "copy_parity", "copy_start", "copy_tags", "signed_steps"]


def copy_start(source: OpenStore, target: OpenStore, branch: str) -> None:
    """Where a branch begins."""
    start = find_branch_start(source, branch)
    if start is not None and find_branch_start(target, branch) is None:
        put_branch_start(target, branch, start.start)


def copy_notes(source: OpenStore, target: OpenStore, key: StepKey) -> None:
    """Notes have random names: the same name is the same note."""
    prefix = note_prefix(key.branch, key.step)
    there = {found.key for found in target.backend.list(prefix)}
    for found in source.backend.list(prefix):
        if found.key not in there:
            target.backend.put(found.key, source.backend.get(found.key))


def copy_tags(source: OpenStore, target: OpenStore, copied: Sequence[StepKey]) -> tuple[str, ...]:
    """Tags of copied steps, but for those that the target has given to other steps."""
    keys = {(key.branch, key.step): key for key in copied}
    held, given = read_tags(target), []
    for name, tag in sorted(read_tags(source).items()):
        place = (tag.branch, tag.step)
        if place in keys and name not in held:
            put_tag(target, name, keys[place])
            given.append(name)
    return tuple(given)


def copy_parity(source: OpenStore, target: OpenStore, copied: Sequence[StepKey]) -> tuple[int, int]:
    """Parity of the objects that are the same in both stores, where the source has it and the target lacks it.

    Returns:
        The parity objects put, and the objects of these steps in the target that have none although the source keeps
        parity: those that were written anew.
    """
    mine = {found.key for found in source.backend.list(PARITY)}
    if not mine:
        return 0, 0
    there = {found.key for found in target.backend.list(PARITY)}
    put = bare = 0
    wanted: dict[str, None] = {}
    for step in copied:
        wanted |= dict.fromkeys((manifest_key(step), *needed_objects(target.manifest(step))))
    for key in wanted:
        name = parity_key(key)
        if name in there:
            continue
        if name in mine and _put_parity(source, target, key):
            put += 1
        else:
            bare += 1
    return put, bare


def _put_parity(source: OpenStore, target: OpenStore, key: str) -> bool:
    name = parity_key(key)
    data = source.backend.get(name)
    with suppress(CorruptObjectError):
        digest = decode_parity(data, source=name).digest
        # Packs and index objects have their hash for a name; a manifest may have been written anew.
        if not key.startswith(MANIFESTS) or blake3_digest(target.backend.get(key)) == digest:
            target.backend.put(name, data)
            return True
    return False


def signed_steps(source: OpenStore, copied: Sequence[StepKey]) -> int:
    """How many of the steps somebody signed. Signatures name the store and hold in no other."""
    names = [found.key for found in source.backend.list(SIGNATURES)]
    signed = {name.rpartition("/")[0] for name in names}
    return sum(SIGNATURES + manifest_key(key).removeprefix(MANIFESTS) in signed for key in copied)
