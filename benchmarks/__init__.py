"""Real training runs that the demo and the benchmarks save, restore and measure. Not part of the installed package."""

from __future__ import annotations

import os

# Read once, when torch loads OpenMP. By default its threads spin while they wait for each other; with a save running on
# the same two cores that made a training step 6 times as long (5.1 s instead of 0.84 s beside one busy process).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
