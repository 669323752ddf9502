"""Tell which faces of a changed photo are those that it showed before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.faces.boxes import overlap

OVERLAP = 0.3  # of two boxes, as a share of their union
AGREES = 0.65  # cosine; benchmarks/accuracy/changed_photos.py says why
Size = tuple[int, int]  # width, height in pixels


def same_faces(
    before: Sequence[Row], after: Sequence[Row], size_before: Size | None, size_after: Size | None
) -> dict[int, int]:
    """Return the number of the earlier face of each later one that is the same, those that agree most first.

    Their boxes overlap, as shares of the photo where both sizes are known, and their vectors agree.
    """
    scaled = (size_before, size_after) if size_before and size_after else (None, None)
    old, new = _boxes(before, scaled[0]), _boxes(after, scaled[1])
    pairs = []
    for i, row in enumerate(after):
        for j, other in enumerate(before):
            if row.vector is None or other.vector is None:
                continue
            score = float(np.dot(row.vector, other.vector))
            if score >= AGREES and _overlap(new[i], old[j]) >= OVERLAP:
                pairs.append((score, i, j))
    found: dict[int, int] = {}
    for _, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i not in found and j not in found.values():
            found[i] = j
    return found


def _boxes(rows: Sequence[Row], size: Size | None) -> list[np.ndarray | None]:
    """Return the boxes of faces, as shares of their photo where its size is given."""
    width, height = size or (1, 1)
    scale = np.array([width, height, width, height], np.float64)
    return [None if row.box is None else np.asarray(row.box, np.float64) / scale for row in rows]


def _overlap(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return 0.0 if a is None or b is None else overlap(a.tolist(), b.tolist())
