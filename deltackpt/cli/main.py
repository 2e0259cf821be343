"""The ``deltackpt`` command: its parts put together, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.main import get_command

from deltackpt._version import __version__
from deltackpt.cli import (
    annotate,
    branch,
    check,
    copy,
    diff,
    doctor,
    eject,
    estimate,
    gc,
    import_files,
    init,
    keygen,
    log,
    protect,
    prune,
    repack,
    report,
    restore,
    show,
    sign,
    stats,
    tag,
    untag,
    verify,
    watch,
)
from deltackpt.cli.documents import error_document
from deltackpt.cli.failure import EXIT_CLOSED, EXIT_INTERRUPTED, describe
from deltackpt.cli.output import Output, OutputClosedError
from deltackpt.errors import BackendError

__all__ = ["app", "main", "run"]

_NAME = "deltackpt"
_DEBUG = "DELTACKPT_DEBUG"
_SETTINGS: dict[Any, Any] = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name=_NAME,
    help="Keep every checkpoint of a training run for few bytes, and get any of them back exactly.",
    epilog="Example: deltackpt log runs/gpt. Exit codes are in docs/errors.md, the JSON in docs/cli.md.",
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)
_COMMANDS = (
    *(init, estimate, import_files, log, show, restore, diff, stats, report, check, copy, eject, watch),
    *(annotate, tag, untag, branch, prune, gc, repack, verify, protect, keygen, sign, doctor),
)
for _module in _COMMANDS:
    app.command(_module.NAME, epilog=f"Example: {_module.EXAMPLE}")(_module.command)


@dataclass(slots=True)
class _Session:
    """What is known of a run before and outside its command."""

    debug: bool


def _show_version(asked: bool) -> None:
    if asked:
        Output().line(f"{_NAME} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error, as {_DEBUG}=1 does.")
    ] = False,
) -> None:
    if debug:
        context.obj.debug = True
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what follows the program's name; by default that of this process.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    session = _Session(debug=os.environ.get(_DEBUG, "0") not in ("", "0"))
    try:
        return _dispatch(args, session)
    except OutputClosedError:
        return EXIT_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        try:
            return _report(error, as_json=_asks_for_json(args), debug=session.debug)
        except OutputClosedError:
            return EXIT_CLOSED


def _dispatch(args: list[str], session: _Session) -> int:
    try:
        result = _command().main(args=args, prog_name=_NAME, standalone_mode=False, obj=session)
    except SystemExit as ended:  # shell completion, and help into a closed pipe
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    # Newer versions of typer return this instead of raising KeyboardInterrupt.
    return _interrupted() if result == EXIT_INTERRUPTED else result if isinstance(result, int) else 0


def _command() -> Any:
    """The command line. Help shows no types where typer 0.29 would: ``<bool>`` for flags, ``<str>`` for arguments."""
    group: Any = get_command(app)
    for command in (group, *group.commands.values()):
        for parameter in command.get_params(command.context_class(command, **_SETTINGS)):
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = _no_type
    return group


def _no_type(ctx: object) -> None:
    """What stands beside an argument in the help: nothing, its name says it."""


def _interrupted() -> int:
    Output().error_line("error", "interrupted", "red")
    return EXIT_INTERRUPTED


def _asks_for_json(args: list[str]) -> bool:
    """Whether ``--json`` is among the arguments; where they are wrong, nobody else has found out yet."""
    return "--json" in (args[: args.index("--")] if "--" in args else args)


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Say what went wrong, and return the exit code for it."""
    output = Output(as_json)
    failure = describe(error)
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            output.error_line("debug", line, "dim")
    if as_json:
        try:
            output.document({"error": error_document(failure)})
            return failure.exit_code
        except BackendError:
            pass  # standard output cannot be written, which may be the error; standard error is left
    output.error_line("error", failure.text, "bold red")
    if failure.hint is not None:
        output.error_line("hint", failure.hint, "bold")
    return failure.exit_code


def run() -> None:
    """The entry point of the ``deltackpt`` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a crash.
            stream.reconfigure(errors="backslashreplace")
    code = main()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # That was reported. What is left in the buffer has nowhere to go; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
