"""One picture in many of the forms that people's files have."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pillow_heif
from PIL import Image
from PIL.Image import Transpose

STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@dataclass
class Form:
    """A file, and the pixels that are right for it within `close`, the mean of the differences."""

    name: str
    data: bytes
    right: np.ndarray
    close: float = 0


def picture() -> np.ndarray:
    """uint8 RGB (72, 96, 3) from 0 to 255, smooth, and unlike itself when it is turned."""
    y, x = np.mgrid[0:72, 0:96]
    parts = (x / 95, np.sin(y / 20 + x / 40) / 2 + 0.5, np.hypot(y - 20, x - 60) / 80)
    found = np.clip(np.dstack(parts) * 255, 0, 255).astype(np.uint8)
    found[0, 0], found[0, 1] = 0, 255
    return found


def saved(image: Image.Image, form: str, **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is stored with an orientation."""
    how = STORED[orientation]
    return image if how is None else image.transpose(how)


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def tiff(entries: list[tuple[int, int, int, bytes]], order: str = "<", data: bytes = b"") -> bytes:
    """A TIFF, or the body of an EXIF, of (tag, type, count, value) entries; long values follow the directory."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    body, tail = b"", b""
    for tag, kind, count, value in sorted(entries):
        if len(value) > 4:
            place = struct.pack(order + "I", 8 + 2 + 12 * len(entries) + 4 + len(tail))
            tail += value
        else:
            place = value.ljust(4, b"\0")
        body += struct.pack(order + "HHI", tag, kind, count) + place
    return head + body + bytes(4) + tail + data


def orientations(order: str = "<") -> dict[str, tuple[int, int, int, bytes]]:
    """Ways in which programs write that a picture is to be turned by 90 degrees: 6."""
    short = struct.pack(order + "H", 6)
    return {
        "short": (274, 3, 1, short),
        "long": (274, 4, 1, struct.pack(order + "I", 6)),
        "byte": (274, 1, 1, b"\6"),
        "two": (274, 3, 2, short + short),
        "three": (274, 3, 3, short + short + short),
        "text": (274, 2, 2, b"6\0"),
        "long text": (274, 2, 6, b"6   \0\0"),
        "undefined": (274, 7, 1, b"\6"),
        "signed": (274, 9, 1, struct.pack(order + "i", 6)),
        "float": (274, 11, 1, struct.pack(order + "f", 6)),
        "double": (274, 12, 1, struct.pack(order + "d", 6)),
        "rational": (274, 5, 1, struct.pack(order + "II", 6, 1)),
    }


def besides() -> dict[str, tuple[int, int, int, bytes]]:
    """Tags whose type is another than the standard's, or whose value is missing."""
    values = {
        1: b"a",
        2: b"ab\0",
        3: b"\1\0",
        4: bytes(4),
        5: bytes(8),
        6: b"\xff",
        7: b"abc",
        9: bytes(4),
        11: bytes(4),
        12: bytes(8),
    }
    tags = (271, 282, 296, 305, 306, 34665, 34853, 37510)
    found = {f"{tag} of type {kind}": (tag, kind, 1, value) for tag in tags for kind, value in values.items()}
    return found | {
        "nan": (305, 12, 1, struct.pack("<d", float("nan"))),
        "type 0": (271, 0, 1, b"abcd"),
        "type 999": (271, 999, 1, b"abcd"),
        "beyond the end": (271, 2, 5000, b"\xff\xff\xff\x7f"),
        "huge count": (271, 2, 0xFFFFFFFF, b"\0\0\0\0"),
        "none": (271, 2, 0, b""),
    }


def heif(image: Image.Image, **settings) -> bytes:
    """A HEIF whose container says how it is turned, as an iPhone writes it."""
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **settings)
    return file.getvalue()


def turned_forms() -> Iterator[Form]:
    """The picture stored turned, with an orientation in each place and way that says so."""
    right, image = picture(), Image.fromarray(picture())
    for n in STORED:
        exif = Image.Exif()
        exif[274] = n
        stored = turned(image, n)
        yield Form(f"exif {n} heif", heif(stored, exif=exif.tobytes()), right, 4)
        yield Form(f"exif {n} jpeg", saved(stored, "JPEG", quality=97, subsampling=0, exif=exif), right, 3)
        yield Form(f"exif {n} png", saved(stored, "PNG", exif=exif), right)
        yield Form(f"exif {n} webp", saved(stored, "WEBP", lossless=True, exif=exif), right)
        yield Form(f"exif {n} avif", saved(stored, "AVIF", quality=95, speed=10, exif=exif), right, 4)
        yield Form(f"tag {n} tiff", saved(stored, "TIFF", tiffinfo={274: n}), right)
        yield Form(
            f"tag {n} deflated tiff", saved(stored, "TIFF", tiffinfo={274: n}, compression="tiff_adobe_deflate"), right
        )
    stored = turned(image, 6)
    jpeg, png = saved(stored, "JPEG", quality=97, subsampling=0), saved(stored, "PNG")
    for order in "<>":
        for way, entry in orientations(order).items():
            exif = b"Exif\0\0" + tiff([entry], order)
            yield Form(f"{way} {order} jpeg", jpeg[:2] + segment(0xE1, exif) + jpeg[2:], right, 3)
            yield Form(f"{way} {order} png", png[:33] + chunk(b"eXIf", exif[6:]) + png[33:], right)
    for what, entry in besides().items():
        exif = b"Exif\0\0" + tiff([orientations()["short"], entry])
        yield Form(f"beside {what} jpeg", jpeg[:2] + segment(0xE1, exif) + jpeg[2:], right, 3)
    exif = b"Exif\0\0" + tiff([orientations()["short"]])
    yield Form("doubled header", jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif) + jpeg[2:], right, 3)
    yield Form("after the picture", png[:-12] + chunk(b"eXIf", exif[6:]) + png[-12:], right)
    profile = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    yield Form(
        "raw profile",
        png[:33] + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)) + png[33:],
        right,
    )
    yield Form("xmp jpeg", saved(stored, "JPEG", quality=97, subsampling=0, xmp=XMP), right, 3)
    yield Form("xmp png", png[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + png[33:], right)
    yield Form("xmp webp", saved(stored, "WEBP", lossless=True, xmp=XMP), right)


def colour_forms() -> Iterator[Form]:
    """The picture in other colour modes and depths."""
    right, image = picture(), Image.fromarray(picture())
    grey = np.asarray(image.convert("L"))
    three, wide = np.dstack([grey] * 3), grey.astype(np.uint16)
    for name, numbers in [
        ("8 in 16", wide),
        ("10 in 16", wide * 4),
        ("12 in 16", wide * 16),
        ("14 in 16", wide * 64),
        ("16", wide * 257),
        ("8 in 32", grey.astype(np.int32)),
        ("31 in 32", (grey.astype(np.int64) * 16843009 // 2).astype(np.int32)),
        ("float to 1", (grey / 255).astype(np.float32)),
        ("float to 255", grey.astype(np.float32)),
        ("float to 65535", (wide * 257).astype(np.float32)),
    ]:
        yield Form(f"{name} tiff", saved(Image.fromarray(numbers), "TIFF"), three, 0.6)
        yield Form(f"{name} lzw tiff", saved(Image.fromarray(numbers), "TIFF", compression="tiff_lzw"), three, 0.6)
        if numbers.dtype == np.uint16:
            yield Form(f"{name} png", saved(Image.fromarray(numbers), "PNG"), three, 0.6)
    for bits in (8, 10, 12, 14, 16):
        full = (1 << bits) - 1
        numbers = np.rint(right / 255 * full).astype(np.uint16)
        yield Form(f"colours of {bits} bits in 16 png", png_of_two_bytes(numbers), right, 0.6)
        yield Form(f"colours of {bits} bits in 16 tiff", tiff_of_two_bytes(numbers, "<"), right, 0.6)
        yield Form(f"colours of {bits} bits in 16 big-endian tiff", tiff_of_two_bytes(numbers, ">"), right, 0.6)
    yield Form("32 bits unsigned", raw_tiff(grey.astype("<u4") * np.uint32(0x01010101), 32), three)
    yield Form("white is 0 in 16 bits", raw_tiff(65535 - wide * 257, 16, photometric=0), three)
    yield Form("cmyk jpeg", saved(image.convert("CMYK"), "JPEG", quality=97), right, 4)
    yield Form("cmyk tiff", saved(image.convert("CMYK"), "TIFF"), right, 1)
    yield Form("lab", saved(image.convert("LAB"), "TIFF"), right, 3)
    yield Form("ycbcr", saved(image.convert("YCbCr"), "TIFF", compression="jpeg"), right, 6)
    yield Form("grey jpeg", saved(image.convert("L"), "JPEG", quality=97), three, 2)
    yield Form("progressive", saved(image, "JPEG", quality=97, subsampling=0, progressive=True), right, 3)
    yield Form("grey heif", heif(image.convert("L")), three, 3)
    yield Form("heif", heif(image), right, 4)
    yield Form("grey gif", saved(image.convert("L"), "GIF"), three)
    yield Form("grey palette", saved(image.convert("L").convert("P"), "PNG"), three)
    yield Form("bmp", saved(image, "BMP"), right)
    yield Form("jpeg 2000", saved(image, "JPEG2000"), right)
    for value in (0, 1, 128, 255):
        for name in ("PNG", "TIFF", "WEBP"):
            same = image.copy()
            same.putalpha(value)
            settings = {"lossless": True, "exact": True} if name == "WEBP" else {}
            yield Form(f"alpha {value} everywhere, {name}", saved(same, name, **settings), right)
    first, other = image, Image.new("RGB", image.size, "white")
    yield Form("animated png", saved(first, "PNG", save_all=True, append_images=[other]), right)
    yield Form("animated webp", saved(first, "WEBP", save_all=True, append_images=[other], lossless=True), right)
    yield Form("animated gif", saved(image.convert("L"), "GIF", save_all=True, append_images=[other]), three)
    yield Form("pages", saved(first, "TIFF", save_all=True, append_images=[other]), right)
    yield Form("mpo", saved(first, "MPO", save_all=True, append_images=[other], quality=97, subsampling=0), right, 3)
    for magic, body in [
        (b"P6 96 72 255\n", right.tobytes()),
        (b"P6#\n# a comment\n96\n72\n51\n", (right // 5).tobytes()),
        (b"P3 96 72 255\n# a comment\n", " ".join(map(str, right.ravel())).encode()),
    ]:
        yield Form(f"pnm {magic!r}", magic + body, right, 3)
    yield Form("pgm of 10 bits", b"P5 96 72 1023\n" + (wide * 4).astype(">u2").tobytes(), three, 1)
    black = np.dstack([np.where(grey > 127, 255, 0).astype(np.uint8)] * 3)
    yield Form("pbm", b"P4 96 72\n" + np.packbits(grey <= 127, axis=1).tobytes(), black)
    yield Form("plain pbm", b"P1 96 72\n" + b"".join(b"%d" % bit for bit in (grey <= 127).ravel()), black)


def raw_tiff(numbers: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    """A TIFF of one band, little-endian, not compressed."""
    height, width = numbers.shape
    data = numbers.astype(f"<u{bits // 8}").tobytes()
    short = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (277, 1), (278, height)]
    entries = [(tag, 3, 1, struct.pack("<H", value)) for tag, value in short]
    entries += [(273, 4, 1, struct.pack("<I", 8 + 2 + 12 * 9 + 4)), (279, 4, 1, struct.pack("<I", len(data)))]
    return tiff(entries, "<", data)


def tiff_of_two_bytes(numbers: np.ndarray, order: str) -> bytes:
    """A TIFF of 16-bit colours, deflated."""
    height, width = numbers.shape[:2]
    data = zlib.compress(numbers.astype(order + "u2").tobytes())
    short = [(256, width), (257, height), (259, 8), (262, 2), (277, 3), (278, height)]
    entries = [(tag, 3, 1, struct.pack(order + "H", value)) for tag, value in short]
    entries += [(258, 3, 3, struct.pack(order + "HHH", 16, 16, 16)), (279, 4, 1, struct.pack(order + "I", len(data)))]
    place = 8 + 2 + 12 * 9 + 4 + 6
    return tiff([*entries, (273, 4, 1, struct.pack(order + "I", place))], order, data)


def png_of_two_bytes(numbers: np.ndarray) -> bytes:
    """A PNG of 16-bit colours."""
    height, width = numbers.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def broken_forms() -> Iterator[Form]:
    """The picture with what is missing, surplus or wrong around it."""
    right, image = picture(), Image.fromarray(picture())
    for name, settings in [("jpeg", {}), ("progressive", {"progressive": True}), ("subsampled", {"subsampling": 2})]:
        jpeg = saved(image, "JPEG", **({"quality": 97, "subsampling": 0} | settings))
        for cut in (1, 2, 3, 40):
            yield Form(f"{name} without its last {cut} bytes", jpeg[:-cut], right, 5)
        yield Form(f"{name} filled up with zeros", jpeg[:-40] + bytes(5000), right, 5)
        yield Form(f"{name} before a film", jpeg + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100, right, 5)
        yield Form(f"{name} after a line feed", b"\r\n" + jpeg, right, 5)
        yield Form(f"{name} after the header of a download", b"Content-Type: image/jpeg\r\n\r\n" + jpeg, right, 5)
        yield Form(f"{name} with filled markers", jpeg[:2] + b"\xff" * 50 + jpeg[2:], right, 5)
        yield Form(
            f"{name} with a broken Photoshop segment",
            jpeg[:2] + segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4") + jpeg[2:],
            right,
            5,
        )
        yield Form(
            f"{name} with a broken list of pictures",
            jpeg[:2] + segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\1\0") + jpeg[2:],
            right,
            5,
        )
    png = saved(image, "PNG")
    wide = chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(3 << 20)))
    for name, extra in [
        ("text with a wrong checksum", chunk(b"tEXt", b"a\0b", 1)),
        ("much text", wide),
        ("much text many times", wide * 100),
        ("a profile that is none", chunk(b"iCCP", b"p\0\0notzlib")),
        ("a profile of a wrong kind", chunk(b"iCCP", b"p\0\7")),
        ("a huge profile", chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(16 << 20)))),
        ("a short density", chunk(b"pHYs", b"\0")),
        ("a time with a wrong checksum", chunk(b"tIME", bytes(7), 1)),
        ("short animation", chunk(b"acTL", b"\0")),
        ("transparency with a wrong checksum", chunk(b"tRNS", bytes(6), 1)),
        ("unknown", chunk(b"vpAg", b"abc", 5)),
    ]:
        yield Form(f"png with {name}", png[:33] + extra + png[33:], right)
    yield Form("png without its end", png[:-12], right)
    yield Form("png with more after it", png + b"surplus" * 100, right)
    yield Form("png after a line feed", b"\n" + png, right)
    yield Form("bmp with more after it", saved(image, "BMP") + bytes(100), right)


def forms() -> Iterator[Form]:
    """Every form whose pixels are known."""
    yield from turned_forms()
    yield from colour_forms()
    yield from broken_forms()
