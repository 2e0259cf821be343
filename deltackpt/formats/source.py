"""A step as the formats see it: its entries, its artifacts, and the nested state of each with stored tensors in it.

torch takes longer to import than small files to restore, and files that were imported need none of it: it is imported
where a state is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltackpt.errors import TensorNotFoundError
from deltackpt.format.manifest import Entry, Manifest
from deltackpt.formats import nesting
from deltackpt.formats.image import Stored
from deltackpt.formats.recipe import FILE_ROLE
from deltackpt.store.opened import OpenStore
from deltackpt.tensor.box import Box
from deltackpt.tensor.dtypes import by_code

if TYPE_CHECKING:
    import torch

    from deltackpt.formats.torch_image import StoredTensors

__all__ = ["StepSource", "stored_tensor"]


@dataclass(frozen=True, slots=True)
class StepSource:
    """One step, and how it may be read.

    Attributes:
        trust_objects: whether objects that are pickles may be loaded, which lets them run any code.
    """

    store: OpenStore
    manifest: Manifest
    threads: int
    trust_objects: bool = False

    def state_entries(self, only: str | None = None) -> list[Entry]:
        """The tensors and objects of the state (not those that describe files), of one artifact if it is given.

        Raises:
            TensorNotFoundError: the step has no such artifact.
        """
        entries = [entry for entry in self.manifest.entries if entry.role != FILE_ROLE]
        if only is None:
            return entries
        chosen = [entry for entry in entries if entry.artifact == only]
        if not chosen:
            have = sorted({entry.artifact for entry in entries})
            raise TensorNotFoundError(
                f"the step has no artifact {only!r}",
                where=str(self.manifest.header.key),
                hint=f"it has: {', '.join(have) or 'none'}",
            )
        return chosen

    def check_trust(self, entries: Sequence[Entry]) -> None:
        """Make sure that the objects among the entries may be loaded.

        Raises:
            UntrustedObjectError: one is a pickle, and that is not trusted.
        """
        from deltackpt.formats.objects import check_trust

        for entry in entries:
            if entry.kind == "object":
                check_trust(entry.encoding, trust_objects=self.trust_objects, fqn=entry.fqn)

    def parts(self, entries: Sequence[Entry], stored: StoredTensors) -> dict[str, object]:
        """The nested state of each artifact, in alphabetical order. Objects are loaded; tensors stand for stored ones.

        Raises:
            UntrustedObjectError: an object is a pickle, and that is not trusted.
        """
        from deltackpt.formats.state import load_entries

        self.check_trust(entries)
        objects = [entry for entry in entries if entry.kind == "object"]
        values = load_entries(
            self.store, self.manifest, objects, trust_objects=self.trust_objects, threads=self.threads
        )
        placed = [
            nesting.Entry(entry.fqn, entry.path, entry.artifact, _value(entry, values, stored)) for entry in entries
        ]
        parts = nesting.split_parts(placed)
        return {artifact: parts[artifact] for artifact in sorted(parts)}


def _value(entry: Entry, objects: Mapping[str, object], stored: StoredTensors) -> object:
    return objects[entry.fqn] if entry.kind == "object" else stored_tensor(entry, stored)


def stored_tensor(entry: Entry, stored: StoredTensors) -> torch.Tensor:
    """A tensor that stands for all of an entry."""
    dtype = by_code(entry.dtype, where=entry.fqn)
    length = Box.whole(entry.shape).numel * dtype.itemsize
    return stored.add([Stored(entry.fqn, 0, length)] if length else [], dtype, entry.shape, fqn=entry.fqn)
