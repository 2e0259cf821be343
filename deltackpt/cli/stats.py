"""``deltackpt stats``: where the bytes of a store are, and what could be done about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.damaged import exit_as_damaged, warn_of_damaged
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.store.stats import Share, StepStats, StoreStats
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "stats"
EXAMPLE = "deltackpt stats runs/gpt"

_STEPS_SHOWN = 20


def command(
    store: StoreArgument,
    every_step: Annotated[
        bool, typer.Option("--steps", help=f"Show every step, not only the newest {_STEPS_SHOWN}.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where the bytes of a store are, what nothing needs, and how many steps a lost pack would take along.

    Reads manifests and indexes, no packs. Steps that cannot be read are named and left out of the figures; the exit
    code is then that of the first one's damage.
    """
    output = Output(as_json)
    opened = Store.open(store)
    with output.progress("reading steps") as tick:
        stats = opened.stats(progress=tick)
    if output.json:
        output.document(_document(opened.url, stats))
    else:
        _print(output, stats, every_step=every_step)
    exit_as_damaged(stats.damaged)


def _document(url: str, stats: StoreStats) -> dict[str, object]:
    return {
        "url": url,
        "raw_bytes": stats.raw_bytes,
        "stored_bytes": stats.stored_bytes,
        "pack_bytes": stats.pack_bytes,
        "index_bytes": stats.index_bytes,
        "manifest_bytes": stats.manifest_bytes,
        "duplicate_blocks": stats.duplicate_blocks,
        "duplicate_bytes": stats.duplicate_bytes,
        "bases_cached": stats.bases_cached,
        "bases_decoded": stats.bases_decoded,
        "dead": asdict(stats.dead),
        "packs": stats.packs,
        "roles": [asdict(share) for share in stats.roles],
        "coders": [_short(share) for share in stats.coders],
        "predictors": [_short(share) for share in stats.predictors],
        "steps": [asdict(step) for step in stats.steps],
        "losses": [asdict(loss) for loss in stats.losses],
        "damaged": [{"step": step.name, "message": str(step.error)} for step in stats.damaged],
        "advice": list(stats.advice),
    }


def _short(share: Share) -> dict[str, object]:
    return {
        "name": share.name,
        "records": share.records,
        "raw_bytes": share.raw_bytes,
        "stored_bytes": share.stored_bytes,
    }


def _print(output: Output, stats: StoreStats, *, every_step: bool) -> None:
    if not stats.steps and not stats.damaged:
        output.line("no steps yet")
    output.facts(_facts(stats))
    output.line()
    columns = ["role", ">records", ">raw", ">stored", ">stored/raw", ">delta saved"]
    output.table(columns, ([*_cells(share), _saved(share.delta_saved)] for share in stats.roles))
    for title, shares in (("coder", stats.coders), ("predictor", stats.predictors)):
        output.line()
        output.table([title, ">records", ">raw", ">stored", ">stored/raw"], (_cells(share) for share in shares))
    _print_steps(output, stats.steps, every_step=every_step)
    if stats.losses:
        output.line()
        output.table(
            ["a lost pack", "artifact", ">size", ">takes steps along"],
            ([loss.key, loss.artifact, format_size(loss.bytes), str(loss.steps)] for loss in stats.losses),
        )
    warn_of_damaged(output, stats.damaged)
    if stats.advice:
        output.line()
    for words in stats.advice:
        output.line(f"- {words}")


def _facts(stats: StoreStats) -> list[tuple[str, str]]:
    used = stats.bases_cached + stats.bases_decoded
    dead = stats.dead
    return [
        ("steps", f"{len(stats.steps):,}, {format_size(stats.raw_bytes)} of tensors and objects"),
        (
            "stored",
            f"{format_size(stats.stored_bytes)}{_ratio(stats.raw_bytes, stats.stored_bytes)}: "
            f"{count(stats.packs, 'pack')} {format_size(stats.pack_bytes)}, indexes {format_size(stats.index_bytes)}, "
            f"manifests {format_size(stats.manifest_bytes)}",
        ),
        (
            "duplicates",
            f"{count(stats.duplicate_blocks, 'block')}, {format_size(stats.duplicate_bytes)} not stored again",
        ),
        ("bases", f"{stats.bases_cached:,} of {count(used, 'block')} in memory, {stats.bases_decoded:,} decoded"),
        (
            "dead",
            f"{format_size(dead.object_bytes)} in {count(dead.objects, 'object')} that no step names, "
            f"{format_size(dead.record_bytes)} in packs that others need",
        ),
    ]


def _print_steps(output: Output, steps: Sequence[StepStats], *, every_step: bool) -> None:
    shown = steps if every_step else steps[-_STEPS_SHOWN:]
    if not shown:
        return
    output.line()
    output.table(
        ["step", "kind", ">raw", ">stored", ">stored/raw", ">delta saved", ">new records", ">duplicates"],
        (
            [
                step.name,
                "key" if step.is_key else "delta",
                format_size(step.raw_bytes),
                format_size(step.stored_bytes),
                _percent(step.stored_bytes, step.raw_bytes),
                _saved(step.delta_saved),
                f"{step.new_records:,}",
                f"{step.duplicate_blocks:,}",
            ]
            for step in shown
        ),
    )
    if len(shown) < len(steps):
        output.line(f"the newest {len(shown)} of {len(steps):,} steps; --steps shows all")


def _cells(share: Share) -> list[str]:
    return [
        share.name,
        f"{share.records:,}",
        format_size(share.raw_bytes),
        format_size(share.stored_bytes),
        _percent(share.stored_bytes, share.raw_bytes),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _saved(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _ratio(raw: int, stored: int) -> str:
    return f" ({raw / stored:.2f}x smaller)" if stored and raw > stored else ""
