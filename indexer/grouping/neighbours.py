"""Find the pairs of vectors that may be one person: each vector's nearest ones."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np

EXACT = 50_000  # vectors up to which all pairs are compared
NEAREST = 64  # of each vector
CELL = 250  # vectors for each centre of more than EXACT
NEAR_CENTRES = 4  # of each vector; two vectors are compared where they share one
TRAINED, ROUNDS = 32, 4  # vectors for each centre that is trained, and rounds of it
BLOCK = 1 << 21  # cosines that are computed at a time


def near_pairs(vectors: np.ndarray, cut: float, nearest: int = NEAREST, seed: int = 0) -> np.ndarray:
    """Return the pairs of vectors, float32 (n, d), with a dot product of `cut` or more: int64 (m, 2), lower first.

    Of each vector the `nearest` nearest ones are pairs with it. Of more than EXACT vectors those alone are compared
    that lie near one of the same centres; another seed makes other centres.
    """
    found = [np.empty(0, np.int64)]
    for rows in _cells(vectors, seed):
        found.append(sorted_set(np.concatenate(list(_near_within(vectors, rows, cut, nearest)))))
    return np.stack(np.divmod(sorted_set(np.concatenate(found)), max(len(vectors), 1)), axis=1)


def sorted_set(numbers: np.ndarray) -> np.ndarray:
    """Return int64 (n,), ascending, each number once; faster than `np.unique` where there are millions."""
    numbers = np.sort(numbers)
    return numbers[np.diff(numbers, prepend=-1) != 0] if len(numbers) else numbers


def _cells(vectors: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield the vectors that are compared with each other: int64 (k,) each, ascending; a vector is in several."""
    n, dimension = vectors.shape
    if n <= EXACT:
        if n:
            yield np.arange(n)
        return
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    count = n // CELL
    trained = np.random.default_rng(seed).choice(n, min(n, TRAINED * count), replace=False)
    centres = faiss.Kmeans(dimension, count, niter=ROUNDS, spherical=True, seed=seed + 1, max_points_per_centroid=TRAINED)
    centres.train(unit[trained])
    near = centres.index.search(unit, NEAR_CENTRES)[1].ravel()
    order = np.argsort(near, kind="stable")
    bounds = np.searchsorted(near[order], np.arange(count + 1))
    for first, last in zip(bounds, bounds[1:], strict=False):
        if last - first > 1:
            yield order[first:last] // NEAR_CENTRES


def _near_within(vectors: np.ndarray, rows: np.ndarray, cut: float, nearest: int) -> Iterator[np.ndarray]:
    """Yield the pairs among some vectors, in pieces: lower x n + higher, int64 (m,)."""
    among = vectors[rows]
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(rows), step):
        cosines = among[start : start + step] @ among.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        near = cosines >= cut
        for row in np.flatnonzero(np.count_nonzero(near, axis=1) > nearest):
            hits = np.flatnonzero(near[row])
            of_row = cosines[row, hits]
            near[row, hits[of_row < np.partition(of_row, -nearest)[-nearest]]] = False
        a, b = np.divmod(np.flatnonzero(near), len(rows))
        a, b = rows[a + start], rows[b]
        yield np.minimum(a, b) * len(vectors) + np.maximum(a, b)
