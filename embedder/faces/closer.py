"""Look for a face once more in what lies around a box that somebody drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from facegallery.embedder.faces.boxes import overlap
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.photos.orientation import Box

AROUND = 0.5  # of the box's longer side, on each side of the box
SIDE = 160  # pixels to which the box's longer side is enlarged
MOST_LARGER = 6.0  # times
SAME = 0.3  # overlap from which two boxes are one face


def look_closer(
    pixels: np.ndarray,
    boxes: Sequence[Box],
    known: Sequence[Box],
    detector: Callable[[Sequence[np.ndarray]], list[list[DetectedFace]]],
) -> list[DetectedFace | None]:
    """Return the face that the detector finds in an enlarged copy of what lies around each box; None where none is.

    pixels: of the photo, uint8 RGB (h, w, 3). known: boxes of faces that are others'. No face is returned twice.
    """
    if not boxes:
        return []
    seen: list[DetectedFace | None] = []
    taken = list(known)
    views = [_view(pixels, box) for box in boxes]
    for box, (_, corner, factor), faces in zip(boxes, views, detector([view for view, _, _ in views]), strict=True):
        face = _best(box, [_back(face, corner, factor) for face in faces], taken)
        seen.append(face)
        taken += [] if face is None else [face.box]
    return seen


def _view(pixels: np.ndarray, box: Box) -> tuple[np.ndarray, tuple[int, int], tuple[float, float]]:
    """Return the pixels around a box, enlarged; their corner in the photo; and pixels of the view per photo pixel."""
    height, width = pixels.shape[:2]
    side = max(box[2] - box[0], box[3] - box[1])
    left, top = (max(0, int(box[i] - AROUND * side)) for i in (0, 1))
    right, bottom = (min(most, int(box[i] + AROUND * side) + 1) for i, most in ((2, width), (3, height)))
    larger = min(max(1.0, SIDE / side), MOST_LARGER)
    size = round((right - left) * larger), round((bottom - top) * larger)
    view = Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(view), (left, top), (size[0] / (right - left), size[1] / (bottom - top))


def _back(face: DetectedFace, corner: tuple[int, int], factor: tuple[float, float]) -> DetectedFace:
    """Move a face from a view to its place in the photo."""

    def moved(values: Sequence[float]) -> list[float]:
        return [corner[i % 2] + value / factor[i % 2] for i, value in enumerate(values)]

    x0, y0, x1, y1 = moved(face.box)
    return DetectedFace((x0, y0, x1, y1), tuple(moved(face.landmarks)), face.confidence)


def _best(box: Box, faces: Sequence[DetectedFace], taken: Sequence[Box]) -> DetectedFace | None:
    """Return the face that overlaps a drawn box most and is none of those taken."""
    fits = [
        face for face in faces if centre_in(box, face.box) and all(overlap(face.box, other) < SAME for other in taken)
    ]
    return max(fits, key=lambda face: overlap(box, face.box), default=None)


def centre_in(box: Box, other: Box) -> bool:
    """Whether the centre of `other` lies in `box`."""
    x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
