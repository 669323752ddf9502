"""Candidates of large galleries: 4-bit codes of all vectors in an inverted file, tuned on held-out faces.

Vectors are rotated onto the axes of their second moment and sorted into lists around spherical k-means. FaceNet's
vectors fill only a sixth to a half of their axes. They are then product-quantised with 16 values a part, which FAISS
compares 32 at a time ("fast scan": André et al., Quicker ADC, 2018).

A search scans the `nprobe` lists nearest to the query. It rescores the `depth` best of them exactly, from the
memory-mapped vectors. Both numbers are chosen by measurement; where no setting keeps the requested recall, the search
is exact.
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
ENERGY = (0.999, 0.95)  # shares of the second moment that the kept axes hold
PER_LIST = 64  # training faces for each list
PROBES, SINGLE = 1000, 100  # held-out faces for recall, and for time
CONFIDENCE = 2.33  # standard errors below the mean: 99 %, one-sided, since the fastest of many settings is chosen
SHARES = tuple(n / 64 for n in (1, 2, 3, 4, 6, 8, 10, 12, 16, 18, 20, 24, 32, 48, 64))  # of the lists
DEPTHS = (16, 32, 64, 128, 256)
BLOCK = 1 << 16  # rows at once
# queries that scan a list together: FAISS takes three at a time, and its own choice of 11 is a fifth slower
TOGETHER = 18
ID_BYTES = 8
NO_BIAS = False
TIES = 1e-6


class Coding(NamedTuple):
    """How vectors are coded."""

    axes: int
    parts: int  # of four bits each
    lists: int

    def __str__(self) -> str:
        return f"{self.axes} axes, {self.lists} lists, {self.parts} 4-bit codes"

    def memory(self, n: int) -> int:
        """Return the bytes of n codes and their ids."""
        return n * (math.ceil(self.parts / 2) + ID_BYTES)


@dataclass(frozen=True)
class Setting:
    """Measurements of one way to search."""

    coding: Coding
    nprobe: int
    depth: int
    recall: float  # recall@5 over held-out faces
    bound: float  # its lower 99 % confidence bound
    ms: float | None = None  # one query at a time; None where the bound is too low


class Codes:
    """A filled index of codes, with the exact index that rescores what it finds."""

    def __init__(self, index: Any, flat: Any, nprobe: int, depth: int):
        """Combine both indexes.

        index: faiss.IndexPreTransform around an IndexIVFPQFastScan. flat: the IndexFlatIP of the same rows.
        """
        import faiss

        self.index, self.flat, self.nprobe, self.depth = index, flat, nprobe, depth
        self.lists = faiss.extract_index_ivf(index).nlist
        self._refined = faiss.IndexRefine(index, flat)

    def covers(self, effort: float) -> bool:
        """Return whether `effort` times the tuned effort is still less than comparing every vector."""
        return self.depth * effort < self.flat.ntotal / 8

    def search(self, xq: np.ndarray, c: int, effort: float = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the best c found for xq float32 (n, d): exact scores float32 (n, c), falling, and rows int64 (n, c).

        Missing answers have score -inf and row -1.
        """
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
    """Return the codings worth measuring for n vectors, finest first.

    moments: float64 (d,), falling second moments along the axes.
    """
    share, d = moments.cumsum() / moments.sum(), len(moments)
    most, fewer = (min(d, 8 * math.ceil((np.searchsorted(share, energy) + 1) / 8)) for energy in ENERGY)
    tried = [(most, most), (fewer, fewer)] + [(most, most // 2)] * (most % 2 == 0)
    return [Coding(axes, parts, lists_of(n)) for axes, parts in dict.fromkeys(tried)]


def lists_of(n: int) -> int:
    """Return a power of two near the square root of n."""
    return 1 << round(math.log2(math.sqrt(n)))


def second_moment(xt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the falling second moments of xt float32 (n, d), float64 (d,), and their axes as rows, float32 (d, d)."""
    values, axes = np.linalg.eigh(xt.T.astype(np.float64) @ xt)
    return values[::-1], np.ascontiguousarray(axes[:, ::-1].T, np.float32)


def train(xt: np.ndarray, axes: np.ndarray, coding: Coding, seed: int = 0) -> Any:
    """Return an empty index, trained on xt float32 (n, d).

    The kept axes are rotated at random, so that the code of each part carries an equal share.
    """
    import faiss

    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((coding.axes, coding.axes)))[0]
    projection = faiss.LinearTransform(xt.shape[1], coding.axes, NO_BIAS)
    faiss.copy_array_to_vector(np.float32(turn @ axes[: coding.axes]).ravel(), projection.A)
    projection.is_trained = True
    quantizer = faiss.IndexFlatIP(coding.axes)
    codes: Any = faiss.IndexIVFPQFastScan(
        quantizer, coding.axes, coding.lists, coding.parts, 4, faiss.METRIC_INNER_PRODUCT
    )
    codes.by_residual = codes.cp.spherical = True
    codes.cp.seed, codes.cp.max_points_per_centroid = seed + 1, PER_LIST
    codes.qbs2 = TOGETHER
    index = faiss.IndexPreTransform(projection, codes)
    index.train(xt)
    return index


def fill(index: Any, rows: np.ndarray) -> None:
    """Add rows (n, d) in blocks; of memory-mapped rows, memory holds one block."""
    for i in range(0, len(rows), BLOCK):
        index.add(np.ascontiguousarray(rows[i : i + BLOCK]))


# tuning ---------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Faces of the gallery as questions, excluded from training and from their own answers, with the right answers."""

    at: np.ndarray  # int64 (q,): their rows
    xq: np.ndarray  # float32 (q, d)
    least: np.ndarray  # float32 (q,): the exact score of the K-th best other face


def held_out(flat: Any, rows: np.ndarray, at: np.ndarray) -> HeldOut:
    """Answer the rows `at` by exact search."""
    xq = np.ascontiguousarray(rows[at])
    scores, found = flat.search(xq, K + 1)
    others = _without(found, at, scores)
    return HeldOut(at, xq, others[:, K - 1])


def settings(index: Any, flat: Any, held: HeldOut, coding: Coding, recall: float) -> Iterator[Setting]:
    """Yield the recall of each depth and of rising numbers of lists.

    Stops at twice the number of lists that reaches the recall at some depth.
    """
    enough = math.inf
    for nprobe in dict.fromkeys(math.ceil(coding.lists * share) for share in SHARES):
        if nprobe > 2 * enough:
            return
        for depth, recalls in zip(DEPTHS, recalled(index, flat, held, nprobe), strict=True):
            bound = float(recalls.mean() - CONFIDENCE * recalls.std() / math.sqrt(len(recalls)))
            enough = min(enough, nprobe) if bound >= recall else enough
            yield Setting(coding, nprobe, depth, float(recalls.mean()), bound)


def recalled(index: Any, flat: Any, held: HeldOut, nprobe: int) -> list[np.ndarray]:
    """Return, for each depth, float64 (q,): the share of the K best faces among the `depth` first by their codes."""
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
    """Return scores (q, c - 1) in order, without the query's own row, or without the last where that is missing."""
    order = np.argsort(found == at[:, None], axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1)[:, :-1]


def frontier(tried: Sequence[Setting], recall: float) -> list[Setting]:
    """Return the settings of one coding that reach the recall and that no other beats in both lists and depth."""
    found: list[Setting] = []
    for setting in sorted((s for s in tried if s.bound >= recall), key=lambda s: (s.depth, s.nprobe)):
        if not found or setting.nprobe < found[-1].nprobe:
            found.append(setting)
    return found


def in_turns(ways: Sequence[Codes], xq: np.ndarray) -> list[float]:
    """Return the median milliseconds of each way for one query of xq (q, d); ways take turns, to share busy moments."""
    seconds = ([_seconds(codes.search, q, ANSWERS) for codes in ways] for q in xq[:, None])
    return [1000 * statistics.median(of_way) for of_way in zip(*seconds, strict=True)]


def milliseconds(search: Callable[[np.ndarray], Any], xq: np.ndarray) -> float:
    """Return the median milliseconds for one query of xq (q, d)."""
    return 1000 * statistics.median(_seconds(search, q) for q in xq[:, None])


def _seconds(search: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    search(*arguments)
    return time.perf_counter() - began
