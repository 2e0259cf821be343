"""Whether the process that announced a save is still there, as far as this machine can tell."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "is_gone", "own_process"]

_DEAD_STATES = ("Z", "X")


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        host: the machine, its boot and the space of process numbers; empty where that is not known.
        pid: its number there.
        started: when it started, in clock ticks since the boot: process numbers are used again.
    """

    host: str
    pid: int
    started: int


def own_process() -> Process:
    """This process; with an empty host where the system is not Linux or hides what is needed."""
    try:
        host, state = _host(), _read_stat(os.getpid())
    except OSError:
        return Process("", 0, 0)
    return Process("", 0, 0) if state is None else Process(host, os.getpid(), state[1])


def is_gone(process: Process) -> bool:
    """Whether a process has certainly ended. False for processes of other machines, containers and boots."""
    try:
        if not process.host or process.host != _host():
            return False
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's, so it is there; or this machine cannot tell
        return False
    try:
        state = _read_stat(process.pid)
    except OSError:  # the mount option hidepid, perhaps
        return False
    return state is not None and (state[0] in _DEAD_STATES or state[1] != process.started)


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"


def _read_stat(pid: int) -> tuple[str, int] | None:
    """State and start of a process (proc_pid_stat(5), fields 3 and 22), or None if they cannot be read."""
    # The name, field 2, may hold spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None
