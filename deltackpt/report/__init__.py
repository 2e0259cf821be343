"""The report on a store: one page with its figures as charts, that needs no network."""

from __future__ import annotations

from deltackpt.report.data import ReportData, collect
from deltackpt.report.page import render_page

__all__ = ["ReportData", "collect", "render_page"]
