"""The store format, version 1: pure functions between bytes and frozen dataclasses, without I/O.

``docs/format.md`` is the authority; each module here implements one of its sections. Encoders refuse what the page
forbids (``InvalidArgumentError``); decoders survive any bytes and answer with ``CorruptObjectError``,
``TruncatedObjectError`` or ``UnknownVersionError``, with the object and the offset.
"""
