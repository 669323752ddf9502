"""Pooling a person's faces into one vector: the mean of their vectors, or the template, which has unit length."""

from __future__ import annotations

import numpy as np

SHORTEST = 1e-12  # faces that cancel each other have no direction


def divisors(totals: np.ndarray, counts: np.ndarray, score: str) -> np.ndarray:
    """Return what the sums of people's vectors are divided by, (p,).

    totals: float64 (p, d), the sum of each person's vectors. counts: int (p,), the number of their faces. score:
    `mean` or `template`.
    """
    return counts if score == "mean" else np.maximum(np.linalg.norm(totals, axis=1), SHORTEST)


def pool(totals: np.ndarray, counts: np.ndarray, score: str) -> np.ndarray:
    """Return one vector a person, float32 (p, d), whose product with a query is the person's score."""
    return (totals / divisors(totals, counts, score)[:, None]).astype(np.float32)
