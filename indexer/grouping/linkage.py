"""Group vectors by average linkage with a margin for few photos.

The score of two groups is the mean cosine of their pairs less MARGIN / sqrt(pairs): as a standard error, it is larger
for the mean of few. In rounds, all pairs of groups with a score of `cut` or more that are each other's nearest merge; a
large group takes others beside its nearest one, if it is their nearest, so that there are few rounds. Without a margin
the groups are those of UPGMA (Sokal, Michener 1958; in rounds: Murtagh 1983), but for what large ones take at once. The
mean cosine of two groups of unit vectors is the dot product of their means: pairs of faces are not compared one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from facegallery.indexer.grouping.neighbours import NEAREST, near_pairs, sorted_set

MARGIN = 0.1  # of one pair; chosen on LFW's dev people and nine other sets (benchmarks/accuracy/grouping.py)
CUT, FACES = 0.38, 1764  # for so many faces by `sface`, by the same benchmark
SLOPE = 39.0  # of the logarithm of how many pairs of two people reach a cosine, on the same people
AT_ONCE = 8  # beside its nearest group, one takes so many faces a round that it grows by one in AT_ONCE at most
FEW = 1e-3  # share of the groups; where no more merged, what is left has been compared
BLOCK = 1 << 16  # pairs of groups that are compared at a time
NO_PAIRS = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Start:
    """What grouping starts from, beside the means of n groups; as a rule each is a single vector.

    sizes: vectors of each, int64 (n,); one unless given. held: so many, the first ones, stay apart from each other.
    apart: pairs that must not be in one group, int64 (m, 2). asked: those that may have pairs, bool (n,); all unless
    given.
    """

    sizes: np.ndarray | None = None
    held: int = 0
    apart: np.ndarray = field(default_factory=NO_PAIRS.copy)
    asked: np.ndarray | None = None

    def sizes_of(self, n: int) -> np.ndarray:
        """Return how many vectors each of n groups has, int64 (n,)."""
        return np.ones(n, np.int64) if self.sizes is None else self.sizes


SINGLE = Start()


def cut_for(n: int, cut: float = CUT) -> float:
    """Return the cut for n faces: `cut`, and more where there are more than FACES.

    Of n times as many faces each has n times as many pairs with other people; so many more fall short of a cut that is
    higher by log(n) / SLOPE.
    """
    return cut + max(0.0, math.log(max(n, 1) / FACES)) / SLOPE


def group(
    means: np.ndarray, cut: float, start: Start = SINGLE, nearest: int = NEAREST, near: np.ndarray | None = None
) -> np.ndarray:
    """Group unit vectors, or the means of groups, float32 (n, d); return the group of each, int64 (n,).

    A group has the number of the first in it. nearest: of each, and then of each group that has grown, so many are
    compared with it. All pairs are compared where none has more of a cosine of `cut` or more. near: the answer of
    `near_pairs` for the means and this cut or a lower one, where it is there already.
    """
    groups = Groups(means, cut, start)
    groups.offer(near_pairs(means, cut, nearest, start.asked) if near is None else near)
    while groups.merge() > FEW * groups.count:
        ids, grown_means, grown = groups.means()
        groups.offer(ids[near_pairs(grown_means, cut, nearest, grown)])
    return groups.labels()


class Groups:
    """Groups, numbered by what they start from, and the pairs of groups that may merge."""

    def __init__(self, means: np.ndarray, cut: float, start: Start = SINGLE):
        """Begin with a group of each unit vector or mean, float32 (n, d)."""
        n = len(means)
        self._cut, self._sizes = cut, start.sizes_of(n).copy()
        self._sums = np.multiply(means, self._sizes[:, None], dtype=np.float32)
        self._held = np.arange(n) < start.held
        self._parents, self._grown = np.arange(n), np.zeros(n, bool)
        self._apart = _keys(start.apart, n)
        self._ids, self._scores = NO_PAIRS, np.empty(0, np.float32)  # of a mean cosine of `cut` or more

    def offer(self, pairs: np.ndarray) -> None:
        """Let the groups of these pairs of vectors, int64 (m, 2), merge."""
        self._add(self._roots(pairs))

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self._ids_of_groups())

    def merge(self) -> int:
        """Merge pairs of groups until no two that may merge have a score of `cut`; return how many went into others."""
        merged = 0
        while len(joins := self._joins()):
            self._merge(joins)
            merged += len(joins)
        return merged

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the numbers of groups, int64 (g,), the means of their vectors, float32 (g, d), and which have grown.

        Those are bool (g,), and have grown since this was called last.
        """
        ids = self._ids_of_groups()
        grown, self._grown = self._grown[ids], np.zeros(len(self._parents), bool)
        return ids, self._sums[ids] / self._sizes[ids, None].astype(np.float32), grown

    def _ids_of_groups(self) -> np.ndarray:
        """Return the numbers of the groups that there are now, int64 (g,)."""
        return np.flatnonzero(self._parents == np.arange(len(self._parents)))

    def _joins(self) -> np.ndarray:
        """Return the groups that merge next and those into which they go, which stay: int64 (k, 2)."""
        enough = self._scores >= self._cut
        ids, scores = self._ids[enough].T, self._scores[enough]
        if not len(scores):
            return NO_PAIRS
        nearest, best = self._nearest(ids, scores)
        near = np.flatnonzero(nearest >= 0)
        mutual = near[nearest[nearest[near]] == near]
        goes = (
            self._sizes[mutual] * -len(nearest) + mutual
            > self._sizes[nearest[mutual]] * -len(nearest) + nearest[mutual]
        )
        first = np.stack([mutual[goes], nearest[mutual[goes]]], axis=1)
        return np.concatenate([first, self._more(first, nearest, best)])

    def _nearest(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each group's nearest one, int64 (n,), -1 where it has none, and their score, float32 (n,)."""
        n = len(self._sizes)
        best, nearest = np.full(n, -np.inf, np.float32), np.full(n, n)
        for own in ids:
            np.maximum.at(best, own, scores)
        for own, other in (ids, ids[::-1]):
            is_best = scores == best[own]
            np.minimum.at(nearest, own[is_best], other[is_best])  # ties by number, so that one wins
        return np.where(nearest < n, nearest, -1), best

    def _more(self, first: np.ndarray, nearest: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Return what goes into large groups beside `first`: the nearest of those whose nearest these are."""
        room = np.zeros(len(nearest), np.int64)
        room[first[:, 1]] = self._sizes[first[:, 1]] // AT_ONCE - self._sizes[first[:, 0]]
        gone = np.flatnonzero((nearest >= 0) & (room[nearest] > 0))
        gone = gone[nearest[nearest[gone]] != gone]
        gone = gone[np.lexsort((gone, -best[gone], nearest[gone]))]
        into, sizes = nearest[gone], np.cumsum(self._sizes[gone])
        start = np.searchsorted(into, into)
        fits = sizes - (sizes[start] - self._sizes[gone[start]]) <= room[into]
        joins = np.stack([gone[fits], into[fits]], axis=1)
        return joins[~self._meet(first, joins)]

    def _meet(self, first: np.ndarray, joins: np.ndarray) -> np.ndarray:
        """Return whether each of `joins` would meet one in its new group from which it must be apart: bool (k,)."""
        n = len(self._parents)
        to = np.arange(n)
        for some in (first, joins):
            to[some[:, 0]] = some[:, 1]
        meets = self._held.copy()
        if len(self._apart):
            a, b = np.divmod(self._apart, n)
            meets[np.concatenate([a, b])[np.tile(to[a] == to[b], 2)]] = True
        return meets[joins[:, 0]]

    def labels(self) -> np.ndarray:
        """Return the group of each vector, the number of its first one: int64 (n,)."""
        _, first, groups = np.unique(self._roots(np.arange(len(self._parents))), return_index=True, return_inverse=True)
        return first[groups]

    def _merge(self, joins: np.ndarray) -> None:
        """Let groups go into others that stay: int64 (k, 2), the first of each into the second."""
        gone, into = joins[np.argsort(joins[:, 1], kind="stable")].T
        starts = np.flatnonzero(np.diff(into, prepend=-1))
        self._sums[into[starts]] += np.add.reduceat(self._sums[gone], starts)
        np.add.at(self._sizes, into, self._sizes[gone])
        self._parents[gone] = into
        self._grown[into] = True
        self._held[into[self._held[gone]]] = True
        n = len(self._parents)
        if len(self._apart):
            self._apart = _keys(self._roots(np.stack(np.divmod(self._apart, n), axis=1)), n)
        touched = np.zeros(n, bool)
        touched[joins] = True
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
        both_held = self._held[pairs].all(axis=1)
        if not len(self._apart):
            return both_held
        keys = pairs[:, 0] * len(self._parents) + pairs[:, 1]
        return both_held | (self._apart[np.searchsorted(self._apart[:-1], keys)] == keys)

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
    return sorted_set(pairs[:, 0] * n + pairs[:, 1])
