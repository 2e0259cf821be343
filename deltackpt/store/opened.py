"""An open store: a backend, its configuration, and parsed metadata kept for reuse."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from deltackpt import escape
from deltackpt.backend.base import Backend
from deltackpt.errors import (
    CorruptObjectError,
    MissingObjectError,
    NotAStoreError,
    ObjectExistsError,
    StoreExistsError,
    TruncatedObjectError,
)
from deltackpt.format.hashing import blake3_digest
from deltackpt.format.index import Index, decode_index
from deltackpt.format.keys import (
    CONFIG_YAML,
    MANIFESTS,
    READER_PY,
    README_TXT,
    STORE_JSON,
    StepKey,
    index_key,
    manifest_key,
)
from deltackpt.format.manifest import (
    CHECKSUM_BYTES,
    HEADER_PREFIX,
    Manifest,
    ManifestHeader,
    decode_header,
    decode_manifest,
    header_length,
)
from deltackpt.format.store_json import FORMAT, StoreConfig, decode_store_json, encode_store_json
from deltackpt.format.times import utc_now
from deltackpt.store.config import WriterConfig, read_config
from deltackpt.store.options import StoreOptions

__all__ = ["OpenStore", "create_store", "open_store"]

_Value = TypeVar("_Value")

# Parsed indexes and manifests are reused between saves. A parsed index takes up to 20 times its stored bytes: 14 times
# with 10 tensors of one block, 20 with 300.
_CACHED_INDEX_BYTES = 256 << 20
_PARSED = 20
_CACHED_MANIFESTS = 4

# One read of this size holds the header of nearly every manifest.
_HEADER_READ = 4096


class _Recent(Generic[_Value]):
    """The most recently used values up to a total cost; safe to use from many threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._cost = 0
        self._values: OrderedDict[object, tuple[_Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> _Value | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: object, value: _Value, cost: int) -> None:
        with self._lock:
            if key in self._values:
                self._cost -= self._values.pop(key)[1]
            self._values[key] = (value, cost)
            self._cost += cost
            while self._cost > self._capacity and len(self._values) > 1:
                self._cost -= self._values.popitem(last=False)[1][1]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A manifest, the length of the object, and the checksum that it ends with."""

    manifest: Manifest
    size: int
    checksum: bytes


class OpenStore:
    """A store whose ``store.json`` was read and understood.

    Attributes:
        backend: where its objects live.
        config: its identity and format version.
        options: how steps are written into it; without, what it was made with and its ``deltackpt.yaml`` say it.
        clock: what time it is, in UTC.
    """

    def __init__(
        self,
        backend: Backend,
        config: StoreConfig,
        options: StoreOptions | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.backend = backend
        self.config = config
        self.clock = clock
        self._options = options
        self._writer_config: WriterConfig | None = None if options is None else WriterConfig()
        self._indexes: _Recent[Index] = _Recent(_CACHED_INDEX_BYTES)
        self._manifests: _Recent[_Kept] = _Recent(_CACHED_MANIFESTS)

    @property
    def url(self) -> str:
        return self.backend.url

    @property
    def options(self) -> StoreOptions:
        """How steps are written into it. Readers do without: a newer version may have options that this one lacks.

        Raises:
            InvalidArgumentError: an option that this version does not know, or a wrong ``deltackpt.yaml``.
        """
        if self._options is None:
            made_with = StoreOptions.from_mapping(self.config.options, source=STORE_JSON).to_mapping()
            self._options = StoreOptions.from_mapping({**made_with, **self.writer_config.options})
        return self._options

    @property
    def writer_config(self) -> WriterConfig:
        """What the store's ``deltackpt.yaml`` says, as it was when it was first asked for.

        Raises:
            InvalidArgumentError: the file is wrong; says in which line.
        """
        if self._writer_config is None:
            self._writer_config = read_config(self.backend)
        return self._writer_config

    def index(self, name: bytes) -> Index:
        """The index object of this BLAKE3 name, checked against it.

        Raises:
            MissingObjectError, CorruptObjectError: it is gone or its bytes are not those it was named for.
        """
        cached = self._indexes.get(name)
        if cached is not None:
            return cached
        key = index_key(name)
        data = self.backend.get(key)
        if blake3_digest(data) != name:
            raise CorruptObjectError(
                "the index object does not have the hash in its name", where=key, hint="run `deltackpt verify --deep`"
            )
        index = decode_index(data, source=key)
        self._indexes.put(name, index, _PARSED * len(data))
        return index

    def manifest(self, key: StepKey) -> Manifest:
        """The manifest of one generation of a step, as it is now: one that is kept from before is compared with it.

        Raises:
            MissingObjectError, CorruptObjectError: it is gone, damaged, or names another step.
        """
        name = manifest_key(key)
        cached = self._manifests.get(key)
        if cached is not None and self._is_unchanged(name, cached):
            return cached.manifest
        data = self.backend.get(name)
        manifest = decode_manifest(data, source=name)
        _check_place(manifest.header, key, name)
        self._manifests.put(key, _Kept(manifest, len(data), data[-CHECKSUM_BYTES:]), 1)
        return manifest

    def _is_unchanged(self, name: str, kept: _Kept) -> bool:
        """Compares checksums: a step that is deleted and saved again starts at generation 1 again."""
        try:
            return self.backend.get(name, kept.size - CHECKSUM_BYTES, CHECKSUM_BYTES) == kept.checksum
        except TruncatedObjectError:
            return False

    def header(self, key: StepKey, size: int) -> ManifestHeader:
        """The header of a manifest of ``size`` bytes: one short ranged read, two where the header is long."""
        name = manifest_key(key)
        data = self.backend.get(name, 0, min(size, _HEADER_READ))
        need = header_length(data[:HEADER_PREFIX], source=name)
        if need > len(data):
            data = self.backend.get(name, 0, need)
        header = decode_header(data, source=name)
        _check_place(header, key, name)
        return header


def _check_place(header: ManifestHeader, key: StepKey, name: str) -> None:
    if header.key != key:
        raise CorruptObjectError(
            f"the manifest says that it is step {header.key.branch}:{header.key.step} "
            f"generation {header.key.generation}, which is not its place",
            where=name,
        )


def create_store(backend: Backend, options: StoreOptions) -> OpenStore:
    """Make a store in an empty place. Of several that do so at once one makes it.

    Raises:
        StoreExistsError: there is one already, or somebody else has just made it.
        NotAStoreError: something else is there.
    """
    _check_no_store(backend)
    configured = False
    for found in backend.list():
        configured = configured or found.key == CONFIG_YAML
        # What a creation that was killed may leave, and a configuration that was there first.
        if found.key not in (README_TXT, READER_PY, CONFIG_YAML):
            # Of a store that somebody has made since the first look: store.json comes before anything else in it.
            _check_no_store(backend)
            raise NotAStoreError(
                f"the place is not empty: it holds {found.key}", where=backend.url, hint="choose an empty folder"
            )
    config = StoreConfig(
        format=FORMAT,
        id=uuid.uuid4().hex,
        created=utc_now().isoformat(timespec="seconds"),
        options=options.to_mapping(),
    )
    backend.put(README_TXT, escape.readme_text())
    backend.put(READER_PY, escape.reader_source())
    try:
        backend.put_if_absent(STORE_JSON, encode_store_json(config))
    except ObjectExistsError as error:
        raise StoreExistsError("somebody else created the store", where=backend.url, hint="open it") from error
    return OpenStore(backend, config, None if configured else options)


def _check_no_store(backend: Backend) -> None:
    if any(found.key == STORE_JSON for found in backend.list(STORE_JSON)):
        raise StoreExistsError("there is a store already", where=backend.url, hint="open it instead")


def open_store(backend: Backend) -> OpenStore:
    """Open the store that lives in a backend.

    Raises:
        NotAStoreError: there is no ``store.json``.
        MissingObjectError: there is none, but there are steps.
        UnknownVersionError: it was written by a newer version.
        CorruptObjectError: ``store.json`` is damaged.
    """
    try:
        data = backend.get(STORE_JSON)
    except MissingObjectError as error:
        if any(True for _ in backend.list(MANIFESTS)):
            raise MissingObjectError(
                f"the store has steps but its {STORE_JSON} is gone",
                where=backend.url,
                hint=f"put {STORE_JSON} back from a copy of the store: it is written once and never changes",
            ) from error
        raise NotAStoreError(
            f"not a deltackpt store: it has no {STORE_JSON}", where=backend.url, hint="create one with `deltackpt init`"
        ) from error
    return OpenStore(backend, decode_store_json(data, source=STORE_JSON))
