"""The options that a store is created with. They steer writers; a reader never needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from deltackpt.errors import InvalidArgumentError
from deltackpt.store.chain import POLICIES

__all__ = ["AUTO", "CHAINS", "MOST_READ_FACTOR", "StoreOptions"]

AUTO = "auto"
CHAINS = (AUTO, *POLICIES)
MOST_READ_FACTOR = 1000


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How steps are written into a store.

    Attributes:
        chain: which step a delta is taken against: ``previous`` (the one before), ``anchor`` (the last key step),
            ``skip`` (such that few deltas lead to any step), or ``auto``, the one of these that measurements favour.
        key_every: a key step at least every this many steps; 1 makes every step a key step.
        max_depth: no block is written that takes more than this many records to decode.
        block_elements: the most elements of a block.
        pack_bytes: the size at which a pack is closed, but for the first of a save, which are smaller; also the most
            memory that one open pack takes.
        level: the zstd level of byte planes.
        read_factor: a weight is predicted from its moments only where reading weights alone then takes at most so many
            times the bytes that it would take without; 1 keeps every artifact readable at no extra cost.
    """

    chain: str = AUTO
    key_every: int = 16
    max_depth: int = 64
    block_elements: int = 1 << 20
    pack_bytes: int = 64 << 20
    level: int = 1
    read_factor: float = 2.0

    def __post_init__(self) -> None:
        if self.chain not in CHAINS:
            raise InvalidArgumentError(f"unknown chain {self.chain!r}", hint=f"one of: {', '.join(CHAINS)}")
        for name, low, high in (
            ("key_every", 1, 1 << 31),
            ("max_depth", 1, 1 << 31),
            ("block_elements", 1, 1 << 27),
            ("pack_bytes", 1 << 10, 1 << 34),
            ("level", -7, 22),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise InvalidArgumentError(f"{name} must be an integer from {low} to {high}, not {value!r}")
        if type(self.read_factor) not in (int, float) or not 1 <= self.read_factor <= MOST_READ_FACTOR:
            raise InvalidArgumentError(
                f"read_factor must be a number from 1 to {MOST_READ_FACTOR}, not {self.read_factor!r}"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, source: str | None = None) -> StoreOptions:
        """Options from a mapping; what is absent takes its default.

        Raises:
            InvalidArgumentError: an unknown name or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidArgumentError(
                f"unknown option {unknown[0]!r}", where=source, hint=f"known: {', '.join(sorted(known))}"
            )
        return cls(**values)  # type: ignore[arg-type]  # checked in __post_init__

    def to_mapping(self) -> dict[str, object]:
        return asdict(self)
