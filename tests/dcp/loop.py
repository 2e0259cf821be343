"""A training loop around a Checkpointer, also run in processes of its own: ``python -m tests.dcp.loop FOLDER HOW...``.

For each HOW, which is also the name of a store in FOLDER, there is one; what it says goes to ``HOW.out``, and how it
ended to standard output. They are forked: to load torch takes seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from deltackpt import Checkpointer, Store
from deltackpt.schedule import every
from tests.dcp.training import Run


class Progress:
    """How far a run is, as a part of its state."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.run.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run.batch = state["batch"]


def state_of(run: Run) -> dict[str, Any]:
    """The state with the objects themselves."""
    return {"model": run.model, "optim": run.optimizer, "train": Progress(run)}


def say(words: str) -> None:
    """One line that is out whatever happens next."""
    os.write(1, f"{words}\n".encode())


def main(url: str, how: str) -> None:
    """Train 40 steps, saving now and then, and end in one of several ways."""
    run = Run(seed=7)
    checkpointer = Checkpointer(Store.open(url), every(10, start_at=1))
    resumed = checkpointer.resume(state_of(run))
    say(f"from {None if resumed is None else resumed.step}")
    for step in range(1 if resumed is None else resumed.step + 1, 41):
        say(f"{step} {run.step().hex()}")
        if step == 25 and how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if step == 25 and how == "kill":
            checkpointer.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        checkpointer.step(step, state_of(run), {"loss": 1 / step})
    # Without a close(): the save of step 40 has just begun.


def fork(folder: Path, how: str) -> int:
    """The id of a process that trains."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder / f"{how}.out", os.O_CREAT | os.O_WRONLY), 1)
        main(str(folder / how), how)
        sys.exit()
    return child


if __name__ == "__main__":
    children = [fork(Path(sys.argv[1]), how) for how in sys.argv[2:]]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    say(" ".join(map(str, codes)))
