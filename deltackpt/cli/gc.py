"""``deltackpt gc``: delete what no step needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.store.collect import GRACE, GcReport
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "gc"
EXAMPLE = "deltackpt gc runs/gpt --dry-run"

_GRACE = GRACE.total_seconds()


def command(
    store: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much could go.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait, for readers that began before.")
    ] = _GRACE,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait: mark what may go, and delete what earlier runs marked.")
    ] = False,
    no_compact: Annotated[
        bool, typer.Option("--no-compact", help="Leave packs alone of which little is needed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete packs and index objects that no step lists, and generations that were replaced.

    Safe while others save and read. What a save in progress may need stays until a later run.
    """
    output = Output(as_json)
    opened = Store.open(store)
    with output.progress("manifests") as tick:
        report = opened.gc(grace=grace, wait=not no_wait, compact=not no_compact, dry_run=dry_run, progress=tick)
    if output.json:
        output.document({"url": opened.url, **_document(report)})
    else:
        _print(output, report)


def _document(report: GcReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "deleted_objects": report.deleted_objects,
        "deleted_bytes": report.deleted_bytes,
        "replaced_generations": report.replaced,
        "waiting_objects": report.waiting_objects,
        "waiting_bytes": report.waiting_bytes,
        "saves_in_progress": report.saves,
        "leftovers": report.leftovers,
        "compacted": list(report.compacted),
    }


def _print(output: Output, report: GcReport) -> None:
    would = "would be " if report.dry_run else ""
    if report.compacted:
        output.line(f"copied what is needed out of little-used packs, for {count(len(report.compacted), 'step')}")
    output.line(
        f"{count(report.deleted_objects, 'object')} of {format_size(report.deleted_bytes)} {would}deleted"
        + (f", and {count(report.replaced, 'replaced generation')}" if report.replaced else "")
    )
    if report.waiting_objects:
        why = f"{count(report.saves, 'save')} in progress may need them" if report.saves else "they were just marked"
        waiting = f"{count(report.waiting_objects, 'object')} of {format_size(report.waiting_bytes)}"
        output.line(f"{waiting} go with a later run: {why}")
    if report.leftovers:
        output.line(f"{count(report.leftovers, 'leftover')} of ended saves and deleted steps removed")
