from __future__ import annotations

from deltackpt.errors import CorruptObjectError
from deltackpt.format.keys import StepKey
from deltackpt.report.data import METADATA, ReportData, StepFigures
from deltackpt.store.listing import DamagedStep

EVIL = "</script><img src=x onerror=alert(1)>"


def step(number: int, branch: str = "main", parent: str | None = None, *, key: bool = False) -> StepFigures:
    roles = {"weight": 3000 + number, "exp_avg": 2000, "odd role": 10, METADATA: 100}
    return StepFigures(
        name=f"{branch}:{number}",
        branch=branch,
        step=number,
        parent=parent,
        is_key=key,
        raw_bytes=50_000,
        stored_bytes=sum(roles.values()),
        stored_by_role=roles,
        restore_bytes=9000 + number,
        depth=1 if key else 3,
        created=f"2026-01-01T00:{number:02d}:00+00:00",
        metrics={"val/loss": 3.0 / (number + 1), "lr": 1e-4, "note": EVIL, "best": True, "odd": float("nan")},
    )


def made(steps: tuple[StepFigures, ...] | None = None) -> ReportData:
    if steps is None:
        steps = (
            step(1, key=True),
            step(2, parent="main:1"),
            step(3, parent="main:2"),
            step(3, "tuned", "main:2"),
            step(4, EVIL, "gone:7"),
        )
    return ReportData(
        url=f"/runs/{EVIL}",
        store_id="0" * 32,
        version="1.2",
        created="2026-01-02T00:00:00+00:00",
        steps=steps,
        damaged=(DamagedStep(StepKey("main", 9, 1), CorruptObjectError(f"damaged {EVIL}")),),
        advice=(f"do {EVIL}",),
        layers=("model.h.0", "model.h.1", f"model.{EVIL}"),
        pairs=(("main:1", "main:2"), ("main:2", "main:3")),
        changes=((0.1, 0.01), (None, 0.0), (1e-5, 2.0)),
        pairs_in_all=4,
    )
