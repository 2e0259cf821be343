"""Plain values as YAML, where that holds them without loss."""

from __future__ import annotations

from typing import Final

import yaml

__all__ = ["to_yaml"]

_MAX_DEPTH: Final = 64


class _PlainDumper(yaml.SafeDumper):
    """Writes a list or dict that occurs twice in full both times, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def to_yaml(value: object) -> bytes | None:
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
    if depth > _MAX_DEPTH:
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
