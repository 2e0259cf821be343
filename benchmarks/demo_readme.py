"""What the README says of the demo, from the figures of a run of it.

python -m benchmarks.demo --json docs/demo.json
python -m benchmarks.demo_readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["FIGURES", "PAGES", "main", "updated"]

ROOT: Final = Path(__file__).parents[1]
FIGURES: Final = ROOT / "docs" / "demo.json"
PAGES: Final = (ROOT / "README.md", ROOT / "README.zh-CN.md")

_COLUMNS = ("key steps", "deltas over 1 step", "deltas over 5 steps")
_ROWS = ("model: fp32 weights", "optim: fp32 moments", "train: bf16 weights", "everything")
_CELLS = re.compile(r"\| *[\d.]+% \| *(\**)[\d.]+%\** \| *[\d.]+% \|")


def updated(page: str, figures: Mapping[str, Any]) -> str:
    """A page with the figures in the rows of its table, and in the sentence below it.

    Raises:
        ValueError: the page has no such table.
    """
    rows = iter(_ROWS)

    def cells(found: re.Match[str]) -> str:
        row = next(rows, "")
        first, second, third = (f"{figures['stored_of_raw'][column][row]:.1%}" for column in _COLUMNS)
        return f"| {first} | {found[1]}{second}{found[1]} | {third} |"

    if len(_CELLS.findall(page)) != len(_ROWS):
        raise ValueError(f"a page has no table of {len(_ROWS)} rows and {len(_COLUMNS)} shares")
    page = _CELLS.sub(cells, page)
    page = re.sub(r"\d+ MiB a step", f"{figures['raw_bytes'] / 2**20:.0f} MiB a step", page)
    page = re.sub(r"每步 \d+ MiB", f"每步 {figures['raw_bytes'] / 2**20:.0f} MiB", page)
    page = re.sub(r"\d+ training steps, learning", f"{figures['training_steps']} training steps, learning", page)
    page = re.sub(r"\d+( 个训练步\W学习率)", rf"{figures['training_steps']}\g<1>", page)
    page = re.sub(r"\d+ seconds in all", f"{figures['seconds']} seconds in all", page)
    return re.sub(r"总共 \d+ 秒", f"总共 {figures['seconds']} 秒", page)


def main() -> None:
    """Write the pages."""
    figures = json.loads(FIGURES.read_text())
    for path in PAGES:
        path.write_text(updated(path.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
