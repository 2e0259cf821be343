"""Parts of the pages that benchmarks write. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["goals", "origin", "paragraph", "seconds", "size", "table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def paragraph(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def size(value: float) -> str:
    """Bytes in words."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * factor:  # which is 1.00 of it, in three digits
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """Seconds in words."""
    return f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"


def origin(one: Mapping[str, Any]) -> str:
    """Where the figures of a benchmark are from."""
    machine = one["machine"]
    versions = ", ".join(f"{name} {one['versions'][name]}" for name in ("python", "torch", "numpy"))
    took = f"; {one['seconds'] / 60:.0f} min" if one.get("seconds", 0) >= 60 else ""
    return paragraph(
        f"*{one['size'].capitalize()} sizes{took}, on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory'] / 1e9:.0f} GB; {versions}; commit {one['commit']}.*"
    )


def goals(judged: Sequence[tuple[bool, str]]) -> str:
    """Goals that were reached, and those that were not, first. Nothing where there are none."""
    if not judged:
        return ""
    reached = sum(one for one, _ in judged)
    lines = [f"- **not reached:** {text}" for one, text in judged if not one]
    lines += [f"- reached: {text}" for one, text in judged if one]
    head = f"Goals: {reached} of {len(judged)} reached."
    if len(lines) > 12:
        return f"<details><summary>{head}</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n"
    return f"{head}\n\n" + "\n".join(lines) + "\n"
