"""List the enrolled faces that there is reason to doubt, and draw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facegallery import results
from facegallery.embedder import draw
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.faces import quality
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.text import printable
from facegallery.indexer import doubtful as of
from facegallery.indexer.store import outputs
from facegallery.indexer.store.reader import StoredFace
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of

BLOCK = 4096  # faces whose rows are read at once
DRAWN = 40  # rows of a sheet


def doubtful(where: Where, limit: int = 40, *, progress: Progress = unseen) -> results.DoubtfulFaces:
    """Return the doubtful faces of a gallery, at most `limit`, likely wrong names first.

    Compares all enrolled faces with each other: a million take hours. progress: called with the faces done, and all.
    """
    with session_of(where) as session, session.store() as store, store.reading():
        faces = of.Enrolled.read(store)
        near = of.neighbours(faces, progress=progress)
        known = _qualities(store, faces.ids)
        every = of.doubts(near, faces.spread, known, quality.POOR)
        found = _told(store, faces, near, every[:limit], known)
        return results.DoubtfulFaces(session.name, len(every), len(faces.ids), tuple(found))


def _qualities(store: Store, ids: np.ndarray) -> np.ndarray:
    """Return the quality of each face from what its row says, float (n,); NaN where it says nothing."""
    blocks = [ids[i : i + BLOCK].tolist() for i in range(0, len(ids), BLOCK)]
    rows = (row for block in blocks for row in store.table_rows(block, crops=False))
    return np.array([np.nan if row.confidence is None else quality.score_of(quality.seen_in(row)) for row in rows])


def _told(
    store: Store, faces: of.Enrolled, near: of.Neighbours, doubts: Sequence[of.Doubt], known: np.ndarray
) -> list[results.DoubtfulFace]:
    rows = {doubt.row for doubt in doubts}
    rows |= {int(at[row]) for row in rows for at in (near.own_at, near.other_at) if at[row] >= 0}
    stored = store.fetch(faces.ids[sorted(rows)])
    by_row = {row: stored[int(faces.ids[row])] for row in rows}
    return [_face(doubt, by_row, near, float(known[doubt.row])) for doubt in doubts]


def _face(doubt: of.Doubt, by_row: dict[int, StoredFace], near: of.Neighbours, known: float) -> results.DoubtfulFace:
    face, own, other = (by_row.get(int(row)) for row in (doubt.row, near.own_at[doubt.row], near.other_at[doubt.row]))
    assert face is not None
    own_score, score = float(near.own[doubt.row]), float(near.other[doubt.row])
    person = None if other is None else other.identity
    return results.DoubtfulFace(
        face_id=face.face_id,
        image=face.image,
        identity=face.identity,
        why=doubt.why,
        reason=_reason(doubt, own_score, person, score, known),
        own=None if own is None else round(own_score, 4),
        own_face_id=None if own is None else own.face_id,
        looks_like=person,
        score=None if other is None else round(score, 4),
        other_face_id=None if other is None else other.face_id,
        other_image=None if other is None else other.image,
        quality=None if np.isnan(known) else round(known, 3),
    )


def _reason(doubt: of.Doubt, own: float, other: str | None, score: float, known: float) -> str:
    """Return in words why a face is doubtful."""
    person = printable(str(other))
    if doubt.why == "same":
        return f"nearly the same photo is enrolled as {person} ({score:.2f})"
    if doubt.why == "nearer":
        two = "; they may be one person with two names" if doubt.two_names else ""
        return f"nearer to {person} ({score:.2f}) than to the other faces of its person ({own:.2f}){two}"
    if doubt.why == "unlike":
        return f"unlike all other faces of its person ({own:.2f}); the nearest other person is {person} ({score:.2f})"
    return f"low quality ({known:.2f})"


# a sheet --------------------------------------------------------------------


def draw_doubtful(where: Where, path: Path, faces: results.DoubtfulFaces) -> None:
    """Draw doubtful faces, DRAWN at most: each beside the nearest of its own person and of the other person.

    Raises DataError where there is none.
    """
    check_replaceable(path, "picture")
    if not faces.faces:
        raise DataError(f"expected doubtful faces in {faces.gallery} to draw, it has none: leave --pictures out")
    with session_of(where) as session, session.store() as store, store.reading():
        rows = [_row(store, number, face) for number, face in enumerate(faces.faces[:DRAWN], 1)]
    draw.save(draw.grid(rows), path)
    with session_of(where) as session, session.store(write=True) as store:
        outputs.note(store.folder, "picture", path)


def _row(store: Store, number: int, face: results.DoubtfulFace) -> list[draw.Tile]:
    tiles = [_tile(store, face.face_id, f"{number} {face.why}\n{printable(Path(face.image).name)}", draw.RED)]
    if face.own_face_id is not None:
        tiles.append(_tile(store, face.own_face_id, f"{printable(face.identity)}\n{face.own:.2f}", draw.GREEN))
    if face.other_face_id is not None:
        tiles.append(_tile(store, face.other_face_id, f"{printable(str(face.looks_like))}\n{face.score:.2f}"))
    return tiles


def _tile(store: Store, face_id: str, caption: str, colour: tuple[int, int, int] | None = None) -> draw.Tile:
    png = store.crop(face_id)
    picture = None if png is None else crops_of.from_png(png)
    return draw.Tile(picture, caption) if colour is None else draw.Tile(picture, caption, colour)
