"""What ranks report to the coordinator beside DCP's own ``WriteResult``. Gathered from all ranks, so kept small."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult

from deltackpt.errors import IncompleteSaveError
from deltackpt.store.receipt import WriterReceipt

__all__ = ["ItemNote", "encodings", "receipts", "write_results"]


@dataclass(frozen=True, slots=True)
class ItemNote:
    """The ``storage_data`` of one result.

    Attributes:
        encoding: of an object, how it is kept.
        receipt: the writer's receipt; on its first result only.
    """

    encoding: str | None = None
    receipt: WriterReceipt | None = None


def write_results(items: Iterable[tuple[MetadataIndex, int, str | None]], receipt: WriterReceipt) -> list[WriteResult]:
    """One result for each item (index, bytes, encoding); the first one carries the receipt."""
    return [
        WriteResult(index, size, ItemNote(encoding, receipt if number == 0 else None))
        for number, (index, size, encoding) in enumerate(items)
    ]


def receipts(results: Sequence[Sequence[WriteResult]]) -> list[WriterReceipt]:
    """The receipts of all ranks that wrote something.

    Raises:
        IncompleteSaveError: a rank has results but no receipt.
    """
    found: list[WriterReceipt] = []
    for rank, own in enumerate(results):
        notes = [_note(result).receipt for result in own]
        if own and notes[0] is None:
            raise IncompleteSaveError(f"rank {rank} reports {len(own)} items but no index object")
        found.extend(note for note in notes if note is not None)
    return found


def encodings(results: Sequence[Sequence[WriteResult]]) -> dict[str, str]:
    """FQN to encoding, for all objects."""
    return {
        result.index.fqn: encoding
        for own in results
        for result in own
        if (encoding := _note(result).encoding) is not None
    }


def _note(result: WriteResult) -> ItemNote:
    if not isinstance(result.storage_data, ItemNote):
        raise IncompleteSaveError(
            f"the result for {result.index.fqn} was not made by this writer", hint="use the same writer on all ranks"
        )
    return result.storage_data
