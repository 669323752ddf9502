"""From which score on a hit counts: fitted to a gallery so that strangers are seldom taken for somebody enrolled.

FPIR is the share of strangers whose best score reaches the threshold (false-positive identification rate, NIST FRTE 1:N). Enrolled
faces stand in for strangers: each is asked against the faces of all other people. Photos of real strangers may be added.

Enrolled faces are asked of one another, so that their scores are not independent. For a given threshold, and people drawn at random, the
errors of two of them (1 or 0 for reaching it or not, less the FPIR of the gallery without them) correlate only where each reaches it
through the other alone: the rest of the gallery is news to neither. So two people who are nearest to each other count as one, as do the
photos of one person. That gives the design effect, by which a sample is worth less than it looks: up to 2 for one photo a person.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import neg
from typing import TYPE_CHECKING

import numpy as np

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.metrics import nearest_people, wilson

if TYPE_CHECKING:
    from facegallery.indexer.store.reader import Faces

KEPT = 4096  # scores that are kept of however many
LEAST_FPIR = 1e-12  # more strangers than there are people could not tell a smaller one
TAIL = 30  # samples from which the design effect is estimated, at least
STALE = 0.1  # change of the number of people


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it rests on; it holds scores, never whose they are."""

    fpir: float  # the target
    threshold: float  # a hit counts from this score on
    n: int  # strangers' best scores that it was fitted on
    held_out: int  # of these, of real strangers; the others are of enrolled people
    exceeding: int  # of n, at or above the threshold
    held_out_exceeding: int  # of held_out
    effect: float  # n / effect independent samples would say as much
    people: int  # in the gallery then
    faces: int
    fingerprint: str  # of the face contract
    scores: tuple[float, ...]  # falling; of n, those of `kept_ranks`
    genuine: int = 0  # held-out probes of enrolled people
    detected: int = 0  # of these, with the true person first and counting
    newest: int = 0  # id of the newest face then; 0 where it was not recorded

    def known(self, score: float) -> bool:
        """Whether a hit counts."""
        return score >= self.threshold

    def chance(self, score: float) -> float:
        """How likely a stranger's best score is at least `score`, at most: the rank that it would have among n + 1; never 0."""
        ranks, above = kept_ranks(self.n), bisect_right(self.scores, -score, key=neg)
        return float(ranks[above] / (self.n + 1)) if above < len(ranks) else 1.0

    @property
    def chance_limit(self) -> float:
        """The smallest chance that these samples can tell: 1 in one more than the people and strangers whom they are of.

        A new person is as likely as each of them to be the one with the highest score of all.
        """
        return 1 / (min(self.n - self.held_out, self.people) + self.held_out + 1)

    @property
    def needed(self) -> int:
        """How many scores of strangers the asked rate takes (rule of three)."""
        return math.ceil(3 * self.effect / self.fpir)

    @property
    def weak(self) -> str | None:
        """Why the samples are too few for the asked rate, or None."""
        if self.n >= self.needed:
            return None
        if self.n - self.held_out < self.people and not self.held_out:
            what = f"only {self.n:,} scores were compared"
        else:
            what = f"only {self.people:,} people are enrolled"
        strangers = f" and {self.held_out:,} photos of strangers were given" if self.held_out else ""
        return f"{what}{strangers}, too few for a rate of {self.fpir:g}"

    def interval(self, strangers: int | None = None, level: float = 0.95) -> tuple[float, float]:
        """Where the share of `strangers` future ones that are taken for somebody will lie; without a number, in the long run.

        In the long run the share above the r-th best of n independent samples has a Beta(r, n - r + 1) distribution; in so many strangers
        it is beta-binomial. The threshold lies at one sample or just above the next, so that the lower end takes the one for r and
        the upper end that for r + 1, as Clopper and Pearson's interval does.
        """
        from scipy.stats import beta, betabinom  # half a second

        if not 0 < level < 1 or (strangers is not None and strangers < 1):
            raise InputError(
                f"expected a level within 0 and 1 and a stranger or more, received {level} and {strangers}: mend the call"
            )
        r, rest, tail = self.exceeding / self.effect, (self.n - self.exceeding) / self.effect, (1 - level) / 2

        def quantile(q: float, a: float, b: float) -> float:
            return float(beta.ppf(q, a, b) if strangers is None else betabinom.ppf(q, strangers, a, b) / strangers)

        return quantile(tail, r, rest + 1) if r else 0.0, quantile(1 - tail, r + 1, rest) if rest else 1.0

    @property
    def detection(self) -> tuple[float, float, float] | None:
        """Share of the held-out probes of enrolled people that are identified (DIR at the threshold), and its 95 % interval."""
        return (self.detected / self.genuine, *wilson(self.detected, self.genuine)) if self.genuine else None

    @property
    def warnings(self) -> list[str]:
        """What a user must know, a line each: too few samples, or strangers who are unlike the people enrolled."""
        lines = []
        if self.weak:
            lines.append(
                f"expected {self.needed} scores of strangers for a rate of {self.fpir:g} (rule of three), received {self.n}, enough for "
                f"{min(1.0, 3 * self.effect / self.n):.2g}: enrol more people, give photos of strangers, or ask for a higher rate"
            )
        own, reached = self.n - self.held_out, self.exceeding - self.held_out_exceeding
        theirs, ours = wilson(self.held_out_exceeding, self.held_out), wilson(reached, own)
        if theirs[0] > ours[1] or theirs[1] < ours[0]:
            lines.append(
                f"expected strangers to score as enrolled people do among themselves, {self.held_out_exceeding} of {self.held_out} reach "
                f"the threshold and {reached} of {own} enrolled: give more photos of strangers and fit to these alone"
            )
        return lines

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """Reads `to_json`; raises DataError where the text was damaged or edited."""
        try:
            fields = json.loads(text)
            found = cls(**fields | {"scores": tuple(fields["scores"])})
            sound = found._is_sound()
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise DataError(
                f"expected a calibration (JSON), received something else ({error}): calibrate again"
            ) from None
        if not sound:
            raise DataError(
                "expected a calibration as it was written, received one whose numbers contradict each other: calibrate again"
            )
        return found

    def _is_sound(self) -> bool:
        ranks, above = kept_ranks(self.n), bisect_right(self.scores, -self.threshold, key=neg)
        if not 0 < len(self.scores) == len(ranks):
            return False
        least, next_rank = (
            (int(ranks[above - 1]) if above else 0),
            (int(ranks[above]) if above < len(ranks) else self.n + 1),
        )
        own, reached = self.n - self.held_out, self.exceeding - self.held_out_exceeding
        return (
            all(map(math.isfinite, (*self.scores, self.threshold, self.effect)))
            and all(a >= b for a, b in zip(self.scores, self.scores[1:], strict=False))
            and least <= self.exceeding < next_rank
            and 0 <= self.held_out_exceeding <= self.held_out
            and 0 <= reached <= own
            and 0 <= self.detected <= self.genuine
            and 0 < self.people <= self.faces
            and self.newest >= 0
            and 0 < self.fpir < 1 <= self.effect
        )


def fit(
    own_scores: np.ndarray,
    own_people: np.ndarray,
    own_nearest: np.ndarray,
    held_out_scores: np.ndarray,
    fpir: float,
    people: int,
    faces: int,
    fingerprint: str,
    genuine: np.ndarray | None = None,
    newest: int = 0,
) -> Calibration:
    """The smallest threshold that at most a share `fpir` of strangers is expected to reach.

    own_scores float (n,), own_people and own_nearest int (n,), as `leave_own_out` gives them: what an enrolled face scores, whose it is
    and whom it resembles most. held_out_scores float (h,): the best scores of real strangers, a photo of each. genuine float (g,): for
    held-out probes of enrolled people the true person's score, -inf where somebody else came first. `people` and `faces` are the
    gallery's, `newest` the id of its newest face. Raises InputError for fpir outside LEAST_FPIR..1, DataError where there is no sample, for shapes that do not fit and for NaN.
    """
    if not LEAST_FPIR <= fpir < 1:
        raise InputError(
            f"expected a false-positive rate within 0 and 1, of {LEAST_FPIR:g} at least, received {fpir}: give one such as 0.01"
        )
    own, held = _floats("own_scores", own_scores), _floats("held_out_scores", held_out_scores)
    if own_people.shape != own.shape or own_nearest.shape != own.shape or (own_people == own_nearest).any():
        raise DataError(
            f"expected a person and another one nearest to them for each of {len(own)} scores, received {own_people.shape} and "
            f"{own_nearest.shape}: leave the person asked out"
        )
    scores = -np.sort(-np.concatenate([own, held]))  # falling
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError(
            f"expected finite scores of strangers, received {len(scores)}: enrol two people or more, or give photos of strangers"
        )
    threshold = _threshold(scores, fpir)
    level = scores[min(len(scores), max(TAIL, _rank(len(scores), fpir))) - 1]
    in_tail, extra = own >= level, int((held >= level).sum())
    effect = (_squares(own_people[in_tail], own_nearest[in_tail]) + extra) / (int(in_tail.sum()) + extra)
    right = _floats("genuine", genuine if genuine is not None else np.empty(0))
    return Calibration(
        fpir=float(fpir),
        threshold=threshold,
        n=len(scores),
        held_out=len(held),
        exceeding=int((scores >= threshold).sum()),
        held_out_exceeding=int((held >= threshold).sum()),
        effect=effect,
        people=int(people),
        faces=int(faces),
        fingerprint=fingerprint,
        scores=tuple(scores[kept_ranks(len(scores)) - 1].tolist()),
        genuine=len(right),
        detected=int((right >= threshold).sum()),
        newest=int(newest),
    )


def leave_own_out(xb: np.ndarray, yb: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asks the faces `rows` of a gallery against the faces of all other people: scores float32 (n,), their people, the nearest people.

    xb float (N, d) of unit length, yb (N,) whose face each is, rows int (n,). Raises DataError where all are of one person.
    """
    ranked, scores = nearest_people(xb, yb, xb[rows], 2)
    if ranked.shape[1] < 2:
        raise DataError(
            "expected faces of two people or more, received one person's: enrol another, or give photos of strangers"
        )
    other = (ranked[:, 0] == yb[rows]).astype(np.intp)
    i = np.arange(len(rows))
    return scores[i, other], yb[rows], ranked[i, other]


def is_stale(calibration: Calibration, people: int, fingerprint: str, added: int = 0, removed: int = 0) -> str | None:
    """Why a gallery of so many people and this contract, with so many faces added and removed since, needs another calibration, or None."""
    if fingerprint != calibration.fingerprint:
        return f"it was made for vectors of another contract ({calibration.fingerprint}, now {fingerprint})"
    if abs(people - calibration.people) > STALE * calibration.people:
        return f"it was made at {calibration.people} people, now there are {people}"
    if added + removed > STALE * calibration.faces:
        return f"it was made at {calibration.faces} faces, {added} were added and {removed} removed since"
    return None


def staleness(calibration: Calibration, store: Faces) -> str | None:
    """Why the calibration of a gallery is stale, or None."""
    since = store.faces_since(calibration.newest, calibration.faces)
    return is_stale(calibration, store.people, store.spec.fingerprint, *since)


@lru_cache(maxsize=8)
def kept_ranks(n: int) -> np.ndarray:
    """int, rising from 1 to n: which of n falling scores are kept. All of the top hundreds, then those half a percent apart."""
    if n <= KEPT:
        return np.arange(1, n + 1)
    return np.unique(np.geomspace(1, n, KEPT).round().astype(np.int64))


def _rank(n: int, fpir: float) -> int:
    """How many of n samples may reach the threshold: a new one then does with a chance of at most (that many) / (n + 1)."""
    return min(n - 1, math.floor(fpir * (n + 1) + 1e-9))


def _threshold(scores: np.ndarray, fpir: float) -> float:
    """The `_rank`-th score, or where the next one is equal or there is none to take, the number just above that."""
    r = _rank(len(scores), fpir)
    if r and scores[r] < scores[r - 1]:
        return float(scores[r - 1])
    return float(np.nextafter(scores[r], np.float32(np.inf)))


def _squares(people: np.ndarray, nearest: np.ndarray) -> int:
    """Sum of the squares of the sizes of groups that exceed together: a person's faces, joined with those of a mutually nearest person."""
    pairs, k = np.unique(np.stack([people, nearest], axis=1), axis=0, return_counts=True)
    counts = dict(zip(map(tuple, pairs.tolist()), k.tolist(), strict=True))
    mutual = sum(count * counts.get((j, i), 0) for (i, j), count in counts.items())
    return int((np.unique(people, return_counts=True)[1] ** 2).sum()) + mutual


def _floats(name: str, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim != 1 or np.isnan(x).any():
        raise DataError(
            f"expected {name} as one row of numbers, received {x.shape}{' with NaN' * bool(np.isnan(x).any())}: mend the call"
        )
    return x
