"""``deltackpt prune``: delete the steps that no rule keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.errors import InvalidArgumentError
from deltackpt.pipeline.prune import PruneReport
from deltackpt.store.catalog import DEFAULT_BRANCH
from deltackpt.store.listing import ListedStep, list_steps
from deltackpt.store.retention import Retention
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "prune"
EXAMPLE = "deltackpt prune runs/gpt --keep-last 3 --keep-every 1000 --keep-best 2:val_loss:min --dry-run"


def command(
    store: StoreArgument,
    keep_last: Annotated[int | None, typer.Option(metavar="N", help="Keep the newest N steps.")] = None,
    keep_every: Annotated[
        int | None, typer.Option(metavar="N", help="Keep steps whose number is a multiple of N.")
    ] = None,
    keep_best: Annotated[
        list[str] | None, typer.Option(metavar="N:METRIC[:min|max]", help="Keep the best N by a metric. Repeatable.")
    ] = None,
    keep_within: Annotated[
        str | None, typer.Option(metavar="TIME", help="Keep steps saved within, say, 7d or 90min before the newest.")
    ] = None,
    keep_tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Keep steps with this tag; * for any. Repeatable.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help=f"The branch; {DEFAULT_BRANCH} if not given.")
    ] = None,
    every_branch: Annotated[bool, typer.Option("--all", help="All branches, each by itself.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARTIFACT", help="Of steps that no rule keeps, only this goes. Repeatable."),
    ] = None,
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Write steps that stay anew where they need bytes of those that go.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Let the newest step go, too, if no rule keeps it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what goes, why others stay, and what comes free.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the steps of a branch that no rule keeps. A step stays if any rule keeps it; the newest one always does.

    Their bytes come free with the next `deltackpt gc`. Steps that stay are whole, whatever they were built on.
    """
    output = Output(as_json)
    if branch is not None and every_branch:
        raise InvalidArgumentError("--branch and --all exclude each other", hint="give one of them")
    if not any((keep_last is not None, keep_every is not None, keep_best, keep_within, keep_tag)):
        raise InvalidArgumentError("no rule says which steps to keep", hint="give at least one, such as --keep-last 3")
    retention = Retention(keep_last, keep_every, keep_best or (), keep_within, keep_tag or ())
    opened = Store.open(store)
    _check_names(
        list_steps(opened.opened, None if every_branch else branch or DEFAULT_BRANCH).steps, retention, only or ()
    )
    with output.progress("manifests") as tick:
        report = opened.prune(
            retention,
            branch=None if every_branch else branch or DEFAULT_BRANCH,
            only=only or (),
            rebase=rebase,
            force=force,
            dry_run=dry_run,
            progress=tick,
        )
    if output.json:
        output.document({"url": opened.url, **_document(report)})
    else:
        _print(output, report, rebase=rebase)


def _check_names(steps: Sequence[ListedStep], retention: Retention, only: Collection[str]) -> None:
    """Refuse names that no step has: a rule with a misspelt one keeps nothing, and all that it was to keep would go."""
    metrics = sorted({name for step in steps for name in step.metrics})
    tags = sorted({name for step in steps for name in step.tags})
    artifacts = sorted({name for step in steps for name in step.header.artifacts})
    wanted = [("metric", name, metrics) for name in retention.metrics]
    wanted += [("tag", name, tags) for name in retention.keep_tag if name != "*"]
    wanted += [("artifact", name, artifacts) for name in only]
    for kind, name, known in wanted:
        if steps and name not in known:
            there = f"there are {', '.join(known)}" if known else f"no step has any {kind}"
            raise InvalidArgumentError(f"no step of those to prune has the {kind} {name!r}", hint=there)


def _document(report: PruneReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "kept": [
            {
                "branch": step.branch,
                "step": step.step,
                "reasons": list(step.reasons),
                "pinned_bytes": step.pinned_bytes,
            }
            for step in report.kept
        ],
        "pruned": [
            {
                "branch": step.branch,
                "step": step.step,
                "tags": list(step.tags),
                "artifacts": None if step.artifacts is None else list(step.artifacts),
            }
            for step in report.pruned
        ],
        "damaged": list(report.damaged),
        "spared": list(report.spared),
        "rebased": list(report.rebased),
        "freed_bytes": report.freed_bytes,
        "pinned_bytes": report.pinned_bytes,
    }


def _print(output: Output, report: PruneReport, *, rebase: bool) -> None:
    rows = [(s.branch, s.step, "keep", ", ".join(s.reasons), s.pinned_bytes) for s in report.kept]
    rows += [
        (s.branch, s.step, "prune" if s.artifacts is None else f"drop {' '.join(s.artifacts)}", _lost(s.tags), 0)
        for s in report.pruned
    ]
    if rows:
        output.table(
            [">step", "", ">pins", "~because of"],
            (
                [f"{branch}:{step}", what, format_size(pinned) if pinned else "", why]
                for branch, step, what, why, pinned in sorted(rows)
            ),
        )
        output.line()
    would = "would be " if report.dry_run else ""
    what = "thinned" if any(step.artifacts is not None for step in report.pruned) else "pruned"
    output.line(
        f"{count(len(report.pruned), 'step')} {would}{what}, {count(len(report.kept), 'step')} kept; "
        f"{format_size(report.freed_bytes)} come free with the next `deltackpt gc`"
    )
    if report.pinned_bytes and not rebase:
        output.line(
            f"{format_size(report.pinned_bytes)} of pruned steps stay because kept ones need them; "
            "--rebase writes these anew"
        )
    if report.rebased:
        output.line(f"written anew: {', '.join(report.rebased)}")
    for name in report.spared:
        output.error_line("note", f"{name} stays for now: a save in progress builds on it", "yellow")
    for name in report.damaged:
        output.error_line("note", f"{name} stays: its manifest is damaged; see `deltackpt verify`", "yellow")


def _lost(tags: tuple[str, ...]) -> str:
    return f"no rule; its tags go, too: {', '.join(tags)}" if tags else "no rule"
