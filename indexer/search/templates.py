"""Scores of people by all of their faces: the mean of the scores, or the score of the template."""

from __future__ import annotations

import numpy as np

from facegallery.indexer.metrics import BLOCK_SCORES
from facegallery.indexer.search.candidates import GATHER, Candidates
from facegallery.indexer.search.pooling import divisors, pool

PEOPLE = 4096  # summed at once


def exact_score(q: np.ndarray, xb: np.ndarray, score: str) -> float:
    """Return the score of a person with faces xb (m, d) for q (d,), summed in float64.

    score: `mean`, the mean of the faces' scores; `template`, the product of q with the unit-length sum of xb.
    """
    total = xb.astype(np.float64).sum(axis=0)
    (length,) = divisors(total[None], np.array([len(xb)]), score)
    return float(np.float32(np.sum(total * q.astype(np.float64)) / length))


class Templates:
    """One vector a person, whose product with a query is the person's score; float32 (p, d) in memory."""

    def __init__(self, candidates: Candidates, kept: np.ndarray | None, score: str):
        positions = np.flatnonzero(candidates.alive[: candidates.count] if kept is None else kept)
        people, codes = np.unique(candidates.owners[positions], return_inverse=True)
        order = np.argsort(codes, kind="stable")
        codes, self._positions = codes[order], positions[order]
        self._starts = np.searchsorted(codes, np.arange(len(people) + 1))
        self._xb = np.empty((len(people), candidates.spec.dimension), np.float32)
        for p in range(0, len(people), PEOPLE):
            faces = slice(self._starts[p], self._starts[min(p + PEOPLE, len(people))])
            total = _sums(candidates, self._positions[faces], codes[faces] - p)
            self._xb[p : p + len(total)] = pool(total, np.bincount(codes[faces] - p), score)

    def shortlists(self, xq: np.ndarray, k: int, slack: float) -> list[list[tuple[float, np.ndarray]]]:
        """Return, for each query of xq (n, d), the people who could be among its k best.

        Each has an approximate score, at most `slack` from the exact one, and the positions of the person's faces.
        """
        found, step = [], max(1, BLOCK_SCORES // max(1, len(self._xb)))
        for i in range(0, len(xq), step):
            for scores in xq[i : i + step] @ self._xb.T:
                floor = np.partition(scores, -k)[-k] - 2 * slack if len(scores) > k else -np.inf
                near = np.flatnonzero(scores >= floor)
                found.append([(float(scores[p]), self._positions[self._starts[p] : self._starts[p + 1]]) for p in near])
        return found


def _sums(candidates: Candidates, positions: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the sum of the vectors of each of p people, float64 (p, d).

    codes: int (m,), the person of each position, rising from 0 to p - 1.
    """
    total = np.zeros((codes[-1] + 1, candidates.spec.dimension))
    for i in range(0, len(positions), GATHER):
        xb, who = candidates.rows(positions[i : i + GATHER]).astype(np.float64), codes[i : i + GATHER]
        first = np.flatnonzero(np.diff(who, prepend=-1))
        total[who[first]] += np.add.reduceat(xb, first)
    return total
