"""Find the pairs of vectors that may be one person: each vector's nearest ones."""

from __future__ import annotations

import faiss
import numpy as np

EXACT = 100_000  # vectors up to which all pairs are compared
BLOCK = 4096  # vectors that are asked at a time
NEAREST = 64  # of each vector
SHARE = 64  # of an approximate search: one list in so many is searched
TRAINED = 40  # vectors a list that the lists are trained on


def near_pairs(vectors: np.ndarray, cut: float, nearest: int = NEAREST) -> np.ndarray:
    """Return the pairs of vectors, float32 (n, d), with a dot product of `cut` or more: int64 (m, 2), lower first.

    Of each vector the `nearest` nearest ones are pairs with it. Above EXACT vectors the search is approximate.
    """
    index = _index(vectors)
    found = [_pairs(index, vectors, start, cut, nearest) for start in range(0, len(vectors), BLOCK)]
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _index(vectors: np.ndarray) -> faiss.Index:
    n, dimension = vectors.shape
    flat = faiss.IndexFlatIP(dimension)
    if n <= EXACT:
        flat.add(vectors)
        return flat
    lists = int(4 * np.sqrt(n))
    index = faiss.IndexIVFFlat(flat, dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.random.default_rng(0).choice(n, min(n, TRAINED * lists), replace=False)])
    index.add(vectors)
    index.nprobe = max(1, lists // SHARE)
    return index


def _pairs(index: faiss.Index, vectors: np.ndarray, start: int, cut: float, nearest: int) -> np.ndarray:
    asked = vectors[start : start + BLOCK]
    cosines, found = index.search(asked, min(nearest + 1, len(vectors)))
    own = np.arange(start, start + len(asked))[:, None]
    near = (cosines >= cut) & (found >= 0) & (found != own)
    return np.stack([np.broadcast_to(own, found.shape)[near], found[near]], axis=1).astype(np.int64)
