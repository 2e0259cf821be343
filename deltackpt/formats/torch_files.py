"""The parts of a state as plain files: ``model.pt``, ``optim.pt``, ``train.pt``, ``config.yaml``."""

from __future__ import annotations

import errno
import os
import pickle
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import torch
import yaml

from deltackpt.backend.durable import TEMPORARY_PREFIX, sync_folder
from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import InvalidNameError, ObjectExistsError, UnsupportedDataError

__all__ = ["refuse_existing", "write_torch_files"]

_PART: Final = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_MAX_YAML_DEPTH: Final = 64
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def write_torch_files(out_dir: str | Path, parts: Mapping[str, object], *, overwrite: bool = False) -> list[Path]:
    """Write each part to a file of its name in ``out_dir``, which is made if it is not there.

    A part is written by ``torch.save`` to ``<name>.pt``; tensors and plain values load with ``weights_only=True``. The
    part ``config`` becomes ``config.yaml`` where YAML holds it without loss. Each file appears whole or not at all.

    Args:
        out_dir: the folder.
        parts: names to values.
        overwrite: whether files that are there are replaced.

    Returns:
        The files, in the order of the parts.

    Raises:
        ObjectExistsError: a file is there and not ``overwrite``. Nothing was written, unless the file came just now.
        InvalidNameError: a part's name is not a plain file name.
        UnsupportedDataError: a part cannot be pickled.
        BackendError: the disk is full, or the like.
    """
    folder = Path(out_dir)
    jobs: list[tuple[Path, Callable[[IO[bytes]], None]]] = []
    for name, value in parts.items():
        _check_name(name, folder)
        text = _to_yaml(value) if name == "config" else None
        if text is None:
            jobs.append((folder / f"{name}.pt", _torch_writer(name, value)))
        else:
            jobs.append((folder / f"{name}.yaml", _bytes_writer(text)))
    if not overwrite:
        for path, _ in jobs:
            _check_free(path)
    with os_errors("make the folder", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    for path, write in jobs:
        _publish(path, write, overwrite=overwrite)
    return [path for path, _ in jobs]


def refuse_existing(out_dir: str | Path, names: Iterable[str]) -> None:
    """Make sure that no file which :func:`write_torch_files` could write for these parts is there.

    Raises:
        ObjectExistsError: one is; it names the file.
        InvalidNameError: a part's name is not a plain file name.
    """
    for name in names:
        _check_name(name, Path(out_dir))
        for suffix in (".pt", ".yaml") if name == "config" else (".pt",):
            _check_free(Path(out_dir) / (name + suffix))


def _check_name(name: str, folder: Path) -> None:
    if not _PART.fullmatch(name):
        raise InvalidNameError(
            f"{name!r} cannot be a file's name", where=str(folder), hint="use letters, digits, '.', '_' and '-'"
        )


def _torch_writer(name: str, value: object) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        try:
            torch.save(value, file)
        except (AttributeError, RuntimeError, TypeError, ValueError, pickle.PicklingError) as exc:
            if isinstance(exc.__context__, OSError):
                # torch's zip writer says of a failed write only that the position is not the expected one.
                raise exc.__context__ from exc
            raise UnsupportedDataError(
                f"the part cannot be written by torch.save: {exc}",
                where=name,
                hint="restore the other parts without it",
            ) from exc

    return write


def _bytes_writer(data: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise ObjectExistsError(
            "the file is there already", where=str(path), hint="choose another folder, or ask to overwrite"
        )


def _publish(path: Path, write: Callable[[IO[bytes]], None], *, overwrite: bool) -> None:
    """Write a file under a temporary name, make it durable, and give it its name."""
    temporary = path.with_name(TEMPORARY_PREFIX + uuid.uuid4().hex)
    try:
        with os_errors("write the file", str(path)):
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                _link_new(temporary, path)
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_folder(descriptor)
            finally:
                os.close(descriptor)
    finally:
        # After the rename it is gone; one that cannot be removed does no harm.
        with suppress(OSError):
            temporary.unlink()


def _link_new(temporary: Path, path: Path) -> None:
    """Give the temporary its name if that is free: in one step where there are hard links, else after a look."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        _check_free(path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _check_free(path)
        temporary.rename(path)


class _PlainDumper(yaml.SafeDumper):
    """Writes a list or dict that occurs twice in full both times, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _to_yaml(value: object) -> bytes | None:
    """A value as YAML; None where reading that back gives anything else."""
    if not _is_plain(value, 0):
        return None
    try:
        text = yaml.dump(value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True).encode()
        restored = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return None
    return text if _same(value, restored) else None


def _is_plain(value: object, depth: int) -> bool:
    if depth > _MAX_YAML_DEPTH:
        return False
    if type(value) is list:
        return all(_is_plain(member, depth + 1) for member in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(member, depth + 1) for key, member in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _same(value: object, other: object) -> bool:
    """Whether two plain values are equal in type, order and bits (NaN equals NaN)."""
    if type(value) is not type(other):
        return False
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return list(value) == list(other) and all(_same(value[key], other[key]) for key in value)
    return repr(value) == repr(other)
