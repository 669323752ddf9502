"""Finding the unnamed faces that look like a person who is to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from facegallery.indexer.calibrate import Calibration
from facegallery.indexer.derived.derive import centred
from facegallery.indexer.store.store import Store

FACES = 1024  # of the person, compared at once


def unnamed_alike(store: Store, identity: str, names: Iterable[str]) -> list[str] | None:
    """Return the face_ids of unnamed faces of which some face of a person is a hit that counts, oldest first.

    Faces that the user said are not theirs are left out. names: of the person, former ones too. Returns None where no
    calibration says from which score a hit counts.
    """
    if not store.unnamed or not store.enrolled([identity]):
        return []
    text = store.fact("calibration")
    calibration = None if text is None else Calibration.from_json(text)
    if calibration is None or calibration.fingerprint != store.spec.fingerprint:
        return None
    theirs = store.fetch([face["id"] for face in store.find(identity)], store.spec.dimension)
    mean = store.mean
    own = centred(np.stack([face.vector for face in theirs.values()]), mean)
    found: list[int] = []
    for ids, xb in store.unnamed_vectors():
        found += ids[_best(centred(xb, mean), own) >= calibration.threshold].tolist()
    others = {said.face_id for said in store.rejections() if said.identity in set(names)}
    return [face.face_id for face in store.unnamed_by_ids(found) if face.face_id not in others]


def _best(xb: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the best score of each of xb (n, d) with the vectors own (m, d): float32 (n,)."""
    best = np.full(len(xb), -np.inf, np.float32)
    for start in range(0, len(own), FACES):
        best = np.maximum(best, (xb @ own[start : start + FACES].T).max(axis=1))
    return best


def vectors_of(store: Store, face_id: str) -> tuple[Sequence[bytes], bytes | None, str | None]:
    """Return the vectors of an unnamed face, by the gallery's and another model, its crop and the photo's sha256."""
    sql = (
        "SELECT image_sha256, v.vector, o.vector, png FROM unnamed LEFT JOIN unnamed_vectors v USING (id) "
        "LEFT JOIN other_unnamed_vectors o USING (id) LEFT JOIN unnamed_crops USING (id) WHERE face_id = ?"
    )
    ((sha256, own, other, png),) = store.execute(sql, (face_id,))
    return [vector for vector in (own, other) if vector], png, sha256
