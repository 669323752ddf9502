"""Estimate the chance that a group, or a single face, is the person or the group that it looks most like.

The chance is logistic in what is known of them without labels: their score, the cut of the grouping, which is high
where people look alike, and by how much the next best scores less. It is fitted to labelled people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GAP = 0.2  # of a score: a next best that is further off says no more
STEPS, RIDGE = 50, 1e-3  # of a fit


@dataclass(frozen=True)
class Likeness:
    """Weights of what is known of a pair, in logits."""

    base: float
    score: float
    cut: float
    gap: float

    def chances(self, known: np.ndarray) -> np.ndarray:
        """Return the chance of each pair, float64 (m,), by what `known_of` returns."""
        return _logistic(known @ np.array([self.base, self.score, self.cut, self.gap]))


LIKENESS = {"sface": Likeness(-7.50, 13.89, 1.70, 18.22)}  # by benchmarks/accuracy/suggestions.py
ANY = LIKENESS["sface"]


def known_of(scores: np.ndarray, cut: float, gaps: np.ndarray) -> np.ndarray:
    """Return what is known of pairs, float64 (m, 4).

    scores: float (m,). gaps: by how much each exceeds the best other score of the first of the pair, float (m,).
    """
    return np.stack([np.ones(len(scores)), scores, np.full(len(scores), cut), np.clip(gaps, -GAP, GAP)], axis=1)


def fit(known: np.ndarray, same: np.ndarray) -> Likeness:
    """Fit to pairs, float64 (m, 4) as of `known_of`; same: whether they are one person, bool (m,)."""
    found = np.zeros(known.shape[1])
    for _ in range(STEPS):  # Newton's method
        chances = _logistic(known @ found)
        slope = known.T @ (same - chances) - RIDGE * found
        bend = (known * (chances * (1 - chances))[:, None]).T @ known + RIDGE * np.eye(len(found))
        found = found + np.linalg.solve(bend, slope)
    return Likeness(*found.tolist())


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
