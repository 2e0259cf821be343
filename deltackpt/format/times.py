"""Times as objects hold them: RFC 3339, in UTC."""

from __future__ import annotations

import re
from datetime import datetime, timezone

__all__ = ["format_time", "parse_time", "utc_now"]


def utc_now() -> datetime:
    """What this machine's clock says."""
    return datetime.now(timezone.utc)


def format_time(time: datetime) -> str:
    """A time with its zone, as text with milliseconds."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def parse_time(text: str) -> datetime:
    """A time that was checked as ``Fields.time`` does. Python 3.10 itself reads only some forms of it."""
    fraction = re.match(r"\.(\d+)", text[19:])
    microsecond = 0 if fraction is None else int(fraction[1][:6].ljust(6, "0"))
    return datetime.fromisoformat(text[:19]).replace(microsecond=microsecond, tzinfo=timezone.utc)
