"""Parts of a gallery with the same probes: fewer people, or fewer photos of each.

All vectors are in memory, and every pair is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.evaluation import openset
from facegallery.indexer.evaluation.openset import OpenSet, Rate
from facegallery.indexer.metrics import cmc, cmc_intervals, hits_at, nearest_people, ranks_of
from facegallery.indexer.search.pooling import pool
from facegallery.indexer.search.question import ANSWERS, SCORES


@dataclass(frozen=True)
class ProbePhotos:
    """Vectors float32 (m, d) of unit length, and names (n,), n >= m; photos beyond the m-th have no face."""

    xb: np.ndarray
    names: np.ndarray

    def of(self, people: np.ndarray) -> ProbePhotos:
        """Return the photos of some people."""
        kept = np.isin(self.names, people)
        return ProbePhotos(self.xb[kept[: len(self.xb)]], self.names[kept])


@dataclass(frozen=True)
class ProbeOutcome:
    """Figures of one part of the gallery."""

    people: int
    faces: int
    probes: int
    top1: float
    top1_interval: tuple[float, float]  # 95 %, over people
    top5: float
    rates: tuple[Rate, ...]  # empty without strangers
    photos: int | None = None  # at most, of a person
    score: str = "best"


def by_size(
    gallery: ProbePhotos,
    probes: ProbePhotos,
    strangers: ProbePhotos,
    sizes: Sequence[int],
    score: str = "best",
    seed: int = 0,
) -> list[ProbeOutcome]:
    """Evaluate galleries of random people, `sizes` many; each size contains the smaller ones.

    Each is asked the probes of its people, and the same strangers. Raises InputError for a size beyond the gallery,
    DataError for a size without probes.
    """
    people = np.unique(gallery.names)
    if not all(1 <= size <= len(people) for size in sizes):
        raise InputError(
            f"expected gallery sizes of 1 to {len(people)} people, received {', '.join(map(str, sizes))}: give others"
        )
    order = np.random.default_rng(seed).permutation(people)
    found = []
    for size in sizes:
        if not len((asked := probes.of(order[:size])).names):
            raise DataError(
                f"expected probes of some of {size} people, drawn at random, received none: give a larger size"
            )
        found.append(_identify(gallery.of(order[:size]), asked, strangers, score, seed))
    return found


def by_photos(
    gallery: ProbePhotos, probes: ProbePhotos, strangers: ProbePhotos, counts: Sequence[int], seed: int = 0
) -> list[ProbeOutcome]:
    """Evaluate the gallery with at most `counts` photos a person, the first by name.

    All counts are asked the same probes: those of people with the largest number of photos. A person is scored by the
    best photo, the mean over the photos, and the template. Raises InputError for counts without such probes.
    """
    names, photos = np.unique(gallery.names, return_counts=True)
    if min(counts) < 1 or not len((asked := probes.of(names[photos >= max(counts)])).names):
        raise InputError(
            f"expected numbers of photos from 1 up to {photos.max()}, with probes of people who have as many, "
            f"received {', '.join(map(str, counts))}: give smaller ones, or enrol more photos a person"
        )
    number = _numbers(gallery.names)
    found = []
    for count in counts:
        part = ProbePhotos(gallery.xb[number < count], gallery.names[number < count])
        for score in SCORES if count > 1 else SCORES[:1]:
            found.append(_identify(part, asked, strangers, score, seed, count))
    return found


def _numbers(names: np.ndarray) -> np.ndarray:
    """Return which photo of its person each is, from 0, in their order, int (n,)."""
    _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    numbers = np.empty(len(names), np.intp)
    numbers[order] = np.arange(len(names)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


def pooled(gallery: ProbePhotos, score: str) -> ProbePhotos:
    """Return one vector a person, whose product with a probe is the score; for `best`, every face."""
    if score == "best":
        return gallery
    people, codes, counts = np.unique(gallery.names, return_inverse=True, return_counts=True)
    totals = np.zeros((len(people), gallery.xb.shape[1]))
    np.add.at(totals, codes, gallery.xb)
    return ProbePhotos(pool(totals, counts, score), people)


def _identify(
    gallery: ProbePhotos, probes: ProbePhotos, strangers: ProbePhotos, score: str, seed: int, photos: int | None = None
) -> ProbeOutcome:
    ranked, scores = _answers(pooled(gallery, score), probes)
    ranks = ranks_of(hits_at(ranked, probes.names))
    rates: Sequence[Rate] = ()
    if len(strangers.names):
        genuine = np.where(ranks == 1, scores, -np.inf)
        best = _answers(pooled(gallery, score), strangers)[1]
        rates = openset.rates(OpenSet(genuine, probes.names, best, strangers.names), seed=seed)
    people, (low, high) = len(np.unique(gallery.names)), cmc_intervals(ranks, probes.names, 1, seed)[0].tolist()
    top1, *_, top5 = cmc(ranks, ANSWERS).tolist()
    return ProbeOutcome(people, len(gallery.xb), len(ranks), top1, (low, high), top5, tuple(rates), photos, score)


def _answers(gallery: ProbePhotos, probes: ProbePhotos) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ANSWERS people for each probe, object (n, k), and the best score, float32 (n,).

    Without a face they are None and -inf.
    """
    ranked = np.full((len(probes.names), ANSWERS), None, object)
    scores = np.full(len(probes.names), -np.inf, np.float32)
    if m := len(probes.xb):
        people, found = nearest_people(gallery.xb, gallery.names, probes.xb, ANSWERS)
        ranked[:m, : people.shape[1]], scores[:m] = people, found[:, 0]
    return ranked, scores


def photos_of(
    vectors: Iterator[tuple[str, np.ndarray | None]] | Sequence[tuple[str, np.ndarray | None]], dimension: int
) -> ProbePhotos:
    """Return the photos of names and vectors; a vector is None where a photo has no face."""
    listed = list(vectors)
    faces = [(name, x) for name, x in listed if x is not None]
    names = [name for name, _ in faces] + [name for name, x in listed if x is None]
    xb = np.stack([x for _, x in faces]).astype(np.float32) if faces else np.empty((0, dimension), np.float32)
    return ProbePhotos(xb, np.array(names, object))
