"""Suspicious faces: nearer to another person than to their own, unlike their own, or the same photo under two names.

The thresholds come from the gallery itself: the median c of the scores of faces of different people, and their spread
s, 1.4826 x the median absolute deviation. A few wrong faces do not move either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facegallery.indexer.search.candidates import Candidates
from facegallery.indexer.store.reader import AMONG, Faces

MOST_WORK = 50_000_000_000  # multiplications: a few seconds
MOST_BYTES = 256 << 20  # of vectors
TILE, BLOCK = 1024, 4096  # faces that are multiplied with each other at once
SAMPLE = 1000  # faces, at most, that c and s are estimated from
MAD = 1.4826
# Of 100 pairs of different people about 1 scores above c + 2.33 s, and 5 above c + 1.645 s. Of LFW's development people
# with 1 face in 20 moved to another person, 59 of the 60 moved faces are found, and 5 of the 1,144 others suspected.
# Of three other sets it is 53 of 60 and 28 of 1,187; these 28 are suspected before any face is moved, since some of the
# sets' own labels, or the faces taken from the photos, are wrong.
ALIKE_99, ALIKE_95 = 2.33, 1.645
FEW = 20  # pairs of different people; a quantile of fewer says nothing
SAME = 0.95  # score of faces of different people that no pair of 2 million of the same sets reaches
SHOWN = 3


class Spread(NamedTuple):
    """Scores of faces of different people."""

    centre: float
    width: float
    pairs: int


@dataclass(frozen=True)
class Suspect:
    """A face that may be somebody else's.

    why: `nearer` to another person, `unlike` the person's other faces, or the `same` photo as another person's.
    """

    face_id: str
    image: str
    identity: str
    why: str
    own: float | None  # best score with the person's other faces
    other: str  # the nearest other person
    other_face_id: str
    other_image: str
    score: float  # with that face

    @property
    def text(self) -> str:
        """One line for the terminal."""
        face = f"{self.face_id} ({self.image!r}, enrolled as {self.identity!r}"
        own = "" if self.own is None else f", {self.own:.2f} to the nearest of their own"
        if self.why == "unlike":
            return f"{face}{own}) resembles nobody"
        what = "is nearly the same as" if self.why == "same" else "is nearer to"
        return f"{face}{own}) {what} {self.other!r} ({self.score:.2f})"


@dataclass(frozen=True)
class Looked:
    """The suspects, surest first; `skipped` says why the search was skipped."""

    suspects: Sequence[Suspect] = ()
    skipped: str | None = None

    def notes(self, index: str) -> list[str]:
        """Return one line for the user, or an empty list."""
        if self.skipped:
            return [self.skipped]
        if not self.suspects:
            return []
        shown = "; ".join(suspect.text for suspect in self.suspects[:SHOWN])
        return [
            f"warning: {len(self.suspects)} enrolled face{'s' * (len(self.suspects) > 1)} may be somebody else's, "
            f"such as {shown}: check them with `list {index} --identity P`, "
            f"and remove wrong ones with `remove {index} --face ID`"
        ]


def look(store: Faces, face_ids: Sequence[str] | None = None) -> Looked:
    """Compare these faces, or all, with every enrolled face.

    Skips a gallery that is too large for a few seconds, and says so.
    """
    with store.reading():
        total, d = store.faces, store.spec.dimension
        number = total if face_ids is None else len(face_ids)
        if number * total * d > MOST_WORK or 4 * total * d > MOST_BYTES:
            return Looked(
                skipped=f"wrong faces were not searched for: {number:,} among {total:,} faces would take too long"
            )
        candidates = Candidates(store)
        candidates.refresh()
        enrolled = np.flatnonzero(candidates.alive[: candidates.count])
        asked = enrolled if face_ids is None else _positions(store, candidates, face_ids)
        if len(enrolled) < 2 or not len(asked):
            return Looked()
        return Looked(_named(store, candidates, _suspicious(candidates, asked, enrolled)))


def _positions(store: Faces, candidates: Candidates, face_ids: Sequence[str]) -> np.ndarray:
    sql = f"SELECT id FROM faces WHERE face_id {AMONG} ORDER BY id"
    ids = [id for (id,) in store.execute(sql, (json.dumps(list(face_ids)),))]
    return candidates.positions_of(np.array(ids, np.int64))


def spread_of(xb: np.ndarray, owners: np.ndarray) -> Spread:
    """Return the spread of the scores of faces xb (n, d) with those of other people; n is at most a few thousand."""
    scores = (xb @ xb.T)[np.triu(owners[:, None] != owners)]
    if not len(scores):
        return Spread(0.0, 0.0, 0)
    centre = _median(scores)
    return Spread(centre, MAD * _median(np.abs(scores - centre)), len(scores))


def _median(values: np.ndarray) -> float:
    """Return the median, the upper one of an even number.

    np.median imports masked arrays, which takes longer than the rest for a small gallery.
    """
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


class _Nearest(NamedTuple):
    """A face by its position, with its nearest others.

    own: best score with the person's other faces, -inf without any. other: position of the nearest face of other
    people.
    """

    position: int
    own: float
    score: float
    other: int
    why: str


def _suspicious(candidates: Candidates, asked: np.ndarray, enrolled: np.ndarray) -> list[_Nearest]:
    sample = enrolled[:: math.ceil(len(enrolled) / SAMPLE)]
    spread = spread_of(candidates.rows(sample), candidates.owners[sample])
    found, grouped = [], _grouped(candidates, enrolled)
    for start in range(0, len(asked), TILE):
        tile = asked[start : start + TILE]
        for position, own, score, other in zip(tile, *_nearest(candidates, tile, grouped), strict=True):
            if why := verdict(float(own), float(score), spread):
                found.append(_Nearest(int(position), float(own), float(score), int(other), why))
    return sorted(found, key=lambda face: max(face.own, -1) - face.score)


def verdict(own: float, other: float, spread: Spread) -> str | None:
    """Return why a face is suspicious, or None.

    own: best score with the person's other faces, -inf without any. other: best score with other people's faces.
    """
    if other >= SAME:
        return "same"
    if own == -np.inf:
        return None
    if other > own + spread.width and own < spread.centre + ALIKE_99 * spread.width:
        return "nearer"
    if own < spread.centre + ALIKE_95 * spread.width and spread.pairs >= FEW:
        return "unlike"
    return None


class _Grouped(NamedTuple):
    """Enrolled faces, those of one person together: positions and owners int64 (n,), vectors float32 (n, d)."""

    positions: np.ndarray
    owners: np.ndarray
    xb: np.ndarray


def _grouped(candidates: Candidates, enrolled: np.ndarray) -> _Grouped:
    positions = enrolled[np.argsort(candidates.owners[enrolled], kind="stable")]
    return _Grouped(positions, candidates.owners[positions], candidates.rows(positions))


def _nearest(candidates: Candidates, tile: np.ndarray, grouped: _Grouped) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each face of the tile, its best scores and the nearest face of other people.

    Scores float32 (q,) with the person's other faces, and with other people's; positions int64 (q,).
    """
    xq, owners = candidates.rows(tile), candidates.owners[tile]
    own, score = np.full(len(tile), -np.inf, np.float32), np.full(len(tile), -np.inf, np.float32)
    other = np.full(len(tile), -1, np.int64)
    for start in range(0, len(grouped.positions), BLOCK):
        block = grouped.positions[start : start + BLOCK]
        scores = xq @ grouped.xb[start : start + BLOCK].T
        q, b = _pairs_of_one_person(owners, grouped.owners[start : start + BLOCK])
        apart = tile[q] != block[b]
        np.maximum.at(own, q[apart], scores[q[apart], b[apart]])
        scores[q, b] = -np.inf
        at = scores.argmax(axis=1)
        best = scores[np.arange(len(tile)), at]
        other = np.where(best > score, block[at], other)
        score = np.maximum(score, best)
    return own, score, other


def _pairs_of_one_person(owners: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all (q, b) with owners[q] == ordered[b], int64; the second owners are in ascending order."""
    first, end = np.searchsorted(ordered, owners, "left"), np.searchsorted(ordered, owners, "right")
    counts = end - first
    before = np.cumsum(counts) - counts
    return np.repeat(np.arange(len(owners)), counts), np.arange(counts.sum()) + np.repeat(first - before, counts)


def _named(store: Faces, candidates: Candidates, found: Sequence[_Nearest]) -> list[Suspect]:
    """Return the suspects with names; of two faces of the same photo, only the first."""
    faces = store.fetch(candidates.ids[sorted({p for face in found for p in (face.position, face.other) if p >= 0})])
    suspects: list[Suspect] = []
    seen: set[int] = set()
    for near in found:
        if near.other < 0 or (near.why == "same" and near.other in seen):
            continue
        seen.add(near.position)
        face, other = faces[int(candidates.ids[near.position])], faces[int(candidates.ids[near.other])]
        own = None if near.own == -np.inf else near.own
        suspects.append(
            Suspect(
                face.face_id,
                face.image,
                face.identity,
                near.why,
                own,
                other.identity,
                other.face_id,
                other.image,
                near.score,
            )
        )
    return suspects
