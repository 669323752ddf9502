"""Doubtful faces of a gallery: those that may be somebody else's, and those like nobody, likely mistakes first.

Unlike `facegallery.indexer.suspects`, which warns of few faces after a change, this ranks all faces that give reason
for doubt, however large the gallery is. The scale is the same: `centre` and `width` of scores of different people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from facegallery.embedder.progress import Progress, unseen
from facegallery.indexer.search.candidates import Candidates
from facegallery.indexer.store.reader import Faces
from facegallery.indexer.suspects import ALIKE_95, ALIKE_99, FEW, SAME, SAMPLE, Spread, spread_of, verdict

Why = Literal["same", "nearer", "unlike", "poor"]
SURE = 5  # widths above the centre: none of 860,086 pairs of faces of two of LFW's development people scores so high
TILE, BLOCK = 1024, 4096  # faces that are multiplied with each other at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest faces of each of n faces, among those of their own person and those of others.

    own, other: scores float32 (n,), -inf without any. own_at, other_at: their rows, int64 (n,), -1 without any.
    """

    own: np.ndarray
    own_at: np.ndarray
    other: np.ndarray
    other_at: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """By how much a face is nearer to another person than to its own, float32 (n,); -inf for a person's only."""
        return np.where(np.isfinite(self.own) & np.isfinite(self.other), self.other - np.maximum(self.own, -1), -np.inf)


@dataclass(frozen=True)
class Doubt:
    """Why a face, by its row, is doubtful. two_names: it is clearly its own person's, who may have two names."""

    row: int
    why: Why
    two_names: bool = False


@dataclass(frozen=True)
class Enrolled:
    """All faces of a gallery: ids and owners int64 (n,), vectors float32 (n, d)."""

    ids: np.ndarray
    owners: np.ndarray
    vectors: np.ndarray

    @classmethod
    def read(cls, store: Faces) -> Enrolled:
        """Read the enrolled faces; call it in a snapshot of the store."""
        candidates = Candidates(store)
        candidates.refresh()
        at = np.flatnonzero(candidates.alive[: candidates.count])
        return cls(candidates.ids[at], candidates.owners[at], candidates.rows(at))

    @property
    def spread(self) -> Spread:
        """The spread of scores of different people."""
        sample = slice(None, None, max(1, math.ceil(len(self.ids) / SAMPLE)))
        return spread_of(self.vectors[sample], self.owners[sample])


def neighbours(faces: Enrolled, asked: np.ndarray | None = None, progress: Progress = unseen) -> Neighbours:
    """Compare the faces at the rows `asked`, int64 (m,), or all, with every face; the arrays have a row for each."""
    rows = np.arange(len(faces.ids)) if asked is None else asked
    found = Neighbours(
        np.full(len(rows), -np.inf, np.float32),
        np.full(len(rows), -1, np.int64),
        np.full(len(rows), -np.inf, np.float32),
        np.full(len(rows), -1, np.int64),
    )
    for start in range(0, len(rows), TILE):
        here = slice(start, start + TILE)
        tile = rows[here]
        for first in range(0, len(faces.ids), BLOCK):
            block = np.arange(first, min(first + BLOCK, len(faces.ids)))
            scores = faces.vectors[tile] @ faces.vectors[block].T
            same = faces.owners[tile][:, None] == faces.owners[block][None]
            itself = tile[:, None] == block[None]
            _keep_best(found.own[here], found.own_at[here], np.where(same & ~itself, scores, -np.inf), block)
            _keep_best(found.other[here], found.other_at[here], np.where(same, -np.inf, scores), block)
        progress(min(start + TILE, len(rows)), len(rows))
    return found


def _keep_best(best: np.ndarray, at: np.ndarray, scores: np.ndarray, block: np.ndarray) -> None:
    """Replace what is best so far, in place, where the block has a better score."""
    nearest = scores.argmax(axis=1)
    found = scores[np.arange(len(scores)), nearest]
    better = found > best
    best[better], at[better] = found[better], block[nearest][better]


def doubts(near: Neighbours, spread: Spread, quality: np.ndarray | None = None, poor: float = 0.0) -> list[Doubt]:
    """Return the doubtful faces among all, likely mistakes first.

    near: of all faces, in order. quality: float (n,), NaN where it is not known; faces below `poor` come last. A face
    that resembles its own person, and is only near a face that is doubtful itself, is not listed: the other one is.
    """
    margin, sure = near.margin, spread.centre + SURE * spread.width
    order = np.lexsort((near.own, -np.where(near.other >= SAME, 2 + near.other, margin)))
    found, listed = [], set[int]()
    for row in order.tolist():
        why = _why(near, row, spread)
        if why is None or _is_explained(near, margin, row, spread):
            continue
        found.append(Doubt(row, why, two_names=why == "nearer" and near.own[row] >= sure))
        listed.add(row)
    found.sort(key=lambda doubt: doubt.why == "unlike")  # stable
    if quality is not None:
        below = [row for row in np.argsort(quality, kind="stable").tolist() if quality[row] < poor]
        found += [Doubt(row, "poor") for row in below if row not in listed]
    return found


def _why(near: Neighbours, row: int, spread: Spread) -> Why | None:
    own, other = float(near.own[row]), float(near.other[row])
    if other >= SAME:
        return "same"
    if np.isfinite(own) and other > own and spread.pairs >= FEW:
        return "nearer" if other >= spread.centre + ALIKE_99 * spread.width else "unlike"
    if np.isfinite(own) and own < spread.centre + ALIKE_95 * spread.width and spread.pairs >= FEW:
        return "unlike"
    return None


def _resembles(near: Neighbours, row: int, spread: Spread) -> bool:
    """Whether a face resembles its own person's other faces more than 99 of 100 faces of others."""
    return bool(near.own[row] >= spread.centre + ALIKE_99 * spread.width)


def _is_explained(near: Neighbours, margin: np.ndarray, row: int, spread: Spread) -> bool:
    """Whether the nearest face of others is itself the one that stands under a wrong name."""
    other = int(near.other_at[row])
    if other < 0 or not _resembles(near, row, spread) or margin[other] <= margin[row]:
        return False
    return verdict(float(near.own[other]), float(near.other[other]), spread) in ("nearer", "same")
