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
BLOCK, AMONG = 256, 8192  # vectors that are compared at a time, with so many


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
    among = vectors if len(rows) == len(vectors) else vectors[rows]
    for start in range(0, len(asked), BLOCK):
        own = asked[start : start + BLOCK]
        a, b, cosines = _above(vectors[own], among, cut)
        b = rows[b]
        near = own[a] != b
        a, b, cosines = a[near], b[near], cosines[near]
        crowded = np.bincount(a, minlength=len(own)) > nearest
        if crowded.any():
            kept = ~crowded[a] | _best(a, cosines, nearest)
            a, b = a[kept], b[kept]
        a = own[a]
        yield np.minimum(a, b) * len(vectors) + np.maximum(a, b)


def _above(own: np.ndarray, among: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of two arrays with a dot product of `cut` or more, int64 (m,) each, and it, float32 (m,)."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(among), AMONG):
        cosines = own @ among[start : start + AMONG].T
        flat = np.flatnonzero(cosines >= cut)
        a, b = np.divmod(flat, cosines.shape[1])
        found.append((a, b + start, cosines.ravel()[flat]))
    a, b, cosines = map(np.concatenate, zip(*found, strict=True))
    return a, b, cosines


def _best(rows: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """Return whether each value is among the `most` largest of its row, and of equal ones the first: bool (m,)."""
    order = np.lexsort((-values, rows))
    ordered = rows[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    best = np.empty(len(order), bool)
    best[order] = rank < most
    return best
