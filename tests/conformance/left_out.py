"""Tests of PyTorch's that are not run, each with the reason."""

from __future__ import annotations

__all__ = ["LEFT_OUT"]

LEFT_OUT = {
    "test_format_utils.py::TestFormatUtils::test_online_torch_save_to_dcp": (
        "loads with torch's own reader of torch.save files, not with ours, into FSDP1, which needs an accelerator"
    ),
}
