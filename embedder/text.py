"""Text of others, such as names and paths, where people read it: on terminals, in logs and in files of lines."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

# controls (C0, DEL, C1), line and paragraph separators, what turns the direction of writing, byte order marks, lone surrogates
UNPRINTABLE = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
)
_UNPRINTABLE = re.compile(f"[{UNPRINTABLE}]")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5}|[nrt])")


def printable(text: object) -> str:
    r"""Return text in one line that a terminal only shows: a control character, such as a line feed or an escape, becomes `\x0a` or `\u202e`."""
    return _UNPRINTABLE.sub(lambda match: _escaped(match[0], short=True), str(text))


def unescaped(text: str) -> str:
    """Return the text that `printable`, or `repr` in a message, shows so; of a text that holds a backslash itself, another one."""
    return _ESCAPE.sub(lambda match: ast.literal_eval(f"'{match[0]}'"), text)


def to_json(data: Any, indent: int | None = None) -> str:
    """Return JSON with other alphabets as they are, and controls and lone surrogates as JSON's own escapes; the data is the same.

    Without an indent there are no spaces between its parts.
    """
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=(",", ":") if indent is None else None)
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\n" else _escaped(match[0], short=False), text)


def _escaped(character: str, short: bool) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if short and code < 0x100 else f"\\u{code:04x}"
