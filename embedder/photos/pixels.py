"""Decode the pixels of one photo from its bytes, or refuse the photo with a reason."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image

from facegallery.embedder.outcomes import MISSING, NO_ACCESS, TOO_LARGE, UNREADABLE
from facegallery.embedder.photos.bounds import MAX_PIXELS, MOST_MISSING, check_size
from facegallery.embedder.photos.colours import highest, of_two_bytes, to_rgb
from facegallery.embedder.photos.kinds import PhotoRefused, identify
from facegallery.embedder.photos.orientation import TURNS
from facegallery.embedder.photos.place import Place, place
from facegallery.embedder.photos.readers import OpenedImage, open_photo
from facegallery.embedder.photos.taken import taken

MAX_BYTES = 200 << 20
FEW_BITS = 64  # the high bytes of 16-bit colours are below this where the colours fill 14 bits or fewer


@dataclass(frozen=True)
class Decoded:
    """A photo's pixels, uint8 RGB (h, w, 3), turned upright, and what its file says beside them.

    taken: when, by the camera's clock. place: where. turn: how they were turned, 1 to 8. xmp, xmp_parts: as for
    `OpenedImage`.
    """

    pixels: np.ndarray
    taken: datetime | None = None
    turn: int = 1
    xmp: bytes = b""
    xmp_parts: Sequence[bytes] = ()
    place: Place | None = None


def decode(data: bytes, most: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of a photo to uint8 RGB (h, w, 3), turned as its EXIF says.

    most: larger photos are refused, in pixels. Raise PhotoRefused.
    """
    return decode_all(data, most).pixels


def decode_all(data: bytes, most: int = MAX_PIXELS) -> Decoded:
    """Decode a photo as `decode`, and return what else its file says, too."""
    kind, data = identify(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = most // 2  # Pillow refuses twice as many, in any picture that it makes
        try:
            opened = open_photo(kind, data, most)
            time = taken(opened.exif)
            where = place(opened.exif)
            pixels = _decode(opened, most)
            return Decoded(pixels, time, opened.orientation, opened.xmp, opened.xmp_parts, where)
        except PhotoRefused:
            raise
        except Image.DecompressionBombError:
            raise PhotoRefused(TOO_LARGE, f"a {kind.name} of more than {most:,} pixels") from None
        except MemoryError:
            raise PhotoRefused(TOO_LARGE, "not enough memory to decode it") from None
        except Exception as error:  # Pillow's readers raise errors of any kind
            raise PhotoRefused(UNREADABLE, f"a broken {kind.name}: {error}".rstrip(": ")) from None


def _decode(opened: OpenedImage, most: int) -> np.ndarray:
    image = _loaded(opened)
    check_size(*image.size, most)
    if opened.low_bytes and highest(image.convert("RGB")) < FEW_BITS:
        low = opened.low_bytes()
        low.load()
        image = of_two_bytes(image, low)
    if opened.orientation in TURNS:
        opened.image = image = image.transpose(TURNS[opened.orientation])  # frees the picture before turning
    pixels = to_rgb(image, signed=opened.signed)
    return 255 - pixels if opened.negative else pixels


def _loaded(opened: OpenedImage) -> Image.Image:
    """Return the decoded picture; a cut or broken file is accepted where enough of its rows are there."""
    image = opened.image
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        missing = _missing_rows(image)
        if missing - opened.held_back > MOST_MISSING * image.height:
            raise PhotoRefused(
                UNREADABLE, f"cut or broken, {missing} of {image.height} rows are missing: {error}"
            ) from None
        image = opened.complete() if opened.complete else image
        image.load()
    return image


def _missing_rows(image: Image.Image) -> int:
    """Return how many rows were not decoded; missing columns of tiles count as the same share of rows."""
    image.tile = []  # type: ignore[attr-defined]  # so that no more of the file is read
    try:
        box = image.getbbox(alpha_only=False)
    except Exception:  # there are no pixels
        box = None
    left, top, right, bottom = box or (0, 0, 0, 0)
    rows, columns = max(top, image.height - bottom), max(left, image.width - right)
    return round(max(rows / image.height, columns / image.width) * image.height)


def read(path: str, most: int = MAX_BYTES) -> tuple[bytes, str]:
    """Read a photo's file of at most `most` bytes; return (bytes, sha256). Raise PhotoRefused."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PhotoRefused(UNREADABLE, "not a plain file")
            if status.st_size > most:
                raise PhotoRefused(TOO_LARGE, f"{status.st_size:,} bytes, the limit is {most:,}")
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise PhotoRefused(MISSING, "the file is gone") from None
    except IsADirectoryError:
        raise PhotoRefused(UNREADABLE, "not a plain file") from None
    except OSError as error:
        raise PhotoRefused(NO_ACCESS, error.strerror or str(error)) from None
    if len(data) > most:
        raise PhotoRefused(TOO_LARGE, f"more than {most:,} bytes, which is the limit")
    return data, hashlib.sha256(data).hexdigest()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a process that writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
