"""Names of steps and keys of objects: section 3 of ``docs/format.md``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deltackpt.errors import InvalidArgumentError, InvalidNameError
from deltackpt.format.hashing import DIGEST_BYTES

__all__ = [
    "BRANCHES",
    "CONFIG_YAML",
    "INDEXES",
    "MANIFESTS",
    "MARKS",
    "MAX_GENERATION",
    "MAX_STEP",
    "NOTES",
    "PACKS",
    "PARITY",
    "PENDING",
    "READER_PY",
    "README_TXT",
    "STORE_JSON",
    "TAGS",
    "StepKey",
    "branch_key",
    "branch_prefix",
    "check_branch",
    "check_id",
    "check_tag",
    "index_key",
    "manifest_key",
    "mark_key",
    "note_key",
    "note_prefix",
    "pack_key",
    "parity_key",
    "parse_branch_key",
    "parse_id_key",
    "parse_index_key",
    "parse_manifest_key",
    "parse_note_key",
    "parse_pack_key",
    "parse_parity_key",
    "parse_tag_key",
    "pending_key",
    "step_prefix",
    "tag_key",
]

STORE_JSON = "store.json"
CONFIG_YAML = "deltackpt.yaml"
README_TXT = "README.txt"
READER_PY = "reader.py"
MANIFESTS = "manifests/"
PACKS = "packs/"
INDEXES = "indexes/"
PARITY = "parity/"
PENDING = "pending/"
MARKS = "marks/"
TAGS = "tags/"
BRANCHES = "branches/"
NOTES = "notes/"

MAX_STEP = 10**12 - 1
MAX_GENERATION = 10**6 - 1

# File systems limit one part of a path to 255 bytes; 128 leaves room for a backend's own suffixes.
_BRANCH = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_BRANCH_RE = re.compile(_BRANCH)
_MANIFEST_RE = re.compile(rf"manifests/({_BRANCH})/([0-9]{{12}})/([0-9]{{6}})")
_PACK_RE = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_INDEX_RE = re.compile(r"indexes/([0-9a-f]{64})")
_ID = r"[0-9a-f]{32}"
_ID_RE = re.compile(_ID)
_NAME_KEY_RE = re.compile(rf"(?:tags|branches)/({_BRANCH})")
_NOTE_RE = re.compile(rf"notes/({_BRANCH})/([0-9]{{12}})/({_ID})")


@dataclass(frozen=True, slots=True, order=True)
class StepKey:
    """One generation of one step. Ordered by branch, step, generation.

    Attributes:
        step: 0 to ``MAX_STEP``.
        generation: 1 to ``MAX_GENERATION``.
    """

    branch: str
    step: int
    generation: int

    def __str__(self) -> str:
        return f"{self.branch}:{self.step} (generation {self.generation})"


def _check_name(name: object, what: str) -> str:
    if not isinstance(name, str) or _BRANCH_RE.fullmatch(name) is None:
        raise InvalidNameError(
            f"{name!r} cannot be {what}",
            hint="use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter, a digit or '_'",
        )
    return name


def check_branch(name: object) -> str:
    """The name itself, if a branch may have it: 1 to 128 of ``A-Z a-z 0-9 . _ -``, not starting with ``.`` or ``-``.

    Raises:
        InvalidNameError: it is not.
    """
    return _check_name(name, "the name of a branch")


def branch_prefix(branch: str) -> str:
    """The prefix under which all manifests of a branch are."""
    return f"{MANIFESTS}{check_branch(branch)}/"


def step_prefix(branch: str, step: int) -> str:
    """The prefix under which all generations of a step are."""
    if not 0 <= step <= MAX_STEP:
        raise InvalidArgumentError(f"step {step} is out of range", hint=f"steps are 0 to {MAX_STEP}")
    return f"{branch_prefix(branch)}{step:012d}/"


def manifest_key(key: StepKey) -> str:
    """The key of a manifest. Keys of one branch sort by step, then generation.

    Raises:
        InvalidNameError, InvalidArgumentError: the branch, step or generation is out of range.
    """
    if not 1 <= key.generation <= MAX_GENERATION:
        raise InvalidArgumentError(
            f"generation {key.generation} is out of range", hint=f"generations are 1 to {MAX_GENERATION}"
        )
    return f"{step_prefix(key.branch, key.step)}{key.generation:06d}"


def parse_manifest_key(key: str) -> StepKey | None:
    """The step that a key names, or None for keys that are not those of manifests (temporary files, for example)."""
    found = _MANIFEST_RE.fullmatch(key)
    if found is None or int(found[3]) == 0:
        return None
    return StepKey(found[1], int(found[2]), int(found[3]))


def _hex(digest: bytes) -> str:
    if len(digest) != DIGEST_BYTES:
        raise InvalidArgumentError(f"a BLAKE3 digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    return digest.hex()


def pack_key(name: bytes) -> str:
    """The key of the pack whose BLAKE3 (32 bytes) is ``name``."""
    text = _hex(name)
    return f"{PACKS}{text[:2]}/{text}"


def parse_pack_key(key: str) -> bytes | None:
    """The BLAKE3 that a pack's key names, or None for other keys."""
    found = _PACK_RE.fullmatch(key)
    return None if found is None else bytes.fromhex(found[2])


def index_key(digest: bytes) -> str:
    """The key of the index object whose BLAKE3 (32 bytes; of the whole object, not its identity) is ``digest``."""
    return f"{INDEXES}{_hex(digest)}"


def parse_index_key(key: str) -> bytes | None:
    """The BLAKE3 that an index object's key names, or None for other keys."""
    found = _INDEX_RE.fullmatch(key)
    return None if found is None else bytes.fromhex(found[1])


def parity_key(key: str) -> str:
    """The key of the parity object of the pack, index object or manifest that is at ``key``."""
    return f"{PARITY}{key}"


def parse_parity_key(key: str) -> str | None:
    """The key of the object that a parity object protects, or None for other keys."""
    name = key.removeprefix(PARITY)
    known = name != key and (parse_pack_key(name) or parse_index_key(name) or parse_manifest_key(name))
    return name if known else None


def check_tag(name: object) -> str:
    """The name itself, if a tag may have it: the rule is that for branches.

    Raises:
        InvalidNameError: it is not.
    """
    return _check_name(name, "a tag")


def check_id(value: str) -> str:
    """The id of a pending object, mark or note, if it is 32 hex digits.

    Raises:
        InvalidNameError: it is not.
    """
    if _ID_RE.fullmatch(value) is None:
        raise InvalidNameError(f"{value!r} is not an id", hint="ids are 32 hex digits")
    return value


def pending_key(pending_id: str) -> str:
    """The key of what a save announces."""
    return PENDING + check_id(pending_id)


def mark_key(mark_id: str) -> str:
    """The key of a mark."""
    return MARKS + check_id(mark_id)


def parse_id_key(key: str, prefix: str) -> str | None:
    """The id that the key of a pending object or mark names, or None for other keys."""
    found = key.removeprefix(prefix)
    return found if key.startswith(prefix) and _ID_RE.fullmatch(found) else None


def tag_key(name: str) -> str:
    """The key of a tag."""
    return TAGS + check_tag(name)


def branch_key(name: str) -> str:
    """The key of the object that says where a branch starts."""
    return BRANCHES + check_branch(name)


def parse_tag_key(key: str) -> str | None:
    """The name of a tag, or None for other keys."""
    return _parse_name(key, TAGS)


def parse_branch_key(key: str) -> str | None:
    """The name of the branch whose start a key holds, or None for other keys."""
    return _parse_name(key, BRANCHES)


def _parse_name(key: str, prefix: str) -> str | None:
    found = _NAME_KEY_RE.fullmatch(key)
    return found[1] if found is not None and key.startswith(prefix) else None


def note_prefix(branch: str, step: int) -> str:
    """The prefix under which all notes on a step are."""
    return NOTES + step_prefix(branch, step).removeprefix(MANIFESTS)


def note_key(branch: str, step: int, note_id: str) -> str:
    """The key of one note on a step."""
    return note_prefix(branch, step) + check_id(note_id)


def parse_note_key(key: str) -> tuple[str, int] | None:
    """Branch and step that a note is on, or None for other keys."""
    found = _NOTE_RE.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))
