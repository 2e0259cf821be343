"""The header of a manifest: what a listing of steps shows (section 8 of ``docs/format.md``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from deltackpt.errors import UnknownVersionError
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import MAX_GENERATION, MAX_STEP, StepKey
from deltackpt.format.origin import Origin

__all__ = [
    "MAX_HEADER_BYTES",
    "ArtifactTotals",
    "ManifestHeader",
    "Metric",
    "dump_header",
    "dump_metrics",
    "parse_header",
    "parse_metrics",
]

FORMAT = 1
MAX_HEADER_BYTES = 1 << 20
_MAX_DEPTH = (1 << 31) - 1
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Metric: TypeAlias = "float | int | str | bool | None"


@dataclass(frozen=True, slots=True)
class ArtifactTotals:
    """Sums over one artifact of a step.

    Attributes:
        raw_bytes: of the elements of its entries.
        stored_bytes: of the packs written for it.
        entries: how many tensors and objects it has.
    """

    raw_bytes: int
    stored_bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """A step in short.

    Attributes:
        key: the step and its generation.
        created: RFC 3339 time, in UTC.
        parent: the step before it in its line, if any.
        chain_key: branch and step of the key step that its chain starts from; itself where ``distance`` is 0.
        distance: how many steps back along the chain that is.
        depth: the largest depth among its blocks.
        raw_bytes: of the elements of all its entries.
        stored_bytes: of the packs and index objects written for it.
        restore_bytes: of all records in its closure.
        metrics: what was recorded with it.
        artifacts: totals by artifact.
        writer: what wrote it, such as versions of packages.
    """

    key: StepKey
    created: str
    parent: StepKey | None
    chain_key: tuple[str, int]
    distance: int
    depth: int
    raw_bytes: int
    stored_bytes: int
    restore_bytes: int
    metrics: Mapping[str, Metric]
    artifacts: Mapping[str, ArtifactTotals]
    writer: Mapping[str, str | int | float]

    @property
    def is_key(self) -> bool:
        """Whether the step needs nothing of another step."""
        return self.distance == 0


def dump_header(header: ManifestHeader) -> bytes:
    """The header as JSON.

    Raises:
        InvalidArgumentError: a value that section 8 does not allow, or more than 1 MiB of them.
    """
    origin = Origin()
    parent = header.parent
    value = {
        "format": FORMAT,
        "branch": header.key.branch,
        "step": header.key.step,
        "generation": header.key.generation,
        "created": header.created,
        "parent": None if parent is None else [parent.branch, parent.step, parent.generation],
        "key": list(header.chain_key),
        "distance": header.distance,
        "depth": header.depth,
        "raw_bytes": header.raw_bytes,
        "stored_bytes": header.stored_bytes,
        "restore_bytes": header.restore_bytes,
        "metrics": dump_metrics(header.metrics, origin),
        "artifacts": {
            name: {"raw_bytes": a.raw_bytes, "stored_bytes": a.stored_bytes, "entries": a.entries}
            for name, a in header.artifacts.items()
        },
        "writer": dict(header.writer),
    }
    data = dump_json(value, origin)
    if len(data) > MAX_HEADER_BYTES:
        raise origin.error(f"the header of a manifest has {len(data)} bytes; at most 1 MiB of metrics can be recorded")
    parse_header(data, origin)
    return data


def dump_metrics(metrics: Mapping[str, Metric], origin: Origin) -> dict[str, Any]:
    """Metrics as JSON values.

    Raises:
        InvalidArgumentError: a value or name that section 8 does not allow.
    """
    return {_name(k, origin): _dump_metric(k, v, origin) for k, v in metrics.items()}


def _name(name: object, origin: Origin) -> str:
    if not isinstance(name, str):
        raise origin.error(f"the name of a metric is {name!r}, not text")
    return name


def _dump_metric(name: str, value: Metric, origin: Origin) -> Any:
    # An exact type or a float's subclass (numpy's float64): anything else would come back as another type.
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    raise origin.error(f"metric {name!r} is a {type(value).__name__}; a number, text, boolean or None can be recorded")


def parse_header(data: bytes | memoryview, origin: Origin) -> ManifestHeader:
    """The header that ``data`` is.

    Raises:
        UnknownVersionError: a format that this version does not know.
        CorruptObjectError, InvalidArgumentError: a field is not as section 8 says; which of the two, ``origin`` knows.
    """
    fields = load_fields(data, origin, "the manifest's header")
    version = fields.integer("format")
    if version != FORMAT:
        raise UnknownVersionError(
            f"the manifest has format {version}; this package knows {FORMAT}",
            where=origin.source,
            offset=origin.offset,
            hint="read it with a newer deltackpt",
        )
    key = StepKey(
        fields.branch("branch"), fields.integer("step", 0, MAX_STEP), fields.integer("generation", 1, MAX_GENERATION)
    )
    header = ManifestHeader(
        key=key,
        created=fields.time("created"),
        parent=None if fields.raw("parent") is None else fields.step_key("parent"),
        chain_key=fields.branch_step("key"),
        distance=fields.integer("distance"),
        depth=fields.integer("depth", 0, _MAX_DEPTH),
        raw_bytes=fields.integer("raw_bytes"),
        stored_bytes=fields.integer("stored_bytes"),
        restore_bytes=fields.integer("restore_bytes"),
        metrics=parse_metrics(fields.sub("metrics")),
        artifacts=_parse_artifacts(fields.sub("artifacts")),
        writer=_parse_writer(fields.sub("writer")),
    )
    if header.is_key and header.chain_key != (key.branch, key.step):
        fields.wrong("key", "the step itself, although its distance is 0")
    return header


def parse_metrics(fields: Fields) -> dict[str, Metric]:
    """Metrics from JSON values."""
    return {name: _parse_metric(fields, name) for name in fields.names()}


def _parse_metric(fields: Fields, name: str) -> Metric:
    value = fields.raw(name)
    if isinstance(value, dict):
        text = value.get("float")
        if len(value) != 1 or not isinstance(text, str) or text not in _NOT_FINITE:
            fields.wrong(name, "a number, text, boolean, null or a tagged float")
        return _NOT_FINITE[text]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    fields.wrong(name, "a number, text, boolean, null or a tagged float")


def _parse_artifacts(fields: Fields) -> dict[str, ArtifactTotals]:
    found = {}
    for name in fields.names():
        totals = fields.sub(name)
        found[name] = ArtifactTotals(
            totals.integer("raw_bytes"), totals.integer("stored_bytes"), totals.integer("entries")
        )
    return found


def _parse_writer(fields: Fields) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for name in fields.names():
        value = fields.raw(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            fields.wrong(name, "text or a number")
        found[name] = value
    return found
