"""Steps as folders for ``from_pretrained``, kept in a cache of bounded size."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deltackpt.backend.oserrors import os_errors
from deltackpt.formats.folder import new_folder
from deltackpt.formats.image import FileImage
from deltackpt.formats.image_write import write_images
from deltackpt.formats.original import default_format, original_images
from deltackpt.formats.recipe import FILE_PREFIX
from deltackpt.formats.safetensors_image import MAX_SHARD_BYTES
from deltackpt.formats.source import StepSource
from deltackpt.formats.views import VIEWS

__all__ = ["CACHE_BYTES", "cache_folder", "hf_folder"]

CACHE_BYTES: Final = 32 << 30
"""What the cache holds at most, besides folders in use; ``DELTACKPT_CACHE_BYTES`` says otherwise."""

_CONFIG: Final = "config.json"


def cache_folder() -> Path:
    """Where folders are kept: ``DELTACKPT_CACHE``, else ``deltackpt`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("DELTACKPT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltackpt"


@contextmanager
def hf_folder(source: StepSource) -> Iterator[Path]:
    """A folder with the weights, the config and, where the step has one, the tokenizer.

    It stays in the cache afterwards, for the next time; those that were not used for longest are removed once all are
    larger than the cache may be. One in use is never removed. Do not write to it.

    Raises:
        IncompleteStepError: the step has no config that says what its model is.
        ObjectExistsError: another process makes the same folder just now.
    """
    root = cache_folder() / "hf"
    with os_errors("make the cache", str(root)):
        root.mkdir(parents=True, exist_ok=True)
    key = source.manifest.header.key
    name = f"{source.store.config.id}-{key.branch}-{key.step}-{key.generation}"
    folder, lock_file = root / name, root / f"{name}.lock"
    with os_errors("lock the folder", str(lock_file)):
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            images = _images(source)
            _make_room(root, sum(image.size for image in images))
            with new_folder(folder, force=False) as partial:
                write_images(source.store, source.manifest, images, partial, threads=source.threads)
        with suppress(OSError):
            os.utime(lock_file)
        _lock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        os.close(lock)


def _images(source: StepSource) -> list[FileImage]:
    """The imported files, where these are a folder for ``from_pretrained``; else weights under the names it wants."""
    if default_format(source.manifest) == "original":
        artifacts = {entry.fqn: entry.artifact for entry in source.manifest.entries}
        images = [
            image for image in original_images(source) if artifacts[FILE_PREFIX + image.path] in ("model", "config")
        ]
        if any(image.path == _CONFIG for image in images):
            return images
    return VIEWS["hf"](source, None, MAX_SHARD_BYTES)


def _make_room(root: Path, needed: int) -> None:
    """Remove folders that nobody uses, those not used for longest first, until there is room."""
    limit = int(os.environ.get("DELTACKPT_CACHE_BYTES", CACHE_BYTES))
    folders = sorted((lock.stat().st_mtime_ns, lock) for lock in root.glob("*.lock"))
    sizes = {lock: _size(lock.with_suffix("")) for _, lock in folders}
    total = sum(sizes.values())
    for _, lock in folders:
        if total + needed <= limit:
            return
        if sizes[lock] and _remove_unused(lock):
            total -= sizes[lock]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _remove_unused(lock_file: Path) -> bool:
    with suppress(OSError):
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.with_suffix(""))
            return True
        finally:
            os.close(descriptor)
    return False


def _lock(descriptor: int, kind: int) -> None:
    """Wait for others that make or remove the folder; where there are no locks, trust that there are none."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS):
            raise
