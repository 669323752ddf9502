"""Judge whether a network tells people apart who were held out of training, better than before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegallery.indexer.metrics import mcnemar, nearest_people, threshold_at

MOST_JUDGED = 2000  # photos of which pairs are scored
FAR, SOFTNESS = 0.01, 0.5  # false accept rate; softness in deviations of the scores of two people
CHANCE = 0.05  # level of McNemar's test


@dataclass(frozen=True)
class Judged:
    """The figures of a network on photos of people who were not trained on.

    hits: bool, for each photo but the first of each person, whether the nearest of the first photos is the person's.
    tar: `soft_tar`.
    """

    hits: np.ndarray
    tar: float

    @property
    def top1(self) -> float:
        """The share of hits."""
        return float(self.hits.mean())


def judge(vectors: np.ndarray, labels: np.ndarray) -> Judged:
    """Judge unit vectors (n, d) of people with labels (n,)."""
    return Judged(hits(vectors, labels), soft_tar(vectors[:MOST_JUDGED], labels[:MOST_JUDGED]))


def is_kept(new: Judged, best: float, before: np.ndarray) -> bool:
    """Whether weights are better than the best so far.

    Their soft TAR must be above `best`, and their hits no fewer than `before` training, beyond chance (McNemar).
    """
    lost, won, p = mcnemar(before, new.hits)
    return new.tar > best and (lost <= won or p >= CHANCE)


def hits(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the `hits` of `Judged` by cosine."""
    _, first = np.unique(labels, return_index=True)
    rest = np.setdiff1d(np.arange(len(labels)), first)
    nearest, _ = nearest_people(vectors[first], labels[first], vectors[rest], 1)
    return nearest[:, 0] == labels[rest]


def soft_tar(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Return the true accept rate at FAR over all pairs, softened, so that few people show small changes.

    A pair of one person counts by a logistic function of the distance of its cosine from the threshold. The distance is
    in SOFTNESS deviations of the cosines of two people. Each person counts alike. The rate is 0 where all photos are of
    one person, or nobody has two.
    """
    first, second = np.triu_indices(len(labels), 1)
    scores, same = (vectors @ vectors.T)[first, second], labels[first] == labels[second]
    if same.all() or not same.any():
        return 0.0
    genuine, impostor = scores[same].astype(np.float64), scores[~same]
    accepted = 1 / (1 + np.exp((threshold_at(impostor, FAR) - genuine) / (SOFTNESS * impostor.std() + 1e-9)))
    _, person = np.unique(labels[first][same], return_inverse=True)
    return float(np.mean(np.bincount(person, accepted) / np.bincount(person)))
