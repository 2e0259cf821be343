"""``deltackpt diff``: what changed between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from deltackpt.api import Store
from deltackpt.cli.options import JsonOption, StoreArgument
from deltackpt.cli.output import Output
from deltackpt.pipeline.diff import StepDiff, TensorDiff
from deltackpt.pipeline.diff_sums import ChangeSums, add_up
from deltackpt.text import count, format_size

__all__ = ["EXAMPLE", "NAME", "command"]

NAME = "diff"
EXAMPLE = "deltackpt diff runs/gpt 1000 latest --prefix model."

_COLUMNS = (">changed", ">L2 of change", ">relative", ">cosine", ">stored")


def command(
    store: StoreArgument,
    a: Annotated[str, typer.Argument(metavar="A", help="The step before, written as for `show`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The step after.")],
    prefix: Annotated[str, typer.Option(metavar="P", help="Only tensors and objects whose name starts with P.")] = "",
    tensors: Annotated[bool, typer.Option("--tensors", help="A row for each tensor, not for each layer.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read unchanged blocks, too, for the norms of whole tensors.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what changed from step A to step B: how many elements, and by how much.

    Blocks with the same bytes in both are not read, and norms are those of the other blocks.
    """
    output = Output(as_json)
    opened = Store.open(store)
    with output.progress("comparing blocks") as tick:
        found = opened.diff(a, b, prefix=prefix, whole=whole, progress=tick)
    if output.json:
        output.document(_document(opened.url, found))
    else:
        _print(output, found, tensors=tensors)


def _document(url: str, diff: StepDiff) -> dict[str, object]:
    return {
        "url": url,
        **{
            side: {"branch": key.branch, "step": key.step, "generation": key.generation}
            for side, key in (("a", diff.a), ("b", diff.b))
        },
        "layers": [
            {"name": layer.name, "tensors": layer.tensors, **_sums(layer.sums), "stored_bytes": layer.stored_bytes}
            for layer in diff.layers
        ],
        "tensors": [
            {
                "fqn": tensor.fqn,
                "kind": tensor.kind,
                "artifact": tensor.artifact,
                "role": tensor.role,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "status": tensor.status,
                "counter": tensor.is_counter,
                **_sums(tensor.sums, numbers=tensor.kind == "tensor"),
                "stored_bytes": tensor.stored_bytes,
            }
            for tensor in diff.tensors
        ],
    }


def _sums(sums: ChangeSums, *, numbers: bool = True) -> dict[str, object]:
    """What changed; of an object, whose elements are bytes, without what is said of numbers."""
    return {
        "elements": sums.elements,
        "changed": sums.changed,
        "changed_share": sums.changed_share,
        "l2": sums.l2 if numbers else None,
        "relative": sums.relative if numbers else None,
        "cosine": sums.cosine if numbers else None,
    }


def _print(output: Output, diff: StepDiff, *, tensors: bool) -> None:
    output.line(f"from {diff.a.branch}:{diff.a.step} to {diff.b.branch}:{diff.b.step}")
    output.line()
    compared = [t for t in diff.tensors if t.status in ("same", "changed")]
    objects = [t for t in compared if t.kind == "object" and t.status == "changed"]
    if tensors:
        numbers = [t for t in compared if t.kind == "tensor"]
        columns = ["~fqn", "role", "dtype", *_COLUMNS]
        output.table(columns, ([t.fqn, t.role, t.dtype, *_cells(t.sums, t.stored_bytes)] for t in numbers))
    else:
        output.table(
            ["~layer", ">tensors", *_COLUMNS],
            ([g.name, f"{g.tensors:,}", *_cells(g.sums, g.stored_bytes)] for g in diff.layers),
        )
        counters = sum(t.is_counter for t in compared)
        if counters:
            output.line(f"without {count(counters, 'counter')} of steps, such as Adam's; --tensors shows them, too")
    if objects:
        output.line()
        output.table(["~changed objects", ">stored"], ([t.fqn, format_size(t.stored_bytes)] for t in objects))
    for status, words in (("added", "only in B"), ("removed", "only in A"), ("other", "of another dtype or shape")):
        _print_names(output, words, [t for t in diff.tensors if t.status == status])
    output.line()
    output.line(_total(compared))


def _print_names(output: Output, words: str, found: Sequence[TensorDiff]) -> None:
    if found:
        output.line()
        output.table([f"~{words}", "dtype", "shape"], ([t.fqn, t.dtype, str(list(t.shape))] for t in found))


def _total(compared: Sequence[TensorDiff]) -> str:
    changed = [t for t in compared if t.status == "changed"]
    sums = add_up(t.sums for t in compared if t.kind == "tensor")
    return (
        f"{len(changed):,} of {count(len(compared), 'entry', 'entries')} changed, {_percent(sums.changed_share)} of "
        f"elements; B stores {format_size(sum(t.stored_bytes for t in compared))} that A does not"
    )


def _cells(sums: ChangeSums, stored_bytes: int) -> list[str]:
    return [
        _percent(sums.changed_share),
        f"{sums.l2:.4g}",
        "-" if sums.relative is None else f"{sums.relative:.3g}",
        "-" if sums.cosine is None else f"{sums.cosine:.6f}",
        format_size(stored_bytes),
    ]


def _percent(share: float) -> str:
    """A share; what is not none and not all is never shown as that."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{100 * share:.1f}%"
