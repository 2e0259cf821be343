"""The JSON of typed trees: written compactly, read without trust."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from deltackpt.errors import CorruptObjectError
from deltackpt.formats.tree import HEADER_BYTES, HINT, MAX_DEPTH

__all__ = ["Json", "dump_json", "parse_json"]

Json = Any
"""A value that ``json`` writes and reads."""

# A value nests at most four brackets deeper than the one it is in, and holds at most three of its own.
_MAX_BRACKETS: Final = 4 * MAX_DEPTH + 3
# Half-open strings match too, so that what follows them is not counted; the parser finds them.
_BRACKETS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_MAX_INT_DIGITS: Final = 20


def dump_json(tree: Json) -> bytes:
    """UTF-8, without spaces; strings with surrogates and floats that are not finite are errors."""
    return json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse_json(text: bytes, source: str) -> Json:
    """Parse JSON that neither nests deep enough to exhaust the stack nor has numbers that take quadratic time.

    Raises:
        CorruptObjectError: it is no such JSON.
    """

    def fail(message: str, at: int = 0) -> NoReturn:
        raise CorruptObjectError(message, where=source, offset=HEADER_BYTES + at, hint=HINT)

    depth = 0
    for match in _BRACKETS.finditer(text):
        token = text[match.start()]
        depth += (token in b"[{") - (token in b"]}")
        if depth > _MAX_BRACKETS:
            fail(f"the tree is nested deeper than {MAX_DEPTH} values", match.start())

    def parse_int(digits: str) -> int:
        if len(digits) > _MAX_INT_DIGITS:
            fail("a JSON number is too long for 64 bits")
        return int(digits)

    def parse_float(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            fail("a JSON number is too large for a double")
        return number

    def parse_constant(name: str) -> NoReturn:
        fail(f"{name} is not JSON")

    def members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) != len(pairs):
            fail("a JSON object has a member twice")
        return found

    try:
        return json.loads(
            text.decode(),
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=parse_constant,
            object_pairs_hook=members,
        )
    except UnicodeDecodeError as exc:
        raise CorruptObjectError(
            "the tree's JSON is not UTF-8", where=source, offset=HEADER_BYTES + exc.start, hint=HINT
        ) from exc
    except json.JSONDecodeError as exc:
        raise CorruptObjectError(
            f"the tree's JSON cannot be parsed: {exc.msg}",
            where=source,
            offset=HEADER_BYTES + len(exc.doc[: exc.pos].encode(errors="surrogatepass")),
            hint=HINT,
        ) from exc
