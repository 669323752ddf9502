"""Candidates of large galleries: 4-bit codes of all vectors in an inverted file, tuned on held-out faces until they lose almost nothing.

Vectors are turned onto the axes that hold their second moment (FaceNet's fill a sixth to a half of theirs), sorted into lists around
spherical k-means, and product-quantised with 16 values a part, which FAISS compares 32 at a time ("fast scan": André et al., Quicker
ADC, 2018). A search looks through the `nprobe` lists nearest to the query and scores the `depth` best of them anew, exactly, from
the memory-mapped vectors. Both are chosen by measurement, and exact search is where nothing else keeps the recall asked for.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

K = 5  # answers that recall is measured on
ANSWERS = 8 * K  # exact scores that a searcher asks for, about
ENERGY = (0.999, 0.95)  # shares of the second moment whose axes are kept
PER_LIST = 64  # faces that training takes for each list
PROBES, SINGLE = 1000, 100  # held-out faces that recall, and time, is measured on
CONFIDENCE = 2.33  # standard errors below the mean: 99 %, one-sided, for the fastest of many settings is taken
SHARES = (
    1 / 64,
    1 / 32,
    3 / 64,
    1 / 16,
    3 / 32,
    1 / 8,
    5 / 32,
    3 / 16,
    1 / 4,
    9 / 32,
    5 / 16,
    3 / 8,
    1 / 2,
    3 / 4,
    1,
)  # of the lists
DEPTHS = (16, 32, 64, 128, 256)
BLOCK = 1 << 16  # rows at once
TOGETHER = (
    18  # queries that look through a list together; FAISS takes three at a time, and 11 of itself: a fifth slower
)
ID_BYTES = 8
TIES = 1e-6


class Coding(NamedTuple):
    """How vectors are coded."""

    axes: int
    parts: int  # of four bits each
    lists: int

    def __str__(self) -> str:
        return f"{self.axes} axes, {self.lists} lists, {self.parts} 4-bit codes"

    def memory(self, n: int) -> int:
        """Bytes of n codes and their numbers."""
        return n * (math.ceil(self.parts / 2) + ID_BYTES)


@dataclass(frozen=True)
class Setting:
    """What was measured of one way to search."""

    coding: Coding
    nprobe: int
    depth: int
    recall: float  # recall@5 over held-out faces
    bound: float  # its lower 99 % confidence bound
    ms: float | None = None  # one query at a time; None where the bound is too low


class Codes:
    """A filled index of codes, with the exact one that scores what it finds."""

    def __init__(self, index: Any, flat: Any, nprobe: int, depth: int):
        """index: faiss.IndexPreTransform around an IndexIVFPQFastScan; flat: the IndexFlatIP of the same rows."""
        import faiss

        self.index, self.flat, self.nprobe, self.depth = index, flat, nprobe, depth
        self.lists = faiss.extract_index_ivf(index).nlist
        self._refined = faiss.IndexRefine(index, flat)

    def covers(self, effort: float) -> bool:
        """Whether that much more effort than was tuned is still less than looking at everything."""
        return self.depth * effort < self.flat.ntotal / 8

    def search(self, xq: np.ndarray, c: int, effort: float = 1) -> tuple[np.ndarray, np.ndarray]:
        """Exact scores float32 (n, c), falling, and rows int64 (n, c) of the best c found for xq float32 (n, d); -inf and -1 beyond them."""
        import faiss

        library: Any = faiss  # its stubs lag behind
        lists = library.SearchParametersIVF(nprobe=min(self.lists, math.ceil(self.nprobe * math.sqrt(effort))))
        depth = max(c, math.ceil(self.depth * effort))
        params = library.IndexRefineSearchParameters(
            k_factor=(depth + 0.5) / c, base_index_params=library.SearchParametersPreTransform(index_params=lists)
        )
        return self._refined.search(xq, c, params=params)


# making ---------------------------------------------------------------------


def codings(moments: np.ndarray, n: int) -> list[Coding]:
    """What is worth trying for n vectors, by the falling second moments float64 (d,) along their axes: finest first."""
    share, d = moments.cumsum() / moments.sum(), len(moments)
    most, fewer = (min(d, 8 * math.ceil((np.searchsorted(share, energy) + 1) / 8)) for energy in ENERGY)
    tried = [(most, most), (fewer, fewer)] + [(most, most // 2)] * (most % 2 == 0)
    return [Coding(axes, parts, lists_of(n)) for axes, parts in dict.fromkeys(tried)]


def lists_of(n: int) -> int:
    """A power of two near the square root of n."""
    return 1 << round(math.log2(math.sqrt(n)))


def second_moment(xt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Falling float64 (d,) and the axes they belong to, float32 (d, d), a row each, of xt float32 (n, d)."""
    values, axes = np.linalg.eigh(xt.T.astype(np.float64) @ xt)
    return values[::-1], np.ascontiguousarray(axes[:, ::-1].T, np.float32)


def train(xt: np.ndarray, axes: np.ndarray, coding: Coding, seed: int = 0) -> Any:
    """An empty index, trained on xt float32 (n, d). The axes kept are turned at random, so that each part's code bears its share."""
    import faiss

    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((coding.axes, coding.axes)))[0]
    projection = faiss.LinearTransform(xt.shape[1], coding.axes, False)
    faiss.copy_array_to_vector(np.float32(turn @ axes[: coding.axes]).ravel(), projection.A)
    projection.is_trained = True
    quantizer = faiss.IndexFlatIP(coding.axes)
    codes: Any = faiss.IndexIVFPQFastScan(
        quantizer, coding.axes, coding.lists, coding.parts, 4, faiss.METRIC_INNER_PRODUCT
    )
    codes.by_residual, codes.cp.spherical, codes.cp.seed, codes.cp.max_points_per_centroid = (
        True,
        True,
        seed + 1,
        PER_LIST,
    )
    codes.qbs2 = TOGETHER
    index = faiss.IndexPreTransform(projection, codes)
    index.train(xt)
    return index


def fill(index: Any, rows: np.ndarray) -> None:
    """Adds rows (n, d) in blocks; where they are memory-mapped, memory holds one."""
    for i in range(0, len(rows), BLOCK):
        index.add(np.ascontiguousarray(rows[i : i + BLOCK]))


# tuning ---------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Faces of the gallery as questions, each left out of training and of its own answers, and what is right."""

    at: np.ndarray  # int64 (q,): their rows
    xq: np.ndarray  # float32 (q, d)
    least: np.ndarray  # float32 (q,): the exact score of the K-th best other face


def held_out(flat: Any, rows: np.ndarray, at: np.ndarray) -> HeldOut:
    """The rows `at`, answered by exact search."""
    xq = np.ascontiguousarray(rows[at])
    scores, found = flat.search(xq, K + 1)
    others = _without(found, at, scores)
    return HeldOut(at, xq, others[:, K - 1])


def settings(index: Any, flat: Any, held: HeldOut, coding: Coding, recall: float) -> Iterator[Setting]:
    """For each depth and rising numbers of lists, until twice as many as are enough at any depth, what share of the K best faces is found."""
    enough = math.inf
    for nprobe in dict.fromkeys(math.ceil(coding.lists * share) for share in SHARES):
        if nprobe > 2 * enough:
            return
        for depth, recalls in zip(DEPTHS, recalled(index, flat, held, nprobe), strict=True):
            bound = float(recalls.mean() - CONFIDENCE * recalls.std() / math.sqrt(len(recalls)))
            enough = min(enough, nprobe) if bound >= recall else enough
            yield Setting(coding, nprobe, depth, float(recalls.mean()), bound)


def recalled(index: Any, flat: Any, held: HeldOut, nprobe: int) -> list[np.ndarray]:
    """float64 (q,) for each depth: the share of the K best faces among the `depth` that the codes rank first."""
    import faiss

    library: Any = faiss
    deepest = min(max(DEPTHS) + 1, flat.ntotal)
    params = library.SearchParametersPreTransform(index_params=library.SearchParametersIVF(nprobe=nprobe))
    _, found = index.search(held.xq, deepest, params=params)
    scores = np.empty(found.shape, np.float32)
    flat.compute_distance_subset(
        len(found), faiss.swig_ptr(held.xq), deepest, faiss.swig_ptr(scores), faiss.swig_ptr(found)
    )
    right = (_without(found, held.at, scores) >= held.least[:, None] - TIES).cumsum(axis=1)
    return [np.minimum(right[:, min(depth, deepest - 1) - 1], K) / K for depth in DEPTHS]


def _without(found: np.ndarray, at: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores (q, c - 1) in their order without each query's own row, or the last where that is not among them."""
    order = np.argsort(found == at[:, None], axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1)[:, :-1]


def frontier(tried: Sequence[Setting], recall: float) -> list[Setting]:
    """Of one coding's settings that reach the recall, those that no other beats in both lists and depth."""
    found: list[Setting] = []
    for setting in sorted((s for s in tried if s.bound >= recall), key=lambda s: (s.depth, s.nprobe)):
        if not found or setting.nprobe < found[-1].nprobe:
            found.append(setting)
    return found


def in_turns(ways: Sequence[Codes], xq: np.ndarray) -> list[float]:
    """Median milliseconds of each way to answer one query of xq (q, d); they take turns, so that a busy moment slows all."""
    seconds = ([_seconds(codes.search, q, ANSWERS) for codes in ways] for q in xq[:, None])
    return [1000 * statistics.median(of_way) for of_way in zip(*seconds, strict=True)]


def milliseconds(search: Callable[[np.ndarray], Any], xq: np.ndarray) -> float:
    """Median time of one query of xq (q, d)."""
    return 1000 * statistics.median(_seconds(search, q) for q in xq[:, None])


def _seconds(search: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    search(*arguments)
    return time.perf_counter() - began
