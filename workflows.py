"""What takes more than one part: align, embed and search photos. For the command line and a server alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embedder.compute import Compute
from embedder.decoder import Decoder
from embedder.errors import DataError, InputError
from embedder.listing import Listing, list_photos
from embedder.outcomes import READ
from embedder.row import Row, to_rows
from embedder.spec import CropRule, FaceSpec
from embedder.table import DataSet, is_data_set
from embedder.understood import Understood, understand

if TYPE_CHECKING:
    from embedder.detect import Detector
    from embedder.pipeline import OnProgress, Options, PhotoStage, Summary
    from embedder.runtime import Embedder
    from embedder.weights import Model
    from indexer.gallery import Gallery
    from indexer.search import Hit, Searcher

PROBE_BATCH = 512
TOLD = 20  # photos of which it is said why they are not asked about
FEW = 32  # photos of a source for which a network that is ready sooner wins
Say = Callable[[str], None]
T = TypeVar("T")
ANYWHERE = Compute()
SEVERAL = "{} photos have several faces: of each, the largest, most central one is taken"


def quietly(line: str) -> None:
    """A `Say` that says nothing."""


def indexes_root() -> Path:
    """`indexes/` under the working folder, or FACEGALLERY_INDEXES."""
    return Path(os.environ.get("FACEGALLERY_INDEXES", "indexes"))


# photos -> crops -> vectors -------------------------------------------------


def make_detector(settings: Mapping[str, Any], compute: Compute = ANYWHERE) -> Detector:
    """The MTCNN detector, with `min_face` and `max_side` where they are given, as a contract's record has them."""
    from embedder.detect import MAX_SIDE, MIN_FACE, MtcnnDetector

    return MtcnnDetector(settings.get("min_face", MIN_FACE), settings.get("max_side", MAX_SIDE), compute)


def make_embedder(reference: str, compute: Compute, views: str, say: Say, few: bool = False) -> Embedder:
    """The model called `reference`, ready to run, for a few photos sooner; says what runs where."""
    from embedder.weights import open_model

    return load_embedder(open_model(reference).with_views(views), compute, say, few)


def load_embedder(model, compute: Compute, say: Say, few: bool = False) -> Embedder:
    """An opened model, ready to run; for a few photos sooner."""
    from embedder.runtime import Embedder

    embedder = Embedder(model, compute, few)
    say(embedder.where)
    return embedder


def align(photos: Path, out: Path, rule: CropRule, options: Options, metadata: Path | None, settings: dict[str, int],
          compute: Compute, on_progress: OnProgress, say: Say, level: int | None = None) -> Summary:  # fmt: skip
    """Photos -> a data set of crops. level: which folder names the person, as `embedder.folders.labels_of` has it."""
    from embedder.pipeline import PhotoStage, process_photos

    listing = list_photos(photos, metadata, level)
    say_understood(listing.understood(), say)
    detector = make_detector(settings, compute)
    say(detector.where)
    stage = PhotoStage(FaceSpec(crop=rule), detector, None, options)
    return process_photos(listing, out, stage, "align", on_progress, say=say)


def embed(source: Path, out: Path, embedder: Embedder, options: Options, metadata: Path | None, on_progress: OnProgress,
          say: Say = quietly, level: int | None = None) -> Summary:  # fmt: skip
    """Photos, or a data set of crops -> a data set of unit vectors. level: as for `align`."""
    from embedder.pipeline import PhotoStage, process_crops, process_photos

    if source.is_dir() and is_data_set(source):
        if metadata or options.all_faces or options.retry or level is not None:
            raise InputError(
                "expected photos for --metadata, --all-faces, --retry and --identity-level, received crops: give those options to `align`"
            )
        return process_crops(DataSet(source), out, embedder, options.keep_crops, on_progress, say)
    listing = list_photos(source, metadata, level)
    say_understood(listing.understood(), say)
    stage = PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, options)
    return process_photos(listing, out, stage, "embed", on_progress, say=say)


def say_understood(understood: Understood, say: Say) -> None:
    """Says whose the photos are taken to be, before anything is done with them."""
    for line in understood.lines:
        say(line)


# probes ---------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What is asked of every face."""

    k: int = 5
    faces: bool = False
    score: str = "best"
    where: tuple[str, ...] = ()
    min_score: float | None = None


@dataclass
class Probe:
    """A photo that is asked about: its rows, one for each face (or one that says why there is none)."""

    image: str
    rows: list[Row]
    why: str = ""  # a photo has no face that can be asked about; what is stored does not say
    others: int = 0  # further faces, which are not asked about

    @property
    def outcome(self) -> str:
        return self.rows[0].outcome


class ProbeReader:
    """Photos, folders and vector data sets -> probes whose vectors fit a gallery's contract."""

    def __init__(self, searcher: Searcher, model: str | None, compute: Compute, one_face: bool, say: Say, keep_pixels: bool = False,
                 keep_crops: bool = False):  # fmt: skip
        self._searcher, self._reference, self._compute, self._say = searcher, model, compute, say
        self._one_face, self._keep_pixels, self._keep_crops = one_face, keep_pixels, keep_crops
        self._stage: PhotoStage | None = None
        self._few = True
        self._told = 0
        self.several = 0  # photos read so far that have faces which are not asked about

    def read(self, source: Path, split: str | None = None) -> Iterator[Probe]:
        """The probes of one source, in order; raises GalleryError where its vectors are of another contract."""
        if source.is_dir() and is_data_set(source):
            yield from self._of_vectors(DataSet(source), split)
        else:
            listing = list_photos(source)
            entries = [e for e in listing.entries if split is None or e.split == split]
            yield from self.of_photos(replace(listing, entries=entries))

    def _of_vectors(self, vectors: DataSet, split: str | None) -> Iterator[Probe]:
        self.check_spec(vectors.spec)
        for table in vectors.shards():
            rows = [row for row in to_rows(table) if split is None or row.split == split]
            self.several += sum(row.face == 1 for row in rows) if self._one_face else 0
            yield from group_by_image(row for row in rows if not self._one_face or row.face <= 0)

    def of_photos(self, listing: Listing) -> Iterator[Probe]:
        """The probes of photos, in order."""
        few = len(listing.entries) <= FEW
        with Decoder() as decoder:
            photos = decoder.stream(listing.root, [e.path for e in listing.entries])
            stage = self._photo_stage(few)
            for photo, rows in stage.rows(photos, {e.path: e for e in listing.entries}):
                if photo.why:
                    self._tell(f"{photo.name}: {photo.outcome} ({photo.why})")
                self.several += photo.faces > len(rows)
                yield Probe(photo.name, rows, photo.why, max(0, photo.faces - len(rows)))

    def _tell(self, problem: str) -> None:
        """Says why a photo is not asked about; of many only of the first."""
        self._told += 1
        if self._told <= TOLD:
            self._say(problem if self._told < TOLD else f"{problem}; no more of these are shown, --json has them all")

    @property
    def note(self) -> str | None:
        """A line where photos had faces that were not asked about."""
        return SEVERAL.format(self.several) if self.several else None

    def _photo_stage(self, few: bool) -> PhotoStage:
        """Kept from one source to the next, unless it is for a few photos and now there are many."""
        if self._stage is None or (self._few and not few):
            model = fitting_model(self._searcher, self._reference)
            self.check_spec(model.spec)

            def load() -> Embedder:
                embedder = load_embedder(model, self._compute, self._say, few)
                return embedder.load() if few else embedder

            with ThreadPoolExecutor(1) as thread:
                loading = thread.submit(load)
                from embedder.pipeline import Options, PhotoStage  # meanwhile: it takes as long

                detector = make_detector(self._searcher.spec.detector, self._compute)
                if few:
                    detector.load()
                embedder = loading.result()
            crop = self._searcher.spec.crop
            spec = replace(embedder.spec, crop=crop if self._keep_crops else replace(crop, border=0))
            options = Options(all_faces=not self._one_face, keep_crops=self._keep_crops, keep_pixels=self._keep_pixels)
            self._stage, self._few = PhotoStage(spec, detector, embedder, options), few
        return self._stage

    def check_spec(self, spec: FaceSpec) -> None:
        """Refuses vectors that cannot be compared, and says where others differ in what is only recorded."""
        before = len(self._searcher.warnings)
        self._searcher.check_spec(spec)
        for line in self._searcher.warnings[before:]:
            self._say(line)


def fitting_model(searcher: Searcher, reference: str | None = None) -> Model:
    """The gallery's own model, or the one called `reference`, with the gallery's crops and views."""
    from embedder.weights import open_model, open_spec

    wanted = searcher.spec
    model = open_spec(wanted) if reference is None else open_model(reference)
    spec = replace(model.spec, flip=wanted.flip, margins=wanted.margins, crop=wanted.crop, colour=wanted.colour)
    return replace(model, spec=spec)


def group_by_image(rows) -> Iterator[Probe]:
    """Rows that follow each other with the same image, as one probe."""
    probe: Probe | None = None
    for row in rows:
        if probe is not None and probe.image == row.image:
            probe.rows.append(row)
            continue
        if probe is not None:
            yield probe
        probe = Probe(row.image, [row])
    if probe is not None:
        yield probe


def answered(searcher: Searcher, probes: Iterator[Probe], question: Question) -> Iterator[tuple[Probe, list[list[Hit]]]]:
    """Each probe with the hits of each of its rows; rows without a vector have none."""
    return _asked(probes, lambda xq: searcher.search(xq, **asdict(question)), [])


def _asked(probes: Iterator[Probe], ask: Callable[[np.ndarray], Sequence[T]], without: T) -> Iterator[tuple[Probe, list[T]]]:
    """Each probe with what `ask` answers to each of its rows; `without` for those without a vector."""
    while batch := list(islice(probes, PROBE_BATCH)):
        asked = [row.vector for probe in batch for row in probe.rows if row.vector is not None]
        found = iter(ask(np.asarray(asked, np.float32)) if asked else [])
        for probe in batch:
            yield probe, [next(found) if row.vector is not None else without for row in probe.rows]


def enrolled_notes(enrolled: int, probes: int) -> list[str]:
    """A warning where probes are enrolled faces themselves, which find themselves whatever the model is worth."""
    if not enrolled:
        return []
    return [f"{enrolled} of {probes} probes are enrolled photos themselves (same face): leave them out with --split, or give other photos"]


def default_split(splits: set[str | None], wanted: str) -> str | None:
    """`wanted` where a source has that split, else None: all of it."""
    return wanted if wanted in splits else None


def splits_of(source: Path) -> set[str | None]:
    """The splits that a data set's rows or a folder's photos have."""
    if source.is_dir() and is_data_set(source):
        return {s for table in DataSet(source).shards(["split"]) for s in table["split"].to_pylist()}
    return {e.split for e in list_photos(source).entries}


def open_index(name: str) -> Searcher:
    """The index called `name`, ready for questions."""
    from indexer.faces import index_folder
    from indexer.search import Searcher

    return Searcher(index_folder(indexes_root(), name))


def open_gallery(name: str, write: bool = False) -> Gallery:
    """The gallery called `name`."""
    from indexer.faces import index_folder
    from indexer.gallery import Gallery

    return Gallery.open(index_folder(indexes_root(), name), write)


# search ---------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What a search found: each probe with the answer to each of its rows."""

    probes: list[tuple[Probe, list[Answer]]]

    def result(self) -> dict[str, Any]:
        """As `search --json` prints it."""
        return {"probes": [_probe_json(probe, answers) for probe, answers in self.probes]}


def search(name: str, sources: Sequence[Path], question: Question, one_face: bool = False, model: str | None = None,
           compute: Compute = ANYWHERE, keep_pixels: bool = False, say: Say = print) -> Searched:  # fmt: skip
    """The k nearest people (or faces) to every face of every source; keep_pixels: as a picture of them needs."""
    with open_index(name) as searcher:
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say, keep_pixels)
        probes = (probe for source in sources for probe in reader.read(source))
        found = list(_asked(probes, judge.answers, NO_ANSWER))
        if reader.note:
            say(reader.note)
    return Searched(found)


def search_to_parquet(name: str, sources: Sequence[Path], out: Path, question: Question, one_face: bool, model: str | None, compute: Compute,
                      on_progress: OnProgress, say: Say) -> dict[str, Any]:  # fmt: skip
    """`search` for any number of probes in bounded memory: a row for each hit, in the order of the probes."""
    from indexer import outputs
    from indexer.hits import HitWriter

    if out.suffix.lower() != ".parquet":
        raise InputError(f"expected a file .parquet for --out, received {out}: end it with .parquet")
    faces = photos = unread = 0
    with open_index(name) as searcher, HitWriter(out) as writer:
        outputs.note(searcher.gallery.folder, "hits", out)
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say)
        probes = (probe for source in sources for probe in reader.read(source))
        for photos, (probe, answers) in enumerate(_asked(probes, judge.answers, NO_ANSWER), 1):
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
        name = searcher.gallery.folder.name
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
        found = self._searcher.search(xq, **asdict(asked))
        others = [next((hit.score for hit in hits if hit.identity != hits[0].identity), None) for hits in found]
        if question.faces:
            self._ask_for_others(xq, found, others, asked.k)
        return [self._answer(hits, other) for hits, other in zip(found, others, strict=True)]

    def _ask_for_others(self, xq: np.ndarray, found: Sequence[Sequence[Hit]], others: list[float | None], k: int) -> None:
        """The score of the best other person where all faces that were found are of one, and there may be more."""
        lacking = [i for i, (hits, other) in enumerate(zip(found, others, strict=True)) if other is None and len(hits) == k]
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
            verdict |= {"known": calibration.known(score), "chance": max(calibration.chance(score), limit), "chance_limit": limit}
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
    return {"image": probe.image, "identity": probe.rows[0].identity, "outcome": probe.outcome, "why": probe.why or None, "faces": faces}


# vectors -> index -----------------------------------------------------------


def build_index(vectors: Path, name: str, split: str | None, centre: bool, replace_old: bool, readmit: bool = False,
                encrypt: bool = False, recall: float | None = None, memory: int | None = None, say: Say = quietly) -> dict[str, Any]:  # fmt: skip
    """A gallery and its index from a data set of vectors; the report, with its notes and a line of text."""
    from indexer.build import Selection, build
    from indexer.faces import index_folder

    folder = index_folder(indexes_root(), name)
    understood = understand(Selection(_open_vectors(vectors), split).labels(), "such as")
    say_understood(understood, say)
    report = build(vectors, folder, split, centre, replace_old, readmit, encrypt, recall, memory)
    return asdict(report) | {"notes": report.notes, "text": report.text, "understood": understood.result()}


def _open_vectors(vectors: Path) -> DataSet:
    """The data set that an index is built from; raise DataError where the folder is none, or holds photos."""
    from embedder.folders import Walk
    from embedder.sniff import has_photo_suffix

    try:
        return DataSet(vectors)
    except DataError:
        photos = has_photo_suffix(str(vectors)) if Path(vectors).is_file() else next(iter(Walk(Path(vectors))), None) is not None
        if photos:
            raise DataError(
                f"expected vectors, {vectors}: these are photos: run `embed {vectors} --model M --out VECTORS` and give VECTORS"
            ) from None
        raise
