"""Read from EXIF when a photo was taken; ignore whatever else it holds, however malformed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

EXIF_DIRECTORY = 0x8769  # tag of the first directory: where the directory with the times begins
TIMES = ((0x9003, 0x9291), (0x9004, 0x9292))  # tags (time, fraction of its second): taken, then digitized
HEADING = b"Exif\0\0"
ASCII, LONG = 2, 4  # types of EXIF
ENTRY_BYTES = 12
MOST_FRACTION = 6  # digits
_TIME = re.compile(rb"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


def taken(exif: bytes) -> datetime | None:
    """Return when a photo was taken, by its camera's clock, without a zone; None where EXIF does not say it.

    exif: the body of EXIF, with or without its heading, or a whole TIFF. The times are DateTimeOriginal, else
    DateTimeDigitized, with their fractions of a second; DateTime, which programs change, is not read.
    """
    found = directory(exif, EXIF_DIRECTORY)
    return None if found is None else _of_directory(*found)


def directory(exif: bytes, tag: int) -> tuple[bytes, int, str] | None:
    """Return the bytes of EXIF, where the directory begins that an entry `tag` of the first one names, and their order.

    The order is < or >, as for `struct`; None where there is no such directory.
    """
    while exif.startswith(HEADING):
        exif = exif[len(HEADING) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return None
    (first,) = struct.unpack_from(order + "I", exif, 4)
    for found, kind, _, value in entries(exif, first, order):
        if found == tag and kind == LONG:
            (start,) = struct.unpack(order + "I", value)
            return exif, start, order
    return None


def _of_directory(exif: bytes, start: int, order: str) -> datetime | None:
    """Return the first valid time of the directory at `start`."""
    texts = {
        tag: _text(exif, count, value, order)
        for tag, kind, count, value in entries(exif, start, order)
        if kind == ASCII and any(tag in pair for pair in TIMES)
    }
    found = (_time(texts.get(time, b""), texts.get(fraction, b"")) for time, fraction in TIMES)
    return next((time for time in found if time is not None), None)


def entries(exif: bytes, start: int, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (tag, type, number of values, the four bytes of the value or of its place) of a directory."""
    if start + 2 > len(exif):
        return
    (count,) = struct.unpack_from(order + "H", exif, start)
    last = min(start + 2 + ENTRY_BYTES * count, len(exif) - ENTRY_BYTES + 1)
    for at in range(start + 2, last, ENTRY_BYTES):
        yield struct.unpack_from(order + "HHI4s", exif, at)


def _text(exif: bytes, count: int, value: bytes, order: str) -> bytes:
    """Return the beginning of a text, which lies in the entry or elsewhere."""
    if count <= len(value):
        return value[:count]
    (start,) = struct.unpack(order + "I", value)
    return exif[start : start + min(count, 32)]


def _time(text: bytes, fraction: bytes) -> datetime | None:
    match = _TIME.match(text)
    if match is None:
        return None
    digits = re.match(rb"\d*", fraction)
    micros = int((digits[0] if digits else b"")[:MOST_FRACTION].ljust(MOST_FRACTION, b"0"))
    with suppress(ValueError):  # no day, or no time of one
        return datetime(*map(int, match.groups()), micros)  # type: ignore[misc, arg-type]  # noqa: DTZ001
    return None
