"""Search an index for the people of photos, and say whether the answers count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery import results
from facegallery.embedder.errors import InputError
from facegallery.embedder.outcomes import READ
from facegallery.embedder.progress import Progress, unseen
from facegallery.workflows.inputs import PhotoInputs, sources_of
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.probes import Probe, Question, answered_by
from facegallery.workflows.session import GallerySession, Where, session_of

if TYPE_CHECKING:
    from facegallery.embedder.dataset.row import Row
    from facegallery.indexer.search.searcher import Searcher

log = logging.getLogger(__name__)
NO_ANSWER = results.VectorResult(None, None, None, None, None, None, ())  # to a photo without a face


@dataclass(frozen=True)
class Searched:
    """What a search found: each probe with the answer to each of its rows."""

    probes: list[tuple[Probe, list[results.VectorResult]]]

    def results(self) -> results.SearchResult:
        """Return the same without what only pictures need."""
        return results.SearchResult(tuple(_photo_result(probe, answers) for probe, answers in self.probes))

    def result(self) -> dict[str, Any]:
        """As `search --json` prints it."""
        return {"probes": [_probe_json(photo) for photo in self.results().photos]}


@dataclass(frozen=True)
class HitsWritten:
    """How much `search_to_parquet` wrote."""

    out: str
    photos: int
    unread: int  # photos that could not be read
    faces: int
    rows: int


def search(
    where: Where,
    photos: PhotoInputs,
    question: Question = Question(),  # noqa: B008
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> Searched:
    """Find the k people (or faces) nearest to every face of photos and data sets."""
    with session_of(where) as session:
        return Searched(list(_answered(session, photos, question, options)))


def search_to_parquet(
    where: Where,
    photos: PhotoInputs,
    out: Path,
    question: Question = Question(),  # noqa: B008
    options: ReadOptions = ReadOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> HitsWritten:
    """Search for any number of probes in bounded memory: a row for each hit, in the order of the probes."""
    from facegallery.indexer.search.hit_writer import HitWriter
    from facegallery.indexer.store import outputs

    if question.unnamed:
        raise InputError("expected --unnamed or --out, received both: the file has rows for people alone; give one")
    if out.suffix.lower() != ".parquet":
        raise InputError(f"expected a file .parquet for --out, received {out}: end it with .parquet")
    faces = number = unread = 0
    with session_of(where) as session, HitWriter(out) as writer:
        outputs.note(session.folder, "hits", out)
        for number, (probe, answers) in enumerate(_answered(session, photos, question, options), 1):
            for row, answer in zip(probe.rows, answers, strict=True):
                writer.add(row, answer.hits, results.fields_of(answer, but=("hits",)))
            faces += sum(row.vector is not None for row in probe.rows)
            unread += probe.outcome not in READ
            progress(number, 0)
    return HitsWritten(str(out), number, unread, faces, writer.rows)


def _answered(
    session: GallerySession, photos: PhotoInputs, question: Question, options: ReadOptions
) -> Iterator[tuple[Probe, list[results.VectorResult]]]:
    """Each probe with the answer to each of its rows."""
    sources, judge, reader = sources_of(photos), Judge(session.searcher, question), session.reader(options)
    for line in judge.notes:
        log.info(line)
    probes = (probe for source in sources for probe in reader.read(source))
    yield from answered_by(probes, judge.answers, NO_ANSWER)
    reader.log_note()


class Judge:
    """Search, and say whether answers count by the gallery's calibration.

    `notes` says where there is no calibration, or it is weak or stale.
    """

    notes: list[str]

    def __init__(self, searcher: Searcher, question: Question):
        self._searcher, self._question = searcher, question
        self._calibration, self._stale = searcher.calibration()
        name = searcher.store.folder.name
        if not searcher.store.people:
            self._calibration = None
            self.notes = [f"nobody is enrolled in {name}: run `add {name} PHOTOS`"]
            return
        why = self._why_scores_only()
        self.notes = [f"scores only: {why}"] if why else []
        if self.notes:
            self._calibration = None
        if self._calibration is not None and self._stale:
            self.notes.append(f"the calibration is stale, {self._stale}: run `calibrate {name}` again")
        if self._calibration is not None and self._calibration.weak:
            self.notes.append(
                f"the calibration is weak, {self._calibration.weak}: enrol more, or run `calibrate {name} --probes` "
                "with photos of strangers"
            )

    def _why_scores_only(self) -> str | None:
        """Why no answer is known or unknown; None where the calibration holds."""
        name = self._searcher.store.folder.name
        if self._calibration is None:
            return f"no threshold for `unknown` is fitted, run `calibrate {name}`"
        if self._calibration.fingerprint != self._searcher.spec.fingerprint:
            return f"the calibration is of another model, run `calibrate {name}` again"
        if self._question.score != "best":
            self._stale = None
            return "the calibration is for --score best"
        return None

    def answers(self, xq: np.ndarray) -> list[results.VectorResult]:
        """Return the answers to the question about each query, float32 (n, d)."""
        question = self._question
        asked = replace(question, k=max(2, question.k) if question.k > 0 else question.k, min_score=None)
        found = self._searcher.answer(xq, asked)
        others = [next((hit.score for hit in hits if hit.identity != hits[0].identity), None) for hits in found]
        if question.faces:
            self._ask_for_others(xq, found, others, asked.k)
        answers = [self._answer(hits, other) for hits, other in zip(found, others, strict=True)]
        if not question.unnamed:
            return answers
        near = self._searcher.near_unnamed(xq, question.k, self._least_of_unnamed)
        return [replace(answer, unnamed=of_face) for answer, of_face in zip(answers, near, strict=True)]

    @property
    def _least_of_unnamed(self) -> float | None:
        """The score from which unnamed faces are near: the one that was asked for, or from which people are known."""
        if self._question.min_score is not None or self._calibration is None:
            return self._question.min_score
        return self._calibration.threshold

    def _ask_for_others(
        self, xq: np.ndarray, found: Sequence[Sequence[results.Hit]], others: list[float | None], k: int
    ) -> None:
        """Fill in the score of the best other person where all k faces found are of one and there may be more."""
        lacking = [
            i for i, (hits, other) in enumerate(zip(found, others, strict=True)) if other is None and len(hits) == k
        ]
        people = self._searcher.search(xq[lacking], k=2, where=self._question.where) if lacking else []
        for i, hits in zip(lacking, people, strict=True):
            others[i] = next((hit.score for hit in hits if hit.identity != found[i][0].identity), None)

    def _answer(self, hits: Sequence[results.Hit], other: float | None) -> results.VectorResult:
        least = self._question.min_score
        shown = tuple(hit for hit in hits[: self._question.k] if least is None or hit.score >= least)
        margin = max(0.0, hits[0].score - other) if other is not None else None
        if (calibration := self._calibration) is None:
            return replace(NO_ANSWER, stale=self._stale, margin=margin, hits=shown)
        answer = results.VectorResult(
            known=False,
            chance=None,
            chance_limit=None,
            weak=calibration.weak,
            stale=self._stale,
            margin=margin,
            hits=shown,
        )
        if not shown:
            return answer
        score, limit = shown[0].score, calibration.chance_limit
        chance = max(calibration.chance(score), limit)
        return replace(answer, known=calibration.known(score), chance=chance, chance_limit=limit)


def _photo_result(probe: Probe, answers: Sequence[results.VectorResult]) -> results.PhotoResult:
    pairs = zip(probe.rows, answers, strict=True)
    faces = tuple(_found_face(row, answer) for row, answer in pairs if row.vector is not None)
    return results.PhotoResult(
        probe.image, probe.outcome, probe.why, probe.others, faces, identity=probe.rows[0].identity
    )


def _found_face(row: Row, answer: results.VectorResult) -> results.FoundFace:
    return results.FoundFace(
        face=max(row.face, 0),
        face_id=row.face_id,
        box=results.box_of(row.box),
        confidence=row.confidence,
        image=row.image,
        **results.fields_of(answer),
    )


def _probe_json(photo: results.PhotoResult) -> dict[str, Any]:
    faces = [results.as_document(face) for face in photo.faces]
    shown = (
        "face_id",
        "box",
        "confidence",
        "known",
        "chance",
        "chance_limit",
        "weak",
        "stale",
        "margin",
        "hits",
        "unnamed",
    )
    return {
        "image": photo.image,
        "identity": photo.identity,
        "outcome": photo.outcome,
        "why": photo.why or None,
        "faces": [{name: face[name] for name in shown} for face in faces],
    }
