"""What the tensors of a file are called in a step, which artifact they belong to, and what they are to training. Pure.

Names are those that a save through DCP would give: ``model.<key>``, ``optim.state.<parameter>.exp_avg``. Those of a
file that holds one rank's part begin with that part: ``rank3/model.<key>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deltackpt.formats.parsers.found import PartOf
from deltackpt.pipeline.items import Place
from deltackpt.tensor.roles import classify_all, marker_end, role_of

__all__ = ["FileNaming", "Named", "Names", "Wanted", "artifact_of_path", "name_tensors"]

# DeepSpeed's names for the float32 masters of a rank.
_MASTERS: Final = frozenset({"single_partition_of_fp32_groups", "fp32_flat_groups", "fp32_groups_flat"})

_CONFIG_NAMES: Final = frozenset(
    {
        *("config.yaml", "config.yml", "config.json", "generation_config.json", "hparams.yaml", "args.json"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "adapter_config.json"),
        *("preprocessor_config.json", "processor_config.json", "spiece.model"),
    }
)
_TRAIN_STEMS: Final = ("rng_state", "scheduler", "trainer_state", "training_args", "scaler", "train", "sampler")


@dataclass(frozen=True, slots=True)
class FileNaming:
    """What a layout knows of a file.

    Attributes:
        artifact: what all of it belongs to; None where its content has to tell.
        part: which part of the step it is, such as ``rank3``; empty where the names of its tensors are unlike those
            of all other files.
    """

    artifact: str | None = None
    part: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A tensor of a step to be.

    Attributes:
        place: by which partners are found; see ``pipeline/partners.py``.
        path: its place in the nested state of the step.
    """

    fqn: str
    artifact: str
    role: str
    place: Place
    path: Place


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor of a file that needs a name.

    Attributes:
        place: where it is in the file's value.
        suffix: what to add to its name.
        part: of which tensor, spread over several files, it is a part.
    """

    place: Place
    suffix: str = ""
    part: PartOf | None = None

    @property
    def is_joined(self) -> bool:
        """Whether it becomes a part of one entry."""
        return self.part is not None and self.part.joined


class Names:
    """The names given in a step: each once."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._shared: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether the name is taken."""
        return name in self._given

    def give(self, wanted: str) -> str:
        """The name, with a number added where it is taken."""
        name, number = wanted, 2
        while name in self._given:
            name, number = f"{wanted}#{number}", number + 1
        self._given.add(name)
        return name

    def share(self, wanted: str) -> str:
        """The name of a tensor; every part of it is given the same."""
        if wanted not in self._shared:
            self._shared[wanted] = self.give(wanted)
        return self._shared[wanted]


def artifact_of_path(path: str) -> str:
    """The artifact of a file that only its name tells of: the path itself where that tells nothing."""
    name = path.rsplit("/", 1)[-1].lower()
    if name in _CONFIG_NAMES:
        return "config"
    stem = name.split(".", 1)[0]
    if stem.startswith(("model", "pytorch_model", "adapter_model", "consolidated")):
        return "model"
    if stem.startswith("optim"):
        return "optim"
    if stem.startswith(_TRAIN_STEMS):
        return "train"
    return path


def name_tensors(wanted: Sequence[Wanted], path: str, naming: FileNaming, names: Names) -> list[Named]:
    """The names of the tensors of one file, in their order.

    Args:
        path: of the file; its tensors' names begin with it where another file has taken one of them.
        names: those given in the step so far; the new ones are added.
    """
    artifacts = _artifacts([tensor.place for tensor in wanted], naming)
    paths = [_path(tensor, artifact, naming) for tensor, artifact in zip(wanted, artifacts, strict=True)]
    dotted = [_dotted(tensor, found) for tensor, found in zip(wanted, paths, strict=True)]
    part = naming.part
    if not part and any(names.has(name) for name, tensor in zip(dotted, wanted, strict=True) if not tensor.is_joined):
        part = path
    named = []
    for tensor, name, found, artifact in zip(wanted, dotted, paths, artifacts, strict=True):
        if tensor.is_joined:
            fqn, place = names.share(name), found
        else:
            fqn = names.give(f"{part}/{name}" if part else name)
            place = _partner_place(found, part or ("" if tensor.part is None else _corner(tensor.part)))
        named.append(Named(fqn, artifact, _role(found, artifact), place, found))
    return named


def _path(tensor: Wanted, artifact: str, naming: FileNaming) -> Place:
    if tensor.part is not None:
        return tensor.place
    return (
        artifact,
        *(tensor.place if naming.artifact is not None else tensor.place[marker_end(tensor.place, artifact) :]),
    )


def _dotted(tensor: Wanted, path: Place) -> str:
    """The name without that of its file's part; DCP's own where DCP saved it."""
    if tensor.part is None:
        return ".".join(str(word) for word in path) + tensor.suffix
    corner = "" if tensor.is_joined else f"@{_corner(tensor.part)}"
    return tensor.part.name + corner + tensor.suffix


def _corner(part: PartOf) -> str:
    return "_".join(str(offset) for offset in part.offsets)


def _role(path: Place, artifact: str) -> str:
    if artifact == "optim" and not _MASTERS.isdisjoint(map(str, path)):
        return "master"
    return role_of(path, artifact)


def _artifacts(places: Sequence[Place], naming: FileNaming) -> list[str]:
    if naming.artifact is not None:
        return [naming.artifact] * len(places)
    kinds = classify_all({str(number): (place, True) for number, place in enumerate(places)})
    return [kinds[str(number)] for number in range(len(places))]


def _partner_place(path: Place, part: str) -> Place:
    """The place by which a weight finds its moments: those of its own part only."""
    if not part:
        return path
    words = [str(word) for word in path]
    if words[0] == "optim" and "state" in words[:-2]:
        at = words.index("state")
        if not words[at + 1].isdigit():
            return (*words[:-1], f"@{part}", words[-1])
        return (f"{words[0]}@{part}", *words[1:])
    return (*words, f"@{part}")
