"""What every command that enrols photos does with them: list them, leave out what is known, keep faces and photos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.names import FOLDERS, NAMES_FROM, WITH_REGIONS, WITHOUT_FOLDERS
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.progress import Progress
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.selection import Selection
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.persons import records_of
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store
from facegallery.workflows.inputs import PhotoItem, items_of, with_columns
from facegallery.workflows.looked_at import note_known, photo_row
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.photos import LEVEL_OF_NOTHING, log_understood
from facegallery.workflows.probes import PROBE_BATCH, default_split
from facegallery.workflows.review import REVIEWS, STANDARD, Review
from facegallery.workflows.session import GallerySession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AddOptions:
    """What is enrolled, and as whom."""

    identity: str | None = None  # the person in all photos; None: whom the folders name
    split: str | None = None  # photos or rows to add; `gallery` where there are such, else all
    metadata: Path | Mapping[str, object] | None = (
        None  # a CSV `image,...` of columns to keep, or columns of all photos
    )
    readmit: bool = False  # enrol faces that were forgotten, too
    level: int | None = None  # which folder names the person, as `embedder.photos.folders.labels_of` has it
    names_from: str = FOLDERS  # what names the people: FOLDERS, REGIONS that somebody drew, EITHER or NOBODY
    one_face: bool = False  # of photos without a person, keep the largest, most central face alone
    review: str = STANDARD  # OFF, STANDARD: warn of doubtful faces, or STRICT: do not enrol them

    def check(self) -> None:
        """Raise InputError for options that exclude each other, and for another source of names."""
        if self.review not in REVIEWS:
            raise InputError(f"expected a review of {', '.join(REVIEWS)}, received {self.review!r}: choose one")
        if self.names_from not in NAMES_FROM:
            raise InputError(f"expected names from {', '.join(NAMES_FROM)}, received {self.names_from!r}: choose one")
        if self.identity is not None and self.level is not None:
            raise InputError("expected --identity or --identity-level, received both: give one")
        if self.identity is not None and self.names_from != FOLDERS:
            raise InputError("expected --identity or --names-from, received both: give one")
        if self.level is not None and self.names_from in WITHOUT_FOLDERS:
            raise InputError(LEVEL_OF_NOTHING.format(self.names_from))

    @property
    def table(self) -> Path | None:
        """The CSV."""
        return self.metadata if isinstance(self.metadata, Path) else None

    @property
    def columns(self) -> Mapping[str, object]:
        """The columns of all photos."""
        return self.metadata if isinstance(self.metadata, Mapping) else {}


@dataclass
class Batch:
    """Photos that are enrolled together, and what is said of them beforehand."""

    items: list[PhotoItem] = field(default_factory=list)
    labels: list[tuple[str, str | None]] = field(default_factory=list)  # (path, identity) of each photo
    notes: list[str] = field(default_factory=list)
    source: str = "such as"  # what names the people, as `Listing` has it
    by_folders: bool = False


def listed(path: Path, options: AddOptions) -> Batch:
    """The photos of a path of the split that is asked for; of `gallery` where there are such, unless one is given."""
    listing = list_photos(path, options.table, options.level)
    listing = listing.nameless() if options.names_from in WITHOUT_FOLDERS else listing
    split = options.split or default_split({e.split for e in listing.entries}, "gallery")
    items = [item for item in items_of(listing) if split is None or item.entry.split == split]
    labels = [(item.entry.path, identity) for item in items for identity in item.entry.identities]
    if options.identity is not None and any(item.entry.given for item in items):
        raise InputError(f"expected --identity or a CSV with boxes, received both: {path} says whose the faces are")
    return Batch(items, labels, listing.notes, listing.source, listing.by_folders)


@dataclass
class Adding:
    """One `add`: where to, and what was done so far."""

    session: GallerySession
    store: Store
    options: AddOptions
    command: str
    done: Added
    left: Counter[str]
    review: Review

    def vectors(self, folder: Path) -> Understood:
        """Enrol the rows of a data set."""
        identity, options = self.options.identity, self.options
        if options.metadata or options.level is not None or options.names_from != FOLDERS:
            raise InputError(
                "expected photos for --metadata, --identity-level and --names-from, received vectors: give those "
                "options to `embed`"
            )
        selection = Selection(DataSet(folder), options.split, named=False)
        understood = understood_of(selection.labels(), "such as", identity)
        log_understood(understood)
        self.session.reader().check_spec(selection.spec)
        rows = (row if identity is None else replace(row, identity=identity) for row in selection)
        self.store.offer(records_of(selection.people()))
        nameless = Counter[str]()
        self._add(row for row in rows if row.identity or nameless.update([row.image]))
        if nameless:
            unnamed = (row for row in selection if row.identity is None)
            while block := list(islice(unnamed, PROBE_BATCH)):
                self._keep(block)
        self.left.update({why: n for why, n in selection.left_out.items() if n})
        return understood

    def photos(self, batch: Batch, progress: Progress) -> Understood:
        """Enrol the faces of photos that the gallery does not know."""
        identity = self.options.identity
        understood = understood_of(batch.labels, batch.source, identity, by_folders=batch.by_folders)
        for line in batch.notes:
            log.info(line)
        # what is drawn may have changed: photos with drawn faces are read again
        every = self.options.names_from in WITH_REGIONS
        if drawn := [item for item in batch.items if every or item.entry.given]:
            self._embed(with_columns(drawn, self.options.columns), progress)
        if every:
            return understood
        if self.options.names_from == FOLDERS:
            log_understood(understood)
        items = [item for item in batch.items if not item.entry.given]
        items = items if identity is None else [item.labelled(identity=identity) for item in items]
        found = unknown(self.store, with_columns(items, self.options.columns), self.options)
        new = found.new
        join(self.done, found.done)
        note_known(self.store, found.known)
        if named := [item for item in new if item.entry.identity]:
            self._embed(named, progress)
        if unnamed := [item for item in new if not item.entry.identity]:
            self._embed(unnamed, progress, one_face=self.options.one_face)
        return understood

    def _embed(self, items: list[PhotoItem], progress: Progress, *, one_face: bool = True) -> None:
        regions = self.options.names_from in WITH_REGIONS
        read = ReadOptions(one_face, keep_crops=self.store.keeps_crops, regions=regions, given=True)
        reader = self.session.reader(read)
        spec, probes, asked = self.session.searcher.spec, reader.of_photos(items), 0
        while batch := list(islice(probes, PROBE_BATCH)):
            rows = [row for probe in batch for row in probe.rows]
            self.left.update(row.outcome for row in rows if row.vector is None)
            check_model(self.store, spec)
            self._add(row for row in rows if row.vector is not None and row.identity is not None)
            self._keep([row for row in rows if row.vector is not None and row.identity is None])
            pairs = zip(items[asked : asked + len(batch)], batch, strict=True)
            self.store.note_photos(photo_row(item, probe.photo) for item, probe in pairs if probe.photo is not None)
            asked += len(batch)
            progress(asked, len(items))
        self.left.update(reader.drawn.lost)
        for line in reader.drawn.notes:
            log.info(line)

    def _add(self, rows: Iterable[Row]) -> None:
        for part in self.review.passed(rows):
            join(self.done, self.store.add(part, readmit=self.options.readmit, command=self.command))

    def _keep(self, rows: Sequence[Row]) -> None:
        kept = self.store.add_unnamed(rows, command=self.command)
        self.done.unnamed += len(kept)
        self.done.command = self.done.command or (self.command if kept else None)


def check_model(store: Store, spec: FaceSpec) -> None:
    """Raise Replaced where the gallery has another model by now than the one that vectors were made with."""
    if store.spec.fingerprint != spec.fingerprint:
        raise Replaced(
            f"expected a vector of the model that {store.folder.name} has now, it was changed meanwhile: send the "
            "photo again"
        )


def understood_of(
    pairs: Iterable[tuple[str, str | None]], source: str, identity: str | None, *, by_folders: bool = True
) -> Understood:
    """Whose the faces to add are; all one person's where an identity is given."""
    if identity is None:
        return understand(pairs, source, by_folders=by_folders)
    named = ((path.rpartition("/")[2], identity) for path, _ in pairs)
    return understand(named, "by --identity,", by_folders=False)


def join(total: Added, part: Added) -> None:
    total.added, total.again, total.forgotten = (
        total.added + part.added,
        total.again + part.again,
        total.forgotten + part.forgotten,
    )
    total.command = total.command or part.command
    total.conflicts += part.conflicts
    total.face_ids += part.face_ids
    total.unsure += part.unsure


@dataclass
class Found:
    """Which photos a gallery does not know; of the others, their hashes, and what it knows of their faces."""

    new: list[PhotoItem] = field(default_factory=list)
    known: list[tuple[PhotoItem, str]] = field(default_factory=list)
    done: Added = field(default_factory=Added)


def unknown(store: Store, items: Iterable[PhotoItem], options: AddOptions) -> Found:
    """Sort photos by whether the gallery has their first faces."""
    found = Found()
    listed = Forgotten() if options.readmit else store.forgotten()
    rows: Iterator[tuple[PhotoItem, Row | None]] = ((item, _first_row(item)) for item in items)
    while block := list(islice(rows, PROBE_BATCH)):
        face_ids = [row.face_id for _, row in block if row is not None]
        known, kept, refused = store.known(face_ids), store.kept(face_ids), listed.refused(face_ids)
        for item, row in block:
            if row is not None and row.face_id in refused:
                found.done.forgotten += 1
                continue
            if row is not None and row.identity is None and row.face_id in {*known, *kept}:
                found.done.again += 1
            elif row is not None and row.face_id in known:
                found.done.count_known(row, known[row.face_id])
            else:
                found.new.append(item)
                continue
            found.known.append((item, row.image_sha256 or ""))
    return found


def _first_row(item: PhotoItem) -> Row | None:
    """The first face of a photo, by the hash of its bytes; None where they cannot be read."""
    sha256 = item.sha256()
    return None if sha256 is None else Row(item.entry.path, "ok", sha256, item.entry.identity, face=0)
