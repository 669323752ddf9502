"""The pixels of one photo from its bytes: which formats are opened, within which limits, and why a photo is refused."""

from __future__ import annotations

import hashlib
import io
import os
import stat

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 200 << 20
MAX_PIXELS = 100_000_000
MAX_MEMORY = 3 << 30
HEIC = (".heic", ".heif")


class Refused(Exception):
    """A photo that gives no pixels: its outcome and why."""

    def __init__(self, outcome: str, why: str):
        super().__init__(why)
        self.outcome = outcome


def decode(data: bytes, name: str = "", most: int = MAX_PIXELS) -> np.ndarray:
    """The bytes of a photo -> uint8 RGB (h, w, 3), turned as EXIF says; raises Refused."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > most:
                raise Refused("too_large", f"{width} x {height} pixels, the limit is {most:,}")
            image.seek(0)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(to_rgb(image))
    except Refused:
        raise
    except UnidentifiedImageError:
        if name.lower().endswith(HEIC) and ".heic" not in Image.registered_extensions():
            raise Refused("unreadable", "HEIC needs the extra: pip install 'facedb[heif]'") from None
        raise Refused("unreadable", "not an image that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise Refused("too_large", str(error)) from None
    except MemoryError:
        raise Refused("too_large", "not enough memory to decode it") from None
    except Exception as error:  # Pillow's readers raise whatever they meet
        raise Refused("unreadable", f"{error}" or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any colour mode -> RGB: 16-bit is scaled, alpha is laid on white."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float64)
        return Image.fromarray((np.clip(pixels / 65535, 0, 1) * 255 + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Refused("unreadable", "floating-point pixels have no agreed scale: convert it to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def read(path: str) -> tuple[bytes, str]:
    """(bytes, sha256) of a photo's file; raises Refused."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unreadable", "not a plain file")
        if status.st_size > MAX_BYTES:
            raise Refused("too_large", f"{status.st_size:,} bytes, the limit is {MAX_BYTES:,}")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise Refused("missing", "the file is gone") from None
    except OSError as error:
        raise Refused("unreadable", error.strerror or str(error)) from None
    return data, hashlib.sha256(data).hexdigest()


def load_formats() -> None:
    """Makes Pillow ready to decode; called once by a process, before its first photo."""
    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked first, from the header
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
