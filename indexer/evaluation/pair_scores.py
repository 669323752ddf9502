"""Scores of pairs of a probe and an enrolled face, for a ROC curve. All vectors are in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from facegallery.indexer.evaluation.subsets import ProbePhotos
from facegallery.indexer.evaluation.verification import Roc, roc

MOST = 1 << 22  # pairs of a kind, at most; of more, as many are drawn
FARS = (1e-4, 1e-3, 1e-2, 1e-1)
BLOCK = 1 << 16


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs of a probe and an enrolled face, or a person's pooled vector.

    The score is -inf where the probe has no face.
    """

    same: np.ndarray  # float32 (n,): of one person
    different: np.ndarray  # float32 (m,)
    drawn: bool  # whether these are a sample of all pairs

    @cached_property
    def roc(self) -> Roc:
        """ROC curve of the pairs."""
        kinds = np.repeat([True, False], [len(self.same), len(self.different)])
        return roc(np.concatenate([self.same, self.different]), kinds)

    def result(self) -> dict[str, Any]:
        """Return the figures as `evaluate --json` prints them.

        TAR is given at those FARs for which there are enough pairs of different people.
        """
        fars = [far for far in FARS if far * len(self.different) >= 1]
        return {
            "same": len(self.same),
            "different": len(self.different),
            "drawn": self.drawn,
            "auc": self.roc.auc,
            "eer": self.roc.eer,
            "tar": [{"far": far, "tar": self.roc.tar_at(far)} for far in fars],
        }


def crossed(gallery: ProbePhotos, probes: ProbePhotos, seed: int = 0, most: int = MOST) -> PairScores | None:
    """Return scores of pairs of each probe and each enrolled face; None without pairs of both kinds.

    Of more than `most` pairs of one person, or of two people, about `most` are drawn.
    """
    rng = np.random.default_rng(seed)
    numbers = np.unique(np.concatenate([gallery.names, probes.names]), return_inverse=True)[1]
    gallery, probes = (
        ProbePhotos(gallery.xb, numbers[: len(gallery.names)]),
        ProbePhotos(probes.xb, numbers[len(gallery.names) :]),
    )
    same, all_same = _same(gallery, probes, rng, most)
    different, all_different = _different(gallery, probes, rng, most)
    if not len(same) or not len(different):
        return None
    return PairScores(same, different, not (all_same and all_different))


def _same(gallery: ProbePhotos, probes: ProbePhotos, rng: np.random.Generator, most: int) -> tuple[np.ndarray, bool]:
    """Return scores of pairs of one person, and whether these are all pairs; otherwise drawn with replacement."""
    order = np.argsort(gallery.names, kind="stable")
    first, last = (np.searchsorted(gallery.names[order], probes.names, side) for side in ("left", "right"))
    ends = np.cumsum(last - first)  # numbers of pairs, probe after probe
    total = int(ends[-1]) if len(ends) else 0
    pairs = np.arange(total) if total <= most else np.sort(rng.integers(0, total, most))
    scores = np.full(len(pairs), -np.inf, np.float32)
    for i in range(0, len(pairs), BLOCK):
        block = pairs[i : i + BLOCK]
        probe = np.searchsorted(ends, block, "right")
        face, seen = order[last[probe] - (ends[probe] - block)], probe < len(probes.xb)
        scores[i : i + BLOCK][seen] = np.einsum("nd,nd->n", probes.xb[probe[seen]], gallery.xb[face[seen]])
    return scores, total <= most


def _different(
    gallery: ProbePhotos, probes: ProbePhotos, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, bool]:
    """Return scores of pairs of two people, and whether these are all pairs.

    Otherwise each probe meets the same enrolled faces, drawn without replacement.
    """
    n, step = len(gallery.names), max(1, most // max(1, len(probes.names)))
    kept = np.arange(n) if n <= step else np.sort(rng.choice(n, step, replace=False))
    scores = np.full((len(probes.names), len(kept)), -np.inf, np.float32)
    scores[: len(probes.xb)] = probes.xb @ gallery.xb[kept].T
    return scores[probes.names[:, None] != gallery.names[kept]], n <= step
