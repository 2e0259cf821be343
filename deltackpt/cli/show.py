"""``deltackpt show``: what a step is and what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.documents import step_document
from deltackpt.cli.options import JsonOption, StepArgument, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import TensorNotFoundError
from deltackpt.format.manifest import Entry, Manifest, Metric
from deltackpt.store.catalog import find_step, parse_step
from deltackpt.store.listing import ListedStep, describe_step
from deltackpt.tensor.dtypes import by_code
from deltackpt.text import count, format_metrics, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "show"
EXAMPLE = "deltackpt show runs/gpt latest --prefix model."


@dataclass(frozen=True, slots=True)
class _Row:
    entry: Entry
    dtype: str
    raw_bytes: int
    blocks: int


def command(
    store: StoreArgument,
    step: StepArgument,
    prefix: Annotated[str, typer.Option(metavar="P", help="Only tensors and objects whose name starts with P.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show a step: where it stands, its metrics and sizes, its artifacts, tensors and objects."""
    output = Output(as_json)
    opened = Store.open(store).opened
    found = find_step(opened, parse_step(step))
    manifest = opened.manifest(found.key)
    listed = describe_step(opened, manifest.header, found.manifest_bytes)
    rows = _rows(manifest, prefix)
    if prefix and not rows:
        raise TensorNotFoundError(
            f"nothing in step {found.key.branch}:{found.key.step} starts with {prefix!r}",
            where=opened.url,
            hint="`deltackpt show` without --prefix lists everything",
        )
    if output.json:
        output.document(_document(opened.url, manifest, listed, rows))
    else:
        _print(output, manifest, listed, rows)


def _readable(writer: Mapping[str, str | int | float]) -> dict[str, Metric]:
    """What wrote a step, without the state of its schedule: that is for programs, and long."""
    return {name: value for name, value in writer.items() if name != "schedule"}


def _rows(manifest: Manifest, prefix: str) -> list[_Row]:
    rows = []
    for number, entry in enumerate(manifest.entries):
        if not entry.fqn.startswith(prefix):
            continue
        dtype = by_code(entry.dtype, where=entry.fqn)
        elements = sum(box.numel for box in manifest.shard_boxes(number))
        blocks = sum(len(manifest.block_range(number, shard)) for shard in range(entry.shards))
        rows.append(_Row(entry, dtype.name, elements * dtype.itemsize, blocks))
    return rows


def _document(url: str, manifest: Manifest, listed: ListedStep, rows: Sequence[_Row]) -> dict[str, object]:
    return {
        "url": url,
        **step_document(listed),
        "closure": {
            "indexes": len(manifest.indexes),
            "index_bytes": sum(index.size for index in manifest.indexes),
            "packs": len(manifest.packs),
            "pack_bytes": sum(pack.size for pack in manifest.packs),
        },
        "entries": [
            {
                "fqn": row.entry.fqn,
                "kind": row.entry.kind,
                "artifact": row.entry.artifact,
                "role": row.entry.role,
                "dtype": row.dtype,
                "shape": list(row.entry.shape),
                "raw_bytes": row.raw_bytes,
                "shards": row.entry.shards,
                "blocks": row.blocks,
                "requires_grad": row.entry.requires_grad,
                "encoding": row.entry.encoding or None,
            }
            for row in rows
        ],
    }


def _print(output: Output, manifest: Manifest, listed: ListedStep, rows: Sequence[_Row]) -> None:
    header = manifest.header
    parent = "none" if header.parent is None else f"{header.parent.branch}:{header.parent.step}"
    chain = f"{header.chain_key[0]}:{header.chain_key[1]}"
    output.facts(
        [
            ("step", f"{header.key.branch}:{header.key.step}"),
            ("generation", str(header.key.generation)),
            ("created", header.created),
            ("parent", parent),
            (
                "kind",
                "key: needs no other step" if header.is_key else f"delta, {header.distance} after key step {chain}",
            ),
            ("depth", str(header.depth)),
            ("raw", format_size(header.raw_bytes)),
            ("stored", f"{format_size(listed.stored_bytes)} added by this step"),
            ("restore", f"{format_size(header.restore_bytes)} to read"),
            ("closure", f"{count(len(manifest.indexes), 'index', 'indexes')}, {count(len(manifest.packs), 'pack')}"),
            ("metrics", format_metrics(dict(listed.metrics)) or "none"),
            *([("tags", " ".join(listed.tags))] if listed.tags else []),
            ("writer", format_metrics(_readable(header.writer)) or "unknown"),
        ]
    )
    output.line()
    output.table(
        ["artifact", ">entries", ">raw", ">stored"],
        (
            [name, f"{total.entries:,}", format_size(total.raw_bytes), format_size(total.stored_bytes)]
            for name, total in header.artifacts.items()
        ),
    )
    output.line()
    output.table(
        ["~fqn", "kind", "role", "dtype", "shape", ">raw", ">shards", ">blocks"],
        (
            [
                row.entry.fqn,
                row.entry.kind,
                row.entry.role,
                row.dtype,
                str(list(row.entry.shape)),
                format_size(row.raw_bytes),
                str(row.entry.shards),
                str(row.blocks),
            ]
            for row in rows
        ),
    )
    shown = f" of {len(manifest.entries):,}" if len(rows) < len(manifest.entries) else ""
    output.line()
    output.line(f"{len(rows):,}{shown} entries, {format_size(sum(row.raw_bytes for row in rows))}")
