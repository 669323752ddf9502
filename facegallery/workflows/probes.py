"""Read the photos and vectors that an index is asked about."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.faces.drawn import DrawnFaces
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.search.question import Question
from facegallery.workflows.inputs import PhotoItem, items_of
from facegallery.workflows.networks import Networks, ReadOptions

if TYPE_CHECKING:
    from facegallery.embedder.photos.decoder import Photo
    from facegallery.embedder.weights.store import Model
    from facegallery.indexer.search.searcher import Searcher
    from facegallery.indexer.store.store import Store
    from facegallery.results import Hit

PROBE_BATCH = 512
TOLD = 20  # photos of which it is said why they are not asked about
T = TypeVar("T")
SEVERAL = "{} photos have several faces: of each, the largest, most central one is taken"
log = logging.getLogger(__name__)


def indexes_root() -> Path:
    """Return `indexes/` under the working folder, or FACEGALLERY_INDEXES."""
    return Path(os.environ.get("FACEGALLERY_INDEXES", "indexes"))


def gallery_folder(where: str | Path) -> Path:
    """Return the folder of a gallery: a plain name lies under `indexes_root`, a path is taken as it is.

    Raises InputError for a name that cannot be a gallery's.
    """
    from facegallery.indexer.store.reader import check_name, index_folder

    path = Path(where)
    if isinstance(where, str) and os.sep not in where:
        return index_folder(indexes_root(), where)
    check_name(path.resolve().name)
    return path


def open_index(where: str | Path) -> Searcher:
    """Open an index for questions."""
    from facegallery.indexer.search.searcher import Searcher

    return Searcher(gallery_folder(where))


def open_store(where: str | Path, *, write: bool = False) -> Store:
    """Open the store of an index."""
    from facegallery.indexer import opening

    return opening.open_store(gallery_folder(where), write=write)


@dataclass
class Probe:
    """A photo that is asked about: its rows, one for each face (or one that says why there is none)."""

    image: str
    rows: list[Row]
    why: str = ""  # a photo has no face that can be asked about; what is stored does not say
    others: int = 0  # further faces, which are not asked about
    photo: Photo | None = None  # without its pixels; None for vectors

    @property
    def outcome(self) -> str:
        return self.rows[0].outcome


class ProbeReader:
    """Photos, folders and vector data sets -> probes whose vectors fit a gallery's contract."""

    def __init__(self, searcher: Searcher, networks: Networks, options: ReadOptions = ReadOptions()):  # noqa: B008
        self._searcher, self._networks, self._options = searcher, networks, options
        self._told = 0
        self.several = 0  # photos read so far that have faces which are not asked about
        self.drawn = DrawnFaces()

    def read(self, source: Path | Sequence[PhotoItem], split: str | None = None) -> Iterator[Probe]:
        """Yield the probes of one source, in order; raises GalleryError where its vectors are of another contract."""
        if not isinstance(source, Path):
            yield from self.of_photos(source)
        elif is_data_set(source):
            yield from self._of_vectors(DataSet(source), split)
        else:
            items = items_of(list_photos(source))
            yield from self.of_photos([item for item in items if split is None or item.entry.split == split])

    def _of_vectors(self, vectors: DataSet, split: str | None) -> Iterator[Probe]:
        self.check_spec(vectors.spec)
        one_face = self._options.one_face
        for table in vectors.shards():
            rows = [row for row in to_rows(table) if split is None or row.split == split]
            self.several += sum(row.face == 1 for row in rows) if one_face else 0
            yield from group_by_image(row for row in rows if not one_face or row.face <= 0)

    def of_photos(self, items: Sequence[PhotoItem]) -> Iterator[Probe]:
        """Yield the probes of photos, in order."""
        if (model := self._networks.model) is not None:
            self.check_spec(model.spec)
        for _, photo, rows in self._networks.rows(items, self._options):
            if photo.why:
                self._tell(f"{photo.name}: {photo.outcome} ({photo.why})")
            self.several += photo.faces > len(rows)
            self.drawn.add(photo)
            yield Probe(photo.name, rows, photo.why, max(0, photo.faces - len(rows)), photo)

    def _tell(self, problem: str) -> None:
        """Log why a photo is not asked about; of many only of the first."""
        self._told += 1
        if self._told <= TOLD:
            log.info(problem if self._told < TOLD else f"{problem}; no more of these are shown, --json has them all")

    @property
    def note(self) -> str | None:
        """A line where photos had faces that were not asked about."""
        return SEVERAL.format(self.several) if self.several else None

    def log_note(self) -> None:
        """Log `note`, where there is one."""
        if self.note:
            log.info(self.note)

    def check_spec(self, spec: FaceSpec) -> None:
        """Refuse vectors that cannot be compared, and log where others differ in what is only recorded."""
        before = len(self._searcher.warnings)
        self._searcher.check_spec(spec)
        for line in self._searcher.warnings[before:]:
            log.info(line)


def fitting_model(searcher: Searcher, reference: str | None = None) -> Model:
    """Open the gallery's own model, or the one called `reference`, with the gallery's crops and views."""
    from facegallery.embedder.weights.store import open_model, open_spec

    wanted = searcher.spec
    model = open_spec(wanted) if reference is None else open_model(reference)
    spec = model.spec.seeing_as(wanted)
    spec = replace(spec, flip=wanted.flip, margins=wanted.margins, crop=wanted.crop, colour=wanted.colour)
    return replace(model, spec=spec)


def group_by_image(rows: Iterable[Row]) -> Iterator[Probe]:
    """Yield rows that follow each other with the same image as one probe."""
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
    """Yield each probe with the hits of each of its rows; rows without a vector have none."""
    return answered_by(probes, lambda xq: searcher.answer(xq, question), [])


def answered_by(
    probes: Iterator[Probe], ask: Callable[[np.ndarray], Sequence[T]], without: T
) -> Iterator[tuple[Probe, list[T]]]:
    """Yield each probe with what `ask` answers to each of its rows; `without` for those without a vector."""
    while batch := list(islice(probes, PROBE_BATCH)):
        asked = [row.vector for probe in batch for row in probe.rows if row.vector is not None]
        found = iter(ask(np.asarray(asked, np.float32)) if asked else [])
        for probe in batch:
            yield probe, [next(found) if row.vector is not None else without for row in probe.rows]


def enrolled_notes(enrolled: int, probes: int) -> list[str]:
    """Return a warning where probes are enrolled faces: these find themselves whatever the model is worth."""
    if not enrolled:
        return []
    return [
        f"{enrolled} of {probes} probes are enrolled photos themselves (same face): leave them out with --split, "
        "or give other photos"
    ]


def default_split(splits: set[str | None], wanted: str) -> str | None:
    """Return `wanted` where a source has that split, else None: all of it."""
    return wanted if wanted in splits else None


def splits_of(source: Path) -> set[str | None]:
    """Return the splits that a data set's rows or a folder's photos have."""
    if is_data_set(source):
        return {s for table in DataSet(source).shards(["split"]) for s in table["split"].to_pylist()}
    return {e.split for e in list_photos(source).entries}
