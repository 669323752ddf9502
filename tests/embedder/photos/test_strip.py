"""Work that a JPEG or a PNG asks for beside its picture, whose bounds hold wherever the request stands in the file."""

import io
import struct
import zlib

import pytest
from PIL import Image

from facegallery.embedder.photos import strip
from facegallery.embedder.photos.kinds import PhotoRefused

JFIF_WITH_END = b"\xff\xe0\x00\x0bJFIF\0\xff\xd9\0\0"


def progressive() -> tuple[bytes, bytes]:
    """A JPEG without its end, and its last scan."""
    out = io.BytesIO()
    Image.new("L", (64, 64), 128).save(out, "JPEG", progressive=True)
    data = out.getvalue()[:-2]
    return data, data[data.rindex(b"\xff\xda") :]


@pytest.mark.parametrize(
    "between", [b"", b"\xff\xe0\x00\x04\xff\xd9", b"\xff\xd0", b"\xff\xff", b"\xff\x00\x00", b"\xff\x02\xff\xff"]
)
@pytest.mark.parametrize("before", [b"", JFIF_WITH_END], ids=["plain", "an end within JFIF"])
def test_many_scans_are_counted_wherever_an_end_seems_to_be(before, between):
    data, scan = progressive()
    jpeg = strip.strip_jpeg(data[:2] + before + data[2:] + (between + scan) * 300 + b"\xff\xd9")
    with pytest.raises(PhotoRefused, match="scans"):
        strip.check_scans(jpeg)


def test_what_only_looks_like_a_scan_is_not_counted():
    data, scan = progressive()
    apart = b"\xff\xe3\x0f\xa2" + b"\xff\xda" * 2000  # a segment, and another JPEG after the end
    strip.check_scans(strip.strip_jpeg(data + apart + scan + b"\xff\xd9" + scan * 300))


def test_a_jpeg_of_countless_segments_between_scans_is_refused():
    data, _ = progressive()
    with pytest.raises(PhotoRefused, match="segments"):
        strip.check_scans(strip.strip_jpeg(data + b"\xff\xe5\0\x02" * 3_000_000))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()[:33] + b"".join(chunks) + out.getvalue()[33:]


BOMB = zlib.compress(b"\n" * (1 << 20), 9)


@pytest.mark.parametrize(
    "one",
    [
        chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
        chunk(b"zTXt", b"Raw profile type APP1\0\0" + BOMB),
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + BOMB),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(b"")),
    ],
)
def test_few_texts_of_a_png_are_inflated(one, monkeypatch):
    inflated = []
    monkeypatch.setattr(
        strip, "_text", lambda kind, rest, real=strip._text: inflated.append(real(kind, rest)) or inflated[-1]
    )
    strip.strip_png(png(one * 50))
    assert len(inflated) == 1


def test_the_first_xmp_and_the_first_exif_of_a_png_count():
    exif = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n       4\n" + b"4d4d002a\n"))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<first/>"))
    later = chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + BOMB) + chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)
    found = strip.strip_png(png(xmp, exif, later))
    assert (found.exif, found.xmp) == (b"MM\0*", b"<first/>")
