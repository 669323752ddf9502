"""Finding the groups of unnamed faces, and the unnamed faces in no group, that queries resemble most.

An exact scan: blocks of vectors are read from gallery.db, so that memory does not grow with their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegallery.indexer.derived.derive import centred
from facegallery.indexer.metrics import BLOCK_SCORES
from facegallery.indexer.store.unnamed import Unnamed
from facegallery.results import NearUnnamed

NOTHING = -np.inf


@dataclass
class _Best:
    """The best places of each query so far. A place is the number of a group, or minus the id of a loose face.

    places, ids: int64 (n, k), the id of the place's best face. scores: float64 (n, k), falling.
    """

    places: np.ndarray
    ids: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, n: int, k: int) -> _Best:
        return cls(np.zeros((n, k), np.int64), np.zeros((n, k), np.int64), np.full((n, k), NOTHING))

    def take(self, query: int, places: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> None:
        """Merge candidates of a query: (m,) each."""
        k = self.places.shape[1]
        places = np.concatenate([self.places[query], places])
        ids = np.concatenate([self.ids[query], ids])
        scores = np.concatenate([self.scores[query], scores])
        order = np.lexsort((ids, -scores))
        _, first = np.unique(places[order], return_index=True)
        best = order[np.sort(first)][:k]
        found = len(best)  # places that are not filled yet count once
        self.scores[query] = NOTHING
        self.places[query, :found], self.ids[query, :found] = places[best], ids[best]
        self.scores[query, :found] = scores[best]


def nearest(
    store: Unnamed, xq: np.ndarray, k: int, least: float | None, mean: np.ndarray | None
) -> list[tuple[NearUnnamed, ...]]:
    """Return, for each query, the k groups and loose faces with the best face, best first; ignored faces never.

    xq: float32 (n, d), as compared. least: leave out scores below it. mean: what centring subtracts. Raises Damaged
    naming a face that was changed on disk.
    """
    places = _places(store)
    best = _Best.none(len(xq), k)
    step = max(1, BLOCK_SCORES // 4096)
    for ids, xb in store.unnamed_vectors() if places else ():
        where = np.array([places.get(id, 0) for id in ids.tolist()], np.int64)
        ids, xb, where = ids[where != 0], centred(xb[where != 0], mean), where[where != 0]
        for start in range(0, len(xq), step):
            _take_block(best, start, xq[start : start + step], (ids, xb, where), k)
    return _shown(store, best, least)


def _take_block(
    best: _Best, start: int, xq: np.ndarray, block: tuple[np.ndarray, np.ndarray, np.ndarray], k: int
) -> None:
    ids, xb, where = block
    if not len(ids):
        return
    order = np.argsort(where, kind="stable")
    ids, where = ids[order], where[order]
    xb = xb[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(where, prepend=where[0] - 1))
    for i, scores in enumerate(xq.astype(np.float64) @ xb.T):
        tops = np.maximum.reduceat(scores, starts)
        chosen = np.argpartition(-tops, k - 1)[:k] if len(tops) > k else np.arange(len(tops))
        ends = np.append(starts[1:], len(where))
        at = np.array([starts[c] + scores[starts[c] : ends[c]].argmax() for c in chosen])
        best.take(start + i, where[at], ids[at], scores[at])


def _places(store: Unnamed) -> dict[int, int]:
    """Return the place of each unnamed face that is not ignored, by its id."""
    if not store.has_unnamed:
        return {}
    sql = "SELECT unnamed.id, number, state FROM unnamed LEFT JOIN grouped ON grouped.id = unnamed.id"
    return {id: -id if number is None else number for id, number, state in store.rows(sql) if state != "ignored"}


def _shown(store: Unnamed, best: _Best, least: float | None) -> list[tuple[NearUnnamed, ...]]:
    best.scores = best.scores.astype(np.float32).astype(np.float64)
    wanted = (best.scores > NOTHING) & (best.scores >= (NOTHING if least is None else least))
    faces = {face.id: face for face in store.unnamed_by_ids(np.unique(best.ids[wanted]).tolist())}
    sizes: dict[int, tuple[int, int]] = {}
    for number in np.unique(best.places[wanted & (best.places > 0)]).tolist():
        members = store.group(number)
        sizes[number] = len(members), len({face.columns["image_sha256"] or face.image for face in members})
    found = []
    for places, ids, scores, kept in zip(best.places, best.ids, best.scores, wanted, strict=True):
        hits = []
        for place, id, score in zip(places[kept].tolist(), ids[kept].tolist(), scores[kept].tolist(), strict=True):
            face, (n, photos) = faces[id], sizes.get(place, (1, 1))
            hits.append(NearUnnamed(place if place > 0 else None, n, photos, score, face.face_id, face.image))
        found.append(tuple(hits))
    return found
