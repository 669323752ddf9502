"""Calibration: the score from which a hit counts, fitted so that strangers are seldom taken for somebody enrolled.

FPIR is the share of strangers whose best score reaches the threshold (false-positive identification rate, NIST FRTE
1:N). Enrolled faces stand in for strangers: each is compared with the faces of all other people. Photos of real
strangers may be added.

The scores of enrolled faces are not independent, since each face is compared with the others. For a given threshold and
people drawn at random, take the error of each person: 1 or 0 for reaching the threshold or not, less the FPIR of the
gallery without them. The errors of two people correlate only where each reaches the threshold through the other alone,
because the rest of the gallery is new to both. So two people who are nearest to each other count as one, as do the
photos of one person. This gives the design effect, by which a sample is worth less than its size: up to 2 for one photo
a person.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import neg
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.metrics import nearest_people, wilson

if TYPE_CHECKING:
    from facegallery.indexer.store.reader import Faces

KEPT = 4096  # scores that are kept, at most
LEAST_FPIR = 1e-12  # a smaller one needs more strangers than there are people
TAIL = 30  # least number of samples that the design effect is estimated from
STALE = 0.1  # relative change of the number of people or faces


@dataclass(frozen=True)
class Calibration:
    """A threshold and the samples behind it; it holds scores, but not the people who have them."""

    fpir: float  # the target
    threshold: float  # a hit counts from this score
    n: int  # number of strangers' best scores
    held_out: int  # of n: of real strangers; the others are of enrolled people
    exceeding: int  # of n, at or above the threshold
    held_out_exceeding: int  # of held_out
    effect: float  # n scores say as much as n / effect independent ones
    people: int  # in the gallery at that time
    faces: int
    fingerprint: str  # of the contract
    scores: tuple[float, ...]  # falling; of n, those of `kept_ranks`
    genuine: int = 0  # held-out probes of enrolled people
    detected: int = 0  # of genuine: the true person is first and counts
    newest: int = 0  # id of the newest face at that time; 0 where it was not recorded

    def known(self, score: float) -> bool:
        """Return whether a hit with this score counts."""
        return score >= self.threshold

    def chance(self, score: float) -> float:
        """Return an upper bound of the chance that a stranger's best score is at least `score`; never 0.

        It is the rank that the score would have among n + 1.
        """
        ranks, above = kept_ranks(self.n), bisect_right(self.scores, -score, key=neg)
        return float(ranks[above] / (self.n + 1)) if above < len(ranks) else 1.0

    @property
    def chance_limit(self) -> float:
        """The smallest chance that these samples can tell: 1 in one more than the people and strangers sampled.

        A new person is as likely as each of them to be the one with the highest score of all.
        """
        return 1 / (min(self.n - self.held_out, self.people) + self.held_out + 1)

    @property
    def needed(self) -> int:
        """Number of scores of strangers that the requested rate needs (rule of three)."""
        return math.ceil(3 * self.effect / self.fpir)

    @property
    def weak(self) -> str | None:
        """Why the samples are too few for the requested rate, or None."""
        if self.n >= self.needed:
            return None
        if self.n - self.held_out < self.people and not self.held_out:
            what = f"only {self.n:,} scores were compared"
        else:
            what = f"only {self.people:,} people are enrolled"
        strangers = f" and {self.held_out:,} photos of strangers were given" if self.held_out else ""
        return f"{what}{strangers}, too few for a rate of {self.fpir:g}"

    def interval(self, strangers: int | None = None, level: float = 0.95) -> tuple[float, float]:
        """Return an interval for the share of strangers who will be taken for somebody.

        strangers: number of future strangers; None for the long run. In the long run, the share above the r-th best of
        n independent samples has a Beta(r, n - r + 1) distribution; for a number of strangers it is beta-binomial. The
        threshold lies at one sample or just above the next. So the lower end uses r and the upper end r + 1, as Clopper
        and Pearson's interval does. Raises InputError for a level outside 0..1 or no strangers.
        """
        from scipy.stats import beta, betabinom  # half a second

        if not 0 < level < 1 or (strangers is not None and strangers < 1):
            raise InputError(
                f"expected a level within 0 and 1 and a stranger or more, received {level} and {strangers}: "
                "correct them"
            )
        r, rest, tail = self.exceeding / self.effect, (self.n - self.exceeding) / self.effect, (1 - level) / 2

        def quantile(q: float, a: float, b: float) -> float:
            return float(beta.ppf(q, a, b) if strangers is None else betabinom.ppf(q, strangers, a, b) / strangers)

        return quantile(tail, r, rest + 1) if r else 0.0, quantile(1 - tail, r + 1, rest) if rest else 1.0

    @property
    def detection(self) -> tuple[float, float, float] | None:
        """Share of held-out probes of enrolled people that are identified, and its 95 % interval.

        This is the DIR at the threshold; None without such probes.
        """
        return (self.detected / self.genuine, *wilson(self.detected, self.genuine)) if self.genuine else None

    @property
    def holds_for(self) -> str:
        """Say in a line whom the threshold was fitted on, and so for which strangers the rate holds."""
        own = f"{self.people:,} people of this gallery" if self.n > self.held_out else ""
        given = f"{self.held_out:,} photos of strangers" if self.held_out else ""
        return (
            f"fitted on {' and '.join(filter(None, (own, given)))}: holds for strangers like these; relatives of "
            "enrolled people score higher, and people of another kind than these may"
        )

    @property
    def warnings(self) -> list[str]:
        """Lines for the user: too few samples, or strangers who score unlike enrolled people."""
        lines = []
        if self.weak:
            lines.append(
                f"expected {self.needed} scores of strangers for a rate of {self.fpir:g} (rule of three), "
                f"received {self.n}, enough for {min(1.0, 3 * self.effect / self.n):.2g}: "
                "enrol more people, give photos of strangers, or request a higher rate"
            )
        own, reached = self.n - self.held_out, self.exceeding - self.held_out_exceeding
        theirs, ours = wilson(self.held_out_exceeding, self.held_out), wilson(reached, own)
        if theirs[0] > ours[1] or theirs[1] < ours[0]:
            lines.append(
                "expected strangers to score as enrolled people do among themselves, "
                f"{self.held_out_exceeding} of {self.held_out} reach the threshold and {reached} of {own} enrolled: "
                "give more photos of strangers and fit to these alone (--strangers-alone)"
            )
        return lines

    def to_json(self) -> str:
        """Return the calibration as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """Read `to_json`; raises DataError where the text was damaged or edited."""
        try:
            fields = json.loads(text)
            found = cls(**fields | {"scores": tuple(fields["scores"])})
            sound = found.is_sound()
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise DataError(
                f"expected a calibration (JSON), received something else ({error}): calibrate again"
            ) from None
        if not sound:
            raise DataError("expected a calibration as it was written, received contradicting numbers: calibrate again")
        return found

    def is_sound(self) -> bool:
        """Return whether the numbers agree with each other."""
        ranks, above = kept_ranks(self.n), bisect_right(self.scores, -self.threshold, key=neg)
        if not 0 < len(self.scores) == len(ranks):
            return False
        least = int(ranks[above - 1]) if above else 0
        next_rank = int(ranks[above]) if above < len(ranks) else self.n + 1
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


class OwnScores(NamedTuple):
    """Scores of enrolled faces with other people's faces; each array has one entry for each face."""

    scores: np.ndarray  # float (n,): the best score
    people: np.ndarray  # (n,): the person of the face
    nearest: np.ndarray  # (n,): the other person with the best score


class Enrolled(NamedTuple):
    """The gallery that a calibration is fitted to."""

    people: int
    faces: int
    fingerprint: str  # of the contract
    newest: int = 0  # id of the newest face; 0: unknown


def fit(
    own: OwnScores, strangers: np.ndarray, fpir: float, enrolled: Enrolled, genuine: np.ndarray | None = None
) -> Calibration:
    """Fit the smallest threshold that at most a share `fpir` of strangers is expected to reach.

    own: as `leave_own_out` returns it. strangers: float (h,), the best scores of real strangers, one photo each.
    genuine: float (g,), the true person's score for held-out probes of enrolled people; -inf where another person came
    first.

    Raises InputError for fpir outside LEAST_FPIR..1; DataError without samples, for shapes that differ and for NaN.
    """
    if not LEAST_FPIR <= fpir < 1:
        raise InputError(
            f"expected a false-positive rate within 0 and 1, at least {LEAST_FPIR:g}, received {fpir}: "
            "give one such as 0.01"
        )
    asked, held = _floats("own scores", own.scores), _floats("scores of strangers", strangers)
    if not own.people.shape == own.nearest.shape == asked.shape or (own.people == own.nearest).any():
        raise DataError(
            f"expected a person and another one nearest to them for each of {len(asked)} scores, "
            f"received {own.people.shape} and {own.nearest.shape}: leave out a face's own person"
        )
    scores = -np.sort(-np.concatenate([asked, held]))  # falling
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError(
            f"expected finite scores of strangers, received {len(scores)}: "
            "enrol two people or more, or give photos of strangers"
        )
    threshold = _threshold(scores, fpir)
    level = scores[min(len(scores), max(TAIL, _rank(len(scores), fpir))) - 1]
    in_tail, extra = asked >= level, int((held >= level).sum())
    effect = (_squares(own.people[in_tail], own.nearest[in_tail]) + extra) / (int(in_tail.sum()) + extra)
    right = _floats("genuine", genuine if genuine is not None else np.empty(0))
    return Calibration(
        fpir=float(fpir),
        threshold=threshold,
        n=len(scores),
        held_out=len(held),
        exceeding=int((scores >= threshold).sum()),
        held_out_exceeding=int((held >= threshold).sum()),
        effect=effect,
        people=int(enrolled.people),
        faces=int(enrolled.faces),
        fingerprint=enrolled.fingerprint,
        scores=tuple(scores[kept_ranks(len(scores)) - 1].tolist()),
        genuine=len(right),
        detected=int((right >= threshold).sum()),
        newest=int(enrolled.newest),
    )


def leave_own_out(xb: np.ndarray, yb: np.ndarray, rows: np.ndarray) -> OwnScores:
    """Compare the faces `rows` of a gallery with the faces of all other people.

    xb: float (N, d) of unit length. yb: (N,), the person of each face. rows: int (n,). Raises DataError where all faces
    are of one person.
    """
    ranked, scores = nearest_people(xb, yb, xb[rows], 2)
    if ranked.shape[1] < 2:
        raise DataError(
            "expected faces of two people or more, received one person's: enrol another, or give photos of strangers"
        )
    other = (ranked[:, 0] == yb[rows]).astype(np.intp)
    i = np.arange(len(rows))
    return OwnScores(scores[i, other], yb[rows], ranked[i, other])


def is_stale(calibration: Calibration, people: int, fingerprint: str, added: int = 0, removed: int = 0) -> str | None:
    """Return why a gallery needs another calibration, or None.

    people, fingerprint: of the gallery now. added, removed: number of faces since the calibration.
    """
    if fingerprint != calibration.fingerprint:
        return f"it was made for vectors of another contract ({calibration.fingerprint}, now {fingerprint})"
    if abs(people - calibration.people) > STALE * calibration.people:
        return f"it was made at {calibration.people} people, now there are {people}"
    if added + removed > STALE * calibration.faces:
        return f"it was made at {calibration.faces} faces, {added} were added and {removed} removed since"
    return None


def staleness(calibration: Calibration, store: Faces) -> str | None:
    """Return why the calibration of a gallery is stale, or None."""
    since = store.faces_since(calibration.newest, calibration.faces)
    return is_stale(calibration, store.people, store.spec.fingerprint, *since)


@lru_cache(maxsize=8)
def kept_ranks(n: int) -> np.ndarray:
    """Return which of n falling scores are kept, as ascending ranks from 1 to n.

    All of the first hundreds are kept, then ranks half a percent apart.
    """
    if n <= KEPT:
        return np.arange(1, n + 1)
    return np.unique(np.geomspace(1, n, KEPT).round().astype(np.int64))


def _rank(n: int, fpir: float) -> int:
    """Return how many of n samples may reach the threshold.

    A new sample then reaches it with a chance of at most (that many) / (n + 1).
    """
    return min(n - 1, math.floor(fpir * (n + 1) + 1e-9))


def _threshold(scores: np.ndarray, fpir: float) -> float:
    """Return the `_rank`-th score.

    Where the next score is equal, or no sample may reach the threshold, return the number just above it.
    """
    r = _rank(len(scores), fpir)
    if r and scores[r] < scores[r - 1]:
        return float(scores[r - 1])
    return float(np.nextafter(scores[r], np.float32(np.inf)))


def _squares(people: np.ndarray, nearest: np.ndarray) -> int:
    """Return the sum of squared sizes of groups that exceed together.

    A group is the faces of a person, joined with those of a mutually nearest person.
    """
    pairs, k = np.unique(np.stack([people, nearest], axis=1), axis=0, return_counts=True)
    counts = dict(zip(map(tuple, pairs.tolist()), k.tolist(), strict=True))
    mutual = sum(count * counts.get((j, i), 0) for (i, j), count in counts.items())
    return int((np.unique(people, return_counts=True)[1] ** 2).sum()) + mutual


def _floats(name: str, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim != 1 or np.isnan(x).any():
        raise DataError(
            f"expected {name} as one row of numbers, received {x.shape}{' with NaN' * bool(np.isnan(x).any())}: "
            "correct the array"
        )
    return x
