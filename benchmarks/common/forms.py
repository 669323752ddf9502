"""Write a photo in every format that is read, as different programs write it, and in formats that are not read."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, features

Save = Callable[[Image.Image], bytes]
PROGRAM = b"(gs) run\n/Helvetica findfont showpage\n"


def _by(form: str, mode: str = "RGB", **options: object) -> Save:
    def save(image: Image.Image) -> bytes:
        with io.BytesIO() as out:
            image.convert(mode).save(out, form, **options)
            return out.getvalue()

    return save


def _several(form: str, **options: object) -> Save:
    """Write the photo, then another picture."""

    def save(image: Image.Image) -> bytes:
        with io.BytesIO() as out:
            image.save(out, form, save_all=True, append_images=[Image.new("RGB", image.size)], **options)
            return out.getvalue()

    return save


def _deep(form: str, **options: object) -> Save:
    """Write grey of 16 bits."""

    def save(image: Image.Image) -> bytes:
        with io.BytesIO() as out:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(out, form, **options)
            return out.getvalue()

    return save


def _plain(image: Image.Image) -> bytes:
    """Write PNM in letters."""
    numbers = " ".join(map(str, np.asarray(image).ravel()))
    return f"P3\n# a photo\n{image.width} {image.height}\n255\n{numbers}\n".encode()


def _photoshop(image: Image.Image) -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, image.height, image.width, 8, 3) + bytes(12)
    return head + struct.pack(">H", 0) + np.asarray(image).transpose(2, 0, 1).tobytes()


def _iptc(image: Image.Image) -> bytes:
    """Declare 64 x 64 around a photo of any size."""
    inside = _by("TIFF")(image)

    def field(record: int, number: int, value: bytes) -> bytes:
        return bytes((0x1C, record, number)) + struct.pack(">H", len(value)) + value

    head = (
        field(3, 60, b"\3\1")
        + field(3, 65, b"\0")
        + field(3, 20, b"\0\x40")
        + field(3, 30, b"\0\x40")
        + field(3, 120, b"\1")
    )
    return head + b"".join(field(8, 10, inside[i : i + 30_000]) for i in range(0, len(inside), 30_000))


def _text(template: bytes) -> Save:
    return lambda image: template


# format, as its mutations are named -> ways to write it
READ: dict[str, list[Save]] = {
    "JPEG": [_by("JPEG", quality=90), _by("JPEG", progressive=True), _by("JPEG", "L"), _by("JPEG", "CMYK")],
    "MPO": [_several("MPO")],
    "PNG": [
        _by("PNG", compress_level=1),
        _by("PNG", "P"),
        _by("PNG", "LA"),
        _by("PNG", "RGBA"),
        _deep("PNG"),
        _several("PNG"),
    ],
    "WEBP": [_by("WEBP", method=0), _by("WEBP", method=0, lossless=True), _several("WEBP", method=0)],
    "TIFF": [
        _by("TIFF"),
        _several("TIFF"),
        _deep("TIFF"),
        *(_by("TIFF", compression=each) for each in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        _by("TIFF", "1", compression="group4"),
    ],
    "BMP": [_by("BMP"), _by("BMP", "P"), _by("BMP", "L")],
    "GIF": [_by("GIF"), _several("GIF")],
    "PNM": [_by("PPM"), _by("PPM", "L"), _by("PPM", "1"), _deep("PPM"), _plain],
    "JPEG2000": [
        _by("JPEG2000"),
        _by("JPEG2000", irreversible=True, quality_layers=[20]),
        _by("JPEG2000", no_jp2=True),
    ],
}
if features.check("avif"):
    READ["AVIF"] = [_by("AVIF", speed=10), _by("AVIF", "RGBA", speed=10), _several("AVIF", speed=10)]
try:
    import pillow_heif

    pillow_heif.register_heif_opener()
    READ["HEIF"] = [_by("HEIF")]
except ImportError:
    pass
OTHERS: dict[str, Save] = {
    "EPS": _by("EPS"),
    "EPS program": _text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n" + PROGRAM),
    "EPS DOS": _text(
        b"\xc5\xd0\xd3\xc6"
        + struct.pack("<II", 32, 100)
        + bytes(20)
        + b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 64 64\n"
        + PROGRAM
    ),
    "PDF": _by("PDF"),
    "SVG": _text(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "PSD": _photoshop,
    "IPTC": _iptc,
    "ICO": _by("ICO"),
    "ICNS": _by("ICNS"),
    "TGA": _by("TGA"),
    "PCX": _by("PCX"),
    "SGI": _by("SGI"),
    "DDS": _by("DDS"),
    "XBM": _by("XBM", "1"),
    "FITS": _text(
        f"{'SIMPLE  =                    T':<80}{'BITPIX  =                    8':<80}{'END':<80}".encode()
        + bytes(3000)
    ),
    "video": _text(b"\0\0\0\x18ftypisom\0\0\0\1isommp42" + bytes(1000)),
}


@lru_cache(maxsize=4000)
def photo_in(data: bytes, form: str, way: int) -> bytes:
    """Write a photo in one of the ways of READ, or in a form of OTHERS."""
    with Image.open(io.BytesIO(data)) as image:
        return (READ[form][way] if form in READ else OTHERS[form])(image.convert("RGB"))
