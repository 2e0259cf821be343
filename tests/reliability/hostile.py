"""Reads damaged stores and files, and reports every event of the interpreter that could run or touch what it must not.

Run as a process of its own, because an audit hook cannot be taken away: ``python -m tests.reliability.hostile SEED``.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

from deltackpt.backend.local import LocalBackend
from deltackpt.errors import DeltackptError
from deltackpt.formats.objects import object_to_stored, stored_to_object
from deltackpt.formats.parsers.recognise import parse_file
from deltackpt.formats.parsers.source import SourceFile
from deltackpt.pipeline.verify import verify_store
from deltackpt.store.catalog import visible_steps
from deltackpt.store.opened import open_store
from deltackpt.testing.arrays import load_step
from tests.reliability.actions import build_store
from tests.reliability.mutations import mutate
from tests.reliability.targets import TARGETS

__all__ = ["Watch", "main"]

# Events of the interpreter by which code could run, processes start, or something leave the machine.
_FORBIDDEN = (
    "code.__new__",
    "compile",
    "ctypes.dlopen",
    "exec",
    "marshal.loads",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pickle.find_class",
    "pty.spawn",
    "socket.connect",
    "subprocess.Popen",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGING = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")


class Watch:
    """An audit hook (PEP 578) that notes what must not happen while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        self.events = 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        self.events += 1
        if event in _FORBIDDEN or event in _CHANGING:
            self.seen.append(f"{event} {args!r}"[:200])
        elif event == "open" and isinstance(args[2], int) and args[2] & _WRITING:
            self.seen.append(f"open for writing: {args[0]!r}")
        elif event == "import":
            self.seen.append(f"import {args[0]}")


def _read_store(root: Path) -> int:
    """Read all that can be read; returns how often that failed, as it may."""
    failed = 0
    try:
        store = open_store(LocalBackend(root))
        verify_store(store, deep=True, threads=1)
        steps = visible_steps(store)
    except DeltackptError:
        return 1
    for step in steps:
        try:
            load_step(store, f"{step.key.branch}:{step.key.step}")
        except DeltackptError:
            failed += 1
    return failed


def _damage(root: Path, rng: random.Random) -> None:
    for path in root.rglob("*"):
        if path.is_file() and rng.random() < 0.3:
            data = path.read_bytes()
            path.write_bytes(mutate(data, rng, [data]))


def main(arguments: list[str]) -> int:
    """Do it; print what was seen that must not be."""
    rng = random.Random(int(arguments[0]))
    failed = read = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "store"
        build_store(LocalBackend(root, create=True))
        _read_store(root)  # loads what is loaded at the first use
        files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        samples = {key: list(TARGETS[key].seeds()) for key in ("torch file", "numpy file", "safetensors")}
        suffix = {"torch file": ".pt", "numpy file": ".npz", "safetensors": ".safetensors"}
        evil = b"cos\nsystem\n(S'touch " + str(Path(name) / "pwned").encode() + b"'\ntR."
        encoding, stored = object_to_stored(evil)
        for key, seeds in samples.items():
            for seed in seeds:
                TARGETS[key].run(seed)
        watch = Watch()
        for _ in range(int(arguments[1]) if len(arguments) > 1 else 20):
            _damage(root, rng)
            watch.on = True
            failed += _read_store(root)
            watch.on = False
            for path, data in files.items():
                path.write_bytes(data)
            for key, seeds in samples.items():
                path = Path(name) / f"file{suffix[key]}"
                path.write_bytes(mutate(rng.choice(seeds), rng, seeds))
                watch.on = True
                try:
                    parse_file(SourceFile(path))
                except DeltackptError:
                    failed += 1
                watch.on = False
            read += 1
        for path_name, content in (("evil.pt", evil), ("evil.bin", evil)):
            path = Path(name) / path_name
            path.write_bytes(content)
            watch.on = True
            try:
                parse_file(SourceFile(path))
            except DeltackptError:
                failed += 1
            watch.on = False
        watch.on = True
        try:
            stored_to_object(encoding, stored, trust_objects=False, fqn="evil")
        except DeltackptError:
            failed += 1
        watch.on = False
        if (Path(name) / "pwned").exists():
            watch.seen.append("the pickle ran")
    for seen in sorted(set(watch.seen)):
        sys.stdout.write(seen + "\n")
    sys.stdout.write(f"{read} rounds, {failed} refused, {watch.events} events, {len(watch.seen)} forbidden\n")
    return min(1, len(watch.seen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
