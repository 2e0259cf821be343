"""A YAML file as plain values, with the line that each came from, for errors that say where to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

import yaml

from deltackpt.errors import InvalidArgumentError
from deltackpt.schedule.parse import close_hint

__all__ = ["Path", "YamlFile"]

Path: TypeAlias = "tuple[str | int, ...]"

# Far more than a configuration has. Aliases let a few lines stand for any number of values.
_MAX_VALUES = 10_000


class YamlFile:
    """A file whose top is a mapping.

    Only plain YAML is read: strings, numbers, booleans, nulls, lists and mappings.

    Args:
        data: the bytes of the file.
        source: its name, for errors.

    Raises:
        InvalidArgumentError: it is no such file; says in which line.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self._source = source
        self._lines: dict[Path, int] = {}
        self._count = 0
        try:
            loader = yaml.SafeLoader(data)
            node = loader.get_single_node()
            value = {} if node is None else self._value(loader, node, ())
        except InvalidArgumentError:
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail_in(0 if mark is None else mark.line + 1, f"this is not YAML: {error.problem or error.context}")
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self._fail_in(0, f"this is not YAML: {' '.join(str(error).split())}")
        if not isinstance(value, dict):
            self._fail_in(1, "a configuration is a mapping of names to values", "for example `key_every: 32`")
        self.values: Mapping[str, Any] = value

    def fail(self, path: Path, message: str, hint: str | None = None) -> NoReturn:
        """Raise InvalidArgumentError for the value at a path, or what is nearest to it."""
        while path and path not in self._lines:
            path = path[:-1]
        self._fail_in(self._lines.get(path, 0), message, hint)

    def check_keys(self, known: frozenset[str], path: Path = ()) -> None:
        """Demand that a mapping has known keys only.

        Raises:
            InvalidArgumentError: it has another one; the hint is the nearest.
        """
        value: Any = self.values
        for part in path:
            value = value[part]
        if not isinstance(value, Mapping):
            self.fail(path, f"{'.'.join(map(str, path))} must be a mapping, not {value!r}")
        for key in value:
            if key not in known:
                self.fail((*path, str(key)), f"unknown key {key!r}", close_hint(key, known))

    def _fail_in(self, line: int, message: str, hint: str | None = None) -> NoReturn:
        where = f"{self._source}, line {line}" if line else self._source
        raise InvalidArgumentError(message, where=where, hint=hint)

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            self._fail_in(node.start_mark.line + 1, f"more than {_MAX_VALUES} values")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, child, (*path, place)) for place, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        found: dict[Any, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._fail_in(line, "the keys of a mapping are names or numbers")
            key = loader.construct_object(key_node)
            if key in found:
                self._fail_in(line, f"the key {key!r} stands here a second time")
            self._lines[(*path, str(key))] = line
            found[key] = self._value(loader, child, (*path, str(key)))
        return found
