"""People by all of their faces: the mean of the scores, or the score of the template."""

from __future__ import annotations

import numpy as np

from facegallery.indexer.metrics import BLOCK_SCORES
from facegallery.indexer.search.candidates import GATHER, Candidates

PEOPLE = 4096  # summed at once
SHORTEST = 1e-12  # faces that cancel each other have no direction


def exact_score(q: np.ndarray, xb: np.ndarray, score: str) -> float:
    """Of a person with faces xb (m, d): `mean`, the mean of their scores; `template`, q times the unit-length sum of xb."""
    total = xb.astype(np.float64).sum(axis=0)
    length = len(xb) if score == "mean" else max(np.sqrt(np.sum(total * total)), SHORTEST)
    return float(np.float32(np.sum(total * q.astype(np.float64)) / length))


class Templates:
    """One vector a person, such that its product with a query is the person's score; float32 (p, d) in memory."""

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
            lengths = np.bincount(codes[faces] - p) if score == "mean" else np.linalg.norm(total, axis=1)
            self._xb[p : p + len(total)] = total / np.maximum(lengths, SHORTEST)[:, None]

    def shortlists(self, xq: np.ndarray, k: int, slack: float) -> list[list[tuple[float, np.ndarray]]]:
        """For each query of xq (n, d) the people who could be among its k best: approximate scores, and the positions of their faces."""
        found, step = [], max(1, BLOCK_SCORES // max(1, len(self._xb)))
        for i in range(0, len(xq), step):
            for scores in xq[i : i + step] @ self._xb.T:
                floor = np.partition(scores, -k)[-k] - 2 * slack if len(scores) > k else -np.inf
                near = np.flatnonzero(scores >= floor)
                found.append([(float(scores[p]), self._positions[self._starts[p] : self._starts[p + 1]]) for p in near])
        return found


def _sums(candidates: Candidates, positions: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """float64 (p, d): the sum of the vectors of each of p people; codes int (m,), rising from 0 to p - 1, say whose each is."""
    total = np.zeros((codes[-1] + 1, candidates.spec.dimension))
    for i in range(0, len(positions), GATHER):
        xb, who = candidates.rows(positions[i : i + GATHER]).astype(np.float64), codes[i : i + GATHER]
        first = np.flatnonzero(np.diff(who, prepend=-1))
        total[who[first]] += np.add.reduceat(xb, first)
    return total
