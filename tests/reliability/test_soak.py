from __future__ import annotations

import pytest

from tests.reliability import soak


def test_a_short_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--saves", "40", "--megabytes", "1", "--report-every", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "MiB predicted" in lines[0]
    assert "5 steps kept, all exact" in lines[-1]
