"""Files that many threads write, directly or not, and their hash."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from deltackpt.formats import out_file
from deltackpt.formats.ordered_hash import HeldParts, OrderedHash
from deltackpt.formats.out_file import OutFile, PageBuffers

DATA = np.random.default_rng(0).integers(0, 256, 9_000_001, dtype=np.uint8)


def parts(seed: int) -> list[tuple[int, int]]:
    """The file cut into parts, small and large, in any order."""
    random = Random(seed)
    cuts = sorted({0, DATA.size, *(random.randrange(DATA.size) for _ in range(12)), 4096, 8192, 8200})
    found = list(itertools.pairwise(cuts))
    random.shuffle(found)
    return found


def write_all(file: OutFile, found: list[tuple[int, int]], held: HeldParts) -> str:
    hashed = OrderedHash(held)

    def write(part: tuple[int, int]) -> None:
        file.write(part[0], DATA[slice(*part)].data)
        hashed.add(part[0], DATA[slice(*part)])

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write, found))
    return hashed.finish(DATA.size, file.read)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("seed", "room"), [(1, 1 << 30), (2, 3_000_000), (3, 0)])
def test_parts_in_any_order(tmp_path: Path, direct: bool, seed: int, room: int) -> None:
    file = OutFile(tmp_path / "file", DATA.size, PageBuffers() if direct else None)
    held = HeldParts(room)
    assert write_all(file, parts(seed), held) == hashlib.sha256(DATA.data).hexdigest()
    assert held.left == room
    assert b"".join(bytes(data) for data in file.read(4095, 5_000_000)) == DATA[4095:5_004_095].tobytes()
    file.close()
    assert (tmp_path / "file").read_bytes() == DATA.tobytes()


def test_parts_that_are_held_are_not_read_back() -> None:
    hashed = OrderedHash(HeldParts())
    for part in parts(4):
        hashed.add(part[0], DATA[slice(*part)])

    def read(start: int, length: int) -> Iterator[memoryview]:
        assert length == 0
        return iter(())

    assert hashed.finish(DATA.size, read) == hashlib.sha256(DATA.data).hexdigest()


@pytest.mark.parametrize("where", ["open", "pwrite", "preadv"])
def test_a_file_system_that_cannot_write_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    real = getattr(os, where)
    file_directly = set()

    def refuse(target: Any, *rest: Any, **named: Any) -> Any:
        if where == "open" and rest[0] & out_file._DIRECT:
            raise OSError(errno.EINVAL, "no")
        if target in file_directly:
            raise OSError(errno.EINVAL, "no")
        return real(target, *rest, **named)

    monkeypatch.setattr(os, where, refuse)
    file = OutFile(tmp_path / "file", DATA.size, PageBuffers())
    assert (file._direct is None) == (where == "open" or not out_file._DIRECT)
    if file._direct is not None:
        file_directly.add(file._direct)
    assert write_all(file, parts(5), HeldParts(0)) == hashlib.sha256(DATA.data).hexdigest()
    file.close()
    assert (tmp_path / "file").read_bytes() == DATA.tobytes()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = OutFile(tmp_path / "file", DATA.size, PageBuffers())

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        file.write(0, DATA.data)
    file.close()


def test_a_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    file = OutFile(tmp_path / "file", DATA.size, PageBuffers())
    file.write(0, DATA.data)
    os.truncate(tmp_path / "file", 5_000_000)
    with pytest.raises(OSError, match="shorter"):
        list(file.read(0, DATA.size))
    file.close()
