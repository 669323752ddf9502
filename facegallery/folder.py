"""Hold the session of a gallery that lies in a folder, and what only the owner of its files can do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from facegallery import results
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import GalleryError
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.transfer import TransferSummary
from facegallery.indexer.upkeep.verify import Verified
from facegallery.interface import NamesFrom, several
from facegallery.workflows import (
    dedupe_gallery,
    doubtful,
    enrol,
    evaluate,
    library,
    reembed,
    suggest,
    sync,
    unnamed,
    upkeep,
)
from facegallery.workflows.given import GivenVectors
from facegallery.workflows.probes import gallery_folder
from facegallery.workflows.session import GallerySession
from facegallery.workflows.sync import SyncOptions
from facegallery.workflows.unnamed import GroupOptions, What

T = TypeVar("T")
AnyPath = str | PathLike[str]


class FolderGallery:
    """A gallery in a folder: open and close it, and do what only the owner of the files can do."""

    def __init__(
        self,
        gallery: AnyPath,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: str = "auto",
    ):
        """Open a gallery that is there; see `facegallery.open`."""
        self._session: GallerySession | None = GallerySession(
            gallery_folder(where(gallery)).absolute(), model=model, compute=Compute(device, precision)
        )
        self._name, self._folder = self._session.name, self._session.folder
        self._lock = threading.RLock()
        try:
            self._read(lambda store: None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Gallery {str(self._folder)!r}{' (closed)' if self._session is None else ''}>"

    def close(self) -> None:
        """Close files, end processes and let go the networks; a closed gallery refuses every other call."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    @property
    def name(self) -> str:
        """The gallery's name."""
        return self._name

    @property
    def folder(self) -> Path:
        """The folder in which it lies."""
        return self._folder

    @property
    def spec(self) -> FaceSpec:
        """What makes vectors comparable with the gallery's: model, crop rule and the rest."""
        return self._read(lambda store: store.spec)

    # changes and measurements

    def log(self, *, limit: int = 20) -> list[results.LogLine]:
        """Return the last changes, newest first, as `undo` takes them back."""
        return self._read(lambda store: [results.LogLine(**line) for line in store.list_log(limit)])

    def add_vectors(
        self,
        vectors: Any,
        *,
        identity: str | Sequence[str],
        images: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, object]] | None = None,
        readmit: bool = False,
    ) -> results.Added:
        """Enrol vectors that were made elsewhere, by the gallery's model.

        Args:
            vectors: float (n, d) of unit length.
            identity: the person of all vectors, or of each.
            images: what to call the photo of each vector; a name made of its bytes unless given. A face's id is made of
                the vector's bytes.
            metadata: columns of each vector, for filters.
            readmit: enrol faces that were forgotten, too.

        Raises:
            DataError: vectors of another size or length.
            InputError: another number of identities, images or metadata than of vectors.
        """
        given = GivenVectors(np.asarray(vectors, np.float32), identity, images, metadata)
        return self._do(lambda session: enrol.add_vectors(session, given, readmit=readmit))

    def evaluate(
        self,
        probes: AnyPath,
        *,
        strangers: Sequence[AnyPath] = (),
        split: str | None = None,
        by: str | None = None,
        report: AnyPath | None = None,
        progress: Progress | None = None,
    ) -> evaluate.EvaluationResult:
        """Measure how well the gallery answers probes whose people are known.

        Args:
            probes: a folder of photos by person, or a data set of vectors.
            strangers: more photos or vectors, of people who are not enrolled.
            split: rows to ask; `probe` where there are such, else all.
            by: a column of the probes: the same for each of its values.
            report: a folder for a page with figures, charts and the worst mistakes.
            progress: called with the number of probes done, and 0.

        Raises:
            DataError: no probe is of an enrolled person.

        ```python
        print(gallery.evaluate("probes/").top1)
        ```
        """
        options = evaluate.EvaluationOptions(
            strangers=tuple(map(Path, strangers)),
            split=split,
            by=by,
            report=None if report is None else Path(report),
        )
        source = Path(probes)
        return self._do(lambda session: evaluate.evaluate(session, source, options, progress=progress or unseen))

    def doubtful(self, limit: int = 40, *, progress: Progress | None = None) -> results.DoubtfulFaces:
        """List enrolled faces that may be wrong, likely wrong names first: each with its reason.

        Args:
            limit: faces at most.
            progress: called with the number of faces compared, and of all.

        ```python
        for face in gallery.doubtful():
            print(face.image, face.identity, face.reason)
        ```
        """
        return self._do(lambda session: doubtful.doubtful(session, limit, progress=progress or unseen))

    def reembed(
        self,
        model: AnyPath,
        *,
        views: str = "plain",
        report: AnyPath | None = None,
        switch: bool = True,
        progress: Progress | None = None,
    ) -> reembed.Reembedded:
        """Give the gallery another model, from its stored crops; with the old one it goes back.

        Args:
            model: a known name, or a model's folder.
            views: what each network sees of a crop: plain, mirror, margins or all.
            report: a file that says who would be answered differently, as JSON.
            switch: False: only compare.
            progress: called with the number of faces done and of all.

        Raises:
            GalleryError: it is the gallery's own model, or a face has no stored crop.
            ModelError: the model is not stored.
        """
        options = reembed.ReembedOptions(views, None if report is None else Path(report), switch)
        return self._do(lambda session: reembed.reembed(session, str(model), options, progress=progress or unseen))

    def verify(self) -> Verified:
        """Check every row and file; make damaged derived files anew where they can be."""
        return self._do(upkeep.verify)

    def backup(self, path: AnyPath) -> TransferSummary:
        """Write everything to one new file, while others use the gallery; of an encrypted one, encrypted."""
        return self._do(lambda session: upkeep.backup(session, Path(path)))

    def export(self, folder: AnyPath, *, crops: bool = False) -> TransferSummary:
        """Write the gallery as it is now as a data set, with the stored crops if wanted."""
        return self._do(lambda session: upkeep.export(session, Path(folder), crops=crops))

    # photos

    def photos(
        self,
        identities: str | Sequence[str] = (),
        *,
        without: str | Sequence[str] = (),
        unnamed: bool = False,
        year: int | None = None,
        since: str | None = None,
        until: str | None = None,
        near: tuple[float, float] | None = None,
        within: float = library.WITHIN_KM,
        limit: int | None = None,
    ) -> results.GalleryPhotos:
        """Find the photos that the gallery knows of which all hold that is given, oldest first.

        Args:
            identities: people who are all in the photo.
            without: people who are not.
            unnamed: with a face that is nobody's and not ignored.
            year: taken in this year.
            since: taken on this date, such as 2019, 2019-05 or 2019-05-01, or later.
            until: taken on this date or earlier.
            near: taken near this latitude and longitude, in degrees.
            within: kilometres from there.
            limit: photos at most.

        Raises GalleryError for a person who is not enrolled, InputError for what is no date or place.

        ```python
        for photo in gallery.photos("s1", limit=3):
            print(photo.path or photo.image, photo.taken, photo.people)
        ```
        """
        asked = library.PhotoQuestion(
            several(identities), several(without), unnamed, year, since, until, near, within, limit
        )
        return self._read(lambda store: library.photos(store, asked))

    def sync(
        self,
        folder: AnyPath,
        *,
        identity: str | None = None,
        level: int | None = None,
        names_from: NamesFrom | None = None,
        one_face: bool | None = None,
        prune: bool = False,
        progress: Progress | None = None,
    ) -> results.Synced:
        """Take the new and changed photos of a folder in; photos of the same size and time are not read.

        A moved photo keeps its faces, and faces of a changed one stay who they were where they are the same. The
        arguments up to `one_face` are kept for the folder; None: as the last time, or as `add` does.

        Args:
            folder: of the photos.
            identity: the person in all of them.
            level: which folder names the person, counted from the root; 0: the photo's own name.
            names_from: what names the people, as for `add`.
            one_face: of photos without a person, keep the largest, most central face alone.
            prune: take out the faces of photos that are gone; `undo` brings them back.
            progress: called with the number of photos done and of all.

        Raises DataError where there is no such folder, or no photo in it.

        ```python
        print(gallery.sync("photos/").text)
        ```
        """
        options = SyncOptions(identity, level, names_from, one_face, prune)
        return self._do(lambda session: sync.sync(session, Path(folder), options, progress=progress or unseen))

    # faces without a person

    def group(self, *, error: float = 0.005, min_score: float | None = None, anew: bool = False) -> results.Grouped:
        """Group the unnamed faces by person.

        Args:
            error: share of the pairs of faces in a group that may be two people.
            min_score: join groups from this mean score; None: by `error`.
            anew: open groups that nobody confirmed, and group all unnamed faces again.

        Raises GalleryError where there are no unnamed faces.

        ```python
        gallery.add("unsorted/")
        print(gallery.group().text)
        ```
        """
        options = GroupOptions(error, min_score, anew)
        return self._do(lambda session: unnamed.group(session, options))

    def dedupe(self) -> results.GalleryDuplicates:
        """Find near-identical photos among those of the gallery, and say which to keep; nothing is changed.

        ```python
        found = gallery.dedupe()
        print(found.photos, [(one.keep.image, one.why, one.commands) for one in found])
        ```
        """
        return self._do(dedupe_gallery.dedupe_gallery)

    def groups(self) -> results.FaceGroups:
        """List the groups of unnamed faces, largest first."""
        return self._read(unnamed.groups)

    def unnamed(self, group: int | None = None) -> results.UnnamedFaces:
        """List the unnamed faces, or those of a group. Raises GalleryError where there is no such group."""
        return self._read(lambda store: unnamed.unnamed(store, group))

    def suggest(self, limit: int = 5) -> list[results.Suggestion]:
        """Suggest what to name next. Raises GalleryError where nothing was grouped yet."""
        return self._do(lambda session: suggest.suggest(session, limit))

    def name_faces(self, what: What | Sequence[What], identity: str) -> results.Change:
        """Enrol groups, by number, and unnamed faces, by id, under a person's name, enrolled already or new.

        Raises GalleryError for what is not here.
        """
        return self._write(lambda store: unnamed.name(store, unnamed.as_several(what), identity))

    def name_each(self, people: Mapping[What, str], wrong: Sequence[tuple[What, str]] = ()) -> results.Change:
        """Enrol each group, by number, or unnamed face, by id, under its own person's name, in one change.

        Args:
            people: the name of each.
            wrong: groups and faces, each with a person who they are not; no suggestion says so again.

        Raises GalleryError for what is not here.

        ```python
        for best in gallery.suggest(1):
            gallery.name_each({one.number or one.face_id: one.person for one in best.likely if one.person})
        ```
        """
        return self._write(lambda store: unnamed.name_each(store, people, wrong))

    def confirm(self, *groups: int) -> results.Change:
        """Note that a group, or several, are one person; they become one. Raises GalleryError for an unknown group."""
        return self._write(lambda store: unnamed.confirm(store, groups))

    def reject(self, face_ids: str | Sequence[str], *, of: str | None = None) -> results.Change:
        """Take faces out of their group or person; they never come back there by themselves.

        Args:
            face_ids: of the faces.
            of: the person that they are not; None: the group or person that each is in.

        Raises GalleryError for an unknown face, InputError for one that is in no group where `of` is None.
        """
        return self._write(lambda store: unnamed.reject(store, several(face_ids), of))

    def ignore(self, what: What | Sequence[What]) -> results.Change:
        """Leave groups and unnamed faces alone; `undo` brings them back. Raises GalleryError for what is not here."""
        return self._write(lambda store: unnamed.ignore(store, unnamed.as_several(what)))

    def _do(self, work: Callable[[GallerySession], T]) -> T:
        """Do one piece of work, alone; once more where the gallery was given another model meanwhile."""
        with self._lock:
            if self._session is None:
                raise GalleryError(f"expected an open gallery, {self.name} was closed: open it again")
            try:
                return work(self._session)
            except Replaced:
                self._session.close()
                return work(self._session)

    def _read(self, question: Callable[[Store], T]) -> T:
        def ask(session: GallerySession) -> T:
            with session.store() as store:
                return question(store)

        return self._do(ask)

    def _write(self, change: Callable[[Store], T]) -> T:
        def make(session: GallerySession) -> T:
            with session.store(write=True) as store:
                return change(store)

        return self._do(make)


def where(gallery: AnyPath) -> str | Path:
    return gallery if isinstance(gallery, str) else Path(gallery)
