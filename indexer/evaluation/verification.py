"""Verification: are two photos of one person? ROC curves, and the protocol of Labeled Faces in the Wild.

LFW has ten folds of pairs; the threshold of each comes from the other nine (Huang et al. 2007, "image restricted"). It
is chosen as davidsandberg/facenet does (src/facenet.py, calculate_roc): squared distances of 0 to 4 in steps of 0.01,
the smallest of the best. Scores are cosines of unit vectors, so that the squared distance is 2 - 2 * score. A pair with
a photo without a face scores -inf: different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import DataError
from facegallery.indexer.metrics import Paired, compare, threshold_at

FARS = (1e-3, 1e-2)
DISTANCES = np.arange(0, 4, 0.01)


# one threshold for all pairs ------------------------------------------------


@dataclass(frozen=True)
class Roc:
    """Rates at every threshold that separates two pairs, from one that no pair reaches to one that all reach."""

    thresholds: np.ndarray  # float (m,), falling from inf: at or above it, a pair is taken for one person
    far: np.ndarray  # float (m,), rising from 0 to 1: false accept rate, of pairs of different people
    tar: np.ndarray  # float (m,), rising from 0 to 1: true accept rate, of pairs of one person

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a same pair scores above a different one, ties counting half."""
        return float(np.trapezoid(self.tar, self.far))

    @property
    def eer(self) -> float:
        """Equal error rate: where FAR = 1 - TAR, on straight lines between the points."""
        return float(np.interp(0, self.far + self.tar - 1, self.far))

    def tar_at(self, far: float) -> float:
        """Return the highest TAR with a FAR of at most `far`."""
        return float(self.tar[np.searchsorted(self.far, far, "right") - 1])


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """Return the ROC curve of scores (n,), same bool (n,); raises DataError without pairs of both kinds."""
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.ndim != 1 or scores.shape != same.shape or np.isnan(scores).any() or same.all() or not same.any():
        raise DataError(
            f"expected scores of pairs of one person and of two, received {scores.shape} with {same.sum()} of one: "
            "check the pairs"
        )
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(scores[order][1:] != scores[order][:-1]), len(scores) - 1)  # of equal scores
    rates = [np.append(0, np.cumsum(kind[order])[last] / kind.sum()) for kind in (~same, same)]
    return Roc(np.append(np.inf, scores[order][last]), *rates)


# folds ----------------------------------------------------------------------


@dataclass(frozen=True)
class TarAtFar:
    """TAR at one FAR; the threshold comes from the other folds' pairs of different people."""

    asked: float  # FAR
    tar: float  # mean of the folds
    std: float
    far: float  # mean FAR in the tested folds


@dataclass(frozen=True)
class Verification:
    """Figures of the ten folds; arrays have one number a fold."""

    accuracies: np.ndarray
    thresholds: np.ndarray  # scores
    right: np.ndarray  # bool (n,): each pair, by its fold's threshold
    tars: tuple[TarAtFar, ...]
    roc: Roc

    @property
    def accuracy(self) -> float:
        """Mean of the folds' accuracies."""
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the folds' accuracies, as Sandberg prints it (population)."""
        return float(self.accuracies.std())


def verify_folds(scores: np.ndarray, same: np.ndarray, folds: np.ndarray, fars: Sequence[float] = FARS) -> Verification:
    """Verify pairs in folds.

    scores: float (n,). same: bool (n,). folds: (n,), the fold of each pair. fars: rates at which TAR is measured.
    Raises DataError for fewer than two folds, or a fold with pairs of one kind only.
    """
    curve, names = roc(scores, same), np.unique(folds)
    if folds.shape != scores.shape or len(names) < 2:
        raise DataError(f"expected two folds or more, received {len(names)}: give pairs in folds")
    if lacking := [name for name in names if len(np.unique(same[folds == name])) < 2]:
        raise DataError(
            f"expected pairs of one person and of two in every fold, fold {lacking[0]} has one kind: check the pairs"
        )
    accepted = 2 - 2 * scores[:, None] < DISTANCES  # (n, 400)
    thresholds, right = np.empty(len(names)), np.empty(len(scores), bool)
    for i, name in enumerate(names):
        tested = folds == name
        best = (accepted[~tested] == same[~tested, None]).mean(axis=0).argmax()
        thresholds[i], right[tested] = 1 - DISTANCES[best] / 2, accepted[tested, best] == same[tested]
    accuracies = np.array([right[folds == name].mean() for name in names])
    return Verification(accuracies, thresholds, right, tuple(_tar_at(far, scores, same, folds) for far in fars), curve)


def _tar_at(asked: float, scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> TarAtFar:
    tars, fars = [], []
    for name in np.unique(folds):
        tested = folds == name
        accepted = scores >= threshold_at(scores[~tested & ~same], asked)
        tars.append(accepted[tested & same].mean())
        fars.append(accepted[tested & ~same].mean())
    return TarAtFar(asked, float(np.mean(tars)), float(np.std(tars)), float(np.mean(fars)))


def compare_folds(first: Verification, second: Verification) -> Paired:
    """Compare two systems on the same pairs, each with its own thresholds; the interval draws pairs."""
    return compare(first.right, second.right, np.arange(len(first.right)))
