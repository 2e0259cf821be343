"""The section of :mod:`benchmarks.intervals` in ``docs/benchmarks.md``. Pure: no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.interval_plots import plots_of
from benchmarks.interval_words import REST, by_words, run_words
from benchmarks.page import paragraph, table

__all__ = ["render"]

Cost = Mapping[str, Any]

_OURS = "deltackpt"

_CAPTIONS = {
    "intervals": "Bytes a parameter of a checkpoint over the interval, for each regime and precision",
    "interval-roles": "Bytes a parameter of our delta steps by role, for each regime and precision",
    "interval-axes": "How many times smaller than torch.save, over the interval, by size, precision and optimizer",
}


def render(figures: Mapping[str, Any]) -> str:
    """The section."""
    runs: dict[str, dict[tuple[str, int], Cost]] = {}
    for cost in figures["costs"]:
        runs.setdefault(run_words(cost), {})[cost["program"], cost["interval"]] = cost
    one = _common(runs)
    parts = [
        _introduction(figures),
        *_verdicts(runs),
        "### How many times smaller than torch.save\n",
        paragraph(
            """For each run deltackpt in bold, and after it the best of the other programs. The further apart two
            checkpoints are, the less the earlier one says about the later."""
        ),
        _by_interval(runs, _smaller),
        "### Bytes a parameter\n",
        paragraph(
            """The same checkpoints by deltackpt, in bytes for each parameter of the model; `torch.save` is what the
            files have. Multiply by the parameters of your model for the bytes of one checkpoint."""
        ),
        _by_interval(runs, _per_parameter, "torch.save"),
        "### Bytes of 1,000 training steps\n",
        paragraph(
            """What an interval costs in the end: GB for 1,000 training steps of a model of 10^9 parameters by
            deltackpt, and in brackets by torch.save."""
        ),
        _by_interval(runs, _per_thousand),
        f"### Programs, {one} training steps between checkpoints\n",
        paragraph(
            """How many times smaller than the files of torch.save; the best in bold. Only deltackpt and `chunks`, cut
            by content and stored once, know of earlier checkpoints; the others code each by itself."""
        ),
        _programs(runs, one),
        f"### By role, {one} training steps between checkpoints\n",
        paragraph("What of a state the bytes are for: bytes a parameter of one delta step of deltackpt."),
        _roles(runs, one),
        *(f"![{_CAPTIONS[name]}](images/{name}.png)\n" for name in plots_of(figures["costs"])),
    ]
    return "\n".join(parts)


def _common(runs: Mapping[str, Mapping[tuple[str, int], Cost]]) -> int:
    """The interval in the middle of those that every run has."""
    shared = set.intersection(*({interval for _, interval in own} for own in runs.values()))
    return sorted(shared)[len(shared) // 2]


def _introduction(figures: Mapping[str, Any]) -> str:
    costs: Sequence[Cost] = figures["costs"]
    sizes = dict.fromkeys(f"{cost['size']} ({cost['parameters'] / 1e6:.2f} M)" for cost in costs if not _adapted(cost))
    spread = max((cost["delta"][2] - cost["delta"][1]) / cost["delta"][0] for cost in costs)
    batches = ", ".join(map(str, dict.fromkeys(cost["batch"] for cost in costs)))
    bases = sorted({cost["base"] for cost in costs})
    return paragraph(
        f"""GPTs of {", ".join(sizes)} parameters, trained on the sources of the Python standard library with {batches}
        sequences of 128 tokens a step. Checkpoints are files of `torch.save`: model, optimizer, step. The first is
        after {" or ".join(map(str, bases))} steps; an interval is measured on one or two checkpoints after it, which
        differ by at most {100 * spread:.1f}%. Figures are means with a key step in {figures["key_every"]}. Every
        checkpoint was restored and compared with its files."""
    )


def _adapted(cost: Cost) -> bool:
    """Whether there are adapters beside the parameters of the model."""
    return bool(cost["regime"] == "lora")


def _best(own: Mapping[tuple[str, int], Cost], interval: int) -> Cost:
    """Of the peers the one with the fewest bytes."""
    there = [cost for (program, at), cost in own.items() if at == interval and program != _OURS]
    return min(there, key=lambda cost: float(cost["step"]))


def _verdicts(runs: Mapping[str, Mapping[tuple[str, int], Cost]]) -> Iterator[str]:
    shares = {
        (name, interval): cost["step"] / _best(own, interval)["step"]
        for name, own in runs.items()
        for (program, interval), cost in own.items()
        if program == _OURS
    }
    won = sum(share < 1 for share in shares.values())
    (least, near), (most, far) = min(shares, key=lambda k: shares[k]), max(shares, key=lambda k: shares[k])
    yield paragraph(
        f"""**{"Reached" if won == len(shares) else "Not reached"}:** fewest bytes of all programs, in {won} of
        {len(shares)} cases. Of the bytes of the best other one deltackpt takes {100 * shares[least, near]:.1f}%
        ({least}, every {near}) to {100 * shares[most, far]:.1f}% ({most}, every {far})."""
    )


Cell = Callable[[Mapping[tuple[str, int], Cost], int], str]


def _smaller(own: Mapping[tuple[str, int], Cost], interval: int) -> str:
    return f"**{own[_OURS, interval]['ratio']:.2f}** / {_best(own, interval)['ratio']:.2f}"


def _per_parameter(own: Mapping[tuple[str, int], Cost], interval: int) -> str:
    return f"{own[_OURS, interval]['per_parameter']:.2f}"


def _per_thousand(own: Mapping[tuple[str, int], Cost], interval: int) -> str:
    ours, files = own[_OURS, interval], own["torch.save", interval]
    return " ".join(
        form.format(cost["per_thousand"] / cost["parameters"])
        for form, cost in (("{:,.0f}", ours), ("({:,.0f})", files))
    )


def _by_interval(runs: Mapping[str, Mapping[tuple[str, int], Cost]], cell: Cell, also: str | None = None) -> str:
    intervals = sorted({interval for own in runs.values() for _, interval in own})
    rows = []
    for name, own in runs.items():
        cells = [cell(own, interval) if (_OURS, interval) in own else "" for interval in intervals]
        first = [f"{own[also, min(at for _, at in own)]['per_parameter']:.2f}"] if also else []
        rows.append([name, *first, *cells])
    return table(["run", *([also] if also else []), *(f"every {interval}" for interval in intervals)], rows)


def _programs(runs: Mapping[str, Mapping[tuple[str, int], Cost]], interval: int) -> str:
    programs = list(dict.fromkeys(program for own in runs.values() for program, _ in own))
    rows = []
    for name, own in runs.items():
        ratios = [own[program, interval]["ratio"] for program in programs]
        rows.append([name, *(f"**{one:.2f}**" if one == max(ratios) else f"{one:.2f}" for one in ratios)])
    return table(["run", *programs], rows)


def _roles(runs: Mapping[str, Mapping[tuple[str, int], Cost]], interval: int) -> str:
    ours = {name: own[_OURS, interval] for name, own in runs.items()}
    found = {name: by_words(cost["by_role"]) for name, cost in ours.items()}
    roles = [*dict.fromkeys(role for one in found.values() for role in one if role != REST), REST]
    rows = (
        [name, *(f"{one[role] / ours[name]['parameters']:.3f}" if role in one else "" for role in roles)]
        for name, one in found.items()
    )
    return table(["run", *roles], rows)
