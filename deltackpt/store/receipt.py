"""What one writer of a step reports to whoever commits it."""

from __future__ import annotations

from dataclasses import dataclass

from deltackpt.store.chain_choice import ChainChoice
from deltackpt.store.pending import Ticket

__all__ = ["WriterReceipt"]


@dataclass(frozen=True, slots=True)
class WriterReceipt:
    """Names a writer's index object; small, because it is gathered from every rank.

    Attributes:
        index: the BLAKE3 name of the index object.
        index_bytes: its length.
        duplicates: blocks that were stored before and not written again.
        bases_cached, bases_decoded: base blocks found in memory, and those decoded from the store.
        pending: the writer's announcement; who commits removes it.
        chain: the chain policy that it followed.
    """

    index: bytes
    index_bytes: int
    duplicates: int
    bases_cached: int
    bases_decoded: int
    pending: Ticket
    chain: ChainChoice
