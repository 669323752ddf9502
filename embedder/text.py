"""Show text by others, such as names and paths, safely on terminals, in logs and in files of lines."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

# controls (C0, DEL, C1), line and paragraph separators, marks of writing direction, byte order marks, lone surrogates
UNPRINTABLE = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
)
_UNPRINTABLE = re.compile(f"[{UNPRINTABLE}]")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5}|[nrt])")


def printable(text: object) -> str:
    r"""Return text as one line that a terminal shows as it is.

    A control character, such as a line feed or an escape, becomes `\x0a` or `\u202e`.
    """
    return _UNPRINTABLE.sub(lambda match: _escaped(match[0]), str(text))


def unescaped(text: str) -> str:
    """Undo the escapes of `printable`, or of `repr` in a message.

    A text with backslashes of its own comes back changed.
    """
    return _ESCAPE.sub(lambda match: ast.literal_eval(f"'{match[0]}'"), text)


def to_json(data: Any, indent: int | None = None) -> str:
    """Return JSON with other alphabets as they are; controls and lone surrogates are JSON's own escapes.

    Without an indent there are no spaces between the parts.
    """
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=(",", ":") if indent is None else None)
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
