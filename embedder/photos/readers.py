"""Open a photo with Pillow's reader of its format; import no other reader and start no program."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, features

from facegallery.embedder.outcomes import NEEDS_PLUGIN, UNREADABLE
from facegallery.embedder.photos.bounds import MOST_HEADER, check_gif, check_size, check_tiff
from facegallery.embedder.photos.kinds import Kind, PhotoRefused
from facegallery.embedder.photos.orientation import ORIENTATION, orientation, valid
from facegallery.embedder.photos.pnm import read_pnm
from facegallery.embedder.photos.strip import XAP, Stripped, check_scans, precision, strip_jpeg, strip_png

SLOW_PIXELS = 2_000_000  # most pixels of a format that is decoded in Python
HELD_BACK = 18  # rows of a JPEG that its reader returns only once it has read the next ones
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # TIFF tags
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})Exif", re.DOTALL)
HEIF_NEEDED = "HEIF (HEIC) needs another package: pip install pillow-heif"


@dataclass
class OpenedImage:
    """A photo before its pixels are decoded.

    held_back: rows that may be missing although the file has them. negative: white is 0. signed: numbers may be
    negative. complete: opens the photo again where its end is missing. low_bytes: opens the low bytes of 16-bit
    colours, whose high bytes `image` has. exif: as the file has it; of a TIFF, the whole file. xmp, xmp_parts: the
    packet, and parts of a further one.
    """

    image: Image.Image
    orientation: int = 1
    held_back: int = 0
    negative: bool = False
    signed: bool = False
    complete: Callable[[], Image.Image] | None = None
    low_bytes: Callable[[], Image.Image] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    xmp_parts: Sequence[bytes] = ()


class Jpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's reader of JPEG without its reader of EXIF, which `orientation` reads."""

    def _read_dpi_from_exif(self) -> None:
        """Read nothing."""


class Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader of TIFF without its turning, which `pixels` does for every format."""

    def load_end(self) -> None:
        """Set the size without turning the picture."""
        self._size = self.im.size


def open_photo(kind: Kind, data: bytes, most: int) -> OpenedImage:
    """Open a photo of at most `most` pixels; raise PhotoRefused, or what Pillow raises."""
    opened = READERS[kind.name](data, most)
    check_size(*opened.image.size, most)
    opened.xmp = opened.xmp or _bytes(opened.image, "xmp")
    return opened


def _pillow(plugin: str, reader: str, data: bytes) -> Image.Image:
    return getattr(importlib.import_module(f"PIL.{plugin}"), reader)(io.BytesIO(data))


def _jpeg(data: bytes, most: int) -> OpenedImage:
    stripped = strip_jpeg(data)
    check_scans(stripped)
    image = Jpeg(io.BytesIO(stripped.data))
    held_back = image.height if stripped.many_scans else HELD_BACK
    opened = OpenedImage(image, orientation(stripped.exif, stripped.xmp), held_back, exif=stripped.exif)
    opened.complete = lambda: _finished(stripped)
    opened.xmp, opened.xmp_parts = stripped.xmp.removeprefix(XAP), stripped.xmp_parts
    return opened


def _finished(jpeg: Stripped) -> Image.Image:
    """Return a JPEG, whose end is missing, with an end; raise PhotoRefused where its scans hold too little."""
    if jpeg.many_scans and precision(jpeg.data) > 1:
        raise PhotoRefused(UNREADABLE, "cut: the scans that make its picture sharp are missing")
    return Jpeg(io.BytesIO(jpeg.data + b"\xff\xd9"))


def _png(data: bytes, most: int) -> OpenedImage:
    stripped = strip_png(data)
    image = _pillow("PngImagePlugin", "PngImageFile", stripped.data)
    opened = OpenedImage(image, orientation(stripped.exif, stripped.xmp), exif=stripped.exif, xmp=stripped.xmp)
    if image.info.get("interlace"):  # rows are not stored in order
        opened.held_back = -image.height
    return _of_two_bytes(opened, lambda: _pillow("PngImagePlugin", "PngImageFile", stripped.data))


def _tiff(data: bytes, most: int) -> OpenedImage:
    check_tiff(data, most)
    image = Tiff(io.BytesIO(data))
    turn = valid(image.tag_v2.get(ORIENTATION)) or orientation(xmp=_bytes(image, "xmp"))
    opened = OpenedImage(image, turn, signed=2 in np.atleast_1d(image.tag_v2.get(SAMPLE_FORMAT, 1)), exif=data)
    # Pillow itself inverts pictures of 8 bits
    opened.negative = image.tag_v2.get(PHOTOMETRIC) == 0 and image.mode in ("I;16", "I;16B", "F")
    return _of_two_bytes(opened, lambda: Tiff(io.BytesIO(data)))


def _of_two_bytes(opened: OpenedImage, again: Callable[[], Image.Image]) -> OpenedImage:
    """Add the reader of the low bytes of 16-bit colours: the file read with the other byte order."""
    tiles = getattr(opened.image, "tile", [])
    modes = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles]
    if modes and all(mode.startswith("RGB") and ";16" in mode for mode in modes):
        opened.low_bytes = lambda: _swapped(again())
    return opened


def _swapped(image: Image.Image) -> Image.Image:
    other = {"B": "L", "L": "B", "N": "B"}

    def swap(mode: str) -> str:
        return mode[:-1] + other[mode[-1]]

    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=swap(tile.args) if isinstance(tile.args, str) else (swap(tile.args[0]), *tile.args[1:]))
        for tile in image.tile  # type: ignore[attr-defined]
    ]
    return image


def _webp(data: bytes, most: int) -> OpenedImage:
    image = _pillow("WebPImagePlugin", "WebPImageFile", data)
    exif = _bytes(image, "exif")
    return OpenedImage(image, orientation(exif, _bytes(image, "xmp")), exif=exif)


def _gif(data: bytes, most: int) -> OpenedImage:
    check_gif(data)
    return OpenedImage(_pillow("GifImagePlugin", "GifImageFile", data))


def _bmp(data: bytes, most: int) -> OpenedImage:
    image = _pillow("BmpImagePlugin", "BmpImageFile", data)
    if image.tile[0][0] == "bmp_rle":  # type: ignore[attr-defined]
        check_size(*image.size, min(most, SLOW_PIXELS))
        if len(data) > 2 * (image.width + 2) * image.height + MOST_HEADER:
            raise PhotoRefused(UNREADABLE, "a BMP whose runs are more than its pixels")
    return OpenedImage(image)


def _pnm(data: bytes, most: int) -> OpenedImage:
    return OpenedImage(Image.fromarray(read_pnm(data, most)))


def _jpeg2000(data: bytes, most: int) -> OpenedImage:
    return OpenedImage(_pillow("Jpeg2KImagePlugin", "Jpeg2KImageFile", data))


def _avif(data: bytes, most: int) -> OpenedImage:
    if not features.check("avif"):
        raise PhotoRefused(NEEDS_PLUGIN, "AVIF needs a Pillow that was built with it: pip install -U Pillow")
    plugin = importlib.import_module("PIL.AvifImagePlugin")
    plugin.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]  # since photos are decoded in parallel
    image = plugin.AvifImageFile(io.BytesIO(without_exif(data)))
    return OpenedImage(image, orientation(_bytes(image, "exif")))


def without_exif(data: bytes) -> bytes:
    """Hide the EXIF of an AVIF from readers: only the container's own properties say how it is turned."""
    return _EXIF_ITEM.sub(rb"\1none", data)


def _heif(data: bytes, most: int) -> OpenedImage:
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        raise PhotoRefused(NEEDS_PLUGIN, HEIF_NEEDED) from None
    options = plugin.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
    image = plugin.HeifImageFile(io.BytesIO(data))  # its reader turns it
    return OpenedImage(image, exif=_bytes(image, "exif"))


def _bytes(image: Image.Image, key: str) -> bytes:
    value = image.info.get(key)
    return value if isinstance(value, bytes) else b""


READERS: dict[str, Callable[[bytes, int], OpenedImage]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "TIFF": _tiff,
    "GIF": _gif,
    "BMP": _bmp,
    "PNM": _pnm,
    "JPEG 2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
}
