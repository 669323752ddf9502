"""Review faces that are to be enrolled: those that likely hurt are warned of, or refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.faces import copies, quality
from facegallery.embedder.text import printable
from facegallery.indexer.derived.derive import centred
from facegallery.indexer.doubtful import Enrolled, Neighbours, neighbours
from facegallery.indexer.store.reader import AMONG
from facegallery.indexer.store.store import Store
from facegallery.indexer.suspects import verdict
from facegallery.results import ReviewedFace

OFF, STANDARD, STRICT = "off", "standard", "strict"
REVIEWS = (OFF, STANDARD, STRICT)
BLOCK, SHOWN = 512, 3  # faces that are reviewed together; shown in a warning
TURNED = 45.0  # degrees from which a face lies on its side
WORDS = {
    "same": "photos of somebody else",
    "nearer": "nearer to another person",
    "several": "with another face nearly as large",
    "copy": "copies of enrolled photos",
    "turned": "turned photos",
    "poor": "of low quality",
}


class Review:
    """Looks at faces before they are enrolled: `found` has those there is reason to doubt.

    STANDARD warns of all of them. STRICT refuses them: they are not enrolled. What needs a comparison with all enrolled
    faces is done by STRICT beforehand, and by STANDARD afterwards, of a gallery that is small enough for seconds.
    """

    def __init__(self, store: Store, kind: str):
        self.kind, self.found = kind, list[ReviewedFace]()
        self._store = store

    @property
    def refused(self) -> Counter[str]:
        """How many faces were refused, by reason."""
        return Counter(f"refused, {WORDS[face.why]}" for face in self.found if face.refused)

    @property
    def notes(self) -> list[str]:
        """A line for each reason there was, for the user."""
        lines = []
        for refused in (True, False):
            every = [face for face in self.found if face.refused == refused and (refused or face.why != "several")]
            for why in dict.fromkeys(face.why for face in every):
                faces = [face for face in every if face.why == why]
                shown = "; ".join(f"{face.image!r} ({face.identity!r}): {face.reason}" for face in faces[:SHOWN])
                what = "refused" if refused else "enrolled all the same"
                lines.append(f"warning: {len(faces)} {WORDS[why]}, {what}, such as {shown}")
        return lines

    def passed(self, rows: Iterable[Row]) -> Iterator[Iterable[Row]]:
        """Yield the faces to enrol, those that the gallery has already among them, in parts.

        STRICT needs a part enrolled before the next one is asked for; of the others all are one part.
        """
        rows = iter(rows)
        if self.kind != STRICT:
            yield rows if self.kind == OFF else self._warned_of(rows)
            return
        while block := list(islice(rows, BLOCK)):
            new = self._new(block)
            reasons = self._compared(new)
            for row in new:
                self._note(row, reasons.setdefault(row.face_id, alone(row)))
            yield [row for row in block if not reasons.get(row.face_id)]

    def _warned_of(self, rows: Iterator[Row]) -> Iterator[Row]:
        while block := list(islice(rows, BLOCK)):
            for row in self._new(block):
                self._note(row, alone(row))
            yield from block

    def _new(self, block: Sequence[Row]) -> list[Row]:
        """Return the rows of faces that would be enrolled."""
        face_ids = [row.face_id for row in block]
        old = {*self._store.known(face_ids), *self._store.forgotten().refused(face_ids)}
        return [row for row in block if row.face_id not in old and row.identity and row.vector is not None]

    def _note(self, row: Row, reason: tuple[str, str] | None) -> None:
        if reason:
            face = ReviewedFace(row.face_id, row.image, row.identity or "", *reason, refused=self.kind == STRICT)
            self.found.append(face)

    def _compared(self, rows: Sequence[Row]) -> dict[str, tuple[str, str] | None]:
        """Return why faces are doubtful beside those that are enrolled, and beside each other, by face_id."""
        with self._store.reading():
            enrolled = Enrolled.read(self._store)
            mean = self._store.mean
        ids = {name: id for id, name in self._store.rows("SELECT id, name FROM people")}
        for row in rows:
            ids.setdefault(self._store.spelled(row.identity or ""), -1 - len(ids))
        owners = [ids[self._store.spelled(row.identity or "")] for row in rows]
        new = np.array([row.vector for row in rows], np.float32).reshape(-1, enrolled.vectors.shape[1])
        faces = Enrolled(
            np.concatenate([enrolled.ids, -1 - np.arange(len(rows))]),
            np.concatenate([enrolled.owners, np.array(owners, np.int64)]),
            np.concatenate([enrolled.vectors, centred(new, mean)]),
        )
        near = neighbours(faces, len(enrolled.ids) + np.arange(len(rows)))
        return self._reasons(rows, faces, near)

    def _reasons(self, rows: Sequence[Row], faces: Enrolled, near: Neighbours) -> dict[str, tuple[str, str] | None]:
        spread, found = faces.spread, dict[str, tuple[str, str] | None]()
        for i, row in enumerate(rows):
            own, other = float(near.own[i]), float(near.other[i])
            why = verdict(own, other, spread)
            if why in ("same", "nearer"):
                person = self._person(rows, faces, int(near.other_at[i]))
                found[row.face_id] = why, _nearer(why, person, own, other)
                continue
            first = self._row(rows, faces, int(near.own_at[i]), before=i) if own >= copies.SCORE else None
            if first is not None and copies.same_picture(row, first, self._store.spec.crop):
                found[row.face_id] = "copy", f"a copy of {first.image!r} ({own:.2f})"
        return found

    def _person(self, rows: Sequence[Row], faces: Enrolled, at: int) -> str:
        id = int(faces.ids[at])
        return rows[-1 - id].identity or "" if id < 0 else self._store.fetch([id])[id].identity

    def _row(self, rows: Sequence[Row], faces: Enrolled, at: int, before: int) -> Row | None:
        """Return the row of an enrolled face, or of one of these that comes before; the first of two copies stays."""
        id = int(faces.ids[at])
        if id < 0:
            return rows[-1 - id] if -1 - id < before else None
        return self._store.table_rows([id])[0]

    def look_for_copies(self, face_ids: Sequence[str], *, skipped: bool) -> None:
        """Note which of the faces that were just enrolled are copies of others of their person, in STANDARD.

        skipped: the gallery is too large for it.
        """
        if self.kind != STANDARD or skipped or not face_ids:
            return
        with self._store.reading():
            faces = Enrolled.read(self._store)
            sql = f"SELECT id FROM faces WHERE face_id {AMONG}"
            added = {id for (id,) in self._store.execute(sql, (json.dumps(list(face_ids)),))}
            rows = np.flatnonzero(np.isin(faces.ids, list(added)))
            near = neighbours(faces, rows)
            for row, own, at in zip(rows, near.own, near.own_at, strict=True):
                if own < copies.SCORE or (int(faces.ids[at]) in added and faces.ids[at] > faces.ids[row]):
                    continue
                mine, first = self._store.table_rows([int(faces.ids[row]), int(faces.ids[at])])
                if copies.same_picture(mine, first, self._store.spec.crop):
                    self._note(mine, ("copy", f"a copy of {first.image!r} ({own:.2f})"))


def alone(row: Row) -> tuple[str, str] | None:
    """Return why a face is doubtful by itself: a reason and its words, or None."""
    seen = quality.seen_in(row)
    if row.is_unsure:
        return "several", f"another face has {100 * (row.largest_other or 0):.0f} % of its area"
    if seen.pose is not None and abs(seen.pose.roll) >= TURNED:
        return "turned", f"turned by {abs(seen.pose.roll):.0f} degrees: turn the photo"
    if row.confidence is not None and (score := quality.score_of(seen)) < quality.POOR:
        return "poor", f"quality {score:.2f}"
    return None


def _nearer(why: str, person: str, own: float, other: float) -> str:
    if why == "same":
        return f"nearly the same photo as one of {printable(person)!r} ({other:.2f})"
    return f"nearer to {printable(person)!r} ({other:.2f}) than to its own person's faces ({own:.2f})"
