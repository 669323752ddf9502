"""Enrol photos and vectors in a gallery."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from facegallery import results
from facegallery.embedder.dataset.dataset import DataSet, is_data_set
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.faces.names import FOLDERS, NAMES_FROM, WITH_REGIONS, WITHOUT_FOLDERS
from facegallery.embedder.names import person_name, spelling_notes
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.photos.understood import Understood, understand
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.build import ENROLLED
from facegallery.indexer.search.searcher import checked
from facegallery.indexer.selection import Selection
from facegallery.indexer.store import lists
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.log import new_command
from facegallery.indexer.store.persons import records_of
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store
from facegallery.indexer.suspects import Looked, look
from facegallery.workflows.inputs import PhotoInputs, PhotoItem, as_list, items_of, sources_of, with_columns
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.photos import LEVEL_OF_NOTHING, log_understood
from facegallery.workflows.probes import PROBE_BATCH, default_split
from facegallery.workflows.session import GallerySession, Where, session_of

UNNAMED = "{} are kept without a person: `facegallery group {}` groups them, `facegallery suggest {}` says whom to name"
FORGOTTEN = "faces that were forgotten were left out: only readmit (--readmit) enrols them again"
VECTOR = b"facegallery vector 1\0"  # begins what is hashed of a vector that is given without its photo
JUST_ADDED = f"{ENROLLED} WHERE face_id IN (SELECT value FROM log, json_each(detail, '$.faces') WHERE command = ?)"
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

    def check(self) -> None:
        """Raise InputError for options that exclude each other, and for another source of names."""
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
class _Batch:
    """Photos that are enrolled together, and what is said of them beforehand."""

    items: list[PhotoItem] = field(default_factory=list)
    labels: list[tuple[str, str | None]] = field(default_factory=list)  # (path, identity) of each photo
    notes: list[str] = field(default_factory=list)
    source: str = "such as"  # what names the people, as `Listing` has it
    by_folders: bool = False


def add(
    where: Where,
    photos: PhotoInputs,
    options: AddOptions = AddOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> results.Added:
    """Enrol photos, or the rows of data sets of vectors; what is enrolled already is not even embedded again."""
    photos = as_list(photos)
    options = replace(options, identity=None if options.identity is None else person_name(options.identity))
    options.check()
    with session_of(where) as session:
        sources = _sources(photos, options)
        with session.store(write=True) as store:
            before, command, done, left = store.people, new_command(), Added(), Counter[str]()
            understood = []
            for source in sources:
                adding = _Adding(session, store, options, command, done, left)
                if isinstance(source, Path):
                    understood.append(adding.vectors(source))
                else:
                    understood.append(adding.photos(source, progress))
            if not done.command:
                store.add(())  # for the log
            _note_sources(store, photos)
            return _result(store, done, left, understood[0], before)


def _sources(photos: PhotoInputs, options: AddOptions) -> list[Path | _Batch]:
    """What is to be added: data sets as paths, and between them all photos that follow each other as one batch."""
    if isinstance(photos, str | os.PathLike):
        return [path if is_data_set(path := Path(photos)) else _listed(path, options)]
    if options.table or options.level is not None:
        raise InputError("expected the path of a folder for a CSV of metadata or a level, received several photos")
    sources: list[Path | _Batch] = []
    for source in sources_of(photos):
        if isinstance(source, Path) and is_data_set(source):
            sources.append(source)
            continue
        batch = _listed(source, options) if isinstance(source, Path) else _given(source, options)
        if sources and isinstance(last := sources[-1], _Batch):
            last.items += batch.items
            last.labels += batch.labels
            last.notes += batch.notes
        else:
            sources.append(batch)
    return sources or [_Batch()]


def _listed(path: Path, options: AddOptions) -> _Batch:
    """The photos of a path of the split that is asked for; of `gallery` where there are such, unless one is given."""
    listing = list_photos(path, options.table, options.level)
    listing = listing.nameless() if options.names_from in WITHOUT_FOLDERS else listing
    split = options.split or default_split({e.split for e in listing.entries}, "gallery")
    items = [item for item in items_of(listing) if split is None or item.entry.split == split]
    labels = [(item.entry.path, item.entry.identity) for item in items]
    return _Batch(items, labels, listing.notes, listing.source, listing.by_folders)


def _given(items: list[PhotoItem], options: AddOptions) -> _Batch:
    if options.identity is None and options.names_from == FOLDERS:
        raise InputError(
            "expected whose face single photos show, received photos alone: give identity, or a folder of people"
        )
    return _Batch(items, [(item.entry.path, None) for item in items])


@dataclass
class _Adding:
    """One `add`: where to, and what was done so far."""

    session: GallerySession
    store: Store
    options: AddOptions
    command: str
    done: Added
    left: Counter[str]

    def vectors(self, folder: Path) -> Understood:
        """Enrol the rows of a data set."""
        identity, options = self.options.identity, self.options
        if options.metadata or options.level is not None or options.names_from != FOLDERS:
            raise InputError(
                "expected photos for --metadata, --identity-level and --names-from, received vectors: give those "
                "options to `embed`"
            )
        selection = Selection(DataSet(folder), options.split, named=False)
        understood = _understood(selection.labels(), "such as", identity)
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

    def photos(self, batch: _Batch, progress: Progress) -> Understood:
        """Enrol the faces of photos that the gallery does not know."""
        identity = self.options.identity
        understood = _understood(batch.labels, batch.source, identity, by_folders=batch.by_folders)
        for line in batch.notes:
            log.info(line)
        if self.options.names_from in WITH_REGIONS:  # what is drawn may have changed: every photo is read again
            self._embed(with_columns(batch.items, self.options.columns), progress)
            return understood
        if self.options.names_from == FOLDERS:
            log_understood(understood)
        items = batch.items if identity is None else [item.labelled(identity=identity) for item in batch.items]
        new, known = _unknown(self.store, with_columns(items, self.options.columns), self.options)
        _join(self.done, known)
        if named := [item for item in new if item.entry.identity]:
            self._embed(named, progress)
        if unnamed := [item for item in new if not item.entry.identity]:
            self._embed(unnamed, progress, one_face=self.options.one_face)
        return understood

    def _embed(self, items: list[PhotoItem], progress: Progress, *, one_face: bool = True) -> None:
        regions = self.options.names_from in WITH_REGIONS
        reader = self.session.reader(ReadOptions(one_face, keep_crops=self.store.keeps_crops, regions=regions))
        spec, probes, asked = self.session.searcher.spec, reader.of_photos(items), 0
        while batch := list(islice(probes, PROBE_BATCH)):
            rows = [row for probe in batch for row in probe.rows]
            self.left.update(row.outcome for row in rows if row.vector is None)
            check_model(self.store, spec)
            self._add(row for row in rows if row.vector is not None and row.identity is not None)
            self._keep([row for row in rows if row.vector is not None and row.identity is None])
            asked += len(batch)
            progress(asked, len(items))
        for line in reader.drawn.notes:
            log.info(line)

    def _add(self, rows: Iterable[Row]) -> None:
        _join(self.done, self.store.add(rows, readmit=self.options.readmit, command=self.command))

    def _keep(self, rows: Sequence[Row]) -> None:
        kept = self.store.add_unnamed(rows, command=self.command)
        self.done.unnamed += len(kept)
        self.done.command = self.done.command or (self.command if kept else None)


@dataclass(frozen=True)
class GivenVectors:
    """Vectors that were made elsewhere, float32 (n, d), and what is known of each."""

    vectors: np.ndarray
    identity: str | Sequence[str]  # of all, or of each
    images: Sequence[str] | None = None
    metadata: Sequence[Mapping[str, object]] | None = None

    def rows(self) -> list[Row]:
        """Return a row for each vector; its face's id is made of its bytes.

        Raises InputError where there are more or fewer of the rest than vectors.
        """
        n = len(self.vectors)
        names = [self.identity] * n if isinstance(self.identity, str) else list(self.identity)
        columns = [{}] * n if self.metadata is None else list(self.metadata)
        hashes = [hashlib.sha256(VECTOR + x.astype("<f4").tobytes()).hexdigest() for x in self.vectors]
        images = [f"vector-{one[:16]}" for one in hashes] if self.images is None else list(self.images)
        if not len(names) == len(columns) == len(images) == n:
            raise InputError(
                f"expected an identity, an image and metadata for each of {n} vectors, received {len(names)}, "
                f"{len(images)} and {len(columns)}: give as many"
            )
        return [
            Row(image, "ok", sha256, name, face=0, vector=x, extra=_texts(extra))
            for image, sha256, name, x, extra in zip(images, hashes, names, self.vectors, columns, strict=True)
        ]


def add_vectors(where: Where, given: GivenVectors, *, readmit: bool = False) -> results.Added:
    """Enrol vectors that were made elsewhere, by the gallery's model."""
    with session_of(where) as session, session.store(write=True) as store:
        before = store.people
        checked(given.vectors, store.spec.dimension)
        rows = given.rows()
        done = store.add(rows, readmit=readmit)
        understood = understand(((row.image, row.identity) for row in rows), "such as", by_folders=False)
        return _result(store, done, Counter(), understood, before)


def _texts(columns: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in columns.items() if value is not None}


def enrol(
    store: Store, row: Row, spec: FaceSpec, identity: str, *, readmit: bool = False, command: str | None = None
) -> Added:
    """Enrol one face of a photo, with its pixels, under a name; its crop is kept where the gallery keeps crops.

    command: of an earlier enrolment that `undo` takes back together with this one. spec: the contract that the row was
    made by; raises Replaced where the gallery has another one by now.
    """
    check_model(store, spec)
    png = crops_of.to_png(row.pixels, row.region) if store.keeps_crops and row.pixels is not None else None
    return store.add([replace(row, identity=identity, crop=png, pixels=None)], readmit=readmit, command=command)


def check_model(store: Store, spec: FaceSpec) -> None:
    """Raise Replaced where the gallery has another model by now than the one that vectors were made with."""
    if store.spec.fingerprint != spec.fingerprint:
        raise Replaced(
            f"expected a vector of the model that {store.folder.name} has now, it was changed meanwhile: send the "
            "photo again"
        )


def _understood(
    pairs: Iterable[tuple[str, str | None]], source: str, identity: str | None, *, by_folders: bool = True
) -> Understood:
    """Whose the faces to add are; all one person's where an identity is given."""
    if identity is None:
        return understand(pairs, source, by_folders=by_folders)
    named = ((path.rpartition("/")[2], identity) for path, _ in pairs)
    return understand(named, "by --identity,", by_folders=False)


def _join(total: Added, part: Added) -> None:
    total.added, total.again, total.forgotten = (
        total.added + part.added,
        total.again + part.again,
        total.forgotten + part.forgotten,
    )
    total.command = total.command or part.command
    total.conflicts += part.conflicts
    total.face_ids += part.face_ids
    total.unsure += part.unsure


def _unknown(store: Store, items: Iterable[PhotoItem], options: AddOptions) -> tuple[list[PhotoItem], Added]:
    """The photos that the gallery does not know, and what it knows of the others."""
    done, new = Added(), []
    listed = Forgotten() if options.readmit else store.forgotten()
    rows: Iterator[tuple[PhotoItem, Row | None]] = ((item, _first_row(item)) for item in items)
    while block := list(islice(rows, PROBE_BATCH)):
        face_ids = [row.face_id for _, row in block if row is not None]
        known, kept, refused = store.known(face_ids), store.kept(face_ids), listed.refused(face_ids)
        for item, row in block:
            if row is not None and row.face_id in refused:
                done.forgotten += 1
            elif row is not None and row.identity is None and row.face_id in {*known, *kept}:
                done.again += 1
            elif row is not None and row.face_id in known:
                done.count_known(row, known[row.face_id])
            else:
                new.append(item)
    return new, done


def _first_row(item: PhotoItem) -> Row | None:
    """The first face of a photo, by the hash of its bytes; None where they cannot be read."""
    sha256 = item.sha256()
    return None if sha256 is None else Row(item.entry.path, "ok", sha256, item.entry.identity, face=0)


def _note_sources(store: Store, photos: PhotoInputs) -> None:
    """Note what fed the gallery, so that a receipt of `forget` can name it: of single files in a list their folders."""
    if isinstance(photos, str | os.PathLike):
        paths = {str(Path(photos).resolve())}
    else:
        given = photos if isinstance(photos, list) else []
        files = [Path(one) for one in given if isinstance(one, str | os.PathLike)]
        paths = {str((path if path.is_dir() else path.parent).resolve()) for path in files}
    with store.writing():
        known = json.loads(store.fact("sources") or "[]")
        if new := sorted(paths - set(known)):
            store.set_fact("sources", json.dumps([*known, *new]))


def _result(store: Store, done: Added, left: Counter[str], understood: Understood, before: int) -> results.Added:
    faces, people = store.faces, store.people
    names = [name for name, _ in store.list_people()] if people > before else []
    elsewhere = lists.elsewhere(store.folder, store.rows(JUST_ADDED, (done.command,))) if done.added else []
    looked = look(store, done.face_ids) if done.face_ids else Looked()
    spellings = spelling_notes([], names)  # a second for a million names
    unnamed = UNNAMED.format(f"{done.unnamed} faces", store.folder.name, store.folder.name)
    missing = [note for n, note in ((done.unnamed, unnamed), (done.forgotten, FORGOTTEN)) if n]
    conflicts = [
        f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not added as {c.refused}'s" for c in done.conflicts
    ]
    return results.Added(
        index=store.folder.name,
        added=done.added,
        again=done.again,
        unnamed=done.unnamed,
        forgotten=done.forgotten,
        conflicts=tuple(done.conflicts),
        face_ids=tuple(done.face_ids),
        unsure=tuple(done.unsure),
        command=done.command,
        left_out={why: n for why, n in left.items() if n},
        faces=faces,
        people=people,
        understood=understood,
        suspects=tuple(looked.suspects),
        notes=(*missing, *conflicts, *spellings, *elsewhere, *done.unsure_notes, *looked.notes(store.folder.name)),
    )
