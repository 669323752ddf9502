"""Search an index for the people of photos, and say whether the answers count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.outcomes import READ
from facegallery.workflows.photos import ANYWHERE, Say
from facegallery.workflows.probes import Probe, ProbeReader, Question, answered_by, open_index

if TYPE_CHECKING:
    from facegallery.embedder.pipeline import OnProgress
    from facegallery.indexer.search.searcher import Hit, Searcher


@dataclass(frozen=True)
class Searched:
    """What a search found: each probe with the answer to each of its rows."""

    probes: list[tuple[Probe, list[Answer]]]

    def result(self) -> dict[str, Any]:
        """As `search --json` prints it."""
        return {"probes": [_probe_json(probe, answers) for probe, answers in self.probes]}


def search(
    name: str,
    sources: Sequence[Path],
    question: Question,
    one_face: bool = False,
    model: str | None = None,
    compute: Compute = ANYWHERE,
    keep_pixels: bool = False,
    say: Say = print,
) -> Searched:
    """The k nearest people (or faces) to every face of every source; keep_pixels: as a picture of them needs."""
    with open_index(name) as searcher:
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say, keep_pixels)
        probes = (probe for source in sources for probe in reader.read(source))
        found = list(answered_by(probes, judge.answers, NO_ANSWER))
        if reader.note:
            say(reader.note)
    return Searched(found)


def search_to_parquet(
    name: str,
    sources: Sequence[Path],
    out: Path,
    question: Question,
    one_face: bool,
    model: str | None,
    compute: Compute,
    on_progress: OnProgress,
    say: Say,
) -> dict[str, Any]:
    """`search` for any number of probes in bounded memory: a row for each hit, in the order of the probes."""
    from facegallery.indexer.search.hit_writer import HitWriter
    from facegallery.indexer.store import outputs

    if out.suffix.lower() != ".parquet":
        raise InputError(f"expected a file .parquet for --out, received {out}: end it with .parquet")
    faces = photos = unread = 0
    with open_index(name) as searcher, HitWriter(out) as writer:
        outputs.note(searcher.store.folder, "hits", out)
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say)
        probes = (probe for source in sources for probe in reader.read(source))
        for photos, (probe, answers) in enumerate(answered_by(probes, judge.answers, NO_ANSWER), 1):
            for row, answer in zip(probe.rows, answers, strict=True):
                writer.add(row, answer.hits, answer.verdict)
            faces += sum(row.vector is not None for row in probe.rows)
            unread += probe.outcome not in READ
            on_progress(photos, 0)
        if reader.note:
            say(reader.note)
    return {"out": str(out), "photos": photos, "unread": unread, "faces": faces, "rows": writer.rows}


@dataclass(frozen=True)
class Answer:
    """What is said of one face.

    verdict: known, chance (that a stranger scores as high), chance_limit (the smallest chance that the calibration can tell), weak and
    stale (why the calibration is, a line each), margin (to the best other person); each null where it cannot be told.
    """

    verdict: dict[str, Any]
    hits: tuple[Hit, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.verdict, "hits": [asdict(hit) for hit in self.hits]}


UNTOLD: dict[str, Any] = dict.fromkeys(("known", "chance", "chance_limit", "weak", "stale", "margin"))
NO_ANSWER = Answer(UNTOLD, ())  # to a photo without a face


class Judge:
    """Searches, and says whether answers count, by the gallery's calibration; says once where there is none, or it is weak or stale."""

    def __init__(self, searcher: Searcher, question: Question, say: Say):
        self._searcher, self._question = searcher, question
        self._calibration, self._stale = searcher.calibration()
        name = searcher.store.folder.name
        if self._calibration is None:
            say(f"scores only: no threshold for `unknown` is fitted, run `calibrate {name}`")
        elif self._calibration.fingerprint != searcher.spec.fingerprint:
            say(f"scores only: the calibration is of another model, run `calibrate {name}` again")
            self._calibration = None
        elif question.score != "best":
            say("scores only: the calibration is for --score best")
            self._calibration = self._stale = None
        elif self._stale:
            say(f"the calibration is stale, {self._stale}: run `calibrate {name}` again")
        if self._calibration is not None and self._calibration.weak:
            say(
                f"the calibration is weak, {self._calibration.weak}: enrol more, or run `calibrate {name} --probes` with photos of strangers"
            )

    def answers(self, xq: np.ndarray) -> list[Answer]:
        """The answers to the question about each query, float32 (n, d)."""
        question = self._question
        asked = replace(question, k=max(2, question.k) if question.k > 0 else question.k, min_score=None)
        found = self._searcher.answer(xq, asked)
        others = [next((hit.score for hit in hits if hit.identity != hits[0].identity), None) for hits in found]
        if question.faces:
            self._ask_for_others(xq, found, others, asked.k)
        return [self._answer(hits, other) for hits, other in zip(found, others, strict=True)]

    def _ask_for_others(
        self, xq: np.ndarray, found: Sequence[Sequence[Hit]], others: list[float | None], k: int
    ) -> None:
        """The score of the best other person where all faces that were found are of one, and there may be more."""
        lacking = [
            i for i, (hits, other) in enumerate(zip(found, others, strict=True)) if other is None and len(hits) == k
        ]
        people = self._searcher.search(xq[lacking], k=2, where=self._question.where) if lacking else []
        for i, hits in zip(lacking, people, strict=True):
            others[i] = next((hit.score for hit in hits if hit.identity != found[i][0].identity), None)

    def _answer(self, hits: Sequence[Hit], other: float | None) -> Answer:
        least = self._question.min_score
        shown = tuple(hit for hit in hits[: self._question.k] if least is None or hit.score >= least)
        margin = max(0.0, hits[0].score - other) if other is not None else None
        return Answer(self._verdict(shown) | {"margin": margin}, shown)

    def _verdict(self, hits: Sequence[Hit]) -> dict[str, Any]:
        if (calibration := self._calibration) is None:
            return UNTOLD | {"stale": self._stale}
        verdict = UNTOLD | {"known": False, "weak": calibration.weak, "stale": self._stale}
        if hits:
            score, limit = hits[0].score, calibration.chance_limit
            verdict |= {
                "known": calibration.known(score),
                "chance": max(calibration.chance(score), limit),
                "chance_limit": limit,
            }
        return verdict


def _probe_json(probe: Probe, answers: list[Answer]) -> dict[str, Any]:
    faces = [
        {
            "face_id": row.face_id,
            "box": [round(float(v), 2) for v in row.box] if row.box is not None else None,
            "confidence": row.confidence,
            **answer.to_json(),
        }
        for row, answer in zip(probe.rows, answers, strict=True)
        if row.vector is not None
    ]
    return {
        "image": probe.image,
        "identity": probe.rows[0].identity,
        "outcome": probe.outcome,
        "why": probe.why or None,
        "faces": faces,
    }
