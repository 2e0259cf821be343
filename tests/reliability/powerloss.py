"""What a disk may hold after a power failure: every state that file systems without any mercy allow.

The calls to ``os`` that change a folder are recorded while something runs in it. Stopped after any of them, the disk
holds for sure only what was synced: the data of a file up to its last fsync, and the entries of a folder up to its own.
Of everything later any part may be there: data cut short or zero, entries without their data, in any order. That is
what crash-consistency studies found file systems to do (Pillai et al., OSDI 2014).
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

__all__ = ["Call", "crash_states", "recorded"]

_CALLS = ("open", "mkdir", "write", "fsync", "link", "replace", "unlink", "rmdir", "close")

Rng: TypeAlias = random.Random


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes a folder.

    Attributes:
        name: as in ``os``; ``create`` for an open that makes a file.
        path, target: relative to the folder; the target is that of links and renames.
        data: what was written.
    """

    name: str
    path: str
    target: str = ""
    data: bytes = b""


@contextmanager
def recorded(root: Path) -> Iterator[list[Call]]:
    """Record the calls that change ``root``, in the order in which they take place; safe with many threads."""
    calls: list[Call] = []

    def note(call: Call) -> None:
        if not call.path.startswith(".."):
            calls.append(call)

    names: dict[int, str] = {}
    lock = threading.Lock()

    def path_of(name: str, folder: int | None) -> str:
        path = name if folder is None else os.path.join(names[folder], name)
        return os.path.relpath(path, root) if os.path.isabs(path) else os.path.normpath(path)

    def wrap(call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            with lock:
                result = original(*args, **options)
                if call == "close":
                    names.pop(args[0], None)
                elif call == "open":
                    names[result] = path_of(args[0], options.get("dir_fd"))
                    if args[1] & os.O_CREAT:
                        note(Call("create", names[result]))
                elif call == "write":
                    note(Call(call, names[args[0]], data=bytes(args[1][:result])))
                elif call == "fsync":
                    note(Call(call, names[args[0]]))
                elif call in {"link", "replace"}:
                    source = path_of(args[0], options.get("src_dir_fd"))
                    note(Call(call, source, path_of(args[1], options.get("dst_dir_fd"))))
                else:
                    note(Call(call, path_of(args[0], options.get("dir_fd"))))
                return result

        return wrapped

    with ExitStack() as patches:
        for name in _CALLS:
            patches.enter_context(mock.patch.object(os, name, wrap(name, getattr(os, name))))
        yield calls


@dataclass(slots=True, eq=False)
class _File:
    content: bytes
    synced: bytes = b""

    def survivor(self, rng: Rng) -> bytes:
        """What is left of it: what was synced, and of what came later anything."""
        if self.content == self.synced:
            return self.synced
        length = len(self.content)
        return rng.choice([self.synced, self.content, self.content[: rng.randrange(length + 1)], bytes(length)])


_Entries: TypeAlias = "dict[str, _File | _Folder]"
_Change: TypeAlias = "Callable[[_Entries], object]"


@dataclass(slots=True, eq=False)
class _Folder:
    entries: _Entries = field(default_factory=dict)
    synced: _Entries = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def change(self, apply: _Change) -> None:
        apply(self.entries)
        self.pending.append(apply)

    def sync(self) -> None:
        self.synced = dict(self.entries)
        self.pending.clear()

    def survivor(self, rng: Rng) -> _Entries:
        """Its entries: those synced, and any selection of the changes since."""
        kept = dict(self.synced)
        share = rng.choice([0.0, 0.5, 1.0])
        for apply in self.pending:
            if rng.random() < share:
                apply(kept)
        return kept


class _Disk:
    """The model: what the calls so far have made of a folder."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._root = _Folder()
        for path, data in files.items():
            folder = self._root
            *above, name = path.split("/")
            for part in above:
                inner = folder.entries.setdefault(part, _Folder())
                assert isinstance(inner, _Folder)
                folder = inner
            folder.entries[name] = _File(data, data)
        self._sync_all(self._root)

    def _sync_all(self, folder: _Folder) -> None:
        folder.sync()
        for inner in folder.entries.values():
            if isinstance(inner, _Folder):
                self._sync_all(inner)

    def _find(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._root
        for part in Path(path).parts:
            assert isinstance(node, _Folder)
            node = node.entries[part]
        return node

    def _folder(self, path: str) -> tuple[_Folder, str]:
        above, name = os.path.split(path)
        folder = self._find(above)
        assert isinstance(folder, _Folder)
        return folder, name

    def apply(self, call: Call) -> None:
        if call.name in {"write", "fsync"}:
            node = self._find(call.path)
            if isinstance(node, _Folder):
                node.sync()
            elif call.name == "write":
                node.content += call.data
            else:
                node.synced = node.content
            return
        folder, name = self._folder(call.path)
        if call.name in {"create", "mkdir"}:
            made: _File | _Folder = _File(b"") if call.name == "create" else _Folder()
            folder.change(lambda entries: entries.__setitem__(name, made))
        elif call.name in {"unlink", "rmdir"}:
            folder.change(lambda entries: entries.pop(name, None))
        else:
            target, new = self._folder(call.target)
            assert target is folder
            node = folder.entries[name]
            moved = call.name == "replace"

            def rename(entries: _Entries) -> None:
                entries[new] = node
                if moved:
                    entries.pop(name, None)

            folder.change(rename)

    def survivors(self, rng: Rng) -> dict[str, bytes]:
        found: dict[str, bytes] = {}

        def collect(folder: _Folder, prefix: str) -> None:
            for name, node in folder.survivor(rng).items():
                if isinstance(node, _Folder):
                    collect(node, f"{prefix}{name}/")
                else:
                    found[prefix + name] = node.survivor(rng)

        collect(self._root, "")
        return found


def crash_states(
    before: dict[str, bytes], calls: Sequence[Call], samples: int, rng: Rng
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Files (path to bytes) that a power failure may leave.

    Args:
        before: what the folder held, all of it synced, before the calls.
        calls: what :func:`recorded` has recorded.
        samples: how many states for each number of calls that took place.

    Yields:
        The number of calls before the failure, and a state.
    """
    disk = _Disk(before)
    for done in range(len(calls) + 1):
        if done:
            disk.apply(calls[done - 1])
        for _ in range(samples):
            yield done, disk.survivors(rng)
