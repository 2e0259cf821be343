"""The test kit for those who save states or write backends and plugins, and for the package's own tests.

* ``assert_round_trip``: that a state survives a save and a load exactly.
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
from deltackpt.testing.round_trip import assert_round_trip

__all__ = [
    "Fault",
    "FaultyBackend",
    "Operation",
    "RecordingBackend",
    "assert_round_trip",
    "flip_bits",
    "overwrite_bytes",
    "truncate_object",
]
