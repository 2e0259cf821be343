"""The test kit for those who write backends and plugins, and for the package's own tests.

* ``deltackpt.testing.backend_conformance``: a pytest suite that every backend must pass.
* ``deltackpt.testing.faults``: backends that fail, keep a record, or hold damaged bytes.

Only modules whose names end in ``_conformance`` need pytest.
"""

from __future__ import annotations

from deltackpt.testing.faults import (
    Fault,
    FaultyBackend,
    Operation,
    RecordingBackend,
    flip_bits,
    overwrite_bytes,
    truncate_object,
)

__all__ = [
    "Fault",
    "FaultyBackend",
    "Operation",
    "RecordingBackend",
    "flip_bits",
    "overwrite_bytes",
    "truncate_object",
]
