"""The gate: whether a network tells people apart who were held out of training, better than it did and than others do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegallery.indexer.metrics import mcnemar, nearest_people, threshold_at

MOST_JUDGED = 2000  # photos whose pairs are scored
FAR, SOFTNESS = 0.01, 0.5  # softness: in deviations of the scores of two people
CHANCE = 0.05


@dataclass(frozen=True)
class Judged:
    """What photos of people who were not trained on say of a network."""

    hits: np.ndarray  # bool: of each photo but a person's first, whether the nearest first one is their person's
    tar: float  # `soft_tar`

    @property
    def top1(self) -> float:
        return float(self.hits.mean())


def judge(vectors: np.ndarray, labels: np.ndarray) -> Judged:
    """Unit vectors (n, d) and whose they are (n,)."""
    return Judged(hits(vectors, labels), soft_tar(vectors[:MOST_JUDGED], labels[:MOST_JUDGED]))


def is_kept(new: Judged, best: float, before: np.ndarray) -> bool:
    """Whether its soft TAR is above the best one so far, and its hits are no fewer than before training, beyond chance (McNemar)."""
    lost, won, p = mcnemar(before, new.hits)
    return new.tar > best and (lost <= won or p >= CHANCE)


def hits(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool: of each photo but a person's first, whether the nearest first one (cosine) is their person's."""
    _, first = np.unique(labels, return_index=True)
    rest = np.setdiff1d(np.arange(len(labels)), first)
    nearest, _ = nearest_people(vectors[first], labels[first], vectors[rest], 1)
    return nearest[:, 0] == labels[rest]


def soft_tar(vectors: np.ndarray, labels: np.ndarray) -> float:
    """True accept rate at FAR over all pairs, softened, so that few people show small changes; 0 where all are of one person, or none twice.

    A pair of one person counts by a logistic function of how far its cosine lies above the threshold, in SOFTNESS deviations of the
    cosines of two people, and each person counts alike.
    """
    first, second = np.triu_indices(len(labels), 1)
    scores, same = (vectors @ vectors.T)[first, second], labels[first] == labels[second]
    if same.all() or not same.any():
        return 0.0
    genuine, impostor = scores[same].astype(np.float64), scores[~same]
    accepted = 1 / (1 + np.exp((threshold_at(impostor, FAR) - genuine) / (SOFTNESS * impostor.std() + 1e-9)))
    _, whose = np.unique(labels[first][same], return_inverse=True)
    return float(np.mean(np.bincount(whose, accepted) / np.bincount(whose)))
