"""Tests of PyTorch's that are not run, each with the reason."""

from __future__ import annotations

__all__ = ["LEFT_OUT"]

LEFT_OUT: dict[str, str] = {}
