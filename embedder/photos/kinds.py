"""Identify the format of a file by its first bytes, or name what the file is instead of a photo."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from facegallery.embedder.outcomes import UNREADABLE

BLANK = b"\0\t\n\r "
PNM_ALONE = re.compile(rb"P[1-6]\s+[#\d]")  # a PNM without the suffix of one; other texts may begin with P1, too
MOST_JUNK = 512  # most bytes before a JPEG: blanks, or the header lines of a download


class PhotoRefused(Exception):
    """A photo has no pixels; `outcome` is its outcome, the message is the reason."""

    def __init__(self, outcome: str, why: str):
        super().__init__(why)
        self.outcome = outcome


@dataclass(frozen=True)
class Kind:
    """A supported format: its suffixes, and how its files begin."""

    name: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], object]


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _brand(*wanted: bytes) -> Callable[[bytes], bool]:
    """Match an ISO media file (`ftyp`) that names one of the brands, as its own or as a compatible one."""

    def begins(head: bytes) -> bool:
        size = int.from_bytes(head[:4], "big")
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, 256), 4))}
        return head[4:8] == b"ftyp" and not brands.isdisjoint(wanted)

    return begins


# The closed list of formats: no decoder sees a file that begins in another way. AVIF comes before HEIF, since an AVIF
# may name HEIF as a compatible brand.
KINDS = (
    Kind("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo"), _starts(b"\xff\xd8\xff")),
    Kind("PNG", (".png", ".apng"), _starts(b"\x89PNG\r\n\x1a\n")),
    Kind("WebP", (".webp",), re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL).match),
    Kind("TIFF", (".tif", ".tiff"), _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    Kind("GIF", (".gif",), _starts(b"GIF87a", b"GIF89a")),
    Kind("BMP", (".bmp", ".dib"), re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL).match),
    Kind("PNM", (".pnm", ".ppm", ".pgm", ".pbm"), re.compile(rb"P[1-6][\s#]").match),
    Kind(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    ),
    Kind("AVIF", (".avif", ".avifs"), _brand(b"avif", b"avis")),
    Kind(
        "HEIF",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        _brand(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    ),
)
SUFFIXES = frozenset(suffix for kind in KINDS for suffix in kind.suffixes)

# what files with the name of a photo are instead, by their first bytes
NO_PHOTOS: tuple[tuple[str, str], ...] = (
    (r"%!PS|\xc5\xd0\xd3\xc6", "EPS (PostScript), which is a program and is not run: save it as PNG or JPEG"),
    (r"%PDF", "a PDF document: save the picture in it as PNG or JPEG"),
    (r"version https://git-lfs", "a pointer of git-lfs in place of the photo: run `git lfs pull`"),
    (
        r"(?i:<!doctype html|<html|<head|<body|<script)",
        "a web page (HTML) in place of the photo: download the photo again",
    ),
    (r"(?s:(<\?xml.{,500})?<svg)", "SVG, a drawing: save it as PNG"),
    (r"<", "XML or HTML in place of the photo: download the photo again"),
    (r"\{|\[", "JSON text in place of the photo: download the photo again"),
    (r"\x00\x05\x16[\x00\x07]", "notes of macOS on a file (AppleDouble), not the photo itself"),
    (r"\xd0\xcf\x11\xe0", "a file of Windows or Office (such as Thumbs.db), not a photo"),
    (r"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh", "an archive: unpack it"),
    (r"(?s:....ftyp(crx |cr3))", "a raw photo of a camera: save it as JPEG, TIFF or PNG"),
    (r"FUJIFILMCCD-RAW|IIRO|IIRS|IIU\x00|FOVb|\x00MRM", "a raw photo of a camera: save it as JPEG, TIFF or PNG"),
    (r"(?s:....ftyp)|(?s:RIFF....AVI )|\x1aE\xdf\xa3|\x00\x00\x01\xba", "a video or sound, not a photo"),
    (r"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL, which is not read: save it as JPEG or PNG"),
    (r"8BPS", "a Photoshop document: save it as JPEG, TIFF or PNG"),
    (r"gimp xcf", "a GIMP document: save it as JPEG, TIFF or PNG"),
    (r"\x00\x00[\x01\x02]\x00", "an icon or cursor, not a photo"),
    (r"icns", "an icon of macOS, not a photo"),
    (r"\x1c[\x01-\x09]", "IPTC records, not a photo"),
    (
        r"DDS |qoif|v/1\x01|#\?RADIANCE|II\xbc|\x01\xda|SIMPLE  =|P[f7F]\s",
        "a format of pictures that is not read: save it as PNG",
    ),
    (r"(?s:.{128}DICM)", "DICOM, a medical picture: save it as PNG"),
    (r"MZ|\x7fELF|#!", "a program, not a photo"),
)
_NAMED = [(re.compile(pattern.encode("latin-1")), what) for pattern, what in NO_PHOTOS]


def identify(data: bytes) -> tuple[Kind, bytes]:
    """Return the format of a file, and its bytes from where the photo begins.

    Raise PhotoRefused, with what the file is instead.
    """
    head = data[:4096]
    if kind := _kind(head):
        return kind, data
    shown = head.lstrip(BLANK + b"\xef\xbb\xbf")
    if what := next((what for pattern, what in _NAMED if pattern.match(head) or pattern.match(shown)), None):
        raise PhotoRefused(UNREADABLE, f"it is {what}")
    blanks = len(head) - len(head.lstrip(BLANK))
    start = blanks if _kind(head[blanks:]) else head.find(b"\xff\xd8\xff", 0, MOST_JUNK)
    if start > 0 and (kind := _kind(head[start:])):
        return kind, data[start:]
    formats = ", ".join(kind.name for kind in KINDS)
    raise PhotoRefused(UNREADABLE, f"it is {_unknown(head)}, not a photo in a format that is read ({formats})")


def begins_as_photo(head: bytes) -> bool:
    """Whether a file without a photo's suffix begins as one.

    This is stricter than `identify`, which also searches for a photo behind other bytes.
    """
    kind = _kind(head)
    return kind is not None and (kind.name != "PNM" or bool(PNM_ALONE.match(head)))


def _kind(head: bytes) -> Kind | None:
    return next((kind for kind in KINDS if kind.begins(head)), None)


def _unknown(head: bytes) -> str:
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    text = sum(byte >= 32 or byte in BLANK for byte in head.translate(None, bytes(range(128, 256))))
    return "text" if text == len(head) else "no known kind of file"
