"""Switching a gallery to another model: new vectors of the same faces, a comparison, one atomic switch.

The old vectors stay beside the new ones until `compact` deletes them, so that the same switch leads back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from facegallery.embedder.errors import DataError, GalleryError
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.derived.derive import centred, derive, gallery_mean, tidy
from facegallery.indexer.metrics import BLOCK_SCORES
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.reader import floats_of
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import ENROLLED_FACES, UNNAMED_FACES, Tables

KINDS = (ENROLLED_FACES, UNNAMED_FACES)
ASKED = 10_000  # faces that are compared, at most
BATCH = 1024


@dataclass(frozen=True)
class ChangedAnswer:
    """A face that the other model answers with another person."""

    face_id: str
    identity: str
    before: str
    after: str


@dataclass
class SwitchComparison:
    """Answers of both models when enrolled faces are compared with all others.

    An answer is right when it is the person of the face.
    """

    index: str
    before: str  # names of the models
    after: str
    faces: int
    asked: int
    same: int
    right_before: int
    right_after: int
    gained: int  # wrong before, right after
    lost: int
    differently: list[ChangedAnswer] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.index}: {self.asked} of {self.faces} faces compared with all others; "
            f"the answer is the same for {self.same}, another for {len(self.differently)}; "
            f"right with {self.before} {self.right_before}, with {self.after} {self.right_after} "
            f"({self.gained} gained, {self.lost} lost)"
        )


def prepare(store: Store, spec: FaceSpec) -> None:
    """Make room for vectors by `spec`; keep those that already exist by it.

    Raises GalleryError where `spec` is the gallery's own contract, or a face has no crop.
    """
    if spec.fingerprint == store.spec.fingerprint:
        raise GalleryError(
            f"expected another model than the one {store.folder.name} uses, received the same: there is nothing to do"
        )
    with store.writing():
        other = other_spec(store)
        if other is None or other.fingerprint != spec.fingerprint:
            drop_other(store)
            store.set_fact("other_spec", spec.to_json())
    lacking = sum(
        store.execute(
            f"SELECT count(*) FROM {t.faces} WHERE id NOT IN (SELECT id FROM {t.crops}) "
            f"AND id NOT IN (SELECT id FROM {t.other_vectors})"
        )[0][0]
        for t in KINDS
    )
    if lacking:
        raise GalleryError(
            f"expected a stored crop of every face of {store.folder.name}, {lacking} have none: "
            "build the index again from their photos, with crops"
        )


def other_spec(store: Store) -> FaceSpec | None:
    """Return the contract of the second set of vectors, or None."""
    text = store.fact("other_spec")
    return None if text is None else FaceSpec.from_json(text)


def other_mean(store: Store) -> np.ndarray | None:
    """Return the vector that centring subtracts from the other model's vectors; None without centring.

    It is the one that was used when they were the gallery's own, otherwise their mean.
    """
    if store.mean is None:
        return None
    return np.frombuffer(store.fact("other_mean") or gallery_mean(store, "other_vectors"), "<f8")


def missing(store: Store) -> int:
    """Return the number of faces without a vector by the other model."""
    return sum(
        store.execute(f"SELECT count(*) FROM {t.faces} WHERE id NOT IN (SELECT id FROM {t.other_vectors})")[0][0]
        for t in KINDS
    )


@dataclass(frozen=True)
class PendingFace:
    """A face without a vector by the other model.

    crop: PNG. box, landmarks: in pixels of the photo; None where they are not known.
    """

    id: int
    tables: Tables
    face_id: str
    crop: bytes
    box: list[float] | None
    landmarks: list[float] | None


def pending(store: Store) -> Iterator[list[PendingFace]]:
    """Yield blocks of faces without a vector by the other model; store each block before the next."""
    for t in KINDS:
        sql = (
            f"SELECT id, face_id, image, box, landmarks FROM {t.faces} "
            f"WHERE id NOT IN (SELECT id FROM {t.other_vectors}) AND id IN (SELECT id FROM {t.crops}) "
            "ORDER BY id LIMIT ?"
        )
        while block := store.execute(sql, (BATCH,)):
            yield [
                PendingFace(id, t, face_id, png, floats_of(box), floats_of(landmarks))
                for id, face_id, image, box, landmarks in block
                if (png := store.crop_of(id, face_id, image, t.crops)) is not None
            ]


def store_vectors(store: Store, faces: Sequence[PendingFace], xb: np.ndarray) -> None:
    """Store vectors by the other model, float32 (n, d), for a block of faces.

    Skips faces that were removed or named meanwhile. Raises DataError for another d.
    """
    if (other := other_spec(store)) is None or xb.shape != (len(faces), other.dimension):
        raise DataError(
            f"expected vectors by the other model of {store.folder.name}, received an array of {xb.shape}: "
            "embed with that model"
        )
    data = [x.astype("<f4").tobytes() for x in xb]
    with store.writing():
        for t in KINDS:
            store.execute_many(
                f"INSERT OR REPLACE INTO {t.other_vectors} SELECT ?1, ?2, ?3 "
                f"WHERE EXISTS (SELECT 1 FROM {t.faces} WHERE id = ?1 AND face_id = ?4)",
                [
                    (face.id, x, checksum(face.id, x), face.face_id)
                    for face, x in zip(faces, data, strict=True)
                    if face.tables == t
                ],
            )


def compare(store: Store, seed: int = 0) -> SwitchComparison:
    """Compare the answers of both models: at most ASKED enrolled faces, drawn by `seed`, against all others.

    Raises DataError where vectors are missing or nobody is enrolled.
    """
    with store.reading():
        spec, other = store.spec, other_spec(store)
        if other is None or missing(store):
            raise DataError(
                f"expected vectors of every face of {store.folder.name} by another model, some are missing: "
                "run `reembed`"
            )
        if not store.faces and not store.unnamed:
            raise DataError(f"expected faces in {store.folder.name} to compare models by, it has none: add faces first")
        ids, owners = store.owners()
        asked = np.arange(len(ids))
        if len(ids) > ASKED:
            asked = np.sort(np.random.default_rng(seed).choice(len(ids), ASKED, replace=False))
        before = _answers(store, "vectors", store.mean, asked, owners)
        after = _answers(store, "other_vectors", other_mean(store), asked, owners)
        names: dict[int, str] = dict(store.execute("SELECT id, name FROM people"))
        truth, differ = owners[asked], np.flatnonzero(before != after)
        faces = store.fetch(ids[asked[differ]])
        return SwitchComparison(
            store.folder.name,
            spec.model_name,
            other.model_name,
            len(ids),
            len(asked),
            int((before == after).sum()),
            int((before == truth).sum()),
            int((after == truth).sum()),
            int(((before != truth) & (after == truth)).sum()),
            int(((before == truth) & (after != truth)).sum()),
            [
                ChangedAnswer(faces[id].face_id, faces[id].identity, names[int(before[i])], names[int(after[i])])
                for i, id in zip(differ, ids[asked[differ]].tolist(), strict=True)
            ],
        )


def _answers(store: Store, table: str, mean: np.ndarray | None, asked: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return the person id of the face nearest to each asked face, except itself: int64 (len(asked),)."""
    if not len(asked):
        return np.empty(0, np.int64)
    xb = np.concatenate([centred(x, mean) for _, x in store.vectors(table=table)])
    answers, step = np.empty(len(asked), np.int64), max(1, BLOCK_SCORES // len(xb))
    for i in range(0, len(asked), step):
        block = asked[i : i + step]
        scores = xb[block] @ xb.T
        scores[np.arange(len(block)), block] = -np.inf
        answers[i : i + step] = owners[scores.argmax(axis=1)]
    return answers


def switch(store: Store) -> None:
    """Exchange the gallery's own vectors with the other model's, in one transaction.

    People, ids and log stay. Raises GalleryError where vectors are missing or nobody is enrolled.
    """
    with store.writing():
        spec, other = store.spec, other_spec(store)
        if other is None or missing(store):
            raise GalleryError(
                f"expected vectors of every face of {store.folder.name} by another model, some are missing: "
                "run `reembed` again"
            )
        if not store.faces and not store.unnamed:
            raise GalleryError(
                f"expected faces in {store.folder.name} to switch to another model, it has none: "
                "build the index again with that model"
            )
        mean = other_mean(store)
        for t in KINDS:
            for old, new in ((t.vectors, "moved"), (t.other_vectors, t.vectors), ("moved", t.other_vectors)):
                store.execute(f"ALTER TABLE {old} RENAME TO {new}")
            store.swap_totals(t.vectors, t.other_vectors)
        store.execute("DELETE FROM group_sums")
        store.set_fact("spec", other.to_json())
        store.set_fact("other_spec", spec.to_json())
        store.set_fact("switched", int(time.time()))
        if mean is not None:
            store.set_fact("other_mean", store.fact("mean"))
            store.set_fact("mean", mean.tobytes())
        derive(store)
    tidy(store)


def drop_other(store: Store) -> None:
    """Delete the other model's vectors, within a transaction of `writing`."""
    for t in KINDS:
        store.execute(f"DELETE FROM {t.other_vectors}")
    for key in ("other_spec", "other_mean", "switched"):
        store.set_fact(key, None)
