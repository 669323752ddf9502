"""Measures of answers, with NumPy alone: closed-set identification, intervals, paired tests.

Shares are of probes of enrolled people:

top-k, CMC       the true person is among the first k answers (Handbook of Face Recognition, chapter 21)
MRR              the mean of 1 / rank (mean reciprocal rank)
intervals        bootstrap over people: all probes of a person are drawn together; Wilson where that has no width
mcnemar          exact, of two systems on the same probes

`verification` has pairs of photos (ROC, LFW's ten folds), `openset` people who are not enrolled (DIR at FPIR).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import DataError, InputError

BLOCK_SCORES = 1 << 24  # scores in memory at once: 64 MiB
RESAMPLES = 10_000
EDGE = 1e-9  # 0.3 * 10 allows 3
Z95 = 1.959963984540054  # a normal variable lies within +- Z95 in 95 % of cases


def nearest_people(xb: np.ndarray, yb: np.ndarray, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k people nearest to each query by inner product, a person by their best face.

    xb: float (n, d). yb: (n,), the person of each row of xb, numbers or strings. xq: float (m, d).

    Returns people (m, min(k, p)) of yb's type and their scores, float32, best first; p is the number of people. Equal
    scores are in the order of np.unique(yb). Raises InputError for k < 1, DataError for shapes that differ.
    """
    if k < 1:
        raise InputError(f"expected k of at least 1, received {k}: give a larger one")
    if xb.ndim != 2 or xq.ndim != 2 or xb.shape[1] != xq.shape[1] or yb.shape != (len(xb),) or not len(xb):
        raise DataError(
            f"expected xb (n, d), yb (n,), xq (m, d) with n > 0, received {xb.shape}, {yb.shape}, {xq.shape}: "
            "correct the arrays"
        )
    people, codes = np.unique(yb, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    xb, starts = xb[order].astype(np.float32, copy=False), np.searchsorted(codes[order], np.arange(len(people)))
    k, step = min(k, len(people)), max(1, BLOCK_SCORES // len(xb))
    nearest, scores = np.empty((len(xq), k), np.intp), np.empty((len(xq), k), np.float32)
    for i in range(0, len(xq), step):
        best = np.maximum.reduceat(xq[i : i + step].astype(np.float32, copy=False) @ xb.T, starts, axis=1)  # (step, p)
        nearest[i : i + step] = np.argsort(-best, axis=1, kind="stable")[:, :k]
        scores[i : i + step] = np.take_along_axis(best, nearest[i : i + step], axis=1)
    return people[nearest], scores


def hits_at(ranked: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return whether the true person is among the first j + 1 answers, bool (n, k).

    ranked: (n, k) names, best first, None where there are fewer than k answers. truth: (n,) true names. Raises
    DataError for shapes that differ.
    """
    ranked, truth = np.asarray(ranked, object), np.asarray(truth, object)
    if ranked.ndim != 2 or truth.shape != (len(ranked),):
        raise DataError(
            f"expected ranked (n, k) and truth (n,), received {ranked.shape} and {truth.shape}: correct the arrays"
        )
    answered = np.frompyfunc(lambda name: name is not None, 1, 1)(ranked)
    return np.logical_or.accumulate(((ranked == truth[:, None]) & answered).astype(bool), axis=1)


def ranks_of(hits: np.ndarray) -> np.ndarray:
    """Return the true person's rank, int (n,) from 1, 0 where they are missing; hits (n, k) as `hits_at` returns it."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def cmc(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return the cumulative match characteristic, float (k,): the share of probes with a rank of at most 1, 2, ... k.

    ranks: (n,) as `ranks_of` returns it. Raises InputError for k < 1 or no probes.
    """
    return _found_within(ranks, k).mean(axis=0)


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / rank, float (n,), 0 for rank 0; the mean of these is the MRR."""
    return np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)


def cmc_intervals(ranks: np.ndarray, people: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return 95 % intervals of `cmc` over people, float (k, 2). people: (n,), the person of each probe."""
    return share_intervals(_found_within(ranks, k), people, seed)


def _found_within(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return whether each rank is within 1, 2, ... k, bool (n, k)."""
    ranks = np.asarray(ranks)
    if k < 1 or not len(ranks):
        raise InputError(f"expected k of at least 1 and a probe or more, received k = {k} and {len(ranks)} probes")
    return (ranks[:, None] > 0) & (ranks[:, None] <= np.arange(1, k + 1))


# intervals ------------------------------------------------------------------


def share_intervals(hits: np.ndarray, people: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return 95 % intervals of hits.mean(axis=0) over people, float (m, 2).

    hits: bool or 0 to 1, (n, m). people: (n,), the person of each probe. A bootstrap of only hits, only misses or one
    person has no width: such a column gets Wilson's interval with people as trials. No shares in [0, 1] spread more
    than the hits and misses that this interval is made for.
    """
    found, n = mean_intervals(hits, people, seed), len(np.unique(people))
    for j in np.flatnonzero((hits == 1).all(axis=0) | (hits == 0).all(axis=0) | (n == 1)):
        found[j] = wilson(n * float(np.mean(hits[:, j])), n)
    return found


def difference_interval_of_one(difference: float) -> tuple[float, float]:
    """Return the 95 % interval of a difference of two shares on the probes of one person.

    A bootstrap of one person has no width; this is Wilson's interval, scaled to -1..1.
    """
    low, high = wilson((difference + 1) / 2, 1)
    return 2 * low - 1, 2 * high - 1


def mean_intervals(values: np.ndarray, people: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return 95 % percentile bootstrap intervals of values.mean(axis=0), float (m, 2).

    values: (n, m). people: (n,); each person is drawn with all of their rows. People with equal sums and counts are
    drawn as one multinomial category, so that a million people cost little. Raises DataError for shapes that differ.
    """
    values, people = np.asarray(values, np.float64), np.asarray(people)
    if values.ndim != 2 or people.shape != (len(values),) or not len(values):
        raise DataError(
            f"expected values (n, m) and people (n,) with n > 0, received {values.shape} and {people.shape}: "
            "correct the arrays"
        )
    _, codes = np.unique(people, return_inverse=True)
    totals = np.stack([np.bincount(codes, column) for column in (np.ones(len(codes)), *values.T)], axis=1)  # (p, 1 + m)
    kinds, counts = np.unique(totals, axis=0, return_counts=True)
    rng, step = np.random.default_rng(seed), max(1, BLOCK_SCORES // 8 // len(kinds))
    means = []
    for i in range(0, resamples, step):
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), min(step, resamples - i)) @ kinds  # (step, 1 + m)
        means.append(drawn[:, 1:] / drawn[:, :1])
    return np.quantile(np.concatenate(means), [0.025, 0.975], axis=0).T


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of a share, 95 % by default; (0, 1) for no trials."""
    if not 0 <= successes <= n:
        raise InputError(f"expected 0 <= successes <= n, received {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    share, weight = successes / n, z * z / n
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


# two systems on the same probes ---------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Whether the second of two systems is better than the first, on the same probes."""

    first_only: int  # probes that only the first answers correctly
    second_only: int
    p: float  # exact McNemar, two-sided: how likely so unequal numbers are if neither system is better
    difference: float  # of the shares, second minus first
    interval: tuple[float, float]  # 95 %, over people


def compare(first: np.ndarray, second: np.ndarray, people: np.ndarray, seed: int = 0) -> Paired:
    """Compare two systems by their hits, bool (n,), on the same probes of people (n,).

    McNemar's test takes probes as independent. Where people have several probes, trust the interval, which draws
    people. Raises DataError for shapes that differ.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(
            f"expected two answers to each probe, received {first.shape} and {second.shape}: correct the arrays"
        )
    difference = second.astype(float) - first
    mean, (low, high) = float(difference.mean()), mean_intervals(difference[:, None], people, seed)[0].tolist()
    interval = difference_interval_of_one(mean) if len(np.unique(people)) == 1 else (low, high)
    return Paired(*mcnemar(first, second), mean, interval)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Return (hits of the first alone, hits of the second alone, exact two-sided p).

    first, second: hits, bool (n,), on the same probes.
    """
    from scipy.stats import binomtest  # half a second

    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    return b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0


# thresholds -----------------------------------------------------------------


def threshold_at(impostors: np.ndarray, rate: float) -> float:
    """Return the lowest threshold that at most a share `rate` of the scores impostors (n,) reach (score >= threshold).

    With r = floor(rate * n) scores allowed, it lies just above the score of rank r + 1, and ties with that score stay
    below. A rate below 1 / n lets no score reach it. Raises InputError for a rate outside 0..1 or no scores.
    """
    impostors = np.asarray(impostors, np.float32)
    if not 0 < rate < 1 or not len(impostors):
        raise InputError(
            f"expected a rate within 0 and 1 and an impostor or more, received {rate} and {len(impostors)}"
        )
    allowed = math.floor(rate * len(impostors) + EDGE)
    return float(np.nextafter(-np.partition(-impostors, allowed)[allowed], np.float32(np.inf)))
