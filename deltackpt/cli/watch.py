"""``deltackpt watch``: takes in what a trainer writes into a folder, as each checkpoint is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

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
from deltackpt.text import format_size, parse_size

if TYPE_CHECKING:
    from deltackpt.formats.importing.report import ImportedStep
    from deltackpt.formats.watch import WatchEvent

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "watch"
EXAMPLE = "deltackpt watch checkpoints/ --store runs/gpt --remove-source after-verify"


class RemoveSource(str, Enum):
    """When a source is removed."""

    NEVER = "never"
    AFTER_VERIFY = "after-verify"


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that the trainer writes to.")],
    store: IntoOption,
    branch: BranchOption = DEFAULT_BRANCH,
    pattern: PatternOption = None,
    settle: Annotated[
        float, typer.Option("--settle", metavar="SECONDS", help="For so long no file of a checkpoint must change.")
    ] = 30.0,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", help="The time between two looks.")] = 5.0,
    strict: Annotated[bool, typer.Option("--strict", help="Never take in checkpoints that lack files.")] = False,
    remove_source: Annotated[
        RemoveSource,
        typer.Option("--remove-source", help="Remove sources once their step was read back and compared with them."),
    ] = RemoveSource.NEVER,
    keep_source: Annotated[
        int, typer.Option("--keep-source", metavar="N", min=0, help="Of these, keep the newest N.")
    ] = 1,
    workers: WorkersOption = None,
    memory: MemoryOption = DEFAULT_MEMORY,
    once: Annotated[
        bool, typer.Option("--once", help="Take in what is there now, as if nobody wrote to it any more, and end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take in checkpoints as they appear, until it is interrupted (SIGINT or SIGTERM).

    The step that is being written then is finished first. With --json the document comes at the end.
    """
    output = Output(as_json)
    opened = Store.open(store)
    if once and not folder.is_dir():
        output.error_line("note", f"{folder}: there is no such folder, so there is nothing to take in", "yellow")
    events: list[WatchEvent] = []

    def report(event: WatchEvent) -> None:
        events.append(event)
        if not output.json:
            _say(output, event)

    watch = opened.watch(
        folder,
        report,
        branch=branch,
        pattern=pattern,
        settle=settle,
        every=every,
        strict=strict,
        remove_source=remove_source is RemoveSource.AFTER_VERIFY,
        keep_source=keep_source,
        threads=workers,
        base_memory=parse_size(memory),
    )
    with _stopped_by_signals(watch.stop):
        if once:
            watch.look(settled=True)
        else:
            if not output.json:
                output.line(f"watching {folder}; interrupt to end")
            watch.run()
    if output.json:
        output.document(
            {"url": opened.url, "folder": str(folder), "branch": branch, "events": [_document(e) for e in events]}
        )
    failed = [event.step.error for event in events if event.kind == "failed" and event.step is not None]
    if once and failed and failed[0] is not None:
        raise typer.Exit(failed[0].exit_code)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets the event; the next one does what it did before."""
    before: dict[int, Any] = {}

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def _say(output: Output, event: WatchEvent) -> None:
    step, error = event.step, event.error if event.step is None else event.step.error
    if event.kind == "imported" and step is not None:
        output.line(f"step {step.step} from {step.source.name}: {format_size(step.raw_bytes)} in {_stored(step)}")
        for lack in step.lacks:
            output.line(f"{step.source.name} lacks {lack.path}: {lack.cost}")
    elif event.kind == "removed" and step is not None:
        output.line(f"removed {step.source.name}: step {step.step} was read back and is the same")
    if error is not None:
        failure = describe(error)
        place = "" if step is None else f"{step.source.name}: "
        output.error_line("error", f"{place}{failure.text}", "bold red")
        if failure.hint is not None:
            output.error_line("hint", failure.hint, "bold")


def _stored(step: ImportedStep) -> str:
    ratio = f" ({step.raw_bytes / step.stored_bytes:.2f}x smaller)" if step.stored_bytes else ""
    return f"{format_size(step.stored_bytes)}{ratio}"


def _document(event: WatchEvent) -> dict[str, object]:
    step, error = event.step, event.error if event.step is None else event.step.error
    return {
        "kind": event.kind,
        "step": None if step is None else step.step,
        "source": None if step is None else str(step.source),
        "raw_bytes": None if step is None else step.raw_bytes,
        "stored_bytes": None if step is None else step.stored_bytes,
        "error": None if error is None else error_document(describe(error)),
    }
