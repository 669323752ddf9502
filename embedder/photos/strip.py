"""Strip JPEGs and PNGs to their picture, so that no reader stumbles over the rest."""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field

from facegallery.embedder.outcomes import TOO_LARGE, UNREADABLE
from facegallery.embedder.photos.kinds import PhotoRefused

MOST_PARTS = 100_000  # segments or chunks
MOST_SCANS = 100  # of a JPEG; each is a pass over the whole picture
MOST_XMP_PARTS = 100  # of some 64 KB each
MOST_TEXT = 1 << 20  # bytes of XMP, or of a profile, once decompressed
MARKER = re.compile(rb"\xff[^\x00\xff]")
BETWEEN_SCANS = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # ends the data of a scan; the others are part of it
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of segments with the size and the layers
PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])
ALONE = frozenset([1, *range(0xD0, 0xDA)])  # markers without a length
XMP_KEYWORD = b"XML:com.adobe.xmp"
KEYWORDS = frozenset([XMP_KEYWORD, b"Raw profile type exif", b"Raw profile type APP1"])  # of texts in a PNG
XAP = b"http://ns.adobe.com/xap/1.0/\0"
XMP_PART = b"http://ns.adobe.com/xmp/extension/\0"  # of a packet that is too long for one segment


@dataclass
class Stripped:
    """A JPEG or PNG without what its picture does not need, and its EXIF and XMP.

    scans: offset in `data` of a JPEG's first scan. many_scans: whether a JPEG's picture is complete only after its last
    scan. noted: keywords of the texts of a PNG that were read. xmp_parts: parts of a JPEG's further XMP, as
    `xmp.joined` takes them.
    """

    data: bytes
    exif: bytes = b""
    xmp: bytes = b""
    scans: int = 0
    many_scans: bool = False
    noted: set[bytes] = field(default_factory=set)
    xmp_parts: list[bytes] = field(default_factory=list)


def strip_jpeg(data: bytes) -> Stripped:
    """Keep the segments of a JPEG on which its pixels depend; raise PhotoRefused where it has no picture."""
    found, start, at, layers, progressive = Stripped(data), 0, 2, 0, False
    kept: list[bytes] = []
    for _ in range(MOST_PARTS):
        match = MARKER.match(data, at) or MARKER.search(data, at)
        if match is None or match.end() + 2 > len(data):
            raise PhotoRefused(UNREADABLE, "a JPEG without a picture: only its beginning is there")
        if match.start() > at:  # bytes that belong to no segment
            kept.append(data[start:at])
            start = match.start()
        at, marker = match.start(), data[match.end() - 1]
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker in FRAMES:
            layers, progressive = data[at + 9] if at + 9 < len(data) else 0, marker in PROGRESSIVE
        elif marker == 0xDA:
            scans = _unpadded(data, at)
            found.many_scans = progressive or data[at + 4] < layers if at + 4 < len(data) else False
            found.data = b"".join([*kept, data[start:at], scans]) if kept or at + len(scans) < len(data) else data
            found.scans = len(found.data) - len(scans)
            return found
        elif marker in ALONE:
            end = at + 2
        elif marker >= 0xE0 and not _counts(found, marker, data[at + 4 : end]):
            kept.append(data[start:at])
            start = end
        at = max(end, at + 2)
    raise PhotoRefused(TOO_LARGE, f"a JPEG of more than {MOST_PARTS:,} segments")


def _counts(found: Stripped, marker: int, body: bytes) -> bool:
    """Whether pixels depend on a segment of an application; store EXIF and XMP in `found`."""
    if marker == 0xE1 and body.startswith(b"Exif\0\0"):
        found.exif = found.exif or body
    elif marker == 0xE1 and body.startswith(XAP):
        found.xmp = found.xmp or body
    elif marker == 0xE1 and body.startswith(XMP_PART) and len(found.xmp_parts) < MOST_XMP_PARTS:
        found.xmp_parts.append(body.removeprefix(XMP_PART))
    return body.startswith((b"JFIF", b"Adobe"))


def _unpadded(data: bytes, scans: int) -> bytes:
    """Return a JPEG's scans without the zeros that pad an unfinished download."""
    if data.endswith(bytes(64)) and data.find(b"\xff\xd9", scans) < 0:
        return data[scans:].rstrip(b"\0")
    return data[scans:]


def check_scans(jpeg: Stripped) -> None:
    """Raise PhotoRefused for a JPEG with too many scans.

    Its markers are followed one by one, since the data of a segment may look like a marker.
    """
    if not jpeg.many_scans:
        return
    scans, at = 0, jpeg.scans
    for _ in range(MOST_PARTS):
        match = BETWEEN_SCANS.search(jpeg.data, at)
        if match is None or match[0] == b"\xff\xd9":
            return
        scans += match[0] == b"\xff\xda"
        if scans > MOST_SCANS:
            raise PhotoRefused(TOO_LARGE, f"a JPEG of more than {MOST_SCANS} scans")
        at = max(match.end() + 2, match.end() + int.from_bytes(jpeg.data[match.end() : match.end() + 2], "big"))
    raise PhotoRefused(TOO_LARGE, f"a JPEG of more than {MOST_PARTS:,} segments")


def precision(data: bytes) -> int:
    """Return how many low bits of luminance the complete scans of a cut JPEG lack; 64 for a missing frequency."""
    bits, at = [64] * 64, 2
    while match := MARKER.search(data, at):
        at, marker = match.start(), data[match.end() - 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            body = data[at + 4 : end]
            following = MARKER.search(data, end)
            while following and 0xD0 <= data[following.end() - 1] <= 0xD7:
                following = MARKER.search(data, following.end())
            if following is None or len(body) < 4 + 2 * body[0]:
                break
            first, last, low = body[-3], body[-2], body[-1] & 15
            if 1 in body[1 : 1 + 2 * body[0] : 2] or 0 in body[1 : 1 + 2 * body[0] : 2]:
                bits[first : last + 1] = [low] * (last + 1 - first)
            at = following.start()
        elif marker in ALONE:
            at += 2
        else:
            at = max(end, at + 4)
    return max(bits)


def strip_png(data: bytes) -> Stripped:
    """Keep the chunks of a PNG on which its first picture depends.

    A chunk beside the picture with a wrong checksum is left out.
    """
    found, view, at = Stripped(b""), memoryview(data), 8
    kept = [view[:8]]
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(view[at:end])
        elif kind in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt") and end <= len(data):
            body = bytes(view[at + 8 : end - 4])
            if zlib.crc32(kind + body) == int.from_bytes(view[end - 4 : end], "big"):
                if kind == b"tRNS":
                    kept.append(view[at:end])
                _note(found, kind, body)
        if kind == b"IEND" or not kind.isalpha():
            break
        at = end
    else:
        raise PhotoRefused(TOO_LARGE, f"a PNG of more than {MOST_PARTS:,} chunks")
    found.data = b"".join(kept)
    return found


def _note(found: Stripped, kind: bytes, body: bytes) -> None:
    """Store EXIF and XMP of a chunk in `found`; of texts with the same keyword, only the first."""
    if kind == b"eXIf":
        found.exif = body
        return
    keyword = body[:80].partition(b"\0")[0]
    if keyword not in KEYWORDS or keyword in found.noted:  # a second text of a keyword is never decompressed
        return
    found.noted.add(keyword)
    text = _text(kind, body[len(keyword) + 1 :])
    if keyword == XMP_KEYWORD:
        found.xmp = text
    elif not found.exif:
        with suppress(ValueError):
            found.exif = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1"))


def _text(kind: bytes, rest: bytes) -> bytes:
    """Return the text of a chunk after its keyword, decompressed."""
    if kind == b"iTXt":
        packed, text = rest[:1] == b"\1", (rest[2:].split(b"\0", 2) + [b""] * 3)[2]
    else:
        packed, text = kind == b"zTXt", rest[1:] if kind == b"zTXt" else rest
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, MOST_TEXT) if packed else text
    return b""
