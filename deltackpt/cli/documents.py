"""The JSON objects that several commands have in their output. Their keys are listed in ``docs/cli.md``."""

from __future__ import annotations

from deltackpt.cli.failure import Failure
from deltackpt.store.listing import ListedStep

__all__ = ["error_document", "step_document"]


def step_document(step: ListedStep) -> dict[str, object]:
    """A step, from its header, notes and tags."""
    header = step.header
    return {
        "step": header.key.step,
        "branch": header.key.branch,
        "generation": header.key.generation,
        "parent": None if header.parent is None else f"{header.parent.branch}:{header.parent.step}",
        "created": header.created,
        "is_key": header.is_key,
        "chain_key": f"{header.chain_key[0]}:{header.chain_key[1]}",
        "distance": header.distance,
        "depth": header.depth,
        "raw_bytes": header.raw_bytes,
        "stored_bytes": step.stored_bytes,
        "restore_bytes": header.restore_bytes,
        "metrics": dict(step.metrics),
        "tags": list(step.tags),
        "artifacts": {
            name: {
                "raw_bytes": totals.raw_bytes,
                "stored_bytes": totals.stored_bytes,
                "entries": totals.entries,
            }
            for name, totals in header.artifacts.items()
        },
        "writer": dict(header.writer),
    }


def error_document(failure: Failure) -> dict[str, object]:
    """What went wrong."""
    return {
        "kind": failure.kind,
        "message": failure.message,
        "where": failure.where,
        "offset": failure.offset,
        "hint": failure.hint,
    }
