"""Error versus discard: how many people are missed when the probes of lowest quality are refused (NIST FATE quality).

The threshold is that of an FPIR over all strangers, before any are refused. FNIR is 1 - DIR: the share of the probes of
enrolled people for whom the true person is not first, or is below the threshold. Probes without a face have no quality:
they are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import InputError
from facegallery.indexer.evaluation.evaluate import Evaluation, ProbeAnswer
from facegallery.indexer.metrics import share_intervals, threshold_at

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Discard:
    """What is left when the worst probes are refused."""

    share: float  # of the probes to refuse
    refused: int
    quality: float | None  # the lowest that is left; None where nothing is left
    fnir: float
    interval: tuple[float, float]  # 95 %, over people
    fpir: float | None  # of the strangers of at least that quality; None where there are none


@dataclass(frozen=True)
class Asked:
    """Photos that were asked about, each with a face.

    scores: float32 (n,), the best; of an enrolled person -inf where another comes first. people: (n,), the person of
    each. quality: float (n,), 0 to 1.
    """

    scores: np.ndarray
    people: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True)
class ErrorVersusDiscard:
    """What refusing probes of low quality wins."""

    fpir: float
    threshold: float
    probes: int  # of enrolled people, with a face
    strangers: int  # with a face
    without_face: int  # probes of enrolled people that are left out
    rows: tuple[Discard, ...]


def by_quality(answers: Evaluation, fpir: float = 0.01) -> ErrorVersusDiscard:
    """Return the table of an evaluation whose answers have their quality.

    Raises InputError where no strangers were asked about, or no probe has a face.
    """
    asked = answers.open_set
    probes = [i for i, answer in enumerate(answers.probes) if answer.quality is not None]
    strangers = [i for i, answer in enumerate(answers.strangers) if answer.quality is not None]
    if asked is None or not probes:
        raise InputError(
            "expected probes with a face and photos of strangers for --quality, received none: give --strangers"
        )
    threshold = threshold_at(asked.strangers, fpir)
    rows = discards(
        Asked(asked.genuine[probes], asked.people[probes], _qualities(answers.probes, probes)),
        Asked(asked.strangers[strangers], asked.stranger_people[strangers], _qualities(answers.strangers, strangers)),
        threshold,
        seed=answers.seed,
    )
    return ErrorVersusDiscard(
        fpir, threshold, len(probes), len(strangers), len(answers.probes) - len(probes), tuple(rows)
    )


def _qualities(answers: Sequence[ProbeAnswer], which: Sequence[int]) -> np.ndarray:
    return np.array([answers[i].quality for i in which], float)


def discards(
    probes: Asked, strangers: Asked, threshold: float, shares: Sequence[float] = SHARES, seed: int = 0
) -> list[Discard]:
    """Return FNIR when each share of the probes is refused, those of lowest quality; of equal ones the first."""
    order, found = np.argsort(probes.quality, kind="stable"), []
    for share in shares:
        refused = round(share * len(order))
        left = order[refused:]
        lowest = float(probes.quality[left[0]]) if len(left) else None
        missed = (probes.scores[left] < threshold)[:, None]
        low, high = share_intervals(missed, probes.people[left], seed)[0].tolist() if len(left) else (0.0, 1.0)
        kept = strangers.scores[strangers.quality >= (0.0 if lowest is None or not refused else lowest)]
        fpir = float((kept >= threshold).mean()) if len(kept) else None
        found.append(Discard(share, refused, lowest, float(missed.mean()) if len(left) else 0.0, (low, high), fpir))
    return found
