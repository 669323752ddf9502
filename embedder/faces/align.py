"""Choose a face of a photo, crop the photo around it, and encode the crop."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from facegallery.embedder.errors import DataError, reason
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.spec import MOST_SIDE, CropRule, margin_of

Box = tuple[float, float, float, float]
Region = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels of the photo
PNG, RGB, UP = b"\x89PNG\r\n\x1a\n", 2, 2  # the format's first bytes, a colour type and a filter
SHOWN = b"faRg"  # a private chunk that readers skip: the region of the photo that the pixels show, without a border
FARTHEST = 1 << 24  # pixels of a photo's side
HEAD_BYTES = 33  # of the signature and IHDR
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


def order_faces(faces: Sequence[DetectedFace], width: int, height: int) -> list[DetectedFace]:
    """Return the faces in order: first the one of highest `centrality`, then the others by falling confidence.

    width, height: of the photo, in pixels. The first face is the one that the homework crops.
    """
    if not faces:
        return []
    first = max(range(len(faces)), key=lambda i: centrality(faces[i].box, width, height))
    rest = [face for i, face in enumerate(faces) if i != first]
    return [faces[first], *sorted(rest, key=lambda f: -f.confidence)]


def centrality(box: Box, width: int, height: int) -> float:
    """Return area - 2 x squared distance of the box's centre from the photo's centre, in pixels."""
    x0, y0, x1, y1 = box
    dx, dy = (x0 + x1) / 2 - width / 2, (y0 + y1) / 2 - height / 2
    return (x1 - x0) * (y1 - y0) - 2 * (dx * dx + dy * dy)


def largest_other(number: int, faces: Sequence[DetectedFace]) -> float:
    """Return the area of the largest other face as a share of face `number`'s; 0 where there is no other."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face.box for face in faces)]
    return max((area for i, area in enumerate(areas) if i != number), default=0.0) / max(areas[number], 1e-9)


def crop_box(box: Box, rule: CropRule, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the pixels (left, top, right, bottom) of a crop, at least one pixel each way.

    The box has its margin, is clamped to the photo and truncated to whole pixels.
    """
    left, top, right, bottom = with_margin(box, rule)
    x, y = int(min(max(left, 0), width - 1)), int(min(max(top, 0), height - 1))
    return x, y, max(int(min(right, width)), x + 1), max(int(min(bottom, height)), y + 1)


def with_margin(box: Box, rule: CropRule) -> Box:
    """Return a box with its margin. The box's corner and size are rounded to whole pixels first, as by `mtcnn`."""
    x, y, w, h = round(box[0]), round(box[1]), round(box[2] - box[0]), round(box[3] - box[1])
    value, pixels = margin_of(rule.margin)
    dx, dy = (value / 2, value / 2) if pixels else (value * w / 2, value * h / 2)
    return x - dx, y - dy, x + w + dx, y + h + dy


def cut(photo: np.ndarray, box: Box, rule: CropRule) -> np.ndarray:
    """Crop a face: uint8 RGB (h, w, 3) -> uint8 RGB (s, s, 3), s = size + 2 x border.

    The centre of a crop with a border is exactly the crop without one.
    """
    height, width = photo.shape[:2]
    left, top, right, bottom = crop_box(box, rule, width, height)
    size = rule.size, rule.size
    plain = np.asarray(Image.fromarray(photo[top:bottom, left:right]).resize(size, Image.Resampling.BILINEAR))
    if not rule.border:
        return plain
    wide = _with_border(photo, (left, top, right, bottom), rule)
    inner = slice(rule.border, rule.border + rule.size)
    wide[inner, inner] = plain
    return wide


def _with_border(photo: np.ndarray, box: tuple[int, int, int, int], rule: CropRule) -> np.ndarray:
    """Resample the photo `border` steps further on each side of the grid; repeat the photo's edges beyond it."""
    left, top, right, bottom = box
    dx, dy = rule.border * (right - left) / rule.size, rule.border * (bottom - top) / rule.size
    px, py = math.ceil(dx) + 1, math.ceil(dy) + 1
    rows = np.clip(np.arange(top - py, bottom + py), 0, photo.shape[0] - 1)
    columns = np.clip(np.arange(left - px, right + px), 0, photo.shape[1] - 1)
    region = Image.fromarray(photo[np.ix_(rows, columns)])
    grid = px - dx, py - dy, px + (right - left) + dx, py + (bottom - top) + dy
    side = rule.size + 2 * rule.border
    return np.array(region.resize((side, side), Image.Resampling.BILINEAR, box=grid))


def centre(crop: np.ndarray, rule: CropRule) -> np.ndarray:
    """Return the crop without its border: uint8 (s, s, 3) -> uint8 (size, size, 3)."""
    return crop[rule.border : rule.border + rule.size, rule.border : rule.border + rule.size]


def sharpness(crop: np.ndarray) -> float:
    """Return the variance of the Laplacian of the grey crop: low for a blurred crop."""
    grey = crop.astype(np.float32) @ np.asarray(LUMA, np.float32)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def to_png(crop: np.ndarray, region: Region | None = None) -> bytes:
    """Encode uint8 RGB (h, w, 3) as PNG with the filter `up` on each row, and the region of the photo that it shows.

    This takes half the time of Pillow, which tries all filters on each row.
    """
    height, width = crop.shape[:2]
    flat = crop.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0], rows[0, 1:] = UP, flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    shown = [] if region is None else [(SHOWN, struct.pack(">4i", *region))]
    chunks = ((b"IHDR", head), *shown, (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b""))
    return PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def region_of(png: bytes) -> Region | None:
    """Return the region that `to_png` wrote; None where there is none, as in crops of earlier versions.

    Raise DataError for a region that no photo has.
    """
    length, kind = png[HEAD_BYTES : HEAD_BYTES + 4], png[HEAD_BYTES + 4 : HEAD_BYTES + 8]
    if kind != SHOWN:
        return None
    try:
        if length != struct.pack(">I", 16):
            raise ValueError
        left, top, right, bottom = struct.unpack_from(">4i", png, HEAD_BYTES + 8)
        if not (0 <= left < right <= FARTHEST and 0 <= top < bottom <= FARTHEST):
            raise ValueError
    except (struct.error, ValueError):
        raise DataError("expected a crop with the region that it shows, the region is damaged: align again") from None
    return left, top, right, bottom


def from_png(data: bytes) -> np.ndarray:
    """Decode a PNG to uint8 RGB (h, w, 3).

    Raise DataError for other bytes, and for more than MOST_SIDE pixels a side.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > MOST_SIDE:
                raise DataError(
                    f"expected a crop of at most {MOST_SIDE} pixels a side, received {image.size}: "
                    "align the photos again"
                )
            return np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any kind
        raise DataError(
            f"expected a crop as a PNG, it cannot be decoded ({reason(error)}): align the photos again"
        ) from None


def read_crop(data: bytes, rule: CropRule, owner: str) -> np.ndarray:
    """Decode the PNG of a crop: uint8 RGB (s, s, 3), s = size + 2 x border; of a window: (h, w, 3).

    owner: the photo or face that an error names. Raise DataError for any other picture.
    """
    try:
        pixels = from_png(data)
    except DataError as error:
        raise DataError(f"{error} (the crop of {owner[:200]})") from None
    side = rule.size + 2 * rule.border
    if rule.window:
        if max(pixels.shape[:2]) > rule.window:
            raise DataError(
                f"expected windows of at most {rule.window} pixels a side, that of {owner[:200]} has "
                f"{pixels.shape[1]} x {pixels.shape[0]}: align the photos again"
            )
    elif pixels.shape[:2] != (side, side):
        height, width = pixels.shape[:2]
        raise DataError(
            f"expected crops of {side} x {side} pixels, that of {owner[:200]} has {width} x {height}: "
            "align the photos again"
        )
    return pixels


def plain(data: bytes, rule: CropRule, owner: str = "a face") -> np.ndarray:
    """Decode the PNG of a crop without its border: uint8 RGB (size, size, 3). owner, errors: as for `read_crop`."""
    return centre(read_crop(data, rule, owner), rule)
