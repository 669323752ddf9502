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
LEAST_NORM = 1e-9
BLOCK = 1 << 21  # cosines that are computed at a time


def near_pairs(vectors: np.ndarray, cut: float, nearest: int = NEAREST, asked: np.ndarray | None = None) -> np.ndarray:
    """Return the pairs of vectors, float32 (n, d), with a dot product of `cut` or more: int64 (m, 2), lower first.

    Of each vector the `nearest` nearest ones are pairs with it; with `asked`, bool (n,), of those alone. Where more
    are to be compared than all pairs of EXACT vectors, only those are that lie near one of the same centres.
    """
    n, found = len(vectors), [np.empty(0, np.int64)]
    compared = n * (n if asked is None else np.count_nonzero(asked))
    for rows in _cells(vectors) if compared > EXACT**2 else [np.arange(n)]:
        pieces = _near_within(vectors, rows, cut, nearest, rows if asked is None else rows[asked[rows]])
        found.append(sorted_set(np.concatenate([found[0][:0], *pieces])))
    return np.stack(np.divmod(sorted_set(np.concatenate(found)), max(n, 1)), axis=1)


def sorted_set(numbers: np.ndarray) -> np.ndarray:
    """Return int64 (n,), ascending, each number once; faster than `np.unique` where there are millions."""
    numbers = np.sort(numbers)
    return numbers[np.diff(numbers, prepend=-1) != 0] if len(numbers) else numbers


def _cells(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the vectors that are compared with each other: int64 (k,) each, ascending; a vector is in several."""
    n, dimension = vectors.shape
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), LEAST_NORM)
    count = n // CELL
    trained = unit[np.random.default_rng(0).choice(n, min(n, TRAINED * count), replace=False)]
    centres = faiss.Kmeans(dimension, count, niter=ROUNDS, spherical=True, min_points_per_centroid=1)
    centres.train(trained)
    near = centres.index.search(unit, NEAR_CENTRES)[1].ravel()
    order = np.argsort(near, kind="stable")
    for cell in np.split(order, np.searchsorted(near[order], np.arange(1, count))):
        yield cell // NEAR_CENTRES


def _near_within(
    vectors: np.ndarray, rows: np.ndarray, cut: float, nearest: int, asked: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the pairs of some vectors and those of them that are asked, in pieces: lower x n + higher, int64 (m,)."""
    among, step = vectors[rows], max(1, BLOCK // max(len(rows), 1))
    for start in range(0, len(asked), step):
        own = asked[start : start + step]
        cosines = vectors[own] @ among.T
        near = cosines >= cut
        near[np.arange(len(own)), np.searchsorted(rows, own)] = False
        for row in np.flatnonzero(np.count_nonzero(near, axis=1) > nearest):
            hits = np.flatnonzero(near[row])
            of_row = cosines[row, hits]
            near[row, hits[of_row < np.partition(of_row, -nearest)[-nearest]]] = False
        a, b = np.divmod(np.flatnonzero(near), len(rows))
        a, b = own[a], rows[b]
        yield np.minimum(a, b) * len(vectors) + np.maximum(a, b)
