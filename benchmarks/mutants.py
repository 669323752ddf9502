"""Photos made bad in many ways: as JPEG, and as PNG, WebP, GIF and TIFF. A mutant depends on nothing but the photos, the seed and its number."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Change = Callable[[bytes, np.random.Generator], bytes]
OTHERS = ("PNG", "WEBP", "GIF", "TIFF")  # a tenth of all each
HEAD = 64  # bytes
LARGE = 1 / 500  # share that is longer than any photo may be
LARGE_BYTES = 21 << 20
BOMB = 64 << 20  # bytes of a text that is packed in a PNG
TIFF_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 330, 338, 34665)
ORIENTATION, EXIF_IFD = 0x0112, 0x8769


@dataclass(frozen=True)
class Mutant:
    """A photo as it is sent."""

    number: int
    kind: str  # format and what was done
    data: bytes


def mutant(photos: Sequence[bytes], seed: int, number: int) -> Mutant:
    """photos: JPEGs."""
    rng = np.random.default_rng([seed, number])
    data, share = photos[int(rng.integers(len(photos)))], rng.random()
    form = OTHERS[int(share * 10)] if share < len(OTHERS) / 10 else "JPEG"
    if form != "JPEG":
        data = saved(data, form)
    if rng.random() < LARGE:
        return Mutant(number, f"{form} large", data + bytes(LARGE_BYTES))
    changes = EVERY | OWN[form]
    name = list(changes)[rng.integers(len(changes))]
    return Mutant(number, f"{form} {name}", changes[name](data, rng))


def saved(data: bytes, form: str, **options: object) -> bytes:
    with Image.open(io.BytesIO(data)) as image, io.BytesIO() as out:
        image.save(out, form, **options)
        return out.getvalue()


# of every format ------------------------------------------------------------


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    return _noise(data, rng, 0, len(data))


def head(data: bytes, rng: np.random.Generator) -> bytes:
    return _noise(data, rng, 0, min(HEAD, len(data)))


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def pieces(data: bytes, rng: np.random.Generator) -> bytes:
    """One piece doubled, or two swapped."""
    a, b, c = sorted(rng.integers(len(data), size=3).tolist())
    return data[:b] + data[a:] if rng.random() < 0.5 else data[:a] + data[b:c] + data[a:b] + data[c:]


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    """Runs of them."""
    x = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(x)))
        size = min(int(2 ** rng.uniform(0, 14)), len(x) - at)
        x[at : at + size] = bytes(size)
    return bytes(x)


def polyglot(data: bytes, rng: np.random.Generator) -> bytes:
    """One file that is two."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../a.html", "<script>alert(1)</script>")
        packed = file.getvalue()
    other = (packed, b"<html><script>alert(1)</script></html>", b"GIF89a\x01\x00\x01\x00\x80\x00\x00", b"%PDF-1.4\n")[rng.integers(4)]
    return data + other if rng.random() < 0.5 else other + data


def _noise(data: bytes, rng: np.random.Generator, start: int, end: int) -> bytes:
    x = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(start, end, size=rng.geometric(0.05))
    x[at] ^= rng.integers(1, 256, size=len(at), dtype=np.uint8)
    return x.tobytes()


def _length(rng: np.random.Generator, bits: int = 16) -> int:
    """Of an edge: any order of magnitude."""
    return int(2 ** rng.uniform(0, bits))


def _put(data: bytes, at: int, values: bytes) -> bytes:
    return data[:at] + values + data[at + len(values) :]


# of one ---------------------------------------------------------------------


def exif(form: str) -> Change:
    """Any orientation, of any type and number, and directories that lead anywhere, to themselves too."""

    def change(data: bytes, rng: np.random.Generator) -> bytes:
        order = "<>"[rng.integers(2)]
        kind, count = (3, 1) if rng.random() < 0.5 else (int(rng.integers(20)), int(rng.integers(1 << 32)))
        value, to, after = rng.integers(12), rng.choice([8, 20, 1 << 31]), rng.choice([0, 8, 1 << 31])
        entries = struct.pack(f"{order}HHIHH", ORIENTATION, kind, count, value, 0) + struct.pack(f"{order}HHII", EXIF_IFD, 4, 1, to)
        start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
        return saved(data, form, exif=b"Exif\0\0" + start + struct.pack(f"{order}H", 2) + entries + struct.pack(f"{order}I", after))

    return change


def _segment(data: bytes, rng: np.random.Generator, markers: Sequence[int]) -> tuple[int, int]:
    """Where one of a JPEG's segments with these markers begins, and where it ends."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] in markers:
            found.append((at, end))
        at = end
    return found[rng.integers(len(found))]


def jpeg_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    at, _ = _segment(data, rng, range(0xC0, 0xC3))
    return _put(data, at + 5, struct.pack(">HH", _length(rng), _length(rng)))


def jpeg_components(data: bytes, rng: np.random.Generator) -> bytes:
    """How many, their sampling, their tables, the precision."""
    at, end = _segment(data, rng, range(0xC0, 0xC3))
    return _put(data, int(rng.choice([at + 4, at + 9, *range(at + 10, end)])), bytes([int(rng.integers(256))]))


def jpeg_tables(data: bytes, rng: np.random.Generator) -> bytes:
    """Huffman's and those of quantisation."""
    at, end = _segment(data, rng, (0xC4, 0xDB))
    return _noise(data, rng, at + 2, end)


def _chunk(data: bytes, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A PNG with another first chunk of that name, with the right checksum."""
    at = data.index(name)
    size = int.from_bytes(data[at - 4 : at])
    return data[: at - 4] + _made_chunk(name, change(data[at + 4 : at + 4 + size])) + data[at + 8 + size :]


def _made_chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def png_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    bits = int(rng.choice([16, 31]))
    return _chunk(data, b"IHDR", lambda old: struct.pack(">II", _length(rng, bits), _length(rng, bits)) + old[8:])


def png_components(data: bytes, rng: np.random.Generator) -> bytes:
    """Depth, colours, filter, interlacing."""
    return _chunk(data, b"IHDR", lambda old: _put(old, int(rng.integers(8, 13)), bytes([int(rng.integers(20))])))


def png_stream(data: bytes, rng: np.random.Generator) -> bytes:
    return _chunk(data, b"IDAT", lambda old: _noise(old, rng, 0, len(old)))


def png_text(data: bytes, rng: np.random.Generator) -> bytes:
    """That is a thousand times as long once it is unpacked."""
    packed = zlib.compress(bytes(BOMB), 1)
    kind, text = [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")][rng.integers(3)]
    return data[:33] + _made_chunk(kind, text + packed) + data[33:]


def webp_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    return _put(data, data.index(b"\x9d\x01\x2a") + 3, struct.pack("<HH", _length(rng), _length(rng)))


def webp_lengths(data: bytes, rng: np.random.Generator) -> bytes:
    """Of the file or of its chunk."""
    return _put(data, int(rng.choice([4, 16])), struct.pack("<I", _length(rng, 32)))


def _gif_image(data: bytes) -> int:
    """Where a GIF's first image begins."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return at


def gif_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    """Of the screen, of the image or of both."""
    sizes, which = struct.pack("<HH", _length(rng), _length(rng)), rng.integers(3)
    data = _put(data, 6, sizes) if which != 1 else data
    return _put(data, _gif_image(data) + 5, sizes) if which != 0 else data


def gif_tables(data: bytes, rng: np.random.Generator) -> bytes:
    """Palettes, and how long a code is."""
    at = _gif_image(data)
    return _put(data, int(rng.choice([10, at + 9, at + 10])), bytes([int(rng.integers(256))]))


def _tiff_tag(data: bytes, rng: np.random.Generator, tags: Sequence[int], values: Callable[[bytes], bytes]) -> bytes:
    """A TIFF of Pillow's with another of its tags."""
    at = int.from_bytes(data[4:8], "little")
    entries = [at + 2 + 12 * i for i in range(int.from_bytes(data[at : at + 2], "little"))]
    entries = [entry for entry in entries if int.from_bytes(data[entry : entry + 2], "little") in tags]
    entry = entries[rng.integers(len(entries))]
    return _put(data, entry, values(data[entry : entry + 12]))


def tiff_sizes(data: bytes, rng: np.random.Generator) -> bytes:
    for tag in (256, 257):
        data = _tiff_tag(data, rng, (tag,), lambda old: old[:2] + struct.pack("<HII", 4, 1, _length(rng, 32 if rng.random() < 0.1 else 16)))
    return data


def tiff_tags(data: bytes, rng: np.random.Generator) -> bytes:
    """Packed in one of the usual ways; another tag, type, number or value."""
    data = saved(data, "TIFF", compression=str(rng.choice(["raw", "tiff_deflate", "tiff_lzw", "jpeg", "packbits"])))
    tag, kind, count, value = int(rng.choice(TIFF_TAGS)), int(rng.integers(20)), _length(rng, 32), _length(rng, 32)
    which = rng.integers(4)
    fields = [("<H", 0, tag), ("<H", 2, kind), ("<I", 4, count), ("<I", 8, value)]
    form, at, new = fields[which]
    return _tiff_tag(data, rng, range(1 << 16), lambda old: _put(old, at, struct.pack(form, new)))


def tiff_loop(data: bytes, rng: np.random.Generator) -> bytes:
    """The next directory is this one, or anywhere."""
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    return _put(data, end, struct.pack("<I", int(rng.choice([at, 0, _length(rng, 32)]))))


EVERY: dict[str, Change] = {"flipped": flipped, "head": head, "cut": cut, "pieces": pieces, "zeros": zeros, "polyglot": polyglot}
OWN: dict[str, dict[str, Change]] = {
    "JPEG": {"sizes": jpeg_sizes, "components": jpeg_components, "tables": jpeg_tables, "exif": exif("JPEG")},
    "PNG": {"sizes": png_sizes, "components": png_components, "stream": png_stream, "text": png_text, "exif": exif("PNG")},
    "WEBP": {"sizes": webp_sizes, "lengths": webp_lengths, "exif": exif("WEBP")},
    "GIF": {"sizes": gif_sizes, "tables": gif_tables},
    "TIFF": {"sizes": tiff_sizes, "tags": tiff_tags, "loop": tiff_loop},
}
