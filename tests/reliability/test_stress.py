from __future__ import annotations

import re
import subprocess
import sys


def test_a_few_seconds() -> None:
    """In a process of its own: only one with a single thread may fork safely."""
    command = [sys.executable, "-m", "tests.reliability.stress", "--seconds", "4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "every one exact, none lost" in ran.stdout
    counts = {did: int(count) for did, count in re.findall(r"([a-z ]+): (\d+)", ran.stdout)}
    assert {"save", "read", "prune", "gc"} <= {did.strip() for did in counts}, ran.stdout
