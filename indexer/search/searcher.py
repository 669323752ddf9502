"""Answering queries: candidates by FAISS, exact scores from gallery.db, all of one snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.dataset.row import UNIT_TOLERANCE
from facegallery.embedder.errors import DataError, GalleryError
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.calibrate import Calibration, staleness
from facegallery.indexer.derived.derive import centred
from facegallery.indexer.opening import open_store
from facegallery.indexer.search import filters, templates, unnamed
from facegallery.indexer.search.candidates import Candidates, Shortlist, log
from facegallery.indexer.search.question import ANSWERS, Question
from facegallery.indexer.store.reader import StoredFace
from facegallery.results import Hit, NearUnnamed

SPARE = 16  # candidates beyond the first guess
GROWTH = 4
FLOAT_STEP = 2.0**-23  # of float32 at 1


class _Damage(Exception):
    """Raised where the mapped index gives a score that gallery.db does not."""


class Searcher:
    """An open gallery and its index. Use it as a context manager, from one thread at a time.

    Every question is answered from the newest commit of any process.
    """

    def __init__(self, folder: str | Path, key: bytes | None = None):
        """Open the index in `folder`.

        Raises GalleryError where there is no index or it is damaged; damaged derived files are logged and replaced in
        memory.
        """
        self.store = open_store(folder, key=key)
        self.warnings: list[str] = []  # differences that are allowed, from `check_spec`
        self._kept: tuple[Any, np.ndarray | None] = (None, None)  # the last filter, and the faces that it keeps
        self._people: tuple[Any, templates.Templates | None] = (None, None)
        self._calibration: tuple[Any, tuple[Calibration | None, str | None]] = (None, (None, None))
        try:
            self.spec = self.store.spec
            self.candidates = Candidates(self.store)
            self._answer(lambda: None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the gallery."""
        self.store.close()

    # contract

    def check_spec(self, spec: FaceSpec) -> None:
        """Raise GalleryError naming the field in which vectors of `spec` are not comparable.

        Lesser differences are added to `warnings`.
        """
        if difference := self.spec.difference(spec):
            raise GalleryError(
                f"expected vectors made as those of {self.store.folder.name}, "
                f"received vectors that differ in {difference}: "
                "embed them with the gallery's model and options, move the gallery over by `reembed`, or build another "
                "index"
            )
        for field in ("detector", "runtime", "precision"):
            mine, theirs = getattr(self.spec, field), getattr(spec, field)
            line = f"{field}: the gallery's faces were made with {mine}, these with {theirs}"
            if mine and theirs and mine != theirs and line not in self.warnings:
                self.warnings.append(line)

    def calibration(self) -> tuple[Calibration | None, str | None]:
        """Return the calibration, or None; and why it is stale, or None."""

        def read() -> tuple[Calibration | None, str | None]:
            if self._calibration[0] != self.store.mark:
                text = self.store.fact("calibration")
                found = None if text is None else Calibration.from_json(text)
                self._calibration = (
                    self.store.mark,
                    (found, None if found is None else staleness(found, self.store)),
                )
            return self._calibration[1]

        return self._answer(read)

    # search

    def search(
        self,
        xq: np.ndarray,
        k: int = ANSWERS,
        *,
        faces: bool = False,
        score: str = "best",
        where: Sequence[str] = (),
        min_score: float | None = None,
    ) -> list[list[Hit]]:
        """Return the hits of each query of xq, float32 (n, d) of unit length; the options are those of `Question`.

        Raises as `answer` does.
        """
        return self.answer(xq, Question(k, faces, score, tuple(where), min_score))

    def answer(self, xq: np.ndarray, question: Question) -> list[list[Hit]]:
        """Return the people (or faces) nearest to each query, best first; all where there are fewer than k.

        xq: float32 (n, d) of unit length. Scores are exact and do not depend on how queries are batched; equal ones
        are in the order of face_id. Raises InputError for k < 1, an unknown score or a wrong filter; DataError for
        vectors of another size or length; GalleryError naming a face that was changed on disk.
        """
        question.check()
        conditions, xq = filters.parse(question.where), checked(xq, self.spec.dimension)
        if not len(xq):
            return []
        found = self._answer(lambda: self._with_person_ids(self._search(xq, question, conditions)))
        least = question.min_score
        return found if least is None else [[hit for hit in hits if hit.score >= least] for hits in found]

    def near_unnamed(self, xq: np.ndarray, k: int, least: float | None = None) -> list[tuple[NearUnnamed, ...]]:
        """Return the k groups of unnamed faces, or single ones, that each query resembles most, best first.

        xq: float32 (n, d) of unit length. least: leave out scores below it. Raises as `answer` does.
        """
        xq = centred(checked(xq, self.spec.dimension), self.candidates.mean)
        return self._answer(lambda: unnamed.nearest(self.store, xq, k, least, self.candidates.mean))

    def _with_person_ids(self, found: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
        ids = self.store.person_ids({hit.identity for hits in found for hit in hits})
        return [[replace(hit, person_id=ids.get(hit.identity)) for hit in hits] for hits in found]

    def crop(self, face_id: str) -> bytes | None:
        """Return the PNG of an enrolled face; None where no crop is stored."""
        return self.store.crop(face_id)

    def all_faces(self) -> tuple[list[StoredFace], np.ndarray]:
        """Return every enrolled face, by person and photo, and their vectors as compared, float32 (n, d).

        All of them are in memory.
        """

        def read() -> tuple[list[StoredFace], np.ndarray]:
            found = self.store.fetch(self.store.owners()[0], self.spec.dimension).values()
            faces = sorted(found, key=lambda face: (face.identity, face.image, face.face_id))
            return faces, centred(np.stack([face.vector for face in faces]), self.candidates.mean)

        return self._answer(read)

    def as_compared(self, xq: np.ndarray) -> np.ndarray:
        """Return queries float32 (n, d) as they are multiplied with `all_faces`: centred where the gallery is."""
        return centred(checked(xq, self.spec.dimension), self.candidates.mean)

    def _answer(self, question: Callable[[], Any]) -> Any:
        """Answer a question from one snapshot; refresh the candidates first."""
        try:
            self.store.begin_reading()
            self.candidates.refresh()
            try:
                return question()
            except _Damage:
                self.candidates.load_from_store()
                self._kept, self._people = (None, None), (None, None)  # positions have changed
                return question()
        finally:
            self.store.end_reading()

    def _search(self, xq: np.ndarray, question: Question, conditions: Sequence[filters.Condition]) -> list[list[Hit]]:
        xq, kept = centred(xq, self.candidates.mean), self._kept_faces(conditions)
        if not (self.candidates.enrolled if kept is None else kept.any()):
            return [[] for _ in xq]
        if question.score != "best":
            templates_of = self._templates(conditions, kept, question.score)
            people_of = templates_of.shortlists(xq, question.k, self._slack)
            return [self._ranked_people(q, near, question) for q, near in zip(xq, people_of, strict=True)]
        shortlists = self._shortlists(xq, question, kept)
        if self.candidates.compressed and kept is None and not question.faces:
            shortlists = self._with_all_faces(xq, shortlists)
        ids = [self.candidates.ids[found.positions] for found in shortlists]
        fetched = self.store.fetch(np.unique(np.concatenate(ids)), self.spec.dimension)
        return [
            self._ranked(q, found.scores, [fetched[id] for id in of_query.tolist()], question)
            for q, found, of_query in zip(xq, shortlists, ids, strict=True)
        ]

    @property
    def _slack(self) -> float:
        """How far a float32 sum of products may be from the exact score."""
        return (self.spec.dimension + 2) * FLOAT_STEP

    def _kept_faces(self, conditions: Sequence[filters.Condition]) -> np.ndarray | None:
        """Return the faces that meet all conditions, bool (count,), or None for no conditions; cached."""
        if not conditions:
            return None
        key = (tuple(conditions), self.store.mark)
        if self._kept[0] != key:
            ids = np.array(json.loads(filters.kept_ids(self.store, conditions)), np.int64)
            kept = np.zeros(self.candidates.count, bool)
            kept[self.candidates.positions_of(ids)] = True
            self._kept = key, kept
        return self._kept[1]

    def _templates(
        self, conditions: Sequence[filters.Condition], kept: np.ndarray | None, score: str
    ) -> templates.Templates:
        key = (tuple(conditions), score, self.store.mark)
        if self._people[0] != key:
            self._people = key, templates.Templates(self.candidates, kept, score)
        assert self._people[1] is not None
        return self._people[1]

    # best face

    def _shortlists(self, xq: np.ndarray, question: Question, kept: np.ndarray | None) -> list[Shortlist]:
        """Return, for each query, all faces that could be among its answers."""
        candidates, k, faces = self.candidates, question.k, question.faces
        c, effort = 2 * k * (1 if faces else candidates.per_person) + SPARE, max(1, k / ANSWERS)
        done: dict[int, Shortlist] = {}
        while pending := [i for i in range(len(xq)) if i not in done]:
            for i, found in zip(pending, candidates.nearest(xq[pending], c, kept, effort), strict=True):
                owners = found.positions if faces else candidates.owners[found.positions]
                if (settled := self._settled(found, owners, k)) is not None:
                    done[i] = settled
            c, effort = c * GROWTH, effort * GROWTH
        return [done[i] for i in range(len(xq))]

    def _settled(self, found: Shortlist, owners: np.ndarray, k: int) -> Shortlist | None:
        """Return the candidates that could be the best face of one of the k best owners, or None if others could be.

        Approximate scores are at most `slack` from the exact ones: a face more than 2 * slack below the k-th owner
        cannot count.
        """
        if not len(owners):
            return found if found.bound == -np.inf else None
        _, first, owner = np.unique(
            owners,
            return_index=True,
            return_inverse=True,
            # scores fall: the first is the best
        )
        best = found.scores[first]  # scores fall: the first one of an owner is the best
        floor = np.sort(best)[-k] - 2 * self._slack if len(best) >= k else -np.inf
        if found.bound != -np.inf and not found.bound < floor:
            return None
        near = (found.scores >= floor) & (found.scores >= best[owner] - 2 * self._slack)
        return Shortlist(found.scores[near], found.positions[near], found.bound)

    def _with_all_faces(self, xq: np.ndarray, shortlists: Sequence[Shortlist]) -> list[Shortlist]:
        """Return the best face of each person found, among all of their faces: codes may have missed it."""
        candidates = self.candidates
        owners = [np.unique(candidates.owners[found.positions]) for found in shortlists]
        ids: dict[int, list[int]] = {}
        for id, owner in self.store.faces_of(np.unique(np.concatenate(owners)).tolist()):
            ids.setdefault(owner, []).append(id)
        found = []
        for q, people_found in zip(xq, owners, strict=True):
            positions = candidates.positions_of(
                np.array([id for owner in people_found.tolist() for id in ids[owner]], np.int64)
            )
            scores, of = candidates.rows(positions) @ q, candidates.owners[positions]
            best = np.full(len(people_found), -np.inf, np.float32)
            at = np.searchsorted(people_found, of)
            np.maximum.at(best, at, scores)
            near = scores >= best[at] - 2 * self._slack
            found.append(Shortlist(scores[near], positions[near], -np.inf))
        return found

    def _ranked(
        self, q: np.ndarray, approximate: np.ndarray, candidates: Sequence[StoredFace], question: Question
    ) -> list[Hit]:
        scores = exact_scores(q, centred(np.stack([face.vector for face in candidates]), self.candidates.mean))
        if not (np.abs(scores - approximate) <= self._slack).all():
            raise self._damage()
        hits: dict[str, tuple[float, StoredFace]] = {}
        pairs = zip(map(float, scores), candidates, strict=True)
        for score, face in sorted(pairs, key=lambda pair: (-pair[0], pair[1].face_id)):
            hits.setdefault(face.face_id if question.faces else face.identity, (score, face))
        return [
            Hit(i + 1, face.identity, score, face.face_id, face.image)
            for i, (score, face) in enumerate(list(hits.values())[: question.k])
        ]

    def _damage(self) -> _Damage:
        log.warning(
            "index.faiss of generation %d gives scores that its faces do not have: it is damaged",
            self.candidates.generation,
        )
        return _Damage()

    # mean and template

    def _ranked_people(self, q: np.ndarray, near: Sequence[tuple[float, np.ndarray]], question: Question) -> list[Hit]:
        """Return hits of people, with exact scores from gallery.db.

        near: for each person an approximate score, and the positions of their faces.
        """
        found = []
        for approximate, of_person in near:
            faces = list(self.store.fetch(self.candidates.ids[of_person], self.spec.dimension).values())
            xb = centred(np.stack([face.vector for face in faces]), self.candidates.mean)
            best = min(zip(-exact_scores(q, xb), faces, strict=True), key=lambda pair: (pair[0], pair[1].face_id))[1]
            exact = templates.exact_score(q, xb, question.score)
            if not abs(exact - approximate) <= self._slack:
                raise self._damage()
            found.append((-exact, best.face_id, best))
        found.sort(key=lambda line: line[:2])
        return [
            Hit(i + 1, face.identity, -score, face.face_id, face.image)
            for i, (score, _, face) in enumerate(found[: question.k])
        ]


def exact_scores(q: np.ndarray, xb: np.ndarray) -> np.ndarray:
    """Return q (d,) times each row of xb (n, d), float32 (n,).

    Sums are float64, a row at a time, so that batches give the same bits.
    """
    return np.sum(xb.astype(np.float64) * q.astype(np.float64), axis=1).astype(np.float32)


def checked(xq: np.ndarray, d: int) -> np.ndarray:
    """Return queries as float32 (n, d); raises DataError for queries of another size or length."""
    xq = np.asarray(xq)
    if xq.ndim != 2 or xq.shape[1] != d:
        raise DataError(f"expected vectors (n, {d}), received {xq.shape}: embed the probes with the gallery's model")
    xq = np.ascontiguousarray(xq, np.float32)
    norms = np.linalg.norm(xq.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise DataError(
            f"expected vectors of length 1, received {norms[bad[0]]:.6g} in query {bad[0]}: embed the probes again"
        )
    return xq
