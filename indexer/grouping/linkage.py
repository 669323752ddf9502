"""Group vectors by average linkage with a margin for few photos.

The score of two groups is the mean cosine of their pairs less MARGIN / sqrt(pairs): as a standard error, it is larger
for the mean of few. In rounds, all pairs of groups with a score of `cut` or more that are each other's nearest merge.
Without a margin these are the groups of UPGMA (Sokal, Michener 1958; in rounds: Murtagh 1983). The mean cosine of two
groups of unit vectors is the dot product of their means, so that pairs of faces are not compared one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from facegallery.indexer.grouping.neighbours import NEAREST, near_pairs

MARGIN = 0.1  # of one pair; chosen on LFW's dev people and nine other sets (benchmarks/accuracy/grouping.py)
CUT, FACES = 0.38, 1764  # for so many faces by `sface`, by the same benchmark
SLOPE = 39.0  # of the logarithm of how many pairs of two people reach a cosine, on the same people
BLOCK = 1 << 16  # pairs of groups that are compared at a time
NO_PAIRS = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Bindings:
    """Pairs of vectors that must be, or must not be, in one group: int64 (n, 2) each."""

    together: np.ndarray = field(default_factory=NO_PAIRS.copy)
    apart: np.ndarray = field(default_factory=NO_PAIRS.copy)


FREE = Bindings()


def cut_for(n: int, cut: float = CUT) -> float:
    """Return the cut for n faces: `cut`, and more where there are more than FACES.

    Of n times as many faces each has n times as many pairs with other people; so many more fall short of a cut that is
    higher by log(n) / SLOPE.
    """
    return cut + max(0.0, math.log(max(n, 1) / FACES)) / SLOPE


def group(vectors: np.ndarray, cut: float, bindings: Bindings = FREE, nearest: int = NEAREST) -> np.ndarray:
    """Group unit vectors, float32 (n, d); return the group of each, int64 (n,), the number of its first vector.

    nearest: of each vector, and then of each group, so many are compared with it. All pairs are compared
    where no vector has more of a cosine of `cut` or more. Where pairs must be together and apart, apart wins.
    """
    groups = Groups(vectors, cut, bindings)
    groups.offer(near_pairs(vectors, cut, nearest))
    while groups.merge():
        ids, means = groups.means()
        groups.offer(ids[near_pairs(means, cut, nearest)])
    return groups.labels()


class Groups:
    """Groups, numbered by their first vectors, and the pairs of groups that may merge."""

    def __init__(self, vectors: np.ndarray, cut: float, bindings: Bindings = FREE):
        """Begin with a group of each unit vector, float32 (n, d), and of those that must be together."""
        self._cut = cut
        self._sums, self._sizes = vectors.astype(np.float32), np.ones(len(vectors), np.int64)
        self._parents = np.arange(len(vectors))
        self._apart = _keys(bindings.apart, len(vectors))
        self._ids, self._scores = NO_PAIRS, np.empty(0, np.float32)  # of a mean cosine of `cut` or more
        self._bind(bindings.together)

    def offer(self, pairs: np.ndarray) -> None:
        """Let the groups of these pairs of vectors, int64 (m, 2), merge."""
        self._add(self._roots(pairs))

    def merge(self) -> bool:
        """Merge the pairs of groups that may merge until none has a score of `cut`; return whether any were merged."""
        merged = False
        while self._merge_nearest():
            merged = True
        return merged

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the groups, int64 (g,), and the means of their vectors, float32 (g, d)."""
        ids = np.unique(self.labels())
        return ids, self._sums[ids] / self._sizes[ids, None].astype(np.float32)

    def _merge_nearest(self) -> bool:
        """Merge all pairs of groups that are each other's nearest; return whether there were any."""
        enough = self._scores >= self._cut
        ids, scores = self._ids[enough], self._scores[enough]
        if not len(ids):
            return False
        best = np.full(len(self._sizes), -np.inf, np.float32)
        np.maximum.at(best, ids.ravel(), np.repeat(scores, 2))
        nearest = ids[(scores == best[ids[:, 0]]) & (scores == best[ids[:, 1]])]
        nearest = nearest[np.lexsort((nearest[:, 1], nearest[:, 0]))]  # ties by number, so that one wins
        first = np.full(len(self._sizes), len(nearest))
        np.minimum.at(first, nearest.ravel(), np.repeat(np.arange(len(nearest)), 2))
        self._merge(nearest[first[nearest[:, 0]] == first[nearest[:, 1]]])
        return True

    def labels(self) -> np.ndarray:
        """Return the group of each vector."""
        return self._roots(np.arange(len(self._parents)))

    def _bind(self, pairs: np.ndarray) -> None:
        """Merge pairs that must be together, one by one, unless that joins two that must be apart."""
        for pair in pairs:
            a, b = sorted(self._roots(pair).tolist())
            if a != b and not self._are_apart(np.array([[a, b]]))[0]:
                self._merge(np.array([[a, b]]))

    def _merge(self, pairs: np.ndarray) -> None:
        """Merge pairs of groups, int64 (k, 2) without a group twice; the second of each goes into the first."""
        into, gone = pairs.T
        self._sums[into] += self._sums[gone]
        self._sizes[into] += self._sizes[gone]
        self._parents[gone] = into
        n = len(self._parents)
        if len(self._apart):
            self._apart = _keys(self._roots(np.stack(np.divmod(self._apart, n), axis=1)), n)
        touched = np.zeros(n, bool)
        touched[pairs] = True
        stale = touched[self._ids].any(axis=1)
        moved = self._roots(self._ids[stale])
        self._ids, self._scores = self._ids[~stale], self._scores[~stale]
        self._add(moved)

    def _add(self, pairs: np.ndarray) -> None:
        """Add those of these pairs of groups, int64 (m, 2), that may merge, now or when they have grown."""
        n = len(self._parents)
        keys = _keys(pairs[pairs[:, 0] != pairs[:, 1]], n)
        pairs = np.stack(np.divmod(keys, n), axis=1)
        pairs = pairs[~self._are_apart(pairs)]
        cosines = self._cosines_of(pairs)
        near = cosines >= self._cut
        pairs, cosines = pairs[near], cosines[near]
        margins = MARGIN / np.sqrt(self._sizes[pairs].prod(axis=1, dtype=np.float64))
        self._ids = np.concatenate([self._ids, pairs])
        self._scores = np.concatenate([self._scores, (cosines - margins).astype(np.float32)])

    def _are_apart(self, pairs: np.ndarray) -> np.ndarray:
        return np.isin(pairs[:, 0] * len(self._parents) + pairs[:, 1], self._apart)

    def _cosines_of(self, pairs: np.ndarray) -> np.ndarray:
        """Return the mean cosine of each pair of groups, float32 (m,)."""
        found = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), BLOCK):
            a, b = pairs[start : start + BLOCK].T
            dots = np.einsum("ij,ij->i", self._sums[a], self._sums[b])
            found[start : start + BLOCK] = dots / (self._sizes[a] * self._sizes[b])
        return found

    def _roots(self, ids: np.ndarray) -> np.ndarray:
        """Return the groups in which groups of earlier rounds are now."""
        found = self._parents[ids]
        while not np.array_equal(further := self._parents[found], found):
            found = further
        return found


def _keys(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return pairs of numbers below n as sorted, unique numbers: lower x n + higher, int64 (m,)."""
    pairs = np.sort(pairs.reshape(-1, 2).astype(np.int64), axis=1)
    return np.unique(pairs[:, 0] * n + pairs[:, 1])
