"""``deltackpt import``: checkpoints that lie on disk as files become steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.documents import error_document
from deltackpt.cli.failure import describe
from deltackpt.cli.options import (
    DEFAULT_MEMORY,
    BranchOption,
    IntoOption,
    JsonOption,
    MemoryOption,
    PatternOption,
    WorkersOption,
)
from deltackpt.cli.output import Output
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.text import count, format_size, parse_size

if TYPE_CHECKING:
    from deltackpt.formats.importing.report import ImportedStep, ImportReport, Meter

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "import"
EXAMPLE = "deltackpt import checkpoints/ --store runs/gpt"

_SKIPPED_SHOWN = 20


def command(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files and folders: checkpoints, or folders of many.")
    ],
    store: IntoOption,
    branch: BranchOption = DEFAULT_BRANCH,
    pattern: PatternOption = None,
    step: Annotated[
        int | None, typer.Option("--step", metavar="N", min=0, help="The step of the only checkpoint.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse checkpoints that lack files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace steps that hold other files.")] = False,
    remove_source: Annotated[
        bool,
        typer.Option("--remove-source", help="Remove each source once its step was read back and compared with it."),
    ] = False,
    as_bytes: Annotated[
        list[str] | None,
        typer.Option(
            "--as-bytes", metavar="PATH", help="Keep these files as bytes, whatever they are; may be repeated."
        ),
    ] = None,
    workers: WorkersOption = None,
    memory: MemoryOption = DEFAULT_MEMORY,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be imported.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take in checkpoints as files, byte for byte, in order of their steps.

    What is there already is not imported again.

    A checkpoint that cannot be imported is listed at the end; the exit code is that of the first such error.
    """
    output = Output(as_json)
    base_memory = parse_size(memory)
    opened = Store.open(store)
    with output.transfer("importing") as show:
        report = opened.import_checkpoints(
            sources,
            branch=branch,
            pattern=pattern,
            step=step,
            strict=strict,
            overwrite=overwrite,
            remove_source=remove_source,
            as_bytes=as_bytes or (),
            dry_run=dry_run,
            threads=workers,
            base_memory=base_memory,
            progress=None if show is None else lambda meter: show(meter.done, meter.total, _ratio(meter)),
        )
    if output.json:
        output.document(
            {
                "url": opened.url,
                "branch": branch,
                "steps": [_document(one) for one in report.steps],
                "failed": [_failure(one) for one in report.failed],
                "skipped": [{"path": str(path), "reason": reason} for path, reason in report.skipped],
            }
        )
    else:
        _print(output, report, dry_run)
    if report.failed:
        error = report.failed[0].error
        assert error is not None
        raise typer.Exit(error.exit_code)


def _ratio(meter: Meter) -> str:
    return f"{meter.raw / meter.stored:.2f}x smaller" if meter.stored else ""


def _document(one: ImportedStep) -> dict[str, object]:
    return {
        "step": one.step,
        "source": str(one.source),
        "layout": one.layout,
        "status": one.status,
        "files": one.files,
        "raw_bytes": one.raw_bytes,
        "stored_bytes": one.stored_bytes,
        "lacks": [{"path": lack.path, "cost": lack.cost} for lack in one.lacks],
        "notes": [{"path": note.path, "note": note.text} for note in one.notes],
        "removed": one.removed,
    }


def _failure(one: ImportedStep) -> dict[str, object]:
    assert one.error is not None
    return {"step": one.step, "source": str(one.source), "error": error_document(describe(one.error))}


def _print(output: Output, report: ImportReport, dry_run: bool) -> None:
    output.table(
        [">step", "source", "layout", ">files", ">size", ">stored", "status"],
        (
            [
                str(one.step),
                one.source.name,
                one.layout,
                str(one.files),
                format_size(one.raw_bytes),
                format_size(one.stored_bytes) if one.status == "imported" else "",
                one.status + (", source removed" if one.removed else ""),
            ]
            for one in report.steps
        ),
    )
    output.line()
    for one in report.steps:
        for lack in one.lacks:
            output.line(f"{one.source.name} lacks {lack.path}: {lack.cost}")
        for note in one.notes:
            output.line(f"{one.source.name}/{note.path} {note.text}")
    for path, reason in report.skipped[:_SKIPPED_SHOWN]:
        output.line(f"left out {path.name}: {reason}")
    if len(report.skipped) > _SKIPPED_SHOWN:
        output.line(f"left out {len(report.skipped) - _SKIPPED_SHOWN} more; --json lists all")
    output.line(_summary(report, dry_run))
    for one in report.failed:
        assert one.error is not None
        failure = describe(one.error)
        output.error_line("error", f"step {one.step}: {failure.text}", "bold red")
        if failure.hint is not None:
            output.error_line("hint", failure.hint, "bold")


def _summary(report: ImportReport, dry_run: bool) -> str:
    if dry_run:
        total = sum(one.raw_bytes for one in report.steps)
        return f"would import {count(len(report.steps), 'step')}, {format_size(total)}"
    new = [one for one in report.steps if one.status == "imported"]
    present = sum(one.status == "present" for one in report.steps)
    raw, stored = sum(one.raw_bytes for one in new), sum(one.stored_bytes for one in new)
    parts = [f"imported {count(len(new), 'step')}"]
    if stored:
        parts.append(f"{format_size(raw)} in {format_size(stored)} ({raw / stored:.2f}x smaller)")
    if present:
        parts.append(f"{count(present, 'step')} there already")
    if report.failed:
        parts.append(f"{len(report.failed)} failed")
    return ", ".join(parts)
