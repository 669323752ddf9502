"""Suppress, move and square the boxes of a cascade by the rules of the `mtcnn` package 1.0.

Boxes are rows of float64 (m, 6 or more): photo, x0, y0, x1, y1, score, ...
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PHOTO, BOX, SCORE = 0, slice(1, 5), 5
BLOCK, PAIRS = 128, 1 << 14  # boxes of a group, and pairs of boxes, that are compared at a time


def suppress(rows: np.ndarray, groups: np.ndarray, threshold: float, *, smaller: bool = False) -> np.ndarray:
    """Return rows by group and falling score, without those that overlap a better one of their group too much.

    groups: int (m,), the group of each row. threshold: the largest overlap that is kept, as a share of the union of two
    boxes, or of the smaller box if `smaller`. Unlike in greedy suppression, a suppressed box still suppresses others.
    """
    order = np.lexsort((-rows[:, SCORE], groups))
    rows, groups = rows[order], groups[order]
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    sizes = np.diff(starts, append=len(rows))
    kept = np.ones(len(rows), bool)
    for width in np.unique(_rounded(sizes[sizes > 1])):  # groups of similar size together, padded with empty boxes
        alike = (_rounded(sizes) == width) & (sizes > 1)
        index = starts[alike, None] + np.arange(width)
        inside = np.arange(width) < sizes[alike, None]
        boxes = np.where(inside[..., None], rows[np.where(inside, index, 0), BOX], 0.0)
        kept[index[inside]] = ~_beaten(boxes, threshold, smaller=smaller)[inside]
    return rows[kept]


def _rounded(sizes: np.ndarray) -> np.ndarray:
    """Return the next power of two of each number."""
    return 1 << np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)


def _beaten(boxes: np.ndarray, threshold: float, *, smaller: bool) -> np.ndarray:
    """Tell which boxes overlap one before them in their group: (g, n, 4) by falling score -> bool (g, n)."""
    groups, n = boxes.shape[:2]
    step = max(1, PAIRS // (n * min(n, BLOCK)))
    blocks = [
        _overlaps_better(boxes[g : g + step], i, threshold, smaller=smaller)
        for g in range(0, groups, step)
        for i in range(0, n, BLOCK)
    ]
    rows = -(-n // BLOCK)
    return np.concatenate([np.concatenate(blocks[i : i + rows], axis=1) for i in range(0, len(blocks), rows)])


def _overlaps_better(boxes: np.ndarray, first: int, threshold: float, *, smaller: bool) -> np.ndarray:
    """Return `_beaten` of the boxes from `first` to `first + BLOCK`."""
    x0, y0, x1, y1 = np.ascontiguousarray(np.moveaxis(boxes[:, : first + BLOCK], 2, 0))
    mine = np.s_[:, first : first + BLOCK, None]
    area = (x1 - x0) * (y1 - y0)
    width = np.minimum(x1[mine], x1[:, None]) - np.maximum(x0[mine], x0[:, None])
    height = np.minimum(y1[mine], y1[:, None]) - np.maximum(y0[mine], y0[:, None])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    whole = np.minimum(area[mine], area[:, None]) if smaller else area[mine] + area[:, None] - both
    better = np.tri(both.shape[1], both.shape[2], first - 1, dtype=bool)
    return ((both > threshold * whole) & better).any(axis=2)


def moved(rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return rows with their boxes moved by offsets (m, 4), shares of the boxes' sides."""
    width, height = rows[:, 3] - rows[:, 1] + 1, rows[:, 4] - rows[:, 2] + 1
    rows = rows.copy()
    rows[:, BOX] += offsets * np.stack([width, height, width, height], axis=1)
    return rows


def squared(rows: np.ndarray) -> np.ndarray:
    """Return rows with their boxes grown to squares about their centres."""
    sides = rows[:, 3:5] - rows[:, 1:3]
    longest = sides.max(axis=1, keepdims=True)
    rows = rows.copy()
    rows[:, 1:3] += sides / 2 - longest / 2
    rows[:, 3:5] = rows[:, 1:3] + longest
    return rows


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the area that two boxes, x0, y0, x1, y1, share, as a share of their union."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0
