"""People by all of their faces: the mean of the scores, or the score of the template."""

from __future__ import annotations

import numpy as np

from indexer.candidates import GATHER, Candidates
from indexer.metrics import BLOCK_SCORES


def exact_score(q: np.ndarray, xb: np.ndarray, score: str) -> float:
    """Of a person with faces xb (m, d): `mean`, the mean of their scores; `template`, q times the unit-length sum of xb."""
    total = xb.astype(np.float64).sum(axis=0)
    length = len(xb) if score == "mean" else np.sqrt(np.sum(total * total))
    return float(np.float32(np.sum(total * q.astype(np.float64)) / length)) if length else 0.0


class Templates:
    """One vector a person, such that its product with a query is the person's score; float32 (p, d) in memory."""

    def __init__(self, candidates: Candidates, kept: np.ndarray | None, score: str):
        present = candidates.alive[: candidates.count] if kept is None else kept
        positions = np.flatnonzero(present)
        self._people, codes = np.unique(candidates.owners[positions], return_inverse=True)
        total = np.zeros((len(self._people), candidates.spec.dimension), np.float64)
        for i in range(0, len(positions), GATHER):
            block = slice(i, i + GATHER)
            np.add.at(total, codes[block], candidates.rows(positions[block]))
        order = np.argsort(codes, kind="stable")
        self._positions, self._starts = positions[order], np.searchsorted(codes[order], np.arange(len(self._people) + 1))
        lengths = np.diff(self._starts) if score == "mean" else np.linalg.norm(total, axis=1)
        self._xb = (total / np.maximum(lengths, 1e-12)[:, None]).astype(np.float32)

    def shortlists(self, xq: np.ndarray, k: int, slack: float) -> list[list[np.ndarray]]:
        """For each query of xq (n, d) the people who could be among its k best, each as the positions of their faces."""
        found, step = [], max(1, BLOCK_SCORES // max(1, len(self._people)))
        for i in range(0, len(xq), step):
            for scores in xq[i : i + step] @ self._xb.T:
                floor = np.partition(scores, -k)[-k] - 2 * slack if len(scores) > k else -np.inf
                found.append([self._positions[self._starts[p] : self._starts[p + 1]] for p in np.flatnonzero(scores >= floor)])
        return found
