"""``docs/scaling.md`` from the figures of :mod:`benchmarks.scaling`. Pure: no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.page import seconds, size, table

__all__ = ["render"]

_LIMIT = 1 << 32
"""Bytes of one section of a manifest: docs/format.md, section 8."""


def render(found: Mapping[str, Any], where: str = "") -> str:
    """The page.

    Args:
        where: in words, where it was measured.
    """
    fits, constants = found["fits"], found["constants"]
    sizes = table(
        ["state", "key save", "delta save", "load of the delta", "memory of a save", "memory of a load"],
        (
            [
                size(row["raw"]),
                *(seconds(row[name]) for name in ("save_key", "save_delta", "load")),
                *(f"{row[name] / row['raw']:.2f} of the state" for name in ("save_memory", "load_memory")),
            ]
            for row in found["sizes"]
        ),
    )
    steps = table(
        ["steps", "manifests", "log", "gc, dry run"],
        (
            [f"{row['steps']:,}", size(row["manifest_bytes"]), seconds(row["log"]), seconds(row["gc"])]
            for row in found["steps"]
        ),
    )
    exponents = table(
        ["operation", "grows with", "exponent"],
        (
            [name.replace("_", " "), "bytes" if name not in ("log", "gc") else "steps", f"{fit['exponent']:.2f}"]
            for name, fit in fits.items()
        ),
    )
    scaled = table(
        [
            *("model", "ranks", "state", "delta step", "blocks", "files"),
            *("manifest", "indexes", "gathered", "commit", "save", "restore"),
        ],
        (
            [
                row["model"],
                f"{row['ranks']:,}",
                *(size(row[name]) for name in ("state", "stored")),
                f"{row['blocks']:,}",
                f"{row['files']:,}",
                *(size(row[name]) for name in ("manifest", "indexes", "gathered")),
                *(seconds(row[name]) for name in ("commit", "save", "restore")),
            ]
            for row in found["scaled"]
        ),
    )
    return f"""# Scaling

Written by `python -m benchmarks.scaling --doc docs/scaling.md` from what it measured; figures that are not measured
are said to be projected.

## The size of a state

Synthetic AdamW states in float32 whose elements all change a little. Seconds are of the processor, over all threads;
memory is the most that the process took. For a save that is beyond the state: base blocks for the next save, as much as
the state and, while they change, up to twice that; and up to 64 MiB for each pack that fills or is being put. For a
load the state itself is in it twice, as arrays and as bytes.

{sizes}
## The number of steps

Real manifests over objects of a few bytes, one step in ten pruned, in memory.

{steps}
## Exponents

Least squares of the logarithms. 1 is proportional; below 1 a fixed cost still shows.

{exponents}
## Large runs, projected

Measured on small real stores: {constants["manifest_block"]:.1f} bytes of manifest and
{constants["index_block"]:.1f} of index for each block, {constants["manifest_writer"]:.0f} bytes of manifest for each
writer and step of the closure, {constants["gather_item"]:.0f} bytes gathered for each item and
{constants["gather_rank"]:,.0f} for each rank, {1e6 * constants["commit_block"]:.1f} µs of the coordinator for each
block, {constants["encode"] / 1e6:,.0f} MB/s encoded and {constants["decode"] / 1e6:,.0f} MB/s decoded on a core.

These are taken to states of 14 bytes a parameter (bf16 weights, float32 master and two moments) whose every tensor is
sharded over all ranks, chains of 16 steps, and 8 cores a rank. `save` and `restore` are the coding of one rank; the
disk's time is bytes over bandwidth and overlaps with it. `commit` is one process's.

{scaled}
## What breaks first

{_first(found["scaled"])}
"""


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['model']} on {row['ranks']:,} ranks"


def _first(rows: Sequence[Mapping[str, Any]]) -> str:
    """In words: where metadata outgrows the data, the coordinator its minute, and a manifest its format."""
    findings = []
    small = next((row for row in rows if row["manifest"] + row["indexes"] > 0.01 * row["stored"]), None)
    if small is not None:
        metadata = size(small["manifest"] + small["indexes"])
        findings.append(
            "**Small shards.** Every rank has a shard of every tensor, and every shard is a block: their number grows\n"
            f"   with the ranks, not with the model. {_where(small)} have {small['blocks']:,} blocks, and metadata is\n"
            f"   above 1% of a delta step ({metadata} of {size(small['stored'])})."
        )
    slow = next((row for row in rows if row["commit"] > 60), None)
    if slow is not None:
        findings.append(
            f"**The coordinator.** It proves every block in one process: for {_where(slow)} that takes\n"
            f"   {seconds(slow['commit'])}, and {size(slow['gathered'])} are sent to it."
        )
    most = max(rows, key=lambda row: float(row["manifest"]))
    if most["manifest"] > _LIMIT:
        findings.append(
            "**The manifest.** One section of it has at most 4 GiB; that of\n"
            f"   {_where(most)} would need {size(most['manifest'])}."
        )
    else:
        findings.append(
            f"**Not the format of the manifest.** The largest here, of {_where(most)}, has\n"
            f"   {size(most['manifest'])}, and one section of it may have 4 GiB. Every rank reads it at a load."
        )
    files = max(rows, key=lambda row: int(row["files"]))
    findings.append(
        f"**Files.** Each rank puts at least two packs and an index: {files['files']:,} objects for a step of\n"
        f"   {_where(files)}."
    )
    return "\n".join(f"{number}. {text}" for number, text in enumerate(findings, 1))
