"""Read from EXIF or XMP how a photo is to be turned; ignore whatever else they hold, however malformed."""

from __future__ import annotations

import re
import struct
from typing import Any

from PIL.Image import Transpose

Box = tuple[float, float, float, float]

ORIENTATION = 274  # tag of EXIF and TIFF
MOST_VALUES = 16
# TIFF's type -> struct's code
TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I"}
RATIONAL = 5  # a type whose values lie outside of the entry
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
BACK = {6: 8, 8: 6}  # undo each other; each of the others undoes itself
XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""")


def orientation(exif: bytes = b"", xmp: bytes = b"") -> int:
    """Return 1 to 8 as EXIF defines them: EXIF's value, else XMP's, else 1 (the pixels are upright)."""
    found = from_exif(exif)
    if found is None and (match := XMP.search(xmp)):
        found = int(match[1])
    return found or 1


def turned(box: Box, turn: int) -> Box:
    """Return where a box of the stored picture lies once the picture is turned upright.

    box: x0, y0, x1, y1 as shares of the picture's sides. turn: 1 to 8, as EXIF defines them. Give `BACK` of a turn for
    the way from the upright picture to the stored one.
    """
    x0, y0, x1, y1 = box
    if turn in (5, 6, 7, 8):  # the sides change places, then as one of the others
        x0, y0, x1, y1 = y0, x0, y1, x1
        turn = {5: 1, 6: 2, 7: 3, 8: 4}[turn]
    if turn in (2, 3):
        x0, x1 = 1 - x1, 1 - x0
    if turn in (3, 4):
        y0, y1 = 1 - y1, 1 - y0
    return x0, y0, x1, y1


def from_exif(exif: bytes) -> int | None:
    """Return the orientation in EXIF's first directory; None where there is no valid one."""
    exif = re.sub(rb"^(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, start)
    entries = range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12)
    values = (_value(exif, at, order) for at in entries if struct.unpack_from(order + "H", exif, at)[0] == ORIENTATION)
    return next((number for value in values if (number := valid(value))), None)


def _value(exif: bytes, at: int, order: str) -> Any:
    """Return the values of the directory entry at `at`.

    Return None where the values lie outside of `exif`, or their type is unknown.
    """
    kind, count = struct.unpack_from(order + "HI", exif, at + 2)
    if kind not in TYPES or not 0 < count <= MOST_VALUES:
        return None
    code = f"{order}{count}{TYPES[kind]}"  # a text is one value; of rationals, the numerators are read
    size = struct.calcsize(code)
    start = at + 8 if size <= 4 and kind != RATIONAL else struct.unpack_from(order + "I", exif, at + 8)[0]
    return struct.unpack_from(code, exif, start) if start + size <= len(exif) else None


def valid(value: Any) -> int | None:
    """Return 1 to 8 from a tag's value, a number, a text or the first of several; else None."""
    if isinstance(value, tuple):
        return valid(value[0]) if value else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = value.strip(" \0")
        return valid(int(value)) if value.isascii() and value.isdecimal() and len(value) < 3 else None
    return int(value) if isinstance(value, int | float) and value in range(1, 9) else None
