"""What takes more than one part: align, embed and search photos. For the command line and a server alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder.compute import Compute
from embedder.decoder import Decoder
from embedder.errors import InputError
from embedder.listing import Listing, list_photos
from embedder.replaceable import check_replaceable
from embedder.row import Row, to_rows
from embedder.spec import CropRule, FaceSpec
from embedder.table import DataSet, is_data_set

if TYPE_CHECKING:
    from embedder.detect import Detector
    from embedder.pipeline import OnProgress, Options, PhotoStage, Summary
    from embedder.runtime import Embedder
    from embedder.weights import Model
    from indexer.search import Hit, Searcher

PROBE_BATCH = 512
FEW = 32  # photos of a source for which a network that is ready sooner wins
Say = Callable[[str], None]
ANYWHERE = Compute()


def indexes_root() -> Path:
    """`indexes/` under the working folder, or FACEDB_INDEXES."""
    return Path(os.environ.get("FACEDB_INDEXES", "indexes"))


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
          compute: Compute, on_progress: OnProgress, say: Say) -> Summary:  # fmt: skip
    """Photos -> a data set of crops."""
    from embedder.pipeline import PhotoStage, process_photos

    listing = list_photos(photos, metadata)
    detector = make_detector(settings, compute)
    say(detector.where)
    stage = PhotoStage(FaceSpec(crop=rule), detector, None, options)
    return process_photos(listing, out, stage, "align", on_progress)


def embed(source: Path, out: Path, embedder: Embedder, options: Options, metadata: Path | None, on_progress: OnProgress) -> Summary:
    """Photos, or a data set of crops -> a data set of unit vectors."""
    from embedder.pipeline import PhotoStage, process_crops, process_photos

    if source.is_dir() and is_data_set(source):
        if metadata or options.all_faces:
            raise InputError("expected photos for --metadata and --all-faces, received crops: give those options to `align`")
        return process_crops(DataSet(source), out, embedder, options.keep_crops, on_progress)
    stage = PhotoStage(embedder.spec, make_detector({}, embedder.compute), embedder, options)
    return process_photos(list_photos(source, metadata), out, stage, "embed", on_progress)


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
            yield from group_by_image(row for row in rows if not self._one_face or row.face <= 0)

    def of_photos(self, listing: Listing) -> Iterator[Probe]:
        """The probes of photos, in order."""
        few = len(listing.entries) <= FEW
        with Decoder() as decoder:
            photos = decoder.stream(listing.root, [e.path for e in listing.entries])
            stage = self._photo_stage(few)
            for photo, rows in stage.rows(photos, {e.path: e for e in listing.entries}):
                yield Probe(photo.name, rows)

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
    while batch := list(islice(probes, PROBE_BATCH)):
        asked = [row.vector for probe in batch for row in probe.rows if row.vector is not None]
        xq = np.asarray(asked, np.float32)
        found = iter(searcher.search(xq, **asdict(question)) if asked else [])
        for probe in batch:
            yield probe, [next(found) if row.vector is not None else [] for row in probe.rows]


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


# search ---------------------------------------------------------------------


def search(name: str, sources: Sequence[Path], question: Question, one_face: bool = False, model: str | None = None,
           compute: Compute = ANYWHERE, picture: Path | None = None, say: Say = print) -> dict[str, Any]:  # fmt: skip
    """The k nearest people (or faces) to every face of every source, as `search --json` prints them."""
    if picture is not None:
        check_replaceable(picture, "picture")
    with open_index(name) as searcher:
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say, picture is not None)
        probes = (probe for source in sources for probe in reader.read(source))
        found = list(answered(searcher, probes, judge.question))
        if picture is not None:
            import pictures
            from indexer import outputs

            pictures.draw_answers([(probe, [of_row[: question.k] for of_row in hits]) for probe, hits in found], searcher, picture)
            outputs.note(searcher.gallery.folder, "picture", picture)
    return {"probes": [_probe_json(probe, hits, judge) for probe, hits in found]}


def search_to_parquet(name: str, sources: Sequence[Path], out: Path, question: Question, one_face: bool, model: str | None, compute: Compute,
                      on_progress: OnProgress, say: Say) -> dict[str, Any]:  # fmt: skip
    """`search` for any number of probes in bounded memory: a row for each hit, in the order of the probes."""
    from indexer import outputs
    from indexer.hits import HitWriter

    faces = 0
    with open_index(name) as searcher, HitWriter(out) as writer:
        outputs.note(searcher.gallery.folder, "hits", out)
        judge = Judge(searcher, question, say)
        reader = ProbeReader(searcher, model, compute, one_face, say)
        probes = (probe for source in sources for probe in reader.read(source))
        for done, (probe, hits) in enumerate(answered(searcher, probes, judge.question), 1):
            for row, of_row in zip(probe.rows, hits, strict=True):
                writer.add(row, of_row[: question.k], judge(of_row))
            faces += sum(row.vector is not None for row in probe.rows)
            on_progress(done, 0)
    return {"out": str(out), "faces": faces, "rows": writer.rows}


class Judge:
    """Whether answers count, by the gallery's calibration; says once where there is none, or it is old.

    question: the user's, asked for two answers at least, so that there is a margin to tell.
    """

    def __init__(self, searcher: Searcher, question: Question, say: Say):
        self.question, self.k = replace(question, k=max(2, question.k) if question.k > 0 else question.k), question.k
        self._calibration, stale = searcher.calibration()
        name = searcher.gallery.folder.name
        if self._calibration is None:
            say(f"scores only: no threshold for `unknown` is fitted, run `calibrate {name}`")
        elif self._calibration.fingerprint != searcher.spec.fingerprint:
            say(f"scores only: the calibration is of another model, run `calibrate {name}` again")
            self._calibration = None
        elif stale:
            say(f"the calibration is stale, {stale}: run `calibrate {name}` again")
        if self._calibration is not None and question.score != "best":
            say("scores only: the calibration is for --score best")
            self._calibration = None

    def __call__(self, hits: Sequence[Hit]) -> dict[str, Any]:
        """known, chance (that a stranger scores as high) and margin (to the second person); null where they cannot be told."""
        people = list({hit.identity: hit.score for hit in reversed(hits)}.items())[::-1]
        margin = people[0][1] - people[1][1] if len(people) > 1 else None
        if self._calibration is None:
            return {"known": None, "chance": None, "margin": margin}
        if not hits:
            return {"known": False, "chance": None, "margin": None}
        score = hits[0].score
        return {"known": self._calibration.known(score), "chance": self._calibration.chance(score), "margin": margin}


def _probe_json(probe: Probe, hits: list[list[Hit]], judge: Judge) -> dict[str, Any]:
    faces = [
        {
            "face_id": row.face_id,
            "box": [round(float(v), 2) for v in row.box] if row.box is not None else None,
            "confidence": row.confidence,
            **judge(of_row),
            "hits": [asdict(hit) for hit in of_row[: judge.k]],
        }
        for row, of_row in zip(probe.rows, hits, strict=True)
        if row.vector is not None
    ]
    return {"image": probe.image, "identity": probe.rows[0].identity, "outcome": probe.outcome, "faces": faces}


# vectors -> index -----------------------------------------------------------


def build_index(vectors: Path, name: str, split: str | None, centre: bool, replace_old: bool, readmit: bool = False,
                encrypt: bool = False, recall: float | None = None, memory: int | None = None) -> dict[str, Any]:  # fmt: skip
    """A gallery and its index from a data set of vectors; the report, with its notes and a line of text."""
    from indexer.build import build
    from indexer.faces import index_folder

    report = build(vectors, index_folder(indexes_root(), name), split, centre, replace_old, readmit, encrypt, recall, memory)
    return asdict(report) | {"notes": report.notes, "text": report.text}
