"""``deltackpt report``: the figures of a store as one page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from errno import EISDIR
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from deltackpt._version import __version__
from deltackpt.api import Store
from deltackpt.backend.oserrors import os_errors
from deltackpt.cli.damaged import exit_as_damaged, warn_of_damaged
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import ObjectExistsError
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "report"
EXAMPLE = "deltackpt report runs/gpt --out report.html"


def command(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = Path("report.html"),
    pairs: Annotated[
        int,
        typer.Option("--pairs", metavar="N", min=0, help="Compare the weights of at most N pairs of steps; 0: none."),
    ] = 12,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with the figures of a store as charts: bytes, training, what moves, what a restore costs.

    The page holds all it needs and asks no network. It is about 5 MB, most of it the library that draws the charts.
    Steps that cannot be read are named; the exit code is then that of the first one's damage.
    """
    output = Output(as_json)
    opened = Store.open(store)
    if out.exists() and not overwrite:
        raise ObjectExistsError("the file is there already", where=str(out), hint="choose another, or pass --overwrite")
    from deltackpt.report import collect, render_page

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with _replacing(out) as file:
        with output.progress("reading steps") as tick:
            data = collect(opened, created=now, version=__version__, pairs=pairs, progress=tick)
        page = render_page(data).encode()
        with os_errors("write the report", str(out)):
            file.write(page)
            file.flush()
    if output.json:
        output.document(
            {
                "url": opened.url,
                "path": str(out),
                "bytes": len(page),
                "steps": len(data.steps),
                "pairs": len(data.pairs),
                "damaged": [{"step": step.name, "reason": str(step.error)} for step in data.damaged],
            }
        )
    else:
        output.line(f"wrote {out}, {format_size(len(page))}: {count(len(data.steps), 'step')} of {opened.url}")
        warn_of_damaged(output, data.damaged)
    exit_as_damaged(data.damaged)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written beside ``path`` that takes its place in the end, whole or not at all.

    It is made at once: where it cannot be, that is known before the work is done.
    """
    partial = path.with_name(f"{path.name}.partial")
    with os_errors("write the report", str(path)):
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        file = partial.open("wb")
    try:
        with file:
            yield file
        with os_errors("write the report", str(path)):
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
