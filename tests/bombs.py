"""Photos made to take a decoder's memory or time; as a program, decodes each in a process with the decoder's limits.

It prints a line for each: its name, the outcome, seconds of processor time, and megabytes. If the photo started a
program, the line names it beside the outcome.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MOST = 25_000_000


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(megabytes: int) -> bytes:
    """So many zeros, deflated."""
    pack = zlib.compressobj(9)
    return b"".join(pack.compress(bytes(1 << 20)) for _ in range(megabytes)) + pack.flush()


def png(side: int, extra: bytes = b"", rows: int = 64, bits: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0))
    data = zlib.compress((b"\0" + bytes(side * 3 * bits // 8)) * rows)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(form: str, image: Image.Image | None = None, **settings) -> bytes:
    if image is None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def tiff(
    width: int,
    height: int,
    entries: Sequence[tuple[int, int, int, bytes]] = (),
    data: bytes = b"",
    compression: int = 1,
    count: int | None = None,
    start: int = 8,
    following: int = 0,
) -> bytes:
    """A little-endian grey TIFF; `data` begins at 400."""
    short = [(258, 8), (259, compression), (262, 1), (277, 1)]
    entries = [(256, 4, 1, struct.pack("<I", width)), (257, 4, 1, struct.pack("<I", height)), *entries]
    entries += [(tag, 3, 1, struct.pack("<HH", value, 0)) for tag, value in short if tag not in {e[0] for e in entries}]
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", start, len(entries) if count is None else count)
    return (head + body + struct.pack("<I", following)).ljust(400, b"\0") + data


def at(place: int) -> bytes:
    return struct.pack("<I", place)


def of_png() -> Iterator[tuple[str, bytes]]:
    yield "400 megapixels", png(20000)
    yield "2,000,000 chunks", png(64, chunk(b"teST", b"") * 2_000_000)
    yield "2,000,000 empty parts of a picture", png(64, chunk(b"IDAT", b"") * 2_000_000)
    bomb = zeros(100)
    for kind, before in [
        (b"zTXt", b"c\0\0"),
        (b"iCCP", b"c\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
        (b"zTXt", b"Raw profile type exif\0\0"),
    ]:
        yield f"deflated {kind!r} {before[:5]!r}", png(64, chunk(kind, before + bomb) * 3)
    yield "more rows than it states", png(64, rows=3_000_000)
    yield "fewer rows than it states", png(4999, rows=3)
    yield "16 bits of black", png(2000, rows=2000, bits=16)


def of_jpeg() -> Iterator[tuple[str, bytes]]:
    jpeg = saved("JPEG")
    wide = saved("JPEG", Image.new("RGB", (4900, 4900)), progressive=True)
    scan = wide[wide.rindex(b"\xff\xda") : -2]
    many = struct.pack("<HHII", 1, 3, 1, 1) * 5000
    yield "90,000 segments", jpeg[:2] + b"\xff\xe5\0\x02" * 90_000 + jpeg[2:]
    yield "3,000,000 segments", jpeg[:2] + b"\xff\xe5\0\x02" * 3_000_000 + jpeg[2:]
    yield "30 MB of filling", jpeg[:2] + b"\xff" * 30_000_000 + jpeg[2:]
    yield "30 MB of nothing", jpeg[:2] + b"\xff\0" * 15_000_000 + jpeg[2:]
    yield "1,000 scans", wide[:-2] + scan * 1000 + b"\xff\xd9"
    yield (
        "EXIF of 65,535 tags",
        jpeg[:2] + b"\xff\xe1\xff\xf8Exif\0\0" + (b"II*\0\x08\0\0\0\xff\xff" + many).ljust(65520, b"\0") + jpeg[2:],
    )
    yield (
        "EXIF that loops",
        jpeg[:2]
        + b"\xff\xe1\0\x22Exif\0\0"
        + b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"
        + jpeg[2:],
    )


def of_tiff() -> Iterator[tuple[str, bytes]]:
    bomb = zeros(900)
    strip = [(273, 4, 1, at(400)), (279, 4, 1, at(len(bomb))), (278, 4, 1, at(4999))]
    yield "a tile of 30,000 x 30,000", tiff(64, 64, [(322, 4, 1, at(30000)), (323, 4, 1, at(30000))], bomb, 8)
    yield "a strip that is deflated 900 times", tiff(4999, 4999, strip, bomb, 8)
    yield (
        "10,000,000 strips",
        tiff(64, 64, [(273, 4, 10_000_000, at(400)), (279, 4, 10_000_000, at(400))], bytes(40_000_000)),
    )
    yield "20,000,000 depths", tiff(64, 64, [(258, 3, 20_000_000, at(400))], bytes(40_000_000))
    yield "60,000 tags", tiff(64, 64, data=bytes(800_000), count=60_000)
    yield (
        "4,000 tags with all of the file",
        tiff(64, 64, [(1000 + i, 1, 20_000_000, at(8)) for i in range(4000)], bytes(20_000_000)),
    )
    yield (
        "a directory that follows itself",
        tiff(64, 64, [(273, 4, 1, at(8)), (279, 4, 1, at(4096)), (278, 4, 1, at(64))], bytes(5000), following=8),
    )
    yield "a directory outside of the file", tiff(64, 64, start=1 << 31)
    yield "2^31 x 2^31", tiff(1 << 31, 1 << 31, strip)
    yield "a JPEG of another size", tiff(64, 64, strip[:2], saved("JPEG", Image.new("L", (60000, 300)), quality=20), 7)
    yield "BigTIFF of 2^40 tags", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + struct.pack("<Q", 1 << 40) + bytes(5000)


def of_jpeg2000() -> Iterator[tuple[str, bytes]]:
    jp2 = saved("JPEG2000")
    start, header = jp2.index(b"\xff\x4f\xff\x51"), jp2.index(b"ihdr")
    rest = jp2[start + 4 + int.from_bytes(jp2[start + 4 : start + 6], "big") :]

    def sized(width: int, tile: int, layers: int = 3) -> bytes:
        head = struct.pack(">HHIIIIIIIIH", 38 + 3 * layers, 0, width, width, 0, 0, tile, tile, 0, 0, layers)
        return b"\xff\x4f\xff\x51" + head[: 38 + 3 * layers] + b"\7\1\1" * layers + rest

    yield "900 megapixels", sized(30000, 30000)
    yield "900 megapixels in a box of 64 x 64", jp2[:start] + sized(30000, 30000)
    yield "65,000 tiles", sized(4900, 20)
    yield "16,384 layers", sized(4900, 20, 16384)
    yield "a box of 4,900 x 4,900", jp2[: header + 4] + struct.pack(">II", 4900, 4900) + jp2[header + 12 :]
    levels = jp2.index(b"\xff\x52") + 9
    yield "32 resolutions", jp2[:levels] + b"\x20" + jp2[levels + 1 :]


def of_others() -> Iterator[tuple[str, bytes]]:
    avif = saved("AVIF", speed=10)
    size = avif.index(b"ispe") + 8
    for side in (4900, 30000):
        yield f"AVIF that states {side}", avif[:size] + struct.pack(">II", side, side) + avif[size + 8 :]
    large = saved("AVIF", Image.new("L", (6000, 6000)), speed=10, quality=30)
    size = large.index(b"ispe") + 8
    yield "AVIF of 36 megapixels that states 64 x 64", large[:size] + struct.pack(">II", 64, 64) + large[size + 8 :]
    webp = saved("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(99)])
    canvas = webp.index(b"VP8X") + 12
    for wide, high in ((16383, 16383), (1 << 24, 256), (4999, 4999)):
        yield (
            f"WebP of {wide} x {high}",
            webp[:canvas] + (wide - 1).to_bytes(3, "little") + (high - 1).to_bytes(3, "little") + webp[canvas + 6 :],
        )
    gif = saved("GIF")
    frame = gif.index(b",", 13 + 768)
    yield "GIF of 20,000,000 blocks", gif[:frame] + b"!\xfe" + b"\1x" * 20_000_000 + b"\0" + gif[frame:]
    yield "GIF with 30 MB between", gif[:frame] + b"x" * 30_000_000 + gif[frame:]
    for side in (4999, 65535):
        yield f"GIF frame of {side}", gif[: frame + 5] + struct.pack("<HH", side, side) + gif[frame + 9 :]
    for name, width, kind, data in [
        ("runs", 1400, 1, b"\1\5" * 2_000_000),
        ("large runs", 4999, 1, b"\1\5" * 20_000_000),
        ("ends", 1400, 1, b"\0\0" * 20_000_000),
        ("jumps", 1400, 1, b"\0\2\0\0" * 20_000_000),
        ("no pixels", 4999, 0, b""),
        ("2^31 pixels", (1 << 31) - 1, 0, b""),
    ]:
        info = struct.pack("<IiiHHIIiiII", 40, width, width, 1, 8, kind, len(data), 0, 0, 256, 0)
        yield f"BMP of {name}", b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + info + bytes(range(256)) * 4 + data


def of_pnm() -> Iterator[tuple[str, bytes]]:
    yield "fewer pixels than it states", b"P6 4999 4999 255\n"
    yield "10^18 pixels", b"P6 999999999 999999999 255\n"
    for name, data in [
        ("a comment", b"#" + b"x" * 30_000_000),
        ("comments", b"#\n" * 20_000_000),
        ("blanks", b" " * 30_000_000),
        ("digits", b"9" * 1_000_000),
    ]:
        yield f"30 MB of {name} first", b"P6 " + data
    yield "plain text", b"P3 2000 2000 255\n" + b"7 " * 12_000_000
    yield "one number of 30 MB", b"P2 100 100 255\n" + b"7" * 30_000_000
    yield "comments between", b"P2 100 100 255\n" + b"#\n" * 20_000_000 + b"5 " * 10_000
    yield "no numbers", b"P3 2000 2000 255\n" + b"x " * 12_000_000


def of_programs() -> Iterator[tuple[str, bytes]]:
    """Pictures that Pillow would have Ghostscript draw, alone and in other files."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    preview = tiff(64, 64, [(273, 4, 1, at(8)), (279, 4, 1, at(4096)), (278, 4, 1, at(64))], bytes(5000))
    yield "EPS", eps
    yield "EPS after blanks", b"\r\n" + eps
    yield (
        "EPS with a preview",
        b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 30, len(eps), 0, 0, 30 + len(eps), len(preview)) + eps + preview,
    )
    for kind in (6, 7, 34712, 50000):
        yield (
            f"EPS in a TIFF {kind}",
            tiff(64, 64, [(273, 4, 1, at(400)), (279, 4, 1, at(len(eps))), (278, 4, 1, at(64))], eps, kind),
        )
    yield "EPS in IPTC", b"\x1c\3\x3c\0\2\0\1" + b"\x1c\3\x14\0\2\0\x64" + b"\x1c\x08\x0a\0\x50" + eps
    yield "EPS in Photoshop", b"8BPS\0\1" + bytes(20) + eps
    yield "EPS after a JPEG", saved("JPEG") + eps


def bombs() -> Iterator[tuple[str, bytes]]:
    for of in (of_png, of_jpeg, of_tiff, of_jpeg2000, of_others, of_pnm, of_programs):
        for name, data in of():
            yield f"{of.__name__[3:]}: {name}", data


def became(data: bytes) -> str:
    """What becomes of a photo in this process."""
    from facegallery.embedder.photos.pixels import PhotoRefused, decode

    started: list[str] = []
    sys.addaudithook(
        lambda event, _: (
            started.append(event)
            if event.startswith(("subprocess", "os.exec", "os.system", "os.posix_spawn"))
            else None
        )
    )
    try:
        decode(data, MOST)
        outcome = "ok"
    except PhotoRefused as error:
        outcome = error.outcome
    return " ".join([outcome, *started])


def main() -> None:
    from facegallery.embedder.photos.decode import memory_for

    for name, data in bombs():
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_AS, (memory_for(MOST),) * 2)
            outcome = became(data)
            times = os.times()
            (peak,) = [
                line.split()[1]
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmHWM")
            ]
            print(name, outcome, f"{times.user + times.system:.2f}", int(peak) // 1024, sep="\t", flush=True)
            os._exit(0)
        code = os.wait()[1]
        if code:
            print(name, f"died of {code}", 0, 0, sep="\t", flush=True)


if __name__ == "__main__":
    main()
