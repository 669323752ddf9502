"""Another model for a gallery that stays: vectors of the same faces beside the old ones, a report of what changes, one atomic switch.

After it the old vectors stay beside the new ones until `compact` drops them, so that the way back is the same switch.
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
from facegallery.indexer.store.store import Store

ASKED = 10_000  # faces that a report asks at most
BATCH = 1024


@dataclass(frozen=True)
class ChangedAnswer:
    """A face that would be answered with another person."""

    face_id: str
    identity: str
    before: str
    after: str


@dataclass
class SwitchComparison:
    """Enrolled faces asked against all others, by both models; right is an answer with the face's own person."""

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
        return (
            f"{self.index}: {self.asked} of {self.faces} faces asked against all others; the answer is the same for {self.same}, another for "
            f"{len(self.differently)}; right with {self.before} {self.right_before}, with {self.after} {self.right_after} "
            f"({self.gained} gained, {self.lost} lost)"
        )


def prepare(store: Store, spec: FaceSpec) -> None:
    """Makes room for vectors by `spec`; those that are there already by it stay. Raises GalleryError where that is the gallery's own, or
    a face has no crop."""
    if spec.fingerprint == store.spec.fingerprint:
        raise GalleryError(
            f"expected another model than the one {store.folder.name} uses, received the same: there is nothing to do"
        )
    with store.writing():
        other = other_spec(store)
        if other is None or other.fingerprint != spec.fingerprint:
            drop_other(store)
            store.set_fact("other_spec", spec.to_json())
    ((lacking,),) = store.execute(
        "SELECT count(*) FROM faces WHERE id NOT IN (SELECT id FROM crops) AND id NOT IN (SELECT id FROM other_vectors)"
    )
    if lacking:
        raise GalleryError(
            f"expected a stored crop of every face of {store.folder.name}, {lacking} have none: build it anew from their photos, with crops"
        )


def other_spec(store: Store) -> FaceSpec | None:
    """The contract of the vectors that stand beside the gallery's own, or None."""
    text = store.fact("other_spec")
    return None if text is None else FaceSpec.from_json(text)


def other_mean(store: Store) -> np.ndarray | None:
    """What centring takes from the other model's vectors: what it took when they were in use, else their mean; None without centring."""
    if store.mean is None:
        return None
    return np.frombuffer(store.fact("other_mean") or gallery_mean(store, "other_vectors"), "<f8")


def missing(store: Store) -> int:
    """How many faces have no vector by the other model yet."""
    return store.execute("SELECT count(*) FROM faces WHERE id NOT IN (SELECT id FROM other_vectors)")[0][0]


def pending(store: Store) -> Iterator[list[tuple[int, bytes]]]:
    """Blocks of (id, PNG) of the faces that have no vector by the other model yet; store each before the next."""
    sql = (
        "SELECT faces.id, face_id, image FROM faces WHERE id NOT IN (SELECT id FROM other_vectors) AND id IN (SELECT id FROM crops) "
        "ORDER BY id LIMIT ?"
    )
    while block := store.execute(sql, (BATCH,)):
        crops = [(id, store.crop_of(id, face_id, image)) for id, face_id, image in block]
        yield [(id, png) for id, png in crops if png is not None]


def store_vectors(store: Store, ids: Sequence[int], xb: np.ndarray) -> None:
    """Vectors by the other model, float32 (n, d); faces that were removed meanwhile are passed over. Raises DataError for another d."""
    if (other := other_spec(store)) is None or xb.shape != (len(ids), other.dimension):
        raise DataError(
            f"expected vectors by the other model of {store.folder.name}, received an array of {xb.shape}: embed with it"
        )
    vectors = [(id, x.astype("<f4").tobytes()) for id, x in zip(ids, xb, strict=True)]
    with store.writing():
        store.execute_many(
            "INSERT OR REPLACE INTO other_vectors SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM faces WHERE id = ?1)",
            [(id, data, checksum(id, data)) for id, data in vectors],
        )


def compare(store: Store, seed: int = 0) -> SwitchComparison:
    """Who would be answered differently: every enrolled face (at most ASKED, drawn by `seed`) asked against all others."""
    with store.reading():
        spec, other = store.spec, other_spec(store)
        if other is None or missing(store):
            raise DataError(
                f"expected vectors of every face of {store.folder.name} by another model, some are missing: run `reembed`"
            )
        if not store.faces:
            raise DataError(
                f"expected faces in {store.folder.name} to compare models by, it has none: add some first"
            )
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
    """int64 (len(asked),): the owner of the face nearest to each asked one, itself left out."""
    xb = np.concatenate([centred(x, mean) for _, x in store.vectors(table=table)])
    answers, step = np.empty(len(asked), np.int64), max(1, BLOCK_SCORES // len(xb))
    for i in range(0, len(asked), step):
        block = asked[i : i + step]
        scores = xb[block] @ xb.T
        scores[np.arange(len(block)), block] = -np.inf
        answers[i : i + step] = owners[scores.argmax(axis=1)]
    return answers


def switch(store: Store) -> None:
    """The other model's vectors become the gallery's own, and its own the other's, in one transaction; people, ids and log stay."""
    with store.writing():
        spec, other = store.spec, other_spec(store)
        if other is None or missing(store):
            raise GalleryError(
                f"expected vectors of every face of {store.folder.name} by another model, some are missing: run `reembed` again"
            )
        if not store.faces:
            raise GalleryError(
                f"expected faces in {store.folder.name} to switch to another model, it has none: build it anew with that model"
            )
        mean = other_mean(store)
        for old, new in (
            ("vectors", "moved_vectors"),
            ("other_vectors", "vectors"),
            ("moved_vectors", "other_vectors"),
        ):
            store.execute(f"ALTER TABLE {old} RENAME TO {new}")
        store.renamed("vectors", "other_vectors")
        store.set_fact("spec", other.to_json())
        store.set_fact("other_spec", spec.to_json())
        store.set_fact("switched", int(time.time()))
        if mean is not None:
            store.set_fact("other_mean", store.fact("mean"))
            store.set_fact("mean", mean.tobytes())
        derive(store)
    tidy(store)


def drop_other(store: Store) -> None:
    """Gives up the other model's vectors, within a transaction."""
    store.execute("DELETE FROM other_vectors")
    for key in ("other_spec", "other_mean", "switched"):
        store.set_fact(key, None)
