"""Measure how well an index answers probes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces import quality
from facegallery.embedder.names import spelling_notes
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import trained_on
from facegallery.indexer.evaluation import subsets
from facegallery.indexer.evaluation.discard import ErrorVersusDiscard, by_quality
from facegallery.indexer.evaluation.evaluate import (
    RANKS,
    Evaluation,
    Group,
    ModelComparison,
    ProbeAnswer,
    by_group,
    compare_evaluations,
    write_predictions,
)
from facegallery.indexer.evaluation.pair_scores import PairScores, crossed
from facegallery.indexer.evaluation.subsets import ProbeOutcome, ProbePhotos
from facegallery.indexer.store import outputs
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.probes import (
    Probe,
    Question,
    answered,
    default_split,
    enrolled_notes,
    splits_of,
)
from facegallery.workflows.session import GallerySession, Where, session_of

if TYPE_CHECKING:
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.reader import StoredFace


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What `evaluate` measures beyond the ranks of the probes."""

    strangers: tuple[Path, ...] = ()  # photos or vectors of people who are not enrolled
    score: str = "best"
    by: str | None = None  # a column of the probes
    sizes: tuple[int, ...] = ()  # of smaller galleries, in people
    photos: tuple[int, ...] = ()  # a person's in the gallery
    against: str | None = None  # another index
    against_vectors: tuple[Path, ...] = ()  # of the same photos, by that index's model
    seed: int = 0
    report: Path | None = None  # the folder of a page
    command: str = ""  # what the page says it comes from
    split: str | None = None  # rows to ask; `probe` where there are such, else all
    predictions: Path | None = None  # a file for the five answers to each probe
    quality: bool = False  # what refusing probes of low quality wins

    @property
    def needs_vectors(self) -> bool:
        """Whether the answers must keep the probes' vectors."""
        return bool(self.sizes or self.photos or self.report)


@dataclass(frozen=True)
class EvaluationResult:
    """All that one `evaluate` found; parts that were not asked for are empty."""

    index: str
    split: str | None
    faces: int  # enrolled
    answers: list[ProbeAnswer]  # to all probes, in order
    evaluation: Evaluation
    groups: list[Group]
    by_size: list[ProbeOutcome]
    by_photos: list[ProbeOutcome]
    against: str | None
    comparison: ModelComparison | None
    seen: dict[str, int] | None  # people who were trained on; None where the model has no record of them
    warnings: list[str]
    crossed: PairScores | None = None  # for a report
    discarded: ErrorVersusDiscard | None = None

    @property
    def top1(self) -> float:
        """Share of the probes whose first answer is right."""
        return float(self.evaluation.cmc[0])

    @property
    def top5(self) -> float:
        """Share of the probes with the right answer among the first five."""
        return float(self.evaluation.cmc[min(5, len(self.evaluation.cmc)) - 1])

    def result(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        named = sum(a.identity is not None for a in self.answers)
        return {
            "index": self.index,
            "split": self.split,
            **self.evaluation.result(),
            "gallery": self.faces,
            "strangers": named - len(self.evaluation.probes),
            "no_identity": len(self.answers) - named,
            "groups": [asdict(g) for g in self.groups],
            "by_size": [asdict(o) for o in self.by_size],
            "by_photos": [asdict(o) for o in self.by_photos],
            "against": {"index": self.against, **asdict(self.comparison)} if self.comparison else None,
            "roc": self.crossed.result() if self.crossed else None,
            "quality": asdict(self.discarded) if self.discarded else None,
            "trained_on": self.seen,
            "warnings": self.warnings,
        }


def evaluate(
    where: Where,
    source: Path,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> EvaluationResult:
    """Ask an index the probes of a data set or a folder.

    Every probe with an enrolled identity counts, the others are strangers.
    """
    check_folder(options.report)
    if options.predictions is not None:
        check_replaceable(options.predictions, "predictions")
    with session_of(where) as session:
        asking = _Asking(session, options, progress)
        split = options.split or default_split(splits_of(source), "probe")
        found = asking.ask(asking.reader.read(source, split))
        if not found:
            raise DataError(
                f"expected probes{f' with split {split}' if split else ''} in {source}, found none: check --split"
            )
        strangers = [answer for path in options.strangers for answer in asking.ask(asking.all_of(path))]
        measured = asking.measured(source, split, found, strangers)
        asking.write(measured, source)
    if options.predictions is not None:
        write_predictions(options.predictions, found, measured.evaluation.result())
    return measured


Enrolled = tuple[list["StoredFace"], np.ndarray]  # all enrolled faces, and their vectors float32 (n, d)


class _Asking:
    """One evaluation: the index that is asked, and how."""

    def __init__(self, session: GallerySession, options: EvaluationOptions, progress: Progress):
        self.searcher, self.options, self.progress = session.searcher, options, progress
        self.name, self.model = session.name, session.reference
        self.reader = session.reader(ReadOptions(one_face=True, keep_pixels=options.report is not None))
        self.compute = session.compute
        self._enrolled: Enrolled | None = None

    def ask(self, probes: Iterator[Probe]) -> list[ProbeAnswer]:
        """Ask about probes, one face a photo."""
        return _ask(self.searcher, probes, self.options, self.progress)

    def all_of(self, source: Path) -> Iterator[Probe]:
        """Yield the probes of a source, of the split `probe` where it has that."""
        return self.reader.read(source, default_split(splits_of(source), "probe"))

    @property
    def enrolled(self) -> Enrolled:
        """The enrolled faces, where they are needed."""
        if self._enrolled is None:
            none: Enrolled = [], np.empty((0, self.searcher.spec.dimension), np.float32)
            self._enrolled = self.searcher.all_faces() if self.options.needs_vectors else none
        return self._enrolled

    def measured(
        self, source: Path, split: str | None, found: list[ProbeAnswer], strangers: list[ProbeAnswer]
    ) -> EvaluationResult:
        """Compute all that was asked for from the answers."""
        options, gallery = self.options, self.searcher.store
        evaluation = Evaluation.of(gallery, found, strangers, options.seed)
        groups = _groups(evaluation, options.by)
        sizes, photos, pairs = _parts(self.searcher, self.enrolled, evaluation, options)
        comparison = self._compared(evaluation, source, split) if options.against else None
        self.reader.log_note()
        seen, warnings = _seen(self.searcher.spec, self.model, evaluation)
        return EvaluationResult(
            index=self.name,
            split=split,
            faces=gallery.faces,
            answers=found,
            evaluation=evaluation,
            groups=groups,
            by_size=sizes,
            by_photos=photos,
            against=options.against,
            comparison=comparison,
            seen=seen,
            warnings=warnings + self._warnings(found, strangers, evaluation),
            crossed=pairs,
            discarded=by_quality(evaluation) if options.quality else None,
        )

    def _warnings(self, found: list[ProbeAnswer], strangers: list[ProbeAnswer], evaluation: Evaluation) -> list[str]:
        gallery = self.searcher.store
        known = gallery.known({a.face_id for a in found if a.embedded})
        names = [a.identity for a in evaluation.strangers if a.identity]
        return [
            *_enrolled_strangers(found, strangers, evaluation),
            *enrolled_notes(sum(a.face_id in known for a in found), len(found)),
            *spelling_notes(names, [name for name, _ in gallery.list_people()]),
        ]

    def _compared(self, first: Evaluation, source: Path, split: str | None) -> ModelComparison:
        """Ask the index `options.against` about the same photos."""
        options = self.options
        assert options.against is not None
        asked = {a.photo for a in (*first.probes, *first.strangers)}
        with GallerySession(options.against, compute=self.compute) as session:
            reader = session.reader(ReadOptions(one_face=True))
            if options.against_vectors:
                probes: Iterator[Probe] = (probe for path in options.against_vectors for probe in reader.read(path))
            else:
                probes = (
                    probe for path, which in _sources(source, split, options) for probe in reader.read(path, which)
                )
            kept = (probe for probe in probes if (probe.rows[0].image_sha256 or probe.image) in asked)
            found = _ask(session.searcher, kept, replace(options, sizes=(), photos=(), report=None), self.progress)
            return compare_evaluations(first, Evaluation.of(session.searcher.store, found, (), options.seed))

    def write(self, measured: EvaluationResult, source: Path) -> None:
        """Write the report, and note what is written with people of the gallery."""
        options, gallery = self.options, self.searcher.store
        if options.report is not None:
            self._write_report(options.report, measured, [source, *options.strangers])
            outputs.note(gallery.folder, "report", options.report)
            if gallery.encrypted:
                log.info(f"{options.report} is not encrypted, though {self.name} is: it holds faces of it")
        if options.predictions is not None:
            outputs.note(gallery.folder, "predictions", options.predictions)

    def _write_report(self, folder: Path, measured: EvaluationResult, sources: Sequence[Path]) -> None:
        from facegallery.indexer.evaluation import report
        from facegallery.workflows import pictures

        shown = pictures.Shown(self.searcher, self.reader, self.enrolled, self.options.score)
        sheets = pictures.contact_sheets(shown, sources, measured.evaluation)
        history = trained_on.history(self.searcher.spec, _folder(self.model))
        head = report.facts(datetime.now(UTC), self.options.command, self.searcher.spec)
        page = report.page_of(measured.evaluation, measured.crossed, measured.result(), history, sheets, head)
        report.write(folder, page)


def _ask(
    searcher: Searcher, probes: Iterator[Probe], options: EvaluationOptions, progress: Progress
) -> list[ProbeAnswer]:
    found: list[ProbeAnswer] = []
    for probe, (hits, *_) in answered(searcher, probes, Question(k=RANKS, score=options.score)):
        row, keep, spelled = probe.rows[0], options.needs_vectors, searcher.store.spelled
        score = quality.score_of(quality.seen_in(row)) if options.quality and row.vector is not None else None
        found.append(ProbeAnswer.of(row, hits, by=options.by, keep_vector=keep, quality=score, spelled=spelled))
        progress(len(found), 0)
    return found


def _groups(evaluation: Evaluation, by: str | None) -> list[Group]:
    if by is None:
        return []
    if all(a.group is None for a in (*evaluation.probes, *evaluation.strangers)):
        raise InputError(
            f"expected a column {by!r} in the probes, none has it: give `embed` the CSV that has it with --metadata, "
            "or another --by"
        )
    return by_group(evaluation)


def _parts(
    searcher: Searcher, enrolled: Enrolled, evaluation: Evaluation, wanted: EvaluationOptions
) -> tuple[list[ProbeOutcome], list[ProbeOutcome], PairScores | None]:
    """The same probes asked of smaller galleries and of galleries of fewer photos a person, and beside every face."""
    faces, xb = enrolled
    if not faces:
        return [], [], None
    gallery = ProbePhotos(xb, np.array([face.identity for face in faces], object))
    probes, strangers = _photos(searcher, evaluation.probes), _photos(searcher, evaluation.strangers)
    sizes = subsets.by_size(gallery, probes, strangers, wanted.sizes, wanted.score, wanted.seed) if wanted.sizes else []
    photos = subsets.by_photos(gallery, probes, strangers, wanted.photos, wanted.seed) if wanted.photos else []
    pairs = crossed(subsets.pooled(gallery, wanted.score), probes, wanted.seed) if wanted.report else None
    return sizes, photos, pairs


def _photos(searcher: Searcher, answers: Sequence[ProbeAnswer]) -> ProbePhotos:
    found = subsets.photos_of([(a.person, a.vector) for a in answers], searcher.spec.dimension)
    return replace(found, xb=searcher.as_compared(found.xb))


def check_folder(report: Path | None) -> None:
    """Raise InputError where a report cannot be written, before what takes long."""
    if report is not None and report.exists() and not report.is_dir():
        raise InputError(f"expected a folder for --report, {report} is a file: choose another")
    if report is not None:
        check_replaceable(report / "index.html", "page")


def _sources(source: Path, split: str | None, wanted: EvaluationOptions) -> Iterator[tuple[Path, str | None]]:
    yield source, split
    for path in wanted.strangers:
        yield path, default_split(splits_of(path), "probe")


# whom a model knows ---------------------------------------------------------


def _seen(spec: FaceSpec, model: str | None, evaluation: Evaluation) -> tuple[dict[str, int] | None, list[str]]:
    asked = {
        "probes": {a.person for a in evaluation.probes},
        "strangers": {a.identity for a in evaluation.strangers if a.identity},
    }
    return trained_people(spec, asked, _folder(model))


def _folder(model: str | None) -> Path | None:
    return Path(model) if model and Path(model).is_dir() else None


def trained_people(
    spec: FaceSpec, asked: Mapping[str, Iterable[str]], folder: Path | None = None
) -> tuple[dict[str, int] | None, list[str]]:
    """Count the people of each kind whom the model was trained on, or who chose its best epoch, and warn of them.

    The counts are None where the model has no record of them.
    """
    if not (trainings := trained_on.of_model(spec, folder)):
        return None, []
    counts: dict[str, int] = {}
    parts = []
    for kind, people in asked.items():
        names = set(people)
        trained, validated = trained_on.known(names, trainings)
        counts |= {kind: len(trained), f"{kind}_validated": len(validated)}
        parts += [
            f"{len(found)} of {len(names)} people of the {kind} {what}"
            for found, what in ((trained, "were trained on"), (validated, "chose its best epoch"))
            if found
        ]
    warning = (
        f"{spec.model_name} knows those it is tested with: {', '.join(parts)}; what follows says less of people it has "
        "never seen"
    )
    return counts, [warning] if parts else []


def _enrolled_strangers(
    found: Sequence[ProbeAnswer], strangers: Sequence[ProbeAnswer], evaluation: Evaluation
) -> list[str]:
    counted = len(evaluation.strangers) + len(evaluation.probes) - sum(a.identity is not None for a in found)
    left = len(strangers) - counted
    return [f"{left} photos given as strangers are of enrolled people and were left out"] if left else []
