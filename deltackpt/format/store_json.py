"""``store.json``: what makes a folder or bucket a store (section 3 of ``docs/format.md``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deltackpt.errors import CorruptObjectError, NotAStoreError, UnknownVersionError
from deltackpt.format.hashing import Buffer
from deltackpt.format.json_fields import Fields, dump_json, load_fields
from deltackpt.format.keys import STORE_JSON
from deltackpt.format.origin import Origin

__all__ = ["FORMAT", "StoreConfig", "decode_store_json", "encode_store_json"]

FORMAT = 1
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Identity and options of a store.

    Attributes:
        format: version of the store format.
        id: 32 hex digits, random.
        created: RFC 3339 time, in UTC.
        options: what savers were asked for; JSON values. Readers of data do not need them.
    """

    format: int
    id: str
    created: str
    options: Mapping[str, object] = field(default_factory=dict)


def encode_store_json(config: StoreConfig) -> bytes:
    """The bytes of ``store.json``.

    Raises:
        InvalidArgumentError: a field is not as section 3 says.
        UnknownVersionError: the configuration has another format.
    """
    origin = Origin()
    data = dump_json(
        {"format": config.format, "id": config.id, "created": config.created, "options": dict(config.options)}, origin
    )
    _parse(load_fields(data, origin, STORE_JSON), None)
    return data + b"\n"


def decode_store_json(data: Buffer, *, source: str) -> StoreConfig:
    """The configuration of a store.

    Args:
        source: the object with its store, for messages.

    Raises:
        NotAStoreError: this is no ``store.json`` of deltackpt.
        UnknownVersionError: a format that this version does not know.
        CorruptObjectError: a field is not as section 3 says.
    """
    try:
        fields = load_fields(data, Origin(source), STORE_JSON)
    except CorruptObjectError as error:
        raise NotAStoreError(
            error.message, where=source, hint="a store is made by `deltackpt init`; is this path the right one?"
        ) from error
    if not {"format", "id"} <= set(fields.names()):
        raise NotAStoreError(
            "it has no fields 'format' and 'id', so something else wrote it",
            where=source,
            hint="a store is made by `deltackpt init`; is this path the right one?",
        )
    return _parse(fields, source)


def _parse(fields: Fields, source: str | None) -> StoreConfig:
    version = fields.integer("format")
    if version != FORMAT:
        raise UnknownVersionError(
            f"the store has format {version}; this package knows {FORMAT}",
            where=source,
            hint="open it with a newer deltackpt",
        )
    store_id = fields.text("id")
    if _ID.fullmatch(store_id) is None:
        fields.wrong("id", "32 hex digits")
    options = fields.sub("options")
    return StoreConfig(version, store_id, fields.time("created"), {name: options.raw(name) for name in options.names()})
