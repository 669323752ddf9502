"""Measure how well an index answers probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.names import spelling_notes
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import trained_on
from facegallery.indexer.evaluation import subsets
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
from facegallery.workflows.photos import ANYWHERE, Say
from facegallery.workflows.probes import (
    Probe,
    ProbeReader,
    Question,
    answered,
    default_split,
    enrolled_notes,
    open_index,
    splits_of,
)

if TYPE_CHECKING:
    from facegallery.embedder.pipeline import OnProgress
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.reader import StoredFace


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
            "trained_on": self.seen,
            "warnings": self.warnings,
        }


def evaluate(
    name: str,
    source: Path,
    split: str | None = None,
    wanted: EvaluationOptions = EvaluationOptions(),
    predictions: Path | None = None,  # noqa: B008
    model: str | None = None,
    compute: Compute = ANYWHERE,
    on_progress: OnProgress | None = None,
    say: Say = print,
) -> EvaluationResult:
    """The probes of a data set or a folder asked of an index; every probe with an enrolled identity counts, the others are strangers."""
    keep = bool(wanted.sizes or wanted.photos or wanted.report)
    check_folder(wanted.report)
    if predictions is not None:
        check_replaceable(predictions, "predictions")
    with open_index(name) as searcher:
        split = split or default_split(splits_of(source), "probe")
        reader = ProbeReader(searcher, model, compute, True, say, keep_pixels=wanted.report is not None)
        found = _ask(searcher, reader.read(source, split), wanted, keep, on_progress)
        if not found:
            raise DataError(
                f"expected probes{f' with split {split}' if split else ''} in {source}, found none: check --split"
            )
        strangers = [
            a for path in wanted.strangers for a in _ask(searcher, _all_of(reader, path), wanted, keep, on_progress)
        ]
        evaluation = Evaluation.of(searcher.store, found, strangers, wanted.seed)
        groups = _groups(evaluation, wanted.by)
        enrolled = searcher.all_faces() if keep else ([], np.empty((0, searcher.spec.dimension), np.float32))
        sizes, photos, pairs = _parts(searcher, enrolled, evaluation, wanted)
        comparison = _compared(evaluation, source, split, wanted, compute, on_progress, say) if wanted.against else None
        if reader.note:
            say(reader.note)
        seen, warnings = _seen(searcher.spec, model, evaluation)
        warnings += _enrolled_strangers(found, strangers, evaluation)
        known = searcher.store.known({a.face_id for a in found if a.embedded})
        warnings += enrolled_notes(sum(a.face_id in known for a in found), len(found))
        names = [a.identity for a in evaluation.strangers if a.identity]
        warnings += spelling_notes(names, [name for name, _ in searcher.store.list_people()])
        measured = EvaluationResult(
            name,
            split,
            searcher.store.faces,
            found,
            evaluation,
            groups,
            sizes,
            photos,
            wanted.against,
            comparison,
            seen,
            warnings,
            pairs,
        )
        if wanted.report is not None:
            _write_report(
                wanted.report, measured, searcher, reader, [source, *wanted.strangers], enrolled, wanted, model
            )
            outputs.note(searcher.store.folder, "report", wanted.report)
            if searcher.store.encrypted:
                say(f"{wanted.report} is not encrypted, though {name} is: it holds faces of it")
        if predictions is not None:
            outputs.note(searcher.store.folder, "predictions", predictions)
    if predictions is not None:
        write_predictions(predictions, found, evaluation.result())
    return measured


def _ask(
    searcher: Searcher, probes: Iterator[Probe], wanted: EvaluationOptions, keep: bool, on_progress: OnProgress | None
) -> list[ProbeAnswer]:
    found = []
    for probe, (hits, *_) in answered(searcher, probes, Question(k=RANKS, score=wanted.score)):
        found.append(
            ProbeAnswer.of(probe.rows[0], hits, by=wanted.by, keep_vector=keep, spelled=searcher.store.spelled)
        )
        if on_progress:
            on_progress(len(found), 0)
    return found


def _all_of(reader: ProbeReader, source: Path) -> Iterator[Probe]:
    return reader.read(source, default_split(splits_of(source), "probe"))


def _groups(evaluation: Evaluation, by: str | None) -> list[Group]:
    if by is None:
        return []
    if all(a.group is None for a in (*evaluation.probes, *evaluation.strangers)):
        raise InputError(
            f"expected a column {by!r} in the probes, none has it: give `embed` the CSV that has it with --metadata, or another --by"
        )
    return by_group(evaluation)


def _parts(
    searcher: Searcher, enrolled: tuple[list[StoredFace], np.ndarray], evaluation: Evaluation, wanted: EvaluationOptions
) -> tuple[list[ProbeOutcome], list[ProbeOutcome], PairScores | None]:
    """The same probes asked of smaller galleries, and of galleries of fewer photos a person; and beside every enrolled face."""
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
    """Before what takes long."""
    if report is not None and report.exists() and not report.is_dir():
        raise InputError(f"expected a folder for --report, {report} is a file: choose another")
    if report is not None:
        check_replaceable(report / "index.html", "page")


def _write_report(
    folder: Path,
    measured: EvaluationResult,
    searcher: Searcher,
    reader: ProbeReader,
    sources: Sequence[Path],
    enrolled: tuple[list[StoredFace], np.ndarray],
    wanted: EvaluationOptions,
    model: str | None,
) -> None:
    from facegallery.indexer.evaluation import report
    from facegallery.workflows import pictures

    sheets = pictures.contact_sheets(searcher, reader, sources, measured.evaluation, enrolled, wanted.score)
    history = trained_on.history(searcher.spec, _folder(model))
    head = report.facts(datetime.now(UTC), wanted.command, searcher.spec)
    page = report.page_of(measured.evaluation, measured.crossed, measured.result(), history, sheets, head)
    report.write(folder, page)


# another index --------------------------------------------------------------


def _compared(
    first: Evaluation,
    source: Path,
    split: str | None,
    wanted: EvaluationOptions,
    compute: Compute,
    on_progress: OnProgress | None,
    say: Say,
) -> ModelComparison:
    """The same photos asked of the index `wanted.against`."""
    assert wanted.against is not None
    asked = {a.photo for a in (*first.probes, *first.strangers)}
    with open_index(wanted.against) as searcher:
        reader = ProbeReader(searcher, None, compute, True, say)
        if wanted.against_vectors:
            probes: Iterator[Probe] = (probe for path in wanted.against_vectors for probe in reader.read(path))
        else:
            probes = (probe for path, which in _sources(source, split, wanted) for probe in reader.read(path, which))
        kept = (probe for probe in probes if (probe.rows[0].image_sha256 or probe.image) in asked)
        found = _ask(searcher, kept, wanted, False, on_progress)
        return compare_evaluations(first, Evaluation.of(searcher.store, found, (), wanted.seed))


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
    """How many people of each kind the model was trained on, or had its best epoch chosen by, and a warning; None without a record."""
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
    warning = f"{spec.model_name} knows those it is tested with: {', '.join(parts)}; what follows says less of people it has never seen"
    return counts, [warning] if parts else []


def _enrolled_strangers(
    found: Sequence[ProbeAnswer], strangers: Sequence[ProbeAnswer], evaluation: Evaluation
) -> list[str]:
    counted = len(evaluation.strangers) + len(evaluation.probes) - sum(a.identity is not None for a in found)
    left = len(strangers) - counted
    return [f"{left} photos given as strangers are of enrolled people and were left out"] if left else []
