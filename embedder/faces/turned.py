"""Find the faces of photos that lie on their side or stand on their head, such as scans, which say no orientation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facegallery.embedder.faces.mtcnn import DetectedFace, Detector

SURE = 0.9  # a photo with a face of at least this confidence is taken to be upright
QUARTERS = (1, 2, 3)  # turns, each by 90 degrees against the clock


class TurnedDetector:
    """Another detector's faces; where it is not sure of any, those of the turn in which it is surest.

    A detector takes something for a face in most photos that lie on their side, but is less sure of it, and its points
    are wrong. Boxes and points are those of the photo as it is: the box stands upright around a face that does not, and
    the points say how the face lies. Only networks that see points can embed such a face.
    """

    def __init__(self, detector: Detector):
        self._detector, self.compute = detector, detector.compute
        self.record: dict[str, Any] = detector.record | {"turned": SURE}
        self.where = f"{detector.where}, turned where no face is sure"

    def load(self) -> TurnedDetector:
        """Load the networks of the detector."""
        self._detector.load()
        return self

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence."""
        found = self._detector(photos)
        unsure = [i for i, faces in enumerate(found) if _surest(faces) < SURE]
        best = {i: _surest(found[i]) for i in unsure}
        for quarters in QUARTERS if unsure else ():
            turned = [np.ascontiguousarray(np.rot90(photos[i], quarters)) for i in unsure]
            for i, faces in zip(unsure, self._detector(turned), strict=True):
                if (surest := _surest(faces)) > best[i]:
                    best[i], found[i] = surest, [back(face, quarters, photos[i].shape) for face in faces]
        return found


def _surest(faces: Sequence[DetectedFace]) -> float:
    return max((face.confidence for face in faces), default=0.0)


def back(face: DetectedFace, quarters: int, shape: tuple[int, ...]) -> DetectedFace:
    """Move a face found in `np.rot90(photo, quarters)` to its place in the photo. shape: of the photo."""
    height, width = shape[:2]

    def moved(x: float, y: float) -> tuple[float, float]:
        return {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarters]

    x0, y0, x1, y1 = face.box
    (ax, ay), (bx, by) = moved(x0, y0), moved(x1, y1)
    box = min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
    points = zip(face.landmarks[::2], face.landmarks[1::2], strict=True)
    return DetectedFace(box, tuple(value for point in points for value in moved(*point)), face.confidence)
