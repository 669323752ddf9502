"""Bound a photo before a decoder sees it: its pixels, and how much there is to read around them."""

from __future__ import annotations

import struct

from facegallery.embedder.outcomes import TOO_LARGE, UNREADABLE
from facegallery.embedder.photos.kinds import PhotoRefused

MAX_PIXELS = 100_000_000
MOST_MISSING = 0.1  # share of the rows that a cut or broken photo may lack; with more, half a face may be missing
DNG_VERSION, SUBFILE = 50706, 254  # TIFF tags; the first picture of a raw photo is a small copy
RAW = "a raw photo of a camera: save it as JPEG or TIFF first"
MOST_TAGS = 4096
MOST_NUMBERS = 50_000  # of one TIFF tag
PALETTE = 320  # the tag that has 196,608 numbers where colours have 16 bits
LISTS = frozenset(  # tags that Pillow reads number by number: sizes, depths, places, samples
    [
        *range(254, 270),
        *range(273, 285),
        *range(290, 294),
        301,
        317,
        318,
        319,
        PALETTE,
        *range(321, 333),
        334,
        *range(336, 344),
        512,
        513,
        514,
        515,
        517,
        518,
        519,
        520,
        521,
        529,
        530,
        531,
        532,
    ]
)
SHORT, BLOBS = 3, frozenset([1, 2, 7])  # types: BLOBS stay bytes or text, all others become a tuple of numbers
MOST_HEADER = 64 << 10  # bytes
MOST_BLOCKS = 100_000  # blocks of a GIF before its picture


def check_size(width: int, height: int, most: int) -> None:
    """Raise PhotoRefused for more than `most` pixels, and for none."""
    if not width or not height:
        raise PhotoRefused(UNREADABLE, f"{width} x {height} pixels")
    if width * height > most:
        raise PhotoRefused(TOO_LARGE, f"{width} x {height} pixels, the limit is {most:,}")


def check_tiff(data: bytes, most: int) -> None:
    """Raise PhotoRefused for a TIFF with a larger directory, or larger tiles, than photos have."""
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    number, value, first = ("Q", "Q", 8) if big else ("H", "I", 4)
    counted, long, size = struct.calcsize("=" + number), struct.calcsize("=" + value), 20 if big else 12
    start = _number(data, order + value, first)
    count = _number(data, order + number, start)
    if count > MOST_TAGS:
        raise PhotoRefused(UNREADABLE, f"a TIFF of {count:,} tags, photos have at most {MOST_TAGS:,}")
    if data[8:10] == b"CR":
        raise PhotoRefused(UNREADABLE, RAW)
    sides = {322: 0, 323: 0}
    for at in range(start + counted, start + counted + count * size, size):
        tag, kind = _number(data, order + "H", at), _number(data, order + "H", at + 2)
        numbers = _number(data, order + value, at + 4)
        if numbers > MOST_NUMBERS and not _may_be_long(tag, kind, numbers):
            raise PhotoRefused(
                TOO_LARGE, f"a TIFF with {numbers:,} numbers in tag {tag}, the limit is {MOST_NUMBERS:,}"
            )
        if tag == DNG_VERSION or (tag == SUBFILE and _number(data, order + value, at + 4 + long) & 1):
            raise PhotoRefused(UNREADABLE, RAW)
        if tag in sides:
            sides[tag] = _number(data, order + ("H" if kind == 3 else value), at + 4 + long)
    check_size(sides[322] or 1, sides[323] or 1, most)


def _may_be_long(tag: int, kind: int, numbers: int) -> bool:
    """Whether a long tag costs no more than its bytes: a text, a profile, or a palette of 16 bits."""
    if tag in LISTS:
        return tag == PALETTE and kind == SHORT and numbers <= 3 << 16
    return kind in BLOBS


def _number(data: bytes, code: str, at: int) -> int:
    """Return the number at an offset; raise PhotoRefused where the file ends before it."""
    if at + struct.calcsize(code) > len(data):
        raise PhotoRefused(UNREADABLE, "a TIFF that ends before its directory does: the file is cut or broken")
    return struct.unpack_from(code, data, at)[0]


def check_gif(data: bytes) -> None:
    """Raise PhotoRefused for a GIF with more than MOST_BLOCKS blocks before its first picture."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10:11] > b"\x7f" else 0)
    inside = False  # an extension, whose blocks follow one another up to an empty one
    for _ in range(MOST_BLOCKS):
        byte = data[at : at + 1]
        if byte == b"" or (byte in (b",", b";") and not inside):
            return
        at += 1 + (byte[0] if inside else byte == b"!")
        inside = byte != b"\0" if inside else byte == b"!"
    raise PhotoRefused(TOO_LARGE, f"a GIF of more than {MOST_BLOCKS:,} blocks before its picture")
