r"""Convert file names that are not UTF-8 to text that JSON, Parquet and terminals can carry, and back.

A byte that is not UTF-8 is written as `\\xe9`. A backslash of the name itself is written as `\\x5c` where it could be
mistaken for such an escape.
"""

from __future__ import annotations

import re

LITERAL = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")
NOT_UTF8 = re.compile("[\ud800-\udfff]")
WRITTEN = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def to_text(name: str) -> str:
    """Convert a name of the operating system to valid Unicode; different names stay different."""
    if "\\" not in name and not NOT_UTF8.search(name):
        return name
    return NOT_UTF8.sub(lambda match: _written(match[0]), LITERAL.sub(lambda _: r"\x5c", name))


def _written(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    # a high surrogate, which comes from JSON, never from a folder
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def to_file(text: str) -> str:
    """Convert text back to a name of the operating system; the inverse of `to_text`."""
    return WRITTEN.sub(_read, text) if "\\" in text else text


def _read(match: re.Match[str]) -> str:
    byte = int(match[1], 16)
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)
