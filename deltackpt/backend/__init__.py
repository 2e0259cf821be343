"""Where the bytes of a store live: one small protocol, the backends that meet it, and decorators around them."""

from __future__ import annotations

from deltackpt.backend.base import Backend, Buffer, ObjectInfo, check_key, check_prefix
from deltackpt.backend.local import LocalBackend
from deltackpt.backend.memory import MemoryBackend, MemoryRegistry
from deltackpt.backend.retry import RetryingBackend, RetryPolicy
from deltackpt.backend.url import open_backend

__all__ = [
    "Backend",
    "Buffer",
    "LocalBackend",
    "MemoryBackend",
    "MemoryRegistry",
    "ObjectInfo",
    "RetryPolicy",
    "RetryingBackend",
    "check_key",
    "check_prefix",
    "open_backend",
]
