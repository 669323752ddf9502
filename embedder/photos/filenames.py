"""File names that are not UTF-8, as text that JSON, Parquet and terminals can carry, and back.

A byte that is no UTF-8 is written as `\\xe9`. A backslash of the name itself is written as `\\x5c` where it could be mistaken for that.
"""

from __future__ import annotations

import re

LITERAL = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")
NOT_UTF8 = re.compile("[\ud800-\udfff]")
WRITTEN = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def to_text(name: str) -> str:
    """A name as `os` gives it -> valid Unicode; two names never become one."""
    if "\\" not in name and not NOT_UTF8.search(name):
        return name
    return NOT_UTF8.sub(lambda match: _written(match[0]), LITERAL.sub(lambda _: r"\x5c", name))


def _written(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return "".join(
        f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass")
    )  # from JSON, never from a folder


def to_file(text: str) -> str:
    """The opposite of `to_text`."""
    return WRITTEN.sub(_read, text) if "\\" in text else text


def _read(match: re.Match[str]) -> str:
    byte = int(match[1], 16)
    return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)
