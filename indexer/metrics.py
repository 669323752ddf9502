"""How good answers are: nearest people by one matrix product, top-k, and its interval. NumPy only."""

from __future__ import annotations

import math

import numpy as np

from embedder.errors import DataError, InputError

BLOCK_SCORES = 1 << 24  # scores held at once: 64 MiB
Z95 = 1.959963984540054  # a normal variable lies within +- Z95 in 95 % of cases


def nearest_people(xb: np.ndarray, yb: np.ndarray, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k people nearest to each query by inner product, a person by the best of their faces.

    xb (n, d) and xq (m, d) are floats, yb (n,) says whose face each row of xb is (numbers or strings, none None).
    Returns people (m, min(k, p)) of yb's type and scores, float32 of the same shape, best first; p is the number of
    people. Equal scores stand in the order of np.unique(yb). Raises InputError for k < 1, DataError for shapes that do not fit.
    """
    if k < 1:
        raise InputError(f"expected k of at least 1, received {k}: give a larger one")
    if xb.ndim != 2 or xq.ndim != 2 or xb.shape[1] != xq.shape[1] or yb.shape != (len(xb),) or not len(xb):
        raise DataError(f"expected xb (n, d), yb (n,), xq (m, d) with n > 0, received {xb.shape}, {yb.shape}, {xq.shape}: mend the call")
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
    """bool (n, k): whether the true person is among the first j + 1 answers.

    ranked (n, k) holds names, best first, None where there were fewer than k answers; truth (n,) the true names.
    """
    ranked, truth = np.asarray(ranked, object), np.asarray(truth, object)
    if ranked.ndim != 2 or truth.shape != (len(ranked),):
        raise DataError(f"expected ranked (n, k) and truth (n,), received {ranked.shape} and {truth.shape}: mend the call")
    answered = np.frompyfunc(lambda name: name is not None, 1, 1)(ranked)
    return np.logical_or.accumulate(((ranked == truth[:, None]) & answered).astype(bool), axis=1)


def top_k(hits: np.ndarray, k: int) -> float:
    """Share of queries answered within the first k; hits (n, K) as `hits_at` gives them, k beyond K counting as K."""
    if k < 1 or not len(hits):
        raise InputError(f"expected k of at least 1 and a query or more, received k = {k} and {len(hits)} queries")
    return float(hits[:, min(k, hits.shape[1]) - 1].mean())


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a share, 95 % unless z says otherwise; (0, 1) where nothing was tried."""
    if not 0 <= successes <= n:
        raise InputError(f"expected 0 <= successes <= n, received {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    share, weight = successes / n, z * z / n
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)
