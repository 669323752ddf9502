"""Damage photos in many ways, in every format that is read and in some that are not.

A mutant depends only on the photos, the seed and its number.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.common.format_damage import HEAD, OWN, Change, noise, numbers
from benchmarks.common.forms import OTHERS, READ, photo_in

JPEGS, NOT_READ = 0.2, 0.1  # shares of all; the other formats have the rest in equal parts
LARGE = 1 / 500  # share that is longer than any photo may be
LARGE_BYTES = 21 << 20


@dataclass(frozen=True)
class Mutant:
    """Hold a damaged photo."""

    number: int
    kind: str  # format and what was done
    data: bytes
    source: int  # which of the photos it was


def mutant(photos: Sequence[bytes], seed: int, number: int) -> Mutant:
    """Damage one of these JPEGs."""
    rng = np.random.default_rng([seed, number])
    source, form = int(rng.integers(len(photos))), _form(rng)
    data = photo_in(photos[source], form, int(rng.integers(len(READ.get(form, "1")))))
    if rng.random() < LARGE:
        return Mutant(number, f"{form} large", data + bytes(LARGE_BYTES), source)
    changes = EVERY | (OWN[form] if form in READ else {"whole": whole})
    name = list(changes)[rng.integers(len(changes))]
    try:
        changed = changes[name](data, rng)
    except (ValueError, IndexError, struct.error):  # this way of writing the format has not what is to be changed
        name, changed = "flipped", flipped(data, rng)
    return Mutant(number, f"{form} {name}", changed, source)


def sound(photos: Sequence[bytes], seed: int, number: int) -> Mutant:
    """Write one of these JPEGs in any of the formats that are read."""
    rng = np.random.default_rng([seed, number])
    source, form = int(rng.integers(len(photos))), str(rng.choice(list(READ)))
    way = int(rng.integers(len(READ[form])))
    return Mutant(number, f"{form} sound {way}", photo_in(photos[source], form, way), source)


def _form(rng: np.random.Generator) -> str:
    share = rng.random()
    if share < JPEGS:
        return "JPEG"
    return str(rng.choice(list(OTHERS) if share < JPEGS + NOT_READ else [form for form in READ if form != "JPEG"]))


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    return noise(data, rng, 0, len(data))


def head(data: bytes, rng: np.random.Generator) -> bytes:
    return noise(data, rng, 0, min(HEAD, len(data)))


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def pieces(data: bytes, rng: np.random.Generator) -> bytes:
    """Double one piece, or swap two."""
    a, b, c = sorted(rng.integers(len(data), size=3).tolist())
    return data[:b] + data[a:] if rng.random() < 0.5 else data[:a] + data[b:c] + data[a:b] + data[c:]


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    """Write runs of zeros."""
    x = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(x)))
        size = min(int(2 ** rng.uniform(0, 14)), len(x) - at)
        x[at : at + size] = bytes(size)
    return bytes(x)


def polyglot(data: bytes, rng: np.random.Generator) -> bytes:
    """Make one file that is two."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../a.html", "<script>alert(1)</script>")
        packed = file.getvalue()
    other = (packed, b"<html><script>alert(1)</script></html>", b"GIF89a\x01\x00\x01\x00\x80\x00\x00", b"%PDF-1.4\n")[
        rng.integers(4)
    ]
    return data + other if rng.random() < 0.5 else other + data


def whole(data: bytes, rng: np.random.Generator) -> bytes:
    return data


def other_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Write the first bytes of another format before the rest of this one."""
    heads = (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\0\0WEBPVP8 ",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"II+\0\x08\0\0\0",
        b"GIF89a",
        b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        b"P6 ",
        b"P4\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\xff\x4f\xff\x51\0\x2f",
        b"\0\0\0\x1cftypavif",
        b"\0\0\0\x1cftypheic",
        b"%!PS-Adobe-3.0\n",
        b"8BPS",
        b"\0\0\1\0\1\0",
        b"\x1c\3\x3c\0\2\3\1",
    )
    begin = heads[rng.integers(len(heads))]
    return begin + data[len(begin) if rng.random() < 0.5 else 0 :]


def inside(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a format into another: as the pixels of a BMP, a strip of a TIFF, an icon, IPTC, a box or a comment."""
    size = len(data)
    bmp = b"BM" + struct.pack(
        "<IIIIiiHHIIiiII", 54 + size, 0, 54, 40, 64, 64, 1, 24, rng.integers(4, 6), size, 0, 0, 0, 0
    )
    tags = [
        (256, 4, 64),
        (257, 4, 64),
        (258, 3, 8),
        (259, 3, int(rng.choice([1, 5, 6, 7, 8, 50001]))),
        (262, 3, 2),
        (273, 4, 110),
        (277, 3, 3),
        (279, 4, size),
    ]
    tiff = (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    )
    icon = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 64, 64, 0, 0, 1, 24, size, 22)
    segment = b"\xff\xd8\xff\xed" + struct.pack(">H", min(size, 60_000) + 2)
    records = b"".join(
        bytes((0x1C, r, n)) + struct.pack(">H", len(v)) + v
        for r, n, v in ((3, 60, b"\3\1"), (3, 20, b"\0\x40"), (3, 30, b"\0\x40"), (3, 120, b"\1"))
    )
    iptc = records + b"".join(
        b"\x1c\x08\x0a" + struct.pack(">H", len(data[i : i + 30_000])) + data[i : i + 30_000]
        for i in range(0, size, 30_000)
    )
    box = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + struct.pack(">I4s", size + 8, b"jp2c")
    outer = (
        bmp + data,
        tiff.ljust(110, b"\0") + data,
        icon + data,
        segment + data[:60_000] + data,
        iptc,
        box + data,
        box + data[:1] * 100 + data,
    )
    return outer[rng.integers(len(outer))]


EVERY: dict[str, Change] = {
    "flipped": flipped,
    "head": head,
    "numbers": numbers,
    "cut": cut,
    "pieces": pieces,
    "zeros": zeros,
    "polyglot": polyglot,
    "other head": other_head,
    "inside": inside,
}
