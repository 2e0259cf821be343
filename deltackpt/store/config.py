"""``deltackpt.yaml``, which stands in a store and says how it is written from now on.

What was chosen when the store was made is in ``store.json`` and never changes; this file overrides it, and arguments
override this file. Readers need neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from deltackpt.backend.base import Backend
from deltackpt.errors import InvalidArgumentError, MissingObjectError
from deltackpt.format.keys import CONFIG_YAML
from deltackpt.schedule import Schedule, parse_schedule
from deltackpt.store.base_cache import parse_base_memory
from deltackpt.store.options import StoreOptions
from deltackpt.store.retention import Retention
from deltackpt.text import parse_size

if TYPE_CHECKING:
    from deltackpt.store.yaml_file import YamlFile

__all__ = ["CONFIG_KEYS", "WriterConfig", "config_template", "parse_config", "read_config"]

_OPTIONS = frozenset(f.name for f in fields(StoreOptions))
_RETENTION = frozenset({"keep_last", "keep_every", "keep_best", "keep_within", "keep_tag"})
CONFIG_KEYS = _OPTIONS | {"base_memory", "threads", "schedule", "contents", "retention"}


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """What a ``deltackpt.yaml`` says; None and empty for what it does not.

    Attributes:
        options: those of :class:`StoreOptions` that it sets.
        base_memory, threads: as for the writer of DCP.
        schedule, contents: as for ``Checkpointer``.
        retention: the arguments of ``Retention``.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    base_memory: int | str | None = None
    threads: int | None = None
    schedule: Schedule | None = None
    contents: Mapping[str, Schedule] | None = None
    retention: Mapping[str, Any] | None = None


def read_config(backend: Backend) -> WriterConfig:
    """The configuration in a store; an empty one where it has no such file.

    Raises:
        InvalidArgumentError: the file is wrong; says in which line.
    """
    try:
        data = backend.get(CONFIG_YAML)
    except MissingObjectError:
        return WriterConfig()
    return parse_config(data, source=CONFIG_YAML)


def parse_config(data: bytes, *, source: str) -> WriterConfig:
    """What a file says.

    Raises:
        InvalidArgumentError: it is not YAML, or a key or value makes no sense; says in which line.
    """
    from deltackpt.store.yaml_file import YamlFile  # loads yaml, which stores without a configuration do without

    file = YamlFile(data, source)
    file.check_keys(frozenset(CONFIG_KEYS))
    values = {key: value for key, value in file.values.items() if value is not None}
    options = {key: _option(file, key, values[key]) for key in values if key in _OPTIONS}
    if "schedule" in values and "contents" in values:
        file.fail(("contents",), "schedule and contents exclude each other", "contents says when for each part")
    return WriterConfig(
        options=options,
        base_memory=_base_memory(file, values["base_memory"]) if "base_memory" in values else None,
        threads=_threads(file, values["threads"]) if "threads" in values else None,
        schedule=parse_schedule(values["schedule"], ("schedule",), file.fail) if "schedule" in values else None,
        contents=_contents(file, values["contents"]) if "contents" in values else None,
        retention=_retention(file, values["retention"]) if "retention" in values else None,
    )


def _option(file: YamlFile, key: str, value: object) -> object:
    try:
        if key == "pack_bytes" and isinstance(value, str):
            value = parse_size(value)
        StoreOptions.from_mapping({key: value})
    except InvalidArgumentError as error:
        file.fail((key,), error.message, error.hint)
    return value


def _base_memory(file: YamlFile, value: object) -> int | str:
    try:
        size = parse_size(value) if isinstance(value, str) and value != "auto" else value
        parse_base_memory(size)  # type: ignore[arg-type]  # checked there
    except InvalidArgumentError as error:
        file.fail(("base_memory",), error.message, error.hint)
    return size  # type: ignore[return-value]


def _threads(file: YamlFile, value: object) -> int:
    if type(value) is not int or value < 1:
        file.fail(("threads",), f"threads must be an integer from 1 on, not {value!r}")
    return value


def _contents(file: YamlFile, value: object) -> Mapping[str, Schedule]:
    if not isinstance(value, Mapping) or not value:
        file.fail(("contents",), f"contents must map parts of the state to schedules, not {value!r}")
    return {str(key): parse_schedule(rule, ("contents", str(key)), file.fail) for key, rule in value.items()}


def _retention(file: YamlFile, value: object) -> Mapping[str, Any]:
    file.check_keys(_RETENTION, ("retention",))
    rules = {str(key): rule for key, rule in dict(value).items() if rule is not None}  # type: ignore[call-overload]
    for key, rule in rules.items():
        try:
            Retention(**{key: rule})
        except InvalidArgumentError as error:
            file.fail(("retention", key), error.message, error.hint)
    if not rules:
        file.fail(("retention",), "retention has no rule, and would keep next to nothing", "for example keep_last: 3")
    return rules


def config_template(options: StoreOptions) -> bytes:
    """A file with everything in it, commented out."""
    values = options.to_mapping()
    if options.pack_bytes % (1 << 20) == 0:
        values["pack_bytes"] = f"{options.pack_bytes >> 20}MiB"
    chosen = "".join(f"# {name}: {value}\n" for name, value in values.items())
    return f"""\
# How this store is written from now on. What stands here overrides what it was made with, and arguments override what
# stands here. Take the "# " away from what you want to change. It is read when the store is opened.

# How steps are stored.
{chosen}
# Memory for blocks that the next save builds on (auto: a quarter of what is free), and threads (by default one a core).
# base_memory: auto
# threads: 8

# When Checkpointer saves: one schedule for all of the state ...
# schedule:
#   any:
#     - every: 1000
#     - every: 30min
#     - improves: val_loss
#       at_most_every: 500

# ... or one for each part of it.
# contents:
#   model: {{every: 100}}
#   optim: {{every: 1000}}

# Which steps Checkpointer keeps when it has saved one with everything.
# retention:
#   keep_last: 3
#   keep_every: 10000
#   keep_best: 2:val_loss:min
#   keep_within: 7d
#   keep_tag: paper
""".encode()
