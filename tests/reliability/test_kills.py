from __future__ import annotations

import re
import subprocess
import sys


def test_a_hundred_kills() -> None:
    """In a process of its own: only one with a single thread may fork safely."""
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "100"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = re.search(r"^(\d+) kills; every step exact", ran.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 100  # those that ended before their time came are not among them
    # Of each action that changes a step both ends were seen.
    lines = [line for line in ran.stdout.splitlines() if "ended first" in line]
    assert len(lines) == 10
    for line in lines:
        if line.startswith("repack"):
            continue
        before, after = re.findall(r"(\d+) as (?:before|after)", line)
        assert int(before) > 0, line
        assert int(after) > 0, line
