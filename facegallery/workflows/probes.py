"""Read the photos and vectors that an index is asked about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.listing import Listing, list_photos
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.search.question import Question
from facegallery.workflows.photos import Say, load_embedder, make_detector

if TYPE_CHECKING:
    from facegallery.embedder.network.runtime import Embedder
    from facegallery.embedder.pipeline import PhotoStage
    from facegallery.embedder.weights.store import Model
    from facegallery.indexer.search.searcher import Hit, Searcher
    from facegallery.indexer.store.store import Store

PROBE_BATCH = 512
TOLD = 20  # photos of which it is said why they are not asked about
FEW = 32  # photos of a source for which a network that is ready sooner wins
T = TypeVar("T")
SEVERAL = "{} photos have several faces: of each, the largest, most central one is taken"


def indexes_root() -> Path:
    """`indexes/` under the working folder, or FACEGALLERY_INDEXES."""
    return Path(os.environ.get("FACEGALLERY_INDEXES", "indexes"))


def open_index(name: str) -> Searcher:
    """The index called `name`, ready for questions."""
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.reader import index_folder

    return Searcher(index_folder(indexes_root(), name))


def open_store(name: str, write: bool = False) -> Store:
    """The gallery called `name`."""
    from facegallery.indexer import opening
    from facegallery.indexer.store.reader import index_folder

    return opening.open_store(index_folder(indexes_root(), name), write=write)


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

    def __init__(
        self,
        searcher: Searcher,
        model: str | None,
        compute: Compute,
        one_face: bool,
        say: Say,
        keep_pixels: bool = False,
        keep_crops: bool = False,
    ):
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
                from facegallery.embedder.pipeline import Options, PhotoStage  # meanwhile: it takes as long

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
    from facegallery.embedder.weights.store import open_model, open_spec

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


def answered(
    searcher: Searcher, probes: Iterator[Probe], question: Question
) -> Iterator[tuple[Probe, list[list[Hit]]]]:
    """Each probe with the hits of each of its rows; rows without a vector have none."""
    return answered_by(probes, lambda xq: searcher.answer(xq, question), [])


def answered_by(
    probes: Iterator[Probe], ask: Callable[[np.ndarray], Sequence[T]], without: T
) -> Iterator[tuple[Probe, list[T]]]:
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
    return [
        f"{enrolled} of {probes} probes are enrolled photos themselves (same face): leave them out with --split, or give other photos"
    ]


def default_split(splits: set[str | None], wanted: str) -> str | None:
    """`wanted` where a source has that split, else None: all of it."""
    return wanted if wanted in splits else None


def splits_of(source: Path) -> set[str | None]:
    """The splits that a data set's rows or a folder's photos have."""
    if source.is_dir() and is_data_set(source):
        return {s for table in DataSet(source).shards(["split"]) for s in table["split"].to_pylist()}
    return {e.split for e in list_photos(source).entries}
