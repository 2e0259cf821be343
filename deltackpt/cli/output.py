"""The one place where the command line writes: text and tables for people, or one JSON document for programs.

Results go to standard output; errors for people and progress go to standard error. Progress is shown only where that
is a terminal.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from deltackpt.errors import BackendError
from deltackpt.text import format_size, shown

__all__ = ["Output", "OutputClosedError", "Report", "Tick", "json_value", "plain_table"]

# Wider than any line, so that a pipe gets each whole.
_UNBOUNDED = 1 << 20

# rich lays out about 1,000 rows of eight columns a second; what is longer than this is not read on a screen anyway.
_FOLDED_ROWS = 500

Tick = Callable[[int, "int | None"], None]

Report = Callable[[int, "int | None", str], None]
"""As ``Tick``, with a few words on what was reached so far."""


class OutputClosedError(Exception):
    """Whoever read standard output has gone away, as ``head`` does. Not an error to report."""


def json_value(value: object) -> Any:
    """A value as strict JSON has it.

    A number that is not finite becomes ``{"float": "nan"}``, ``"inf"`` or ``"-inf"``; a lone surrogate in a text, such
    as the undecodable byte of a file name, its escape.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {json_value(name): json_value(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(member) for member in value]
    return value


class Output:
    """Where one run of a command writes.

    Args:
        as_json: whether standard output gets one JSON document and nothing else.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.json = as_json
        # A stream is None where the process was started with it closed.
        self._out = _console(cast("TextIO", _Guarded(sys.stdout or io.StringIO())))
        self._err = _console(sys.stderr or io.StringIO())

    def document(self, value: Mapping[str, object]) -> None:
        """The one JSON document of this run."""
        text = json.dumps(json_value(value), indent=2, allow_nan=False)
        self._emit(text + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """A line of text."""
        self._out.print(Text(shown(text), style))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Names and values, below each other."""
        pairs = [(name, shown(value)) for name, value in facts]
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self._out.print(Text.assemble((name.ljust(width), "bold"), f"  {value}"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table. A column whose name starts with ``>`` is aligned right, one that starts with ``~`` may be folded.

        On a terminal columns are folded to its width. Elsewhere each row is one line.
        """
        cells = [[shown(cell) for cell in row] for row in rows]
        if not self._out.is_terminal or len(cells) > _FOLDED_ROWS:
            self._emit(plain_table(columns, cells))
            return
        table = Table(box=None, pad_edge=False)
        for name in columns:
            table.add_column(
                name.lstrip(">~"),
                justify="right" if name.startswith(">") else "left",
                overflow="fold",
                no_wrap=not name.startswith("~"),
            )
        for row in cells:
            table.add_row(*row)
        self._out.print(table)

    def error_line(self, label: str, text: str, style: str) -> None:
        """A labelled line on standard error. Nobody may be left to read it."""
        with suppress(OSError, ValueError):
            self._err.print(Text.assemble((f"{label}:", style), f" {shown(text)}"), soft_wrap=True)

    def _emit(self, text: str) -> None:
        self._out.file.write(text)
        self._out.file.flush()

    @contextmanager
    def progress(self, what: str, *, size: bool = False) -> Iterator[Tick | None]:
        """Show how far long work is, on a terminal only; gives None elsewhere.

        Args:
            what: the work, in a few words.
            size: whether what is counted are bytes.

        Yields:
            A function to call, from any thread, with how much is done and how much there is (None: not known).
        """
        with self._bar(what, size, (TimeElapsedColumn(),)) as report:
            yield None if report is None else lambda done, total: report(done, total, "")

    @contextmanager
    def transfer(self, what: str) -> Iterator[Report | None]:
        """Show how many bytes were taken, the rate and the time left, on a terminal only; gives None elsewhere.

        Yields:
            A function to call, from any thread, with how much is done, how much there is, and words to show.
        """
        with self._bar(what, True, (TransferSpeedColumn(), TimeRemainingColumn())) as report:
            yield report

    @contextmanager
    def _bar(self, what: str, size: bool, times: Sequence[ProgressColumn]) -> Iterator[Report | None]:
        if not self._err.is_terminal:
            yield None
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}", markup=False),
            *times,
            TextColumn("{task.fields[words]}", markup=False),
        )
        with Progress(*columns, console=self._err, transient=True) as bar:
            task = bar.add_task(shown(what), total=None, amount="", words="")

            def report(done: int, total: int | None, words: str) -> None:
                done = done if total is None else min(done, total)
                parts = [format_size(n) if size else str(n) for n in (done, total) if n is not None]
                bar.update(task, completed=done, total=total, amount=" / ".join(parts), words=words)

            yield report


class _Guarded:
    """Standard output, with its failures as errors of ours.

    Raises:
        OutputClosedError: nobody reads it any more.
        BackendError: it cannot be written, for example to a file on a full disk.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with _output_errors():
            self._stream.write(text)

    def flush(self) -> None:
        with _output_errors():
            self._stream.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError from error
    except OSError as error:
        raise BackendError(
            f"cannot write the output: {error.strerror or error}",
            where="standard output",
            hint="write it to another place, or free some space",
        ) from error


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, every row on one line, whatever its length."""
    lines = [[name.lstrip(">~") for name in columns], *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]

    def align(cell: str, column: str, width: int) -> str:
        space = " " * (width - cell_len(cell))
        return space + cell if column.startswith(">") else cell + space

    return "".join("  ".join(map(align, line, columns, widths)).rstrip() + "\n" for line in lines)


def _console(stream: TextIO) -> Console:
    """A console that takes text as it is; as wide as the terminal, or without bounds where there is none."""
    width = None if stream.isatty() else _UNBOUNDED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)
