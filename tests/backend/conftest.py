from __future__ import annotations

import pytest

pytest.register_assert_rewrite("deltackpt.testing.backend_conformance")
