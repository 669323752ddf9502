"""Damage that needs to know a format: sizes, lengths, tables and contents of its parts.

Each change takes the bytes of a photo and a random generator, and raises ValueError, IndexError or struct.error where
the photo lacks the part that it changes.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Change = Callable[[bytes, np.random.Generator], bytes]
HEAD = 64  # bytes
BOMB = 64 << 20  # bytes of a text that is packed in a PNG
TIFF_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 347, 34665)
ORIENTATION, EXIF_IFD = 0x0112, 0x8769


def saved(data: bytes, form: str, **options: object) -> bytes:
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image, io.BytesIO() as out:
        warnings.simplefilter("ignore")  # of Pillow, of what was made bad on purpose
        image.save(out, form, **options)
        return out.getvalue()


def noise(data: bytes, rng: np.random.Generator, start: int, end: int) -> bytes:
    x = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(start, end, size=rng.geometric(0.05))
    x[at] ^= rng.integers(1, 256, size=len(at), dtype=np.uint8)
    return x.tobytes()


def edge(rng: np.random.Generator, bits: int = 16) -> int:
    """Draw the length of an edge, of any order of magnitude."""
    return int(2 ** rng.uniform(0, bits))


def put(data: bytes, at: int, values: bytes) -> bytes:
    return data[:at] + values + data[at + len(values) :]


def exif(form: str) -> Change:
    """Write any orientation, of any type and number, and directories that lead anywhere, to themselves too."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        order = "<>"[rng.integers(2)]
        kind, count = (3, 1) if rng.random() < 0.5 else (int(rng.integers(20)), int(rng.integers(1 << 32)))
        value, to, after = rng.integers(12), rng.choice([8, 20, 1 << 31]), rng.choice([0, 8, 1 << 31])
        entries = struct.pack(f"{order}HHIHH", ORIENTATION, kind, count, value, 0) + struct.pack(
            f"{order}HHII", EXIF_IFD, 4, 1, to
        )
        start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
        return saved(
            data,
            form,
            exif=b"Exif\0\0" + start + struct.pack(f"{order}H", 2) + entries + struct.pack(f"{order}I", after),
        )

    return change


def _segment(data: bytes, rng: np.random.Generator, markers: Sequence[int]) -> tuple[int, int]:
    """Find where a JPEG's segment with one of these markers begins and ends."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] in markers:
            found.append((at, end))
        at = end
    return found[rng.integers(len(found))]


def jpeg_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    at, _ = _segment(data, rng, range(0xC0, 0xC3))
    return put(data, at + 5, struct.pack(">HH", edge(rng), edge(rng)))


def jpeg_components(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the number of components, their sampling, their tables or the precision."""
    at, end = _segment(data, rng, range(0xC0, 0xC3))
    return put(data, int(rng.choice([at + 4, at + 9, *range(at + 10, end)])), bytes([int(rng.integers(256))]))


def jpeg_tables(data: bytes, rng: np.random.Generator) -> bytes:
    """Change Huffman or quantisation tables."""
    at, end = _segment(data, rng, (0xC4, 0xDB))
    return noise(data, rng, at + 2, end)


def _chunk(data: bytes, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the first chunk of that name in a PNG, and fix its checksum."""
    at = data.index(name)
    size = int.from_bytes(data[at - 4 : at])
    return data[: at - 4] + _made_chunk(name, change(data[at + 4 : at + 4 + size])) + data[at + 8 + size :]


def _made_chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def png_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    bits = int(rng.choice([16, 31]))
    return _chunk(data, b"IHDR", lambda old: struct.pack(">II", edge(rng, bits), edge(rng, bits)) + old[8:])


def png_components(data: bytes, rng: np.random.Generator) -> bytes:
    """Change depth, colours, filter or interlacing."""
    return _chunk(data, b"IHDR", lambda old: put(old, int(rng.integers(8, 13)), bytes([int(rng.integers(20))])))


def png_stream(data: bytes, rng: np.random.Generator) -> bytes:
    return _chunk(data, b"IDAT", lambda old: noise(old, rng, 0, len(old)))


def png_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Add a text that is a thousand times as long once it is unpacked."""
    packed = zlib.compress(bytes(BOMB), 1)
    kind, text = [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")][rng.integers(3)]
    return data[:33] + _made_chunk(kind, text + packed) + data[33:]


def webp_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    return put(data, data.index(b"\x9d\x01\x2a") + 3, struct.pack("<HH", edge(rng), edge(rng)))


def webp_lengths(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the length of the file or of its chunk."""
    return put(data, int(rng.choice([4, 16])), struct.pack("<I", edge(rng, 32)))


def _gif_image(data: bytes) -> int:
    """Find where a GIF's first image begins."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return at


def gif_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the size of the screen, of the image or of both."""
    sizes, which = struct.pack("<HH", edge(rng), edge(rng)), rng.integers(3)
    data = put(data, 6, sizes) if which != 1 else data
    return put(data, _gif_image(data) + 5, sizes) if which != 0 else data


def gif_tables(data: bytes, rng: np.random.Generator) -> bytes:
    """Change palettes, and the length of a code."""
    at = _gif_image(data)
    return put(data, int(rng.choice([10, at + 9, at + 10])), bytes([int(rng.integers(256))]))


def _tiff_tag(data: bytes, rng: np.random.Generator, tags: Sequence[int], values: Callable[[bytes], bytes]) -> bytes:
    """Change one of these tags in a TIFF that Pillow wrote."""
    at = int.from_bytes(data[4:8], "little")
    entries = [at + 2 + 12 * i for i in range(int.from_bytes(data[at : at + 2], "little"))]
    entries = [entry for entry in entries if int.from_bytes(data[entry : entry + 2], "little") in tags]
    entry = entries[rng.integers(len(entries))]
    return put(data, entry, values(data[entry : entry + 12]))


def tiff_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    for tag in (256, 257):
        data = _tiff_tag(
            data,
            rng,
            (tag,),
            lambda old: old[:2] + struct.pack("<HII", 4, 1, edge(rng, 32 if rng.random() < 0.1 else 16)),
        )
    return data


def tiff_tags(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a tag, its type, number or value."""
    tag, kind, count, value = int(rng.choice(TIFF_TAGS)), int(rng.integers(20)), edge(rng, 32), edge(rng, 32)
    which = rng.integers(4)
    fields = [("<H", 0, tag), ("<H", 2, kind), ("<I", 4, count), ("<I", 8, value)]
    form, at, new = fields[which]
    return _tiff_tag(data, rng, range(1 << 16), lambda old: put(old, at, struct.pack(form, new)))


def tiff_loop(data: bytes, rng: np.random.Generator) -> bytes:
    """Make the next directory this one, or point it anywhere."""
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    return put(data, end, struct.pack("<I", int(rng.choice([at, 0, edge(rng, 32)]))))


def numbers(data: bytes, rng: np.random.Generator) -> bytes:
    """Put any number into one or two fields of the header, in any order of bytes."""
    for _ in range(rng.integers(1, 3)):
        form = str(rng.choice(["<H", ">H", "<I", ">I"]))
        data = put(
            data,
            int(rng.integers(2, HEAD)),
            struct.pack(form, edge(rng, 16 if "H" in form else 32) % (1 << (16 if "H" in form else 32))),
        )
    return data


def bmp_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change width, height, bits, compression, colours, or where the pixels begin."""
    fields = [("<i", 18), ("<i", 22), ("<H", 28), ("<I", 30), ("<I", 46), ("<I", 10), ("<I", 14)]
    form, at = fields[rng.integers(len(fields))]
    value = edge(rng, 31 if form != "<H" else 6)
    return put(data, at, struct.pack(form, -value if form == "<i" and rng.random() < 0.3 else value))


def pnm_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    """Write other numbers, endless comments, signs or too many digits into the header."""
    first, *rest = data.split(b"\n", 3)
    size = (
        b"%d %d" % (edge(rng, 31), edge(rng, 31)),
        b"-5 5",
        b"0 0",
        b"9" * 5000 + b" 1",
        b"#" + b"x" * 100_000,
        b"250 250\n#\n250",
    )
    kind = bytes((80, 49 + int(rng.integers(7)))) if rng.random() < 0.3 else first[:2]
    highest = (b"255", b"65535", b"0", b"99999", b"1")[rng.integers(5)]
    return b"\n".join([kind, size[rng.integers(len(size))], highest, *rest[2:]])


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> list[int]:
    """Find where the boxes of an ISO media file or a JPEG 2000 begin, nested ones included."""
    found, at, end = list[int](), start, len(data) if end is None else end
    while at + 8 <= end and len(found) < 200:
        size, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        found.append(at)
        skip = {
            b"meta": 12,
            b"jp2h": 8,
            b"iprp": 8,
            b"ipco": 8,
            b"moov": 8,
            b"trak": 8,
            b"mdia": 8,
            b"minf": 8,
            b"stbl": 8,
        }.get(name)
        if skip:
            found += _boxes(data, at + skip, min(at + size, end))
        at += max(size, 8)
    return found


def box_lengths(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the length of a box: to the end, 64 bits, more than there is, or that of the boxes around it."""
    boxes = _boxes(data)
    length = rng.choice([0, 1, 7, 8, 1 << 31, (1 << 32) - 1, edge(rng, 24)])
    return put(data, boxes[rng.integers(len(boxes))], struct.pack(">I", length))


def box_contents(data: bytes, rng: np.random.Generator) -> bytes:
    boxes = _boxes(data)
    at = boxes[rng.integers(len(boxes))]
    return noise(data, rng, min(at + 8, len(data) - 1), min(at + 60, len(data)))


def box_again(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat one box many times, or put it into itself."""
    boxes = _boxes(data)
    at = boxes[rng.integers(len(boxes))]
    box = data[at : at + int.from_bytes(data[at : at + 4])][:5000]
    if rng.random() < 0.5:
        return data[:at] + box * int(rng.integers(2, 2000)) + data[at:]
    for _ in range(rng.integers(1, 300)):
        box = struct.pack(">I", len(box) + 8) + data[at + 4 : at + 8] + box
    return data[:at] + box + data[at:]


def avif_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    return put(data, data.index(b"ispe") + 8, struct.pack(">II", edge(rng, 31), edge(rng, 31)))


def jp2_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the size or the origin of the picture or of its tiles, in the codestream or in the box before it."""
    if b"ihdr" in data and rng.random() < 0.3:
        return put(data, data.index(b"ihdr") + 4, struct.pack(">II", edge(rng, 32), edge(rng, 32)))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    for _ in range(rng.integers(1, 4)):
        data = put(data, at + 4 * int(rng.integers(8)), struct.pack(">I", edge(rng, 32)))
    return data


def jp2_markers(data: bytes, rng: np.random.Generator) -> bytes:
    """Change components, levels, layers or wavelet: any byte up to where tiles begin."""
    at = data.index(b"\xff\x4f\xff\x51")
    return noise(data, rng, at + 4, data.index(b"\xff\x90", at))


def mpo_index(data: bytes, rng: np.random.Generator) -> bytes:
    """Change where the pictures are, and how many."""
    at = data.index(b"MPF\0")
    return noise(data, rng, at + 4, at + 90)


def jpeg_scans(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat the same scan, or an empty one, many times."""
    at = data.index(b"\xff\xda")
    scan = data[at:-2] if rng.random() < 0.3 else data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    return data[:at] + scan * min(int(rng.integers(2, 5000)), (4 << 20) // len(scan)) + data[at:]


def jpeg_segments(data: bytes, rng: np.random.Generator) -> bytes:
    """Add many segments, or one with a wrong length."""
    kind = bytes((0xFF, int(rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xFE, 0xDD, 0xCC]))))
    if rng.random() < 0.5:
        return data[:2] + (kind + b"\0\x04ab") * int(rng.integers(2, 200_000)) + data[2:]
    return data[:2] + kind + struct.pack(">H", edge(rng)) + b"Photoshop 3.0\0MPF\0ICC_PROFILE\0" + data[2:]


def png_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """Add many small chunks of any kind."""
    name = (b"tEXt", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"eXIf", b"zzZz")[rng.integers(9)]
    return (
        data[:33]
        + _made_chunk(name, bytes(rng.integers(0, 256, rng.integers(30), np.uint8))) * int(rng.integers(1, 20_000))
        + data[33:]
    )


def gif_blocks(data: bytes, rng: np.random.Generator) -> bytes:
    """Add endless comments or frames."""
    at = _gif_image(data)
    block = b"!\xfe\x01a\0" if rng.random() < 0.5 else b",\0\0\0\0\1\0\1\0\0\2\2L\1\0"
    return data[:at] + block * int(rng.integers(2, 200_000)) + data[at:]


JPEG: dict[str, Change] = {
    "sizes": jpeg_sizes,
    "components": jpeg_components,
    "tables": jpeg_tables,
    "scans": jpeg_scans,
    "segments": jpeg_segments,
    "exif": exif("JPEG"),
}
BOXES: dict[str, Change] = {"box lengths": box_lengths, "box contents": box_contents, "box again": box_again}
OWN: dict[str, dict[str, Change]] = {
    "JPEG": JPEG,
    "MPO": JPEG | {"index": mpo_index},
    "PNG": {
        "sizes": png_sizes,
        "components": png_components,
        "stream": png_stream,
        "text": png_text,
        "chunks": png_chunks,
        "exif": exif("PNG"),
    },
    "WEBP": {"sizes": webp_sizes, "lengths": webp_lengths, "exif": exif("WEBP")},
    "GIF": {"sizes": gif_sizes, "tables": gif_tables, "blocks": gif_blocks},
    "TIFF": {"sizes": tiff_sizes, "tags": tiff_tags, "loop": tiff_loop},
    "BMP": {"sizes": bmp_sizes},
    "PNM": {"sizes": pnm_sizes},
    "JPEG2000": BOXES | {"sizes": jp2_sizes, "markers": jp2_markers},
    "AVIF": BOXES | {"sizes": avif_sizes, "exif": exif("AVIF")},
    "HEIF": BOXES | {"sizes": avif_sizes},
}
