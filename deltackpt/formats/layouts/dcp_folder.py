"""Folders of ``torch.distributed.checkpoint``: alone, torchtitan's ``step-{N}/``, and OLMo-core's ``step{N}/``.

As in ``torchtitan/components/checkpoint.py`` of https://github.com/pytorch/torchtitan and
``src/olmo_core/train/checkpoint.py`` of https://github.com/allenai/OLMo-core.
"""

from __future__ import annotations

import re
from typing import Final

from deltackpt.errors import DeltackptError
from deltackpt.formats.importing.naming import FileNaming
from deltackpt.formats.importing.parts import METADATA
from deltackpt.formats.importing.source import Lack
from deltackpt.formats.layouts.base import Contents, Layout, lacks_of_ranks, no_metrics, ranks_of
from deltackpt.formats.parsers.dcp import read_dcp_metadata
from deltackpt.formats.parsers.source import SourceFile

__all__ = ["DCP", "OLMO_CORE", "TORCHTITAN", "lacks_of_dcp"]

_NO_METADATA: Final = "nobody can tell what is in its .distcp files; they are kept as bytes"
_NO_PART: Final = "the tensors in it are lost, in whole or in part"


def lacks_of_dcp(contents: Contents) -> list[Lack]:
    """The files that each ``.metadata`` names and that are not there, and folders that lack one."""
    parts = {path.rpartition("/")[0] for path in contents.paths if path.endswith(".distcp")}
    described = {path.rpartition("/")[0] for path in contents.paths if path.rpartition("/")[2] == METADATA}
    lacks = [Lack(_join(folder, METADATA), _NO_METADATA) for folder in sorted(parts - described)]
    for folder in sorted(described):
        try:
            files = read_dcp_metadata(SourceFile(contents.folder / _join(folder, METADATA))).files
        except DeltackptError:
            continue  # the import of the checkpoint says what is wrong with it
        missing = sorted(_join(folder, file) for file in files)
        lacks += [Lack(path, _NO_PART) for path in missing if path not in contents.paths]
    return lacks


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _has_metadata(contents: Contents) -> bool:
    return METADATA in contents.paths or contents.has(r"[^/]+\.distcp")


def _unknown(_: str) -> FileNaming:
    return FileNaming()


TORCHTITAN: Final = Layout("torchtitan", re.compile(r"step-(\d+)"), _has_metadata, _unknown, lacks_of_dcp, no_metrics)

DCP: Final = Layout("dcp", re.compile(r"(?:.*\D)?(\d+)"), _has_metadata, _unknown, lacks_of_dcp, no_metrics)


def _is_olmo_core(contents: Contents) -> bool:
    return contents.has(r"model_and_optim/.*")


def _naming_olmo_core(path: str) -> FileNaming:
    rank = re.fullmatch(r"train/(rank\d+)\.pt", path)
    return FileNaming() if rank is None else FileNaming("train", rank[1])


def _lacks_olmo_core(contents: Contents) -> list[Lack]:
    lacks = lacks_of_dcp(contents)
    if ".metadata.json" not in contents.paths:
        lacks.append(Lack(".metadata.json", "the save did not end, or the file was lost"))
    ranks = ranks_of(contents, r"train/rank(\d+)\.pt")
    cost = "the place in the data and the state of schedulers and random numbers are lost"
    return lacks + lacks_of_ranks(ranks, None if ranks else 1, "train/rank{}.pt", cost)


OLMO_CORE: Final = Layout(
    "olmo-core", re.compile(r"step(\d+)"), _is_olmo_core, _naming_olmo_core, _lacks_olmo_core, no_metrics
)
