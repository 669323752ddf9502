"""Detect faces with YuNet and MTCNN together: the faces of one that the other misses, and fewer that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces.mtcnn import MAX_SIDE, MIN_FACE, DetectedFace, MtcnnDetector
from facegallery.embedder.faces.yunet import PlacedYunet

SURE = 0.7  # least score of a face by YuNet, in a photo where a face is seen anyway
SMALL = 25  # pixels of the searched copy; up to this side, MTCNN finds faces that YuNet cannot see
SAME = 0.3, 0.6  # overlaps from which two boxes show one face: as a share of their union, or of the smaller


class BothDetector:
    """YuNet's faces, placed by MTCNN's third network, and those small faces that MTCNN alone sees.

    A larger face that only MTCNN sees is most often an earring, a hand or a pattern: it counts only where YuNet is sure
    of no face. Where MTCNN sees none either, a face of which YuNet is less sure counts.
    """

    def __init__(self, min_face: int = MIN_FACE, max_side: int = MAX_SIDE, compute: Compute = AUTO):
        """Store the settings; no network is loaded yet, so that the detector can be pickled.

        min_face, max_side: pixels.
        """
        self._mtcnn = MtcnnDetector(min_face, max_side, compute)
        self._yunet = PlacedYunet(min_face, max_side, compute, self._mtcnn)
        self._max_side = max_side
        self.compute = self._mtcnn.compute
        self.record: dict[str, Any] = {
            "algorithm": "both",
            "weights": f"{self._yunet.record['weights']}+{self._mtcnn.record['weights']}",
            "thresholds": [SURE, *self._yunet.record["thresholds"], *self._mtcnn.record["thresholds"]],
            "small": SMALL,
            "min_face": min_face,
            "max_side": max_side,
        }
        self.where = (
            f"YuNet on CPU:0, MTCNN on {self.compute.device}, faces of at least {min_face} px, "
            f"photos of at most {max_side} px"
        )

    def load(self) -> BothDetector:
        """Load the networks, once. Raises ModelError where YuNet's file is missing or damaged."""
        self._yunet.load()
        self._mtcnn.load()
        return self

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence."""
        found = zip(self._yunet(photos), self._mtcnn(photos), photos, strict=True)
        return [self._joined(wide, cascade, max(photo.shape[:2])) for wide, cascade, photo in found]

    def _joined(self, wide: list[DetectedFace], cascade: list[DetectedFace], side: int) -> list[DetectedFace]:
        """Join YuNet's and MTCNN's faces of a photo, whose longer side is given."""
        sure = [face for face in wide if face.confidence >= SURE]
        if not sure:
            return cascade or wide
        most = SMALL * max(1.0, side / self._max_side)
        small = [face for face in cascade if _longer(face) <= most and not any(is_same(face, other) for other in sure)]
        return sorted(sure + small, key=lambda face: -face.confidence)


def _longer(face: DetectedFace) -> float:
    x0, y0, x1, y1 = face.box
    return max(x1 - x0, y1 - y0)


def is_same(one: DetectedFace, other: DetectedFace) -> bool:
    """Whether the boxes of two faces overlap so much that they show the same face."""
    a, b = np.array(one.box), np.array(other.box)
    both = np.prod((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0))
    areas = np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])
    return bool(both > SAME[0] * (sum(areas) - both) or both > SAME[1] * min(areas))
