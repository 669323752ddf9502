"""Detect faces with YuNet and MTCNN together: the faces of one that the other misses, and fewer that are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facegallery.embedder.compute import AUTO, Compute
from facegallery.embedder.faces.mtcnn import MAX_SIDE, MIN_FACE, DetectedFace, MtcnnDetector
from facegallery.embedder.faces.yunet import PlacedYunet

SURE = 0.7  # least score of a face that YuNet alone sees, in a photo where another is seen
SMALL = 20  # pixels of the searched copy; up to this side, MTCNN finds faces that YuNet cannot see
SAME = 0.3, 0.6  # overlaps from which two boxes show one face: as a share of their union, or of the smaller


class BothDetector:
    """YuNet's faces, placed by MTCNN's third network, and those small faces of large photos that MTCNN alone sees.

    MTCNN looks at a photo where YuNet finds no face or is not sure of one, and where the photo is searched on a smaller
    copy: there a face of few pixels has more in the photo. A face of which YuNet is less sure counts where MTCNN sees
    it, too, or where neither sees another. A larger face that MTCNN alone sees is most often an earring, a hand or a
    pattern: it counts only where nothing else is seen.
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
        """Load YuNet and what places its faces, once; MTCNN's other networks are loaded when they are needed.

        Raises ModelError where YuNet's file is missing or damaged.
        """
        self._yunet.load()
        return self

    def __call__(self, photos: Sequence[np.ndarray]) -> list[list[DetectedFace]]:
        """Return the faces of each photo, uint8 RGB (h, w, 3), by falling confidence."""
        found = self._yunet(photos)
        asked = [i for i, faces in enumerate(found) if self._is_unsure(faces, photos[i])]
        if asked:
            for i, cascade in zip(asked, self._mtcnn([photos[i] for i in asked]), strict=True):
                found[i] = self._joined(found[i], cascade, max(photos[i].shape[:2]))
        return found

    def _is_unsure(self, wide: list[DetectedFace], photo: np.ndarray) -> bool:
        """Whether MTCNN looks at a photo, too: YuNet sees no face or is not sure of one, or small faces are large."""
        return max(photo.shape[:2]) > self._max_side or not wide or min(face.confidence for face in wide) < SURE

    def _joined(self, wide: list[DetectedFace], cascade: list[DetectedFace], side: int) -> list[DetectedFace]:
        """Join YuNet's and MTCNN's faces of a photo, whose longer side is given."""
        alike = overlapping(wide, cascade)
        sure = [i for i, face in enumerate(wide) if face.confidence >= SURE or alike[i].any()]
        if not sure:
            return cascade or wide
        most = SMALL * max(1.0, side / self._max_side)
        small = [face for i, face in enumerate(cascade) if _longer(face) <= most and not alike[sure, i].any()]
        return sorted([*(wide[i] for i in sure), *small], key=lambda face: -face.confidence)


def _longer(face: DetectedFace) -> float:
    x0, y0, x1, y1 = face.box
    return max(x1 - x0, y1 - y0)


def overlapping(some: Sequence[DetectedFace], others: Sequence[DetectedFace]) -> np.ndarray:
    """Return whether each of some faces shows the same as each of others, by their boxes: bool (some, others)."""
    a, b = (np.array([face.box for face in faces]).reshape(-1, 4) for faces in (some, others))
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both, (first, second) = sides.clip(0).prod(axis=2), ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b))
    union, smaller = first[:, None] + second - both, np.minimum(first[:, None], second)
    return (both > SAME[0] * union) | (both > SAME[1] * smaller)
