"""Open-set identification: find enrolled people, and take no stranger for one of them (NIST FRTE 1:N).

FPIR    share of strangers' photos whose best score reaches the threshold (false-positive identification rate)
DIR     share of probes of enrolled people with the true person first and at the threshold: detection and identification
        rate, rank 1 (Phillips, Grother, Micheals, Handbook of Face Recognition, chapter 21); 1 - FNIR of NIST

A photo without a face has a score of -inf: a miss for an enrolled person, and below every threshold for a stranger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import DataError
from facegallery.indexer.metrics import EDGE, RESAMPLES, difference_interval_of_one, threshold_at, wilson

FPIRS = (0.003, 0.01, 0.1)
DRAWS = 10**8  # people drawn for an interval: 10,000 resamples of 10,000 people, fewer of more
LEAST_RESAMPLES = 200
BLOCK_DRAWS = 1 << 21


@dataclass(frozen=True)
class OpenSet:
    """Answers of one system to probes of enrolled people and to strangers."""

    genuine: np.ndarray  # float32 (g,): the true person's score where they come first, else -inf
    people: np.ndarray  # (g,): the person of each probe
    strangers: np.ndarray  # float32 (s,): the best score of each
    stranger_people: np.ndarray  # (s,)

    def __post_init__(self) -> None:
        for scores, people in ((self.genuine, self.people), (self.strangers, self.stranger_people)):
            if scores.ndim != 1 or scores.shape != people.shape or not len(scores) or np.isnan(scores).any():
                raise DataError(
                    f"expected a score and a person for each probe and stranger, "
                    f"received {scores.shape} and {people.shape}, or NaN: "
                    "give probes of enrolled people and photos of strangers"
                )


@dataclass(frozen=True)
class Rate:
    """DIR at one FPIR."""

    fpir: float  # requested
    threshold: float
    false_positives: int  # strangers' photos that reach it: at most fpir * strangers
    dir: float
    interval: tuple[float, float]  # 95 %, over enrolled people and strangers; the gallery is fixed


def rates(answers: OpenSet, fpirs: Sequence[float] = FPIRS, seed: int = 0, resamples: int = RESAMPLES) -> list[Rate]:
    """Return the DIR at each FPIR, with 95 % intervals.

    At an FPIR below 1 / strangers, no stranger may reach the threshold: their number then limits the claim.
    """
    found, n = [], len(np.unique(answers.people))
    for fpir, drawn in zip(fpirs, resampled([answers], fpirs, seed, resamples)[0].T, strict=True):
        threshold = threshold_at(answers.strangers, fpir)
        hits = answers.genuine >= threshold
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        if hits.all() or not hits.any() or n == 1:  # a bootstrap of these people has no width
            low, high = wilson(n * float(hits.mean()), n)
        found.append(
            Rate(float(fpir), threshold, int((answers.strangers >= threshold).sum()), float(hits.mean()), (low, high))
        )
    return found


def dir_at(answers: OpenSet, fpir: float) -> float:
    """Return the DIR at one FPIR, without its interval."""
    return float((answers.genuine >= threshold_at(answers.strangers, fpir)).mean())


def curve(answers: OpenSet) -> tuple[np.ndarray, np.ndarray]:
    """Return FPIR and DIR, float (m,) each, rising.

    Where FPIR rises, DIR is what `dir_at` returns for it.
    """
    scores = np.unique(answers.strangers)[::-1]
    strangers, genuine = np.sort(answers.strangers), np.sort(answers.genuine)
    fpir = 1 - np.searchsorted(strangers, scores, "left") / len(strangers)
    return fpir, 1 - np.searchsorted(genuine, np.append(scores[1:], -np.inf), "right") / len(genuine)


@dataclass(frozen=True)
class Difference:
    """DIR of a second system less that of a first, each at its own threshold for the same FPIR."""

    fpir: float
    first: float
    second: float
    interval: tuple[float, float]  # 95 %, of second - first, with the same people and strangers drawn for both


def compare(
    first: OpenSet, second: OpenSet, fpirs: Sequence[float] = FPIRS, seed: int = 0, resamples: int = RESAMPLES
) -> list[Difference]:
    """Compare two systems by a paired bootstrap on the same probes and strangers, in the same order in both.

    Raises DataError where the probes or strangers differ.
    """
    for a, b in ((first.people, second.people), (first.stranger_people, second.stranger_people)):
        if a.shape != b.shape or (a != b).any():
            raise DataError(
                f"expected the same probes and strangers for both systems, received {a.shape} and {b.shape}: "
                "give both the same"
            )
    one, other = resampled([first, second], fpirs, seed, resamples)
    low, high = np.quantile(other - one, [0.025, 0.975], axis=0).tolist()
    alone = len(np.unique(first.people)) == 1
    found = []
    for fpir, interval in zip(fpirs, zip(low, high, strict=True), strict=True):
        before, after = dir_at(first, fpir), dir_at(second, fpir)
        found.append(
            Difference(float(fpir), before, after, difference_interval_of_one(after - before) if alone else interval)
        )
    return found


def resampled(
    systems: Sequence[OpenSet], fpirs: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """Return DIR on resampled people and strangers, float (systems, resamples, fpirs).

    All systems were asked the same. People are drawn with all of their photos.
    """
    enrolled, strangers = (
        np.unique(p, return_inverse=True)[1] for p in (systems[0].people, systems[0].stranger_people)
    )
    n, s = enrolled.max() + 1, strangers.max() + 1
    resamples = min(resamples, max(LEAST_RESAMPLES, DRAWS // (n + s)))
    rng, step = np.random.default_rng(seed), max(1, BLOCK_DRAWS // max(len(enrolled), len(strangers)))
    found = np.empty((len(systems), resamples, len(fpirs)))
    for i in range(0, resamples, step):
        b = min(step, resamples - i)
        of_people, of_strangers = _drawn(n, b, rng), _drawn(s, b, rng)
        for k, system in enumerate(systems):
            thresholds = _thresholds(system.strangers, of_strangers, strangers, fpirs)
            found[k, i : i + b] = _dirs(system.genuine, of_people, enrolled, thresholds)
    return found


def _drawn(n: int, b: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n people is among n drawn with replacement, b times, int (b, n)."""
    drawn = rng.integers(0, n, (b, n), np.int32).astype(np.int64)
    return np.bincount((drawn + n * np.arange(b)[:, None]).ravel(), minlength=b * n).reshape(b, n)


def _thresholds(scores: np.ndarray, times: np.ndarray, people: np.ndarray, fpirs: Sequence[float]) -> np.ndarray:
    """Return `threshold_at` of scores (s,) that count as often as their person was drawn, float32 (b, fpirs).

    times: int (b, p). people: int (s,), the person of each score.
    """
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(times[:, people[order]], axis=1)  # (b, s)
    allowed = np.floor(np.outer(reached[:, -1], fpirs) + EDGE)
    first_below = np.stack([(reached > a[:, None]).argmax(axis=1) for a in allowed.T], axis=1)
    return np.nextafter(scores[order][first_below].astype(np.float32), np.float32(np.inf))


def _dirs(genuine: np.ndarray, times: np.ndarray, people: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the weighted share of genuine (g,) at or above thresholds (b, fpirs), float (b, fpirs)."""
    order = np.argsort(-genuine, kind="stable")
    reached = np.cumsum(times[:, people[order]], axis=1)
    reached = np.concatenate([np.zeros_like(reached[:, :1]), reached], axis=1)  # (b, 1 + g)
    above = np.searchsorted(-genuine[order], -thresholds, "right")
    return np.take_along_axis(reached, above, axis=1) / reached[:, -1:]
