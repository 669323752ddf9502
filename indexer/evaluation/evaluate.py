"""Evaluating a gallery by its answers to probes: closed set, open set, by group, against another gallery.

`Evaluation` holds one answer a probe, and no vectors unless requested, so that millions of probes fit in memory. The
file of predictions is written here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError
from facegallery.embedder.names import spelling, spelling_notes
from facegallery.embedder.replaceable import write_own
from facegallery.embedder.text import printable
from facegallery.indexer.evaluation import openset
from facegallery.indexer.evaluation.openset import Difference, OpenSet, Rate
from facegallery.indexer.metrics import Paired, cmc, cmc_intervals, compare, reciprocal_ranks, share_intervals
from facegallery.indexer.search.question import ANSWERS
from facegallery.indexer.search.searcher import Hit
from facegallery.indexer.store.store import Store

RANKS = 20  # answers to a probe: the length of the CMC curve
MISSED = -np.inf


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Answer to one photo."""

    image: str
    photo: str  # the hash of its bytes, which matches the answers of two galleries
    face_id: str
    identity: str | None  # the true person, NFC
    embedded: bool  # False where no face was found
    hits: tuple[Hit, ...]  # the first ANSWERS
    right: Hit | None  # the true person's, if among the first RANKS
    group: str | None = None
    vector: np.ndarray | None = None  # float32 (d,), where it is kept
    quality: float | None = None  # of the face, where it was asked for

    @classmethod
    def of(
        cls,
        row: Row,
        hits: Sequence[Hit],
        *,
        by: str | None = None,
        keep_vector: bool = False,
        quality: float | None = None,
        spelled: Callable[[str], str] = spelling,
    ) -> ProbeAnswer:
        """Return the answer to a probe's row, given its first RANKS hits.

        by: the user's column that is the group. keep_vector: keep the vector of the row. quality: of the face.
        spelled: maps a name to the gallery's spelling.
        """
        identity = spelled(row.identity) or None if row.identity else None
        right = next((hit for hit in hits if hit.identity == identity), None)
        group = row.extra.get(by) if by else None
        vector = np.asarray(row.vector, np.float32) if keep_vector and row.vector is not None else None
        photo = row.image_sha256 or row.image
        seen, first = row.vector is not None, tuple(hits[:ANSWERS])
        return cls(row.image, photo, row.face_id, identity, seen, first, right, group, vector, quality)

    @property
    def rank(self) -> int:
        """The true person's rank, from 1; 0 where they are not among the answers."""
        return self.right.rank if self.right else 0

    @property
    def best(self) -> float:
        """The best score; MISSED without hits."""
        return self.hits[0].score if self.hits else MISSED

    @property
    def impostor(self) -> float:
        """The best score of another person."""
        return next((hit.score for hit in self.hits if hit.identity != self.identity), MISSED)

    @property
    def person(self) -> str:
        """The person in the photo; a photo without a name is a person of its own."""
        return self.identity or f"\0{self.image}"


@dataclass(frozen=True)
class Evaluation:
    """Answers to probes of enrolled people, and to strangers.

    Arrays are in the order of `probes` and `strangers`.
    """

    probes: Sequence[ProbeAnswer]
    strangers: Sequence[ProbeAnswer]
    people: int  # enrolled
    seed: int = 0

    @classmethod
    def of(
        cls, store: Store, found: Sequence[ProbeAnswer], strangers: Sequence[ProbeAnswer] = (), seed: int = 0
    ) -> Evaluation:
        """Sort answers into probes of enrolled people and strangers.

        found: answers to probes. Probes of people who are not enrolled become strangers; probes without a name are left
        out. strangers: answers to more photos, which count unless the person is enrolled. Raises DataError where no
        probe is of an enrolled person.
        """
        enrolled = store.enrolled([a.identity for a in (*found, *strangers) if a.identity])
        probes = [a for a in found if a.identity in enrolled]
        others = [a for a in found if a.identity and a.identity not in enrolled]
        others += [a for a in strangers if a.identity not in enrolled]
        if not probes:
            notes = spelling_notes([a.identity for a in found if a.identity], [name for name, _ in store.list_people()])
            raise DataError(
                f"expected probes of people enrolled in {store.folder.name}, none of {len(found)} is: "
                "check the folder and --split" + "".join(f"; {note}" for note in notes)
            )
        return cls(probes, others, store.people, seed)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Rank of the true person, int (n,); 0 where they are not among the first RANKS."""
        return np.array([a.rank for a in self.probes])

    @cached_property
    def owners(self) -> np.ndarray:
        """Number of the person of each probe, int (n,)."""
        return _numbered(a.person for a in self.probes)

    @property
    def genuine(self) -> np.ndarray:
        """Scores of the true people, float (n,); -inf where they are not among the first RANKS."""
        return np.array([a.right.score if a.right else MISSED for a in self.probes])

    @property
    def impostors(self) -> np.ndarray:
        """Best scores of other people, float (n,)."""
        return np.array([a.impostor for a in self.probes])

    @cached_property
    def open_set(self) -> OpenSet | None:
        """Scores for open-set identification; None without strangers."""
        if not self.strangers:
            return None
        genuine = np.array([a.best if a.rank == 1 else MISSED for a in self.probes], np.float32)
        strangers = np.array([a.best for a in self.strangers], np.float32)
        return OpenSet(genuine, self.owners, strangers, _numbered(a.person for a in self.strangers))

    @cached_property
    def rates(self) -> list[Rate]:
        """DIR at each FPIR; empty without strangers."""
        return openset.rates(self.open_set, seed=self.seed) if self.open_set else []

    @cached_property
    def cmc(self) -> np.ndarray:
        """CMC, float (k,); k is at most RANKS and the number of people."""
        return cmc(self.ranks, min(RANKS, self.people))

    @cached_property
    def cmc_intervals(self) -> np.ndarray:
        """95 % intervals of `cmc`, float (k, 2)."""
        return cmc_intervals(self.ranks, self.owners, len(self.cmc), self.seed)

    def mistakes(self, n: int) -> list[ProbeAnswer]:
        """Return the n worst mistakes: another person is first, furthest above the true person.

        A true person beyond RANKS counts with the score of the last answer.
        """
        wrong = [a for a in self.probes if a.hits and a.rank != 1]
        return sorted(wrong, key=lambda a: (a.right or a.hits[-1]).score - a.best)[:n]

    def result(self) -> dict[str, Any]:
        """Return the figures as `evaluate --json` prints them."""
        mrr = reciprocal_ranks(self.ranks)
        mrr_interval = share_intervals(mrr[:, None], self.owners, self.seed)[0].tolist()
        at = {k: min(k, len(self.cmc)) - 1 for k in (1, ANSWERS)}
        result: dict[str, Any] = {f"top{k}": float(self.cmc[i]) for k, i in at.items()}
        result |= {f"top{k}_interval": self.cmc_intervals[i].tolist() for k, i in at.items()}
        result |= {"cmc": self.cmc.tolist(), "cmc_interval": self.cmc_intervals.tolist()}
        result |= {
            "mrr": float(mrr.mean()),
            "mrr_interval": mrr_interval,
            "probes": len(self.probes),
            "people": self.people,
        }
        result |= {
            "people_asked": int(self.owners.max()) + 1,
            "without_vector": sum(not a.embedded for a in self.probes),
        }
        return result | {"open_set": self._open_set_result()}

    def _open_set_result(self) -> dict[str, Any] | None:
        if self.open_set is None:
            return None
        people = int(self.open_set.stranger_people.max()) + 1
        without = sum(not a.embedded for a in self.strangers)
        return {
            "strangers": len(self.strangers),
            "people": people,
            "without_vector": without,
            "rates": [asdict(r) for r in self.rates],
        }


def _numbered(names: Iterable[str]) -> np.ndarray:
    """Return the number of each name, int (n,), in the order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


# by group -------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Figures of the probes and strangers with one value in the user's column.

    Thresholds are those of all strangers.
    """

    value: str | None
    probes: int
    top1: float | None  # None without probes
    top1_interval: tuple[float, float] | None  # 95 %, over people
    top5: float | None
    strangers: int
    rates: tuple[GroupRate, ...]


@dataclass(frozen=True)
class GroupRate:
    """DIR and FPIR of a group at one threshold."""

    fpir: float  # of all strangers
    dir: float | None
    group_fpir: float | None  # of the group's own strangers


def by_group(evaluation: Evaluation) -> list[Group]:
    """Return a line for each value of the column that the answers were made with.

    As in NIST FRVT part 3, all groups share one threshold.
    """
    values = {a.group for a in (*evaluation.probes, *evaluation.strangers)}
    return [_group(evaluation, value) for value in sorted(values, key=lambda v: (v is None, v or ""))]


def _group(evaluation: Evaluation, value: str | None) -> Group:
    of_probes = np.array([a.group == value for a in evaluation.probes])
    of_strangers = np.array([a.group == value for a in evaluation.strangers], bool)
    ranks, top1, interval, top5 = evaluation.ranks[of_probes], None, None, None
    if len(ranks):
        top1, *_, top5 = cmc(ranks, ANSWERS).tolist()
        low, high = cmc_intervals(ranks, evaluation.owners[of_probes], 1, evaluation.seed)[0].tolist()
        interval = low, high
    lines = []
    if evaluation.open_set is not None:
        genuine, strangers = evaluation.open_set.genuine[of_probes], evaluation.open_set.strangers[of_strangers]
        lines = [
            GroupRate(r.fpir, _share(genuine >= r.threshold), _share(strangers >= r.threshold))
            for r in evaluation.rates
        ]
    return Group(value, int(of_probes.sum()), top1, interval, top5, int(of_strangers.sum()), tuple(lines))


def _share(reached: np.ndarray) -> float | None:
    return float(reached.mean()) if len(reached) else None


# beside another gallery -----------------------------------------------------


@dataclass(frozen=True)
class ModelComparison:
    """Answers of a second gallery against the first, on the photos that both were asked about."""

    probes: int
    strangers: int
    left_out: int  # probes and strangers of the first that the second was not asked, or does not have the people of
    top1: Paired
    top5: Paired
    dir: tuple[Difference, ...]


def compare_evaluations(first: Evaluation, second: Evaluation) -> ModelComparison:
    """Compare two evaluations on common photos, matched by their bytes and the person's name.

    Raises DataError where no probe is common.
    """
    probes, strangers = _matched(first.probes, second.probes), _matched(first.strangers, second.strangers)
    if not probes:
        raise DataError(
            "expected probes that both galleries were asked about, found none in common: "
            "give the same photos, or vectors of them"
        )
    one, other = (
        Evaluation([pair[i] for pair in probes], [pair[i] for pair in strangers], e.people, first.seed)
        for i, e in enumerate((first, second))
    )
    tops = [compare(_within(one.ranks, k), _within(other.ranks, k), one.owners, first.seed) for k in (1, ANSWERS)]
    differences = (
        openset.compare(one.open_set, other.open_set, seed=first.seed) if one.open_set and other.open_set else []
    )
    left_out = len(first.probes) + len(first.strangers) - len(probes) - len(strangers)
    return ModelComparison(len(probes), len(strangers), left_out, tops[0], tops[1], tuple(differences))


def _matched(first: Sequence[ProbeAnswer], second: Sequence[ProbeAnswer]) -> list[tuple[ProbeAnswer, ProbeAnswer]]:
    others = {(a.photo, a.identity): a for a in second}
    return [(a, b) for a in first if (b := others.get((a.photo, a.identity))) is not None]


def _within(ranks: np.ndarray, k: int) -> np.ndarray:
    return (ranks > 0) & (ranks <= k)


# predictions ----------------------------------------------------------------


def predictions(found: Iterable[ProbeAnswer], result: dict[str, Any]) -> str:
    """Return predictions as text, with a line for each probe.

    A line is `image<TAB>true name` and up to five times `<TAB>name score`; the last lines are `top1 0.9542` and `top5
    0.9875`. Strangers and photos without a name, which do not count, have lines, too. Control characters of names are
    escaped.
    """
    lines = []
    for answer in found:
        cells = [answer.image, answer.identity or "", *(f"{hit.identity} {hit.score:.6f}" for hit in answer.hits)]
        lines.append("\t".join(map(printable, cells)))
    lines += [f"top{k} {result[f'top{k}']:.4f}" for k in (1, ANSWERS)]
    return "\n".join(lines) + "\n"


def write_predictions(path: Path, found: Iterable[ProbeAnswer], result: dict[str, Any]) -> None:
    """Write `predictions` to a file that only its owner can read."""
    write_own(Path(path), "predictions", predictions(found, result).encode())
