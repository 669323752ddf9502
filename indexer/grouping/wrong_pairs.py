"""Estimate how many pairs of faces in a group are two people, without labels.

Scores of groups of two people fall off steeply, at a rate that hardly differs between galleries. So the pairs of groups
that lack less than BELOW of the cut tell how many reached it wrongly, whoever the people are and however many: with
more people, more groups come near. A tail is the number of wrong pairs of faces for one pair of faces so near. It is
fitted to labelled people: those whom a gallery knows, or, in TAILS, those of a model's benchmark.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from facegallery.embedder.errors import DataError
from facegallery.indexer.grouping.linkage import MARGIN, SINGLE, Start, cut_for, group
from facegallery.indexer.grouping.neighbours import NEAREST, near_pairs

BELOW = 0.1  # of a score
ERROR = 1 / 200  # share of the pairs
STEP, BENEATH, ABOVE = 0.01, 10, 8  # a cut is chosen within so many steps of the usual one
UNSEEN = 3  # wrong pairs at most where none is expected (rule of three)
FITTED = (0.34, 0.36, 0.38, 0.40, 0.42, 0.44)  # cuts of a fit
DRAWS = 16  # halves of the people of a fit
SAMPLE, LARGEST = 10_000, 2_500  # groups of which near misses are counted; the largest are among them
MOST = 10  # pairs of faces just below the cut for one in a group: with more, a cut is useless


@dataclass(frozen=True)
class Tail:
    """Wrong pairs of faces for one pair of faces in groups just below the cut: the middle, and 90 % of cases."""

    low: float
    middle: float
    high: float


TAILS = {"sface": Tail(0.0003, 0.0066, 0.17)}  # by benchmarks/accuracy/grouping.py: LFW's dev people, eight other sets
ANY = TAILS["sface"]


@dataclass(frozen=True)
class PairError:
    """The share of the pairs of faces in a group that are two people, and its interval (90 %)."""

    share: float
    low: float
    high: float
    pairs: int  # of faces in a group

    def __str__(self) -> str:
        if not self.pairs:
            return "no two faces are in one group"
        about = f"about {_one_in(self.share)}" if self.share else "likely none of the"
        return f"{about} pairs in a group are two people, at most {_one_in(self.high)}"


def pair_error(means: np.ndarray, groups: np.ndarray, cut: float, tail: Tail = ANY, start: Start = SINGLE) -> PairError:
    """State the share of wrong pairs of `group`'s answer, int64 (n,), for its arguments."""
    numbers, sizes = np.unique(groups), np.bincount(groups, start.sizes_of(len(means))).astype(np.int64)
    sizes = sizes[numbers]
    pairs = int((sizes * (sizes - 1) // 2).sum())
    if not pairs:
        return PairError(0.0, 0.0, 0.0, 0)
    rows, stand_for = _sample(sizes)
    compared = np.isin(groups, numbers[rows])
    of_groups, sizes = joined(means[compared], groups[compared], start.sizes_of(len(means))[compared])
    near = near_misses(of_groups, sizes, cut, stand_for[np.argsort(rows)])
    share, low, high = (
        tail.middle * near / pairs,
        math.floor(tail.low * near) / pairs,
        (tail.high * near + UNSEEN) / pairs,
    )
    return PairError(min(1.0, share), min(1.0, low), min(1.0, high), pairs)


def joined(means: np.ndarray, groups: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and the sizes of groups, by their numbers: float32 (g, d), int64 (g,).

    means: of what is in them, float32 (n, d), of `sizes` faces each; of one unless given. groups: their numbers, (n,).
    """
    order = np.argsort(groups, kind="stable")
    firsts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    weights = np.ones(len(order), np.int64) if sizes is None else sizes[order]
    of_groups = np.add.reduceat(weights, firsts)
    sums = np.add.reduceat(means[order] * weights[:, None].astype(np.float32), firsts)
    return sums / of_groups[:, None].astype(np.float32), of_groups


@dataclass(frozen=True)
class Chosen:
    """A cut, its groups, int64 (n,), and the share of wrong pairs that is stated for them."""

    cut: float
    groups: np.ndarray
    error: PairError


def at_cut(
    means: np.ndarray, cut: float, start: Start = SINGLE, tail: Tail = ANY, near: np.ndarray | None = None
) -> Chosen:
    """Group what `group` takes by a cut, and state the share of wrong pairs."""
    groups = group(means, cut, start, near=near)
    return Chosen(cut, groups, pair_error(means, groups, cut, tail, start))


def choose_cut(means: np.ndarray, error: float = ERROR, start: Start = SINGLE, tail: Tail = ANY) -> Chosen:
    """Choose the lowest cut with a stated share of wrong pairs of `error` at most for what `group` takes.

    Where no cut has so small an error, it is the highest.
    """
    usual, low, high = cut_for(int(start.sizes_of(len(means)).sum())), -BENEATH, ABOVE
    near = near_pairs(means, usual + STEP * low, NEAREST, start.asked)

    def at(step: int) -> Chosen:
        return at_cut(means, usual + STEP * step, start, tail, near)

    best: Chosen | None = None
    while low < high:
        middle = (low + high) // 2
        if (tried := at(middle)).error.share <= error:
            best, high = tried, middle
        else:
            low = middle + 1
    return best or at(high)


def near_misses(means: np.ndarray, sizes: np.ndarray, cut: float, stand_for: np.ndarray | None = None) -> int:
    """Count the pairs of faces in two groups whose score lacks less than BELOW of the cut.

    means: of groups, float32 (g, d). sizes: their faces, int64 (g,). stand_for: how many groups each stands for,
    float64 (g,); one unless given.
    """
    pairs = near_pairs(means, cut - BELOW, NEAREST)
    weights = sizes[pairs].prod(axis=1)
    cosines = np.einsum("ij,ij->i", means[pairs[:, 0]], means[pairs[:, 1]])
    scores = cosines - MARGIN / np.sqrt(weights)
    near = (scores >= cut - BELOW) & (scores < cut)
    times = np.ones(len(pairs)) if stand_for is None else stand_for[pairs].prod(axis=1)
    return round(float((weights * times)[near].sum()))


def _sample(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return SAMPLE groups at most, given the sizes of all, int64 (g,), and how many each stands for: float64 (s,).

    The largest are among them.
    """
    order = np.argsort(-sizes, kind="stable")
    largest, others = np.split(order, [LARGEST if len(order) > SAMPLE else len(order)])
    drawn = np.random.default_rng(0).choice(others, min(len(others), SAMPLE - LARGEST), replace=False)
    shares = np.full(len(drawn), len(others) / max(1, len(drawn)))
    return np.concatenate([largest, drawn]), np.concatenate([np.ones(len(largest)), shares])


def pairs_within(groups: np.ndarray) -> int:
    """Count the pairs of faces that are in one group."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


def wrong_within(groups: np.ndarray, people: np.ndarray) -> int:
    """Count the pairs of faces in one group that are two people; groups, people: (n,)."""
    codes = [np.unique(labels, return_inverse=True)[1].astype(np.int64) for labels in (groups, people)]
    both = codes[0] * (codes[1].max(initial=0) + 1) + codes[1]
    return pairs_within(groups) - pairs_within(both)


def fit_tail(vectors: np.ndarray, people: np.ndarray, others: Tail = ANY) -> Tail:
    """Fit a tail to labelled unit vectors, float32 (n, d), of people, (n,), by random halves of the people.

    others: of other sets; halves of one set do not tell how far sets differ. Raises DataError for people of whom no
    half can be grouped.
    """
    return halfway(tail_of([cases(vectors, people)]), others)


def halfway(first: Tail, second: Tail) -> Tail:
    """Return the tail between two, on a scale of logarithms."""
    low, middle, high = np.sqrt(np.multiply(astuple(first), astuple(second))).tolist()
    return Tail(low, middle, high)


def cases(vectors: np.ndarray, people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return wrong pairs for one pair just below the cut, of random halves of labelled people: float (m,)."""
    rng, names = np.random.default_rng(seed), np.unique(people)
    found = []
    for _ in range(DRAWS):
        rows = np.flatnonzero(np.isin(people, rng.choice(names, (len(names) + 1) // 2, replace=False)))
        for cut in FITTED:
            groups = group(vectors[rows], cut)
            near = near_misses(*joined(vectors[rows], groups), cut)
            if near <= MOST * pairs_within(groups):
                found.append((wrong_within(groups, people[rows]) + 0.5) / (near + 1))
    return np.array(found)


def tail_of(sets: list[np.ndarray]) -> Tail:
    """Return the tail of the cases of several sets of people, each set with the same weight."""
    found = np.concatenate(sets)
    if not len(found):
        raise DataError("expected people with two photos or more that look alike, received none: name more faces")
    weights = np.concatenate([np.full(len(one), 1 / max(1, len(one))) for one in sets])
    return Tail(*np.quantile(found, [0.05, 0.5, 0.95], weights=weights, method="inverted_cdf").tolist())


def _one_in(share: float) -> str:
    return f"1 in {round(1 / share):,}"
