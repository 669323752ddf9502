"""Convert pictures of any colour mode to uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

BAND = 1 << 22  # pixels that are converted at once, to avoid a second copy of a large photo
DEPTHS = (8, 10, 12, 14, 16, 24, 31, 32)  # bits that cameras, scanners and programs fill in wider files
Convert = Callable[[Image.Image], np.ndarray]


def to_rgb(image: Image.Image, *, signed: bool = False) -> np.ndarray:
    """Convert a decoded picture to uint8 RGB (h, w, 3).

    Numbers of more than 8 bits are scaled by the bits in use; transparent pictures are laid on white. signed: whether
    the numbers of a 32-bit picture may be negative, which is black.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    convert = _conversion(image, signed=signed)
    width, height = image.size
    if width * height <= BAND:
        return convert(image)
    pixels = np.empty((height, width, 3), np.uint8)
    top = 0
    for band in bands(image):
        pixels[top : top + band.height] = convert(band)
        top += band.height
    return pixels


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a picture from the top in pieces of at most BAND pixels, or one row."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _conversion(image: Image.Image, *, signed: bool) -> Convert:
    """Return the function that converts each band of a picture."""
    if image.mode.startswith("I"):
        return _of_integers(image, signed=signed)
    if image.mode == "F":
        return _of_floats(image)
    if (image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info) and _see_through(image):
        return _on_white
    return lambda band: np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def full_scale(peak: int) -> int:
    """Return the number that is white in a picture whose highest number is `peak`.

    It is the highest number of the fewest bits in use (DEPTHS) that hold the peak. A file of 16 bits does not state
    that a camera filled 12 of them. A photo of 16 bits so dark that it fills 12 becomes brighter, which harms no face;
    a photo of 12 bits that is not scaled would be black.
    """
    return next((1 << bits) - 1 for bits in DEPTHS if peak < 1 << bits)


def _numbers(band: Image.Image, *, signed: bool) -> np.ndarray:
    """Return the numbers of a band, none below 0."""
    numbers = np.asarray(band)
    if numbers.dtype.itemsize < 4:
        return numbers
    return np.maximum(numbers, 0) if signed else numbers.view(np.uint32)


def _of_integers(image: Image.Image, *, signed: bool) -> Convert:
    scale = full_scale(max(int(_numbers(band, signed=signed).max()) for band in bands(image)))
    if scale < 1 << 16:
        table = grey_of(np.arange(scale + 1), scale)
        return lambda band: _three(table[_numbers(band, signed=signed)])
    return lambda band: _three(grey_of(_numbers(band, signed=signed), scale))


def _of_floats(image: Image.Image) -> Convert:
    """Convert floats: white is 1 where their mean is at most 1, otherwise as for integers."""

    def finite(band: Image.Image) -> np.ndarray:
        return np.nan_to_num(np.asarray(band), nan=0, posinf=0, neginf=0)

    peak = max(float(finite(band).max()) for band in bands(image))
    mean = sum(float(finite(band).sum(dtype=np.float64)) for band in bands(image)) / (image.width * image.height)
    scale = 1 if mean <= 1 else full_scale(int(min(peak, (1 << 32) - 1)))
    return lambda band: _three(grey_of(np.nan_to_num(np.asarray(band), nan=0, posinf=scale, neginf=0), scale))


def grey_of(numbers: np.ndarray, scale: float) -> np.ndarray:
    """Scale numbers of 0 to `scale` to uint8; clip the others."""
    return (np.clip(numbers / scale, 0, 1) * 255 + 0.5).astype(np.uint8)


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _see_through(image: Image.Image) -> bool:
    """Whether alpha varies within a picture; where it is the same everywhere, the picture is opaque."""
    alphas = [band.convert("RGBA").getchannel("A").getextrema() for band in bands(image)]
    return len({alpha for low_high in alphas for alpha in low_high}) > 1


def _on_white(band: Image.Image) -> np.ndarray:
    layer = band.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))


def highest(image: Image.Image) -> int:
    """Return the highest number in any band of a picture of 8 bits."""
    return max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands())


def of_two_bytes(high: Image.Image, low: Image.Image) -> Image.Image:
    """Combine pictures of the high and low bytes of 16-bit colours that fill few of their bits.

    Alpha is that of the high bytes.
    """
    colours = high.convert("RGB")
    scale = full_scale(highest(colours) << 8 | 255)
    table = grey_of(np.arange(scale + 1), scale)
    found = Image.new("RGB", high.size)
    top = 0
    for upper, lower in zip(bands(colours), bands(low.convert("RGB")), strict=True):
        numbers = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
        found.paste(Image.fromarray(table[numbers]), (0, top))
        top += upper.height
    if "A" in high.getbands():
        found.putalpha(high.getchannel("A"))
    return found
