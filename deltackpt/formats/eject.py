"""Every step of a store as the files that it was, so that the store is needed no more.

Each step is a folder that appears whole. ``SHA256SUMS`` lists every file, as ``sha256sum -c`` reads it, and
``steps.json`` what is known of the steps. A step that is there with these hashes is not written again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from deltackpt.backend.durable import TEMPORARY_PREFIX
from deltackpt.backend.oserrors import os_errors
from deltackpt.errors import BackendError, DeltackptError, ObjectExistsError
from deltackpt.format.keys import StepKey
from deltackpt.format.manifest import Metric
from deltackpt.formats.image import FileImage
from deltackpt.formats.recipe import check_path
from deltackpt.formats.restore import restore_step
from deltackpt.formats.source import StepSource
from deltackpt.formats.views import file_images
from deltackpt.store.listing import ListedStep, Listing
from deltackpt.store.opened import OpenStore

__all__ = ["SUMS", "EjectReport", "EjectedStep", "eject"]

SUMS: Final = "SHA256SUMS"
_STEPS: Final = "steps.json"
_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class EjectedStep:
    """What became of one step.

    Attributes:
        folder: where it is.
        status: ``written``; ``there``: it was there, with the right hashes; or ``failed``.
        size: of its files, in bytes.
        error: why it failed; nothing of it is visible then, or what was there before.
    """

    branch: str
    step: int
    folder: Path
    status: Literal["written", "there", "failed"]
    size: int
    error: DeltackptError | None = None


@dataclass(frozen=True, slots=True)
class EjectReport:
    """What became of all steps."""

    steps: tuple[EjectedStep, ...]

    @property
    def failed(self) -> list[EjectedStep]:
        """The steps that could not be written."""
        return [step for step in self.steps if step.status == "failed"]


def eject(
    store: OpenStore,
    listing: Listing,
    out: Path,
    *,
    trust_objects: bool,
    threads: int,
    finished: Callable[[int, EjectedStep], None] | None = None,
) -> EjectReport:
    """Write steps to ``OUT/BRANCH/FOLDER``: imported files as they were, other steps as torch files.

    A step that cannot be written does not keep the others from it.

    Args:
        trust_objects: whether objects that are pickles may be loaded, which lets them run any code.
        finished: called with how many steps are done, and the last of them.

    Raises:
        BackendError: the folder cannot be written.
    """
    with os_errors("make the folder", str(out)):
        out.mkdir(parents=True, exist_ok=True)
    folders = _folders(listing.steps)
    sums = _read_sums(out)
    done = [
        EjectedStep(lost.key.branch, lost.key.step, out / _plain_name(lost.key), "failed", 0, lost.error)
        for lost in listing.damaged
    ]
    for one in listing.steps:
        step = _eject_step(store, one.key, out, folders[one.key], sums, trust_objects, threads)
        _write_sums(out, sums)
        done.append(step)
        if finished is not None:
            finished(len(done), step)
    about = [_described(one, folders[one.key]) for one in listing.steps]
    _write(out / _STEPS, json.dumps(about, indent=2, allow_nan=False).encode() + b"\n")
    return EjectReport(tuple(done))


def _plain_name(key: StepKey) -> str:
    return f"{key.branch}/step{key.step}"


def _folders(listed: Sequence[ListedStep]) -> Mapping[StepKey, str]:
    """Where each step goes: under the name of the folder that it was imported from, where that tells it from others."""
    names: dict[StepKey, str] = {}
    taken: set[str] = set()
    for one in listed:
        key = one.key
        plain = _plain_name(key)
        origin = one.header.writer.get("source")
        name = plain
        if isinstance(origin, str) and "/" not in origin and "." not in origin and origin:
            try:
                name = check_path(f"{key.branch}/{origin}")
            except DeltackptError:
                name = plain
        names[key] = name if name not in taken else plain
        taken |= {names[key], plain}
    return names


def _eject_step(
    store: OpenStore, key: StepKey, out: Path, name: str, sums: dict[str, str], trust_objects: bool, threads: int
) -> EjectedStep:
    folder, size = out / name, 0
    try:
        source = StepSource(store, store.manifest(key), threads, trust_objects)
        images = file_images(source)
        size = sum(image.size for image in images)
        expected = {image.path: image.sha256 or sums.get(f"{name}/{image.path}") for image in images}
        if folder.exists():
            _check(folder, images, expected)
            if None not in expected.values():
                sums.update({f"{name}/{path}": digest for path, digest in expected.items() if digest is not None})
                return EjectedStep(key.branch, key.step, folder, "there", size)
            # A kill after the folder appeared and before its hashes were noted: nobody knows what is in it.
        for path in restore_step(source, folder, None, force=folder.exists()):
            inner = path.relative_to(folder).as_posix()
            known = next(image.sha256 for image in images if image.path == inner)
            sums[f"{name}/{inner}"] = known or _sha256(path)
    except DeltackptError as error:
        if isinstance(error, BackendError) and not isinstance(error, ObjectExistsError):
            raise
        return EjectedStep(key.branch, key.step, folder, "failed", size, error)
    return EjectedStep(key.branch, key.step, folder, "written", size)


def _check(folder: Path, images: Sequence[FileImage], expected: Mapping[str, str | None]) -> None:
    """Make sure that a folder has a step's files, as far as their hashes are known, and no others.

    Raises:
        ObjectExistsError: it has not.
    """
    with os_errors("read the folder", str(folder)):
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        wrong = sorted(there ^ {image.path for image in images}) or [
            image.path for image in images if not _is_same(folder / image.path, image.size, expected[image.path])
        ]
    if wrong:
        raise ObjectExistsError(
            f"the folder is there, but {wrong[0]} in it is not as the step has it",
            where=str(folder),
            hint="move it away, and run this again",
        )


def _is_same(path: Path, size: int, digest: str | None) -> bool:
    return path.stat().st_size == size and (digest is None or _sha256(path) == digest)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with os_errors("read the file", str(path)), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_sums(out: Path) -> dict[str, str]:
    path = out / SUMS
    if not path.exists():
        return {}
    with os_errors("read the file", str(path)):
        lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("  ", 1) for line in lines)
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _write_sums(out: Path, sums: Mapping[str, str]) -> None:
    _write(out / SUMS, "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())).encode())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(TEMPORARY_PREFIX + uuid.uuid4().hex)
    with os_errors("write the file", str(path)):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _described(one: ListedStep, folder: str) -> dict[str, object]:
    header = one.header
    return {
        "branch": header.key.branch,
        "step": header.key.step,
        "folder": folder,
        "created": header.created,
        "parent": None if header.parent is None else f"{header.parent.branch}:{header.parent.step}",
        "metrics": {name: _json_metric(value) for name, value in one.metrics.items()},
        "tags": list(one.tags),
    }


def _json_metric(value: Metric) -> object:
    """JSON has no numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    return value
