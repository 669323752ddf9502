"""Cut from a photo what is stored of a face, and from what is stored what a network sees.

What is stored is a crop or a window (`CropRule`), with the rectangle of the photo that it shows. A network sees the
face's box with its margin, or the face's five points moved to a template by Umeyama's similarity transform (1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facegallery.embedder.faces import align
from facegallery.embedder.faces.align import Box, Region
from facegallery.embedder.spec import BOXED, CropRule, Part

TEMPLATE_SIDE = 112  # pixels
# ArcFace (Deng et al. 2019), as InsightFace publishes the points, in the order of rows' landmarks
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * TEMPLATE_SIDE - 0.5
SMALLEST, LARGEST = 1 / 3, 4.0  # sides of a template per longer side of the box: 0.9 to 1.6 on 6,900 faces
SHRINK = 1.5  # a template that spans this many times its own pixels is taken from a smaller copy
FINEST = 256  # places of a close crop's corner within a pixel
EDGE = 2  # pixels around what a template needs, for interpolation


@dataclass(frozen=True)
class FacePicture:
    """What is stored of a face.

    pixels: uint8 RGB (h, w, 3). shown: left, top, right and bottom of what they show, in pixels of the photo. box,
    points: of the face in the photo, float32 (5, 2), None where they are not known.
    """

    pixels: np.ndarray
    shown: tuple[float, float, float, float]
    box: Box | None
    points: np.ndarray | None

    @property
    def steps(self) -> np.ndarray:
        """Pixels of the photo for each pixel, float64 (x, y)."""
        left, top, right, bottom = self.shown
        return np.array([(right - left) / self.pixels.shape[1], (bottom - top) / self.pixels.shape[0]])


def points_of(landmarks: Sequence[float] | None, box: Box) -> np.ndarray | None:
    """Return landmarks as points, float32 (5, 2).

    None where there are none, or where they cannot be a face's: all in one place, or far larger than the box.
    """
    if landmarks is None or len(landmarks) != 2 * len(ARCFACE):
        return None
    points = np.asarray(landmarks, np.float32).reshape(-1, 2)
    side = max(box[2] - box[0], box[3] - box[1])
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() * LARGEST < side * SMALLEST:
        return None
    scale = abs(similarity(points)[0])
    return points if scale and SMALLEST <= TEMPLATE_SIDE / scale / max(side, 1e-6) <= LARGEST else None


def similarity(points: np.ndarray, target: np.ndarray = ARCFACE) -> tuple[complex, complex]:
    """Return (a, b) such that a z + b maps points (k, 2), as z = x + iy, nearest to `target` by least squares.

    Multiplying by a turns and scales the points; adding b moves them. The points must not be all in one place.
    """
    z, w = points.astype(np.float64) @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    return complex(a), complex(w.mean() - a * z.mean())


# from the photo to what is stored -------------------------------------------


def take(photo: np.ndarray, box: Box, landmarks: Sequence[float] | None, rule: CropRule) -> tuple[np.ndarray, Region]:
    """Cut from a photo, uint8 RGB (h, w, 3), what `rule` stores of a face: pixels, and the region of the photo.

    The region of a crop is that without its border.
    """
    height, width = photo.shape[:2]
    region = align.crop_box(box, rule, width, height)
    if not rule.window:
        return align.cut(photo, box, rule), region
    left, top, right, bottom = region = _with_template(region, box, points_of(landmarks, box), width, height)
    return _at_most(photo[top:bottom, left:right], rule.window), region


def _with_template(region: Region, box: Box, points: np.ndarray | None, width: int, height: int) -> Region:
    """Return the region extended to what a template of the points needs, within the photo."""
    if points is None:
        return region
    a, b = similarity(points)
    corners = (CORNERS @ (1, 1j) - b) / a
    left, top, right, bottom = region
    return (
        max(0, min(left, math.floor(corners.real.min()) - EDGE)),
        max(0, min(top, math.floor(corners.imag.min()) - EDGE)),
        min(width, max(right, math.ceil(corners.real.max()) + EDGE + 1)),
        min(height, max(bottom, math.ceil(corners.imag.max()) + EDGE + 1)),
    )


def _at_most(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return the pixels, or a smaller copy whose longer side has `side` pixels."""
    height, width = pixels.shape[:2]
    factor = max(height, width) / side
    if factor <= 1:
        return np.ascontiguousarray(pixels)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


# from what is stored to what a network sees ---------------------------------


def stored(
    pixels: np.ndarray,
    region: Region | None,
    box: Sequence[float] | None,
    landmarks: Sequence[float] | None,
    rule: CropRule,
) -> FacePicture:
    """Return the picture of a face from what is stored.

    region: as `take` returns it; None for a crop of an earlier version, taken to lie inside its photo.
    """
    if box is None:
        return plain_crop(pixels, rule.border)
    x0, y0, x1, y1 = box = tuple(float(np.float32(value)) for value in box)  # as rows store them
    if region is None:
        region = align.crop_box((x0, y0, x1, y1), rule, 1 << 30, 1 << 30)
    left, top, right, bottom = region
    dx, dy = (rule.border * (right - left) / rule.size, rule.border * (bottom - top) / rule.size)
    return FacePicture(
        pixels, (left - dx, top - dy, right + dx, bottom + dy), (x0, y0, x1, y1), points_of(landmarks, (x0, y0, x1, y1))
    )


def seen_by(part: Part, faces: Sequence[FacePicture], rule: CropRule, zoom: float | None = None) -> np.ndarray:
    """Return what a network sees of faces, uint8 (n, size, size, 3) in the network's order of colours.

    zoom: of close crops, instead of the network's own.
    """
    if part.crop in BOXED:
        closer = part.closer(zoom or part.zoom)
        seen = np.stack([boxed(face, rule, part.size, closer) for face in faces])
    else:
        seen = np.stack([_pointed(face, rule, part.size) for face in faces])
    return seen if part.colour == "RGB" else np.ascontiguousarray(seen[..., ::-1])


def with_border(part: Part, face: FacePicture, rule: CropRule, border: int) -> np.ndarray:
    """Return what a network sees of a face, and what lies around it: uint8 (s, s, 3), s = part.size + 2 x border.

    The centre is exactly what `seen_by` returns. The stored pixels' edges are repeated beyond them.
    """
    if part.crop not in BOXED and face.points is not None:
        wide = _pointed(face, rule, part.size, border)
    else:
        wide = _widened(face, rule, part, border)
    if part.colour != "RGB":
        wide = np.ascontiguousarray(wide[..., ::-1])
    inner = slice(border, border + part.size)
    wide[inner, inner] = seen_by(part, [face], rule)[0]
    return wide


def _widened(face: FacePicture, rule: CropRule, part: Part, border: int) -> np.ndarray:
    """Return the box that a network sees and a border: uint8 (s, s, 3), s = part.size + 2 x border."""
    size = part.size
    box = _box_within(face, rule, part.closer(part.zoom))
    step = np.tile((box[2:] - box[:2]) / size, 2)
    pad = math.ceil(border * step.max()) + EDGE
    wide = Image.fromarray(np.pad(face.pixels, ((pad, pad), (pad, pad), (0, 0)), "edge"))
    of = tuple((box + pad + border * step * (-1, -1, 1, 1)).tolist())
    side = size + 2 * border
    return np.array(wide.resize((side, side), Image.Resampling.BILINEAR, box=of))


def boxed(face: FacePicture, rule: CropRule, size: int, zoom: float = 1.0) -> np.ndarray:
    """Return the face's box with its margin, stretched to uint8 (size, size, 3): a crop without its border.

    zoom: the box with its margin is this many times smaller, about the same centre, before the photo's edge cuts it.
    """
    height, width = face.pixels.shape[:2]
    inner = face.pixels[rule.border : height - rule.border, rule.border : width - rule.border]
    return _resized(inner, _box_within(face, rule, zoom) - rule.border, size)


def _box_within(face: FacePicture, rule: CropRule, zoom: float = 1.0) -> np.ndarray:
    """Return where the box with its margin lies in what is stored: left, top, right, bottom, float64 (4,).

    zoom: as for `boxed`.
    """
    height, width = face.pixels.shape[:2]
    whole = np.array([rule.border, rule.border, width - rule.border, height - rule.border], np.float64)
    if face.box is None:
        return _middle(whole, zoom)
    if zoom == 1 and not rule.window:
        return whole
    left, top, right, bottom = face.shown
    corner, steps = np.array([left, top, left, top]), np.tile(face.steps, 2)
    if rule.window:
        inside = align.crop_box(face.box, rule, int(right), int(bottom))
        whole = np.asarray((np.maximum(inside, corner) - corner) / steps)
    if zoom == 1:
        return whole
    close = (_middle(np.array(align.with_margin(face.box, rule)), zoom) - corner) / steps
    close = np.rint(close * FINEST) / FINEST  # so that rounding does not tell crops with a border from those without
    close = np.clip(close, np.tile(whole[:2], 2), np.tile(whole[2:], 2))
    return close if (close[2:] - close[:2] >= 1).all() else whole


def _middle(box: np.ndarray, zoom: float) -> np.ndarray:
    """Return the middle 1 / zoom of a box, float64 (4,)."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 / zoom
    return np.concatenate([centre - half, centre + half])


def _resized(pixels: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Stretch a box of pixels to (size, size, 3), antialiased."""
    of: tuple[float, float, float, float] | None = tuple(box.tolist())
    if (box == box.astype(int)).all():
        left, top, right, bottom = box.astype(int)
        pixels, of = pixels[top:bottom, left:right], None
        if pixels.shape[:2] == (size, size):
            return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=of))


def _pointed(face: FacePicture, rule: CropRule, size: int, border: int = 0) -> np.ndarray:
    """Return the face with its points moved to the template, and a border; its box where it has no points."""
    if face.points is None:
        return boxed(face, rule, size)
    height, width = face.pixels.shape[:2]
    points = (face.points - np.array(face.shown[:2]) + 0.5) / face.steps - 0.5
    step, wanted = face.steps.max(), TEMPLATE_SIDE / size / abs(similarity(face.points)[0])  # pixels of the photo
    step = wanted if wanted > SHRINK * step else step
    to = np.maximum(1, np.rint(face.steps * (width, height) / step)).astype(int)
    if (to == (width, height)).all():
        return warped(face.pixels, points, size, border)
    smaller = Image.fromarray(face.pixels).resize((int(to[0]), int(to[1])), Image.Resampling.BILINEAR)
    return warped(np.asarray(smaller), (points + 0.5) * to / (width, height) - 0.5, size, border)


def warped(pixels: np.ndarray, points: np.ndarray, size: int = TEMPLATE_SIDE, border: int = 0) -> np.ndarray:
    """Move five points (5, 2) to the template: uint8 RGB (h, w, 3) -> (s, s, 3), s = size + 2 x border, bilinear.

    The edges of the pixels are repeated beyond them.
    """
    scale, side = size / TEMPLATE_SIDE, size + 2 * border
    a, b = similarity(points, (ARCFACE + 0.5) * scale - 0.5 + border)
    corners = (((CORNERS + 0.5) * (side / TEMPLATE_SIDE) - 0.5) @ (1, 1j) - b) / a
    height, width = pixels.shape[:2]
    beyond = max(-corners.real.min(), -corners.imag.min(), corners.real.max() - width, corners.imag.max() - height, 0)
    pad = min(math.ceil(beyond) + EDGE, 2 * max(height, width))
    a, b = a, b - a * pad * (1 + 1j)
    back, shift = 1 / a, -b / a - (0.5 + 0.5j) / a + 0.5 + 0.5j  # the centres of Pillow's pixels lie at half numbers
    matrix = back.real, -back.imag, shift.real, back.imag, back.real, shift.imag
    wide = Image.fromarray(np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), "edge"))
    return np.array(wide.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def read(
    png: bytes, box: Sequence[float] | None, landmarks: Sequence[float] | None, rule: CropRule, owner: str = "a face"
) -> FacePicture:
    """Decode what is stored of a face. owner: named by errors; raise DataError for a picture that no run stores."""
    return stored(align.read_crop(png, rule, owner), align.region_of(png), box, landmarks, rule)


def plain_crop(pixels: np.ndarray, border: int = 0) -> FacePicture:
    """Return a crop, uint8 RGB (s, s, 3), s = size + 2 x border, of a face whose place in a photo is not known."""
    height, width = (float(side - 2 * border) for side in pixels.shape[:2])
    shown = -border, -border, width + border, height + border
    return FacePicture(pixels, shown, None, None)
