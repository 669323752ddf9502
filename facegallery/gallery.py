"""Open a gallery that lies in a folder, and do with it whatever can be done with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facegallery import results
from facegallery.embedder.progress import Progress, unseen
from facegallery.folder import AnyPath, FolderGallery, where
from facegallery.indexer.search.question import Question
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.store.store import Store
from facegallery.interface import Metadata, NamesFrom, Review, Score, several
from facegallery.workflows import calibrate, compare, enrol, forget, indexes, persons, search, upkeep
from facegallery.workflows.inputs import PhotoInput, PhotoInputs, as_list
from facegallery.workflows.networks import ReadOptions


def open_gallery(
    gallery: AnyPath,
    *,
    create: bool = False,
    model: AnyPath | None = None,
    encrypt: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Gallery:
    """Open the gallery of a name, which lies under `indexes/` or FACEGALLERY_INDEXES, or of a path.

    Args:
        gallery: a plain name, or the path of the gallery's folder.
        create: make an empty gallery where there is none.
        model: with `create`, the model of the new gallery: a known name or a model's folder, sface unless given.
            A gallery that is there names its model by itself; give it only if the model is not stored.
        encrypt: encrypt a new gallery with the key in FACEGALLERY_KEY, or in the file that FACEGALLERY_KEY_FILE names.
        device: where the network runs: auto, cpu or gpu.
        precision: of the network's numbers: auto, f32, bf16 or int8.

    Raises:
        GalleryError: there is no such gallery, it is damaged, or it has another model than the one given.
        InputError: the name cannot be a gallery's.
        ModelError: the model is not stored.

    ```python
    import facegallery as fg

    with fg.open("people", create=True) as gallery:
        gallery.add("photos/")
        print(gallery.info().people)
    ```
    """
    reference = None if model is None else str(model)
    if create:
        indexes.ensure_gallery(where(gallery), reference, encrypt=encrypt)
        reference = reference if reference and Path(reference).is_dir() else None
    return Gallery(gallery, model=reference, device=device, precision=precision)


class Gallery(FolderGallery):
    """A gallery of people in a folder: search it, enrol and correct people, look after it.

    Use it as a context manager, or close it. The detector, the network and the index stay loaded from one call to the
    next; every call sees what other programs have changed meanwhile. Threads may share a gallery: their calls are done
    one after the other. Nothing is printed: what the command line would say is logged under the name `facegallery`.

    Wherever photos are expected, these may be given, or a sequence of them:

    - the path of a photo, of a folder (`<person>/<photo>`), of a CSV (`image,identity,...`) or of a data set of
      vectors;
    - the bytes of a photo's file;
    - an array uint8 (h, w, 3) in RGB, upright;
    - a PIL image, which is turned as its EXIF says.

    A face's id is made from the bytes of the file, or, of an array or a PIL image, from its pixels: the same photo
    given as a file and as pixels has different ids.
    """

    # search

    def search(
        self,
        photos: PhotoInputs,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
        one_face: bool = False,
        unnamed: bool = False,
    ) -> results.SearchResult:
        """Find the k people, or faces, nearest to each face in the photos.

        Args:
            photos: what shows the faces; of a data set its vectors are taken.
            k: answers for each face.
            where: filters that the answers' faces must all meet, such as `"year>=1999"` or `["tag=beach", "age<30"]`.
            faces: answer with faces instead of people.
            score: of a person: by the best of their faces, the mean over them, or their template.
            min_score: leave out answers below it.
            one_face: search only for the largest, most central face of each photo.
            unnamed: also say which groups of unnamed faces each face resembles: at most k, from the score from which
                people are known where the gallery is calibrated. They are in `unnamed`, and never among the hits.

        Returns:
            The faces with their answers; whether an answer counts (`known`) where the gallery is calibrated.

        Raises:
            InputError: an option or a filter that cannot be.
            DataError: a path where nothing is.
            GalleryError: vectors of another model, or a damaged gallery.

        ```python
        for face in gallery.search("party.jpg", k=3):
            print(face.box, face.known, face.hits[0].identity, face.hits[0].score)
        ```
        """
        question = Question(k, faces, score, several(where), min_score, unnamed)
        given, options = as_list(photos), ReadOptions(one_face=one_face)
        return self._do(lambda session: search.search(session, given, question, options).results())

    def search_vectors(
        self,
        vectors: Any,
        *,
        k: int = 5,
        where: str | Sequence[str] = (),
        faces: bool = False,
        score: Score = "best",
        min_score: float | None = None,
        unnamed: bool = False,
    ) -> list[results.VectorResult]:
        """Find the k people, or faces, nearest to each vector.

        Args:
            vectors: float (n, d) of unit length, by the gallery's model.
            k: this and the others as for `search`.

        Raises:
            DataError: vectors of another size or length.

        ```python
        vectors = fg.embed("party.jpg").vectors
        print(gallery.search_vectors(vectors, k=1)[0].hits)
        ```
        """
        question = Question(k, faces, score, several(where), min_score, unnamed)
        xq = np.asarray(vectors, np.float32)
        return self._do(lambda session: search.Judge(session.searcher, question).answers(xq))

    def compare(self, first: PhotoInput, second: PhotoInput) -> results.Compared:
        """Compare the largest, most central faces of two photos, by the gallery's model.

        Raises:
            DataError: a photo without a face.
            InputError: what is no single photo.

        ```python
        print(gallery.compare("party.jpg", "photos/s1/1.pgm").score)
        ```
        """
        return self._do(lambda session: compare.compare_in(session, first, second))

    # people

    def people(self, *, containing: str = "") -> results.People:
        """List the enrolled people by name; those alone whose name contains a text.

        ```python
        for person in gallery.people():
            print(person.identity, person.faces)
        ```
        """

        def ask(store: Store) -> results.People:
            with store.reading():
                return results.People(tuple(persons.listed(store, containing=containing)))

        return self._read(ask)

    def person(self, identity: str) -> results.Person:
        """Return a person by name, or by id, with note and metadata. Raises GalleryError where there is nobody."""
        return self._read(lambda store: persons.person(store, identity))

    def faces(self, identity: str) -> results.EnrolledFaces:
        """List the enrolled faces of a person, oldest first. Raises GalleryError where nobody is called so.

        ```python
        print(gallery.faces("s1")[0].image)
        ```
        """

        def ask(store: Store) -> results.EnrolledFaces:
            with store.reading():
                found = store.list_faces(identity)
                return results.EnrolledFaces(store.spelled(identity), tuple(map(results.EnrolledFace.of, found)))

        return self._read(ask)

    def thumbnail(self, face_id: str) -> bytes:
        """Return the stored crop of a face, enrolled or unnamed, as PNG. Raises GalleryError where there is none."""

        def ask(store: Store) -> bytes:
            if (png := store.crop(face_id) or store.unnamed_crop(face_id)) is None:
                raise Unknown(
                    f"expected a face of {self.name} whose crop is kept, there is none with the id {face_id}: see "
                    "`faces` for the ids of a person"
                )
            return png

        return self._read(ask)

    def info(self) -> results.GalleryInfo:
        """Return what the gallery holds, by which model, and its calibration."""
        return self._do(upkeep.info)

    # changes

    def add(
        self,
        photos: PhotoInputs,
        *,
        identity: str | None = None,
        metadata: Metadata | None = None,
        readmit: bool = False,
        progress: Progress | None = None,
        split: str | None = None,
        level: int | None = None,
        names_from: NamesFrom = "folders",
        one_face: bool = False,
        review: Review = "standard",
    ) -> results.Added:
        """Enrol the largest, most central face of each photo; faces that are enrolled already stay as they are.

        All faces of photos whose person nothing names are kept unnamed, for `group`.

        Args:
            photos: a folder whose folders name the people, or photos of `identity`; of a data set its rows.
            identity: the person in all photos.
            metadata: columns to keep, for filters: a dict for all photos given, or the path of a CSV `image,...`.
            readmit: enrol faces that were forgotten, too.
            progress: called with the number of photos done and of all.
            split: photos or rows to add; `gallery` where there are such, else all.
            level: which folder names the person, counted from the root; None: the nearest to the photo; 0: the photo's
                own name, such as Ann.jpg.
            names_from: what names the people: `folders`, `regions` (faces that somebody drew and named in a photo
                program, of which a photo may have several), `both` (regions where a photo has them) or `nobody`.
            one_face: of photos without a person, keep the largest, most central face alone.
            review: `standard` warns of faces that are likely wrong or poor (`reviewed` of the result), `strict` does
                not enrol them, `off` does not look.

        Raises:
            InputError: single photos without `identity`.
            DataError: a path where nothing is, or a name that cannot be a person's.

        ```python
        gallery.add("photos/")
        gallery.add("party.jpg", identity="Ann Lee", metadata={"year": 1999})
        ```
        """
        columns = metadata if isinstance(metadata, Mapping) else None if metadata is None else Path(metadata)
        options = enrol.AddOptions(identity, split, columns, readmit, level, names_from, one_face, review)
        given = as_list(photos)
        return self._do(lambda session: enrol.add(session, given, options, progress=progress or unseen))

    def rename(self, old: str, new: str) -> results.Change:
        """Give a person another name, which nobody has. Raises GalleryError where nobody is called `old`."""
        return self._write(lambda store: store.rename(old, new))

    def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None = None, *, note: str | None = None
    ) -> results.Change:
        """Change what is kept of a person beside the name; `undo` takes it back.

        Args:
            identity: the person, by name or by id.
            metadata: values by key, for filters such as `"person.born>=1990"`; None deletes a key.
            note: a text; empty for none, None to leave it.

        Raises GalleryError where there is nobody, InputError for what is too long.

        ```python
        gallery.set_person("s1", {"born": 1990}, note="the tall one")
        ```
        """
        return self._write(lambda store: persons.set_person(store, identity, metadata or {}, note))

    def merge(self, source: str, into: str) -> results.Change:
        """Give all faces of one person to another, who keeps id, note and metadata and gets what they lack.

        Raises GalleryError where either is not enrolled.
        """
        return self._write(lambda store: store.merge(source, into))

    def split(self, face_ids: Sequence[str], *, to: str) -> results.Change:
        """Give chosen faces to another person, enrolled already or new. Raises GalleryError for an unknown face."""
        return self._write(lambda store: store.split(several(face_ids), to))

    def remove(
        self, *, identity: str | None = None, face_id: str | None = None, image: str | None = None
    ) -> results.Change:
        """Take out a person, one face, or the faces of one photo; `undo` brings them back, after `forget` nothing does.

        Raises GalleryError where there is none, InputError where not exactly one of the three is given.
        """
        upkeep.check_one(identity=identity, face_id=face_id, image=image)
        return self._write(lambda store: store.remove(identity, face_id, image))

    def undo(self, command: str | None = None) -> list[results.Change]:
        """Take back the last change, and return what it was.

        With the `command` of a change, take back that one only if it is the last. Raises GalleryError where there is
        nothing to undo, or another change came after `command`.

        ```python
        change = gallery.rename("s1", "Ann")
        gallery.undo(change.command)
        ```
        """
        return self._write(lambda store: store.undo(command))

    def forget(
        self,
        identity: str,
        *,
        unnamed: bool = False,
        also: Sequence[AnyPath] = (),
        receipt: AnyPath | None = None,
    ) -> results.Receipt:
        """Remove a person for good: rows, vectors, crops, names. There is no undo.

        Args:
            identity: whom to forget.
            unnamed: also forget the unnamed faces that look like the person, in a calibrated gallery.
            also: data sets to take the person out of, too.
            receipt: where to write the receipt; beside the gallery, unless given.

        Raises GalleryError where nobody is, or was, called so.
        """
        path = None if receipt is None else Path(receipt)
        folders = tuple(map(Path, also))
        return self._do(lambda session: forget.forget(session, identity, also=folders, receipt=path, unnamed=unnamed))

    # the gallery as a whole

    def calibrate(
        self,
        *,
        fpir: float = 0.01,
        probes: Sequence[AnyPath] = (),
        strangers_alone: bool = False,
        split: str | None = None,
        seed: int = 0,
    ) -> results.Calibrated:
        """Fit the score from which a hit counts; from then on `search` says known or unknown.

        Args:
            fpir: share of strangers that may be taken for somebody.
            probes: photos or vectors of enrolled people and of strangers, to fit it on as well.
            strangers_alone: fit it on the strangers of the probes, and not on enrolled people.
            split: rows of the probes; `probe` where there are such, else all.
            seed: draws the enrolled faces that are asked, in a large gallery.

        Raises:
            DataError: fewer than two people, or no photo of a stranger for `strangers_alone`.
            InputError: `strangers_alone` without probes.

        ```python
        print(gallery.calibrate(fpir=0.1).threshold)
        ```
        """
        options = calibrate.CalibrationOptions(fpir, tuple(map(Path, probes)), split, seed, strangers_alone)
        return self._do(lambda session: calibrate.calibrate(session, options))

    def compact(self, *, keep_undo: float | None = None, progress: Progress | None = None) -> results.Compacted:
        """Build the index anew from all changes, beside the one in use, and swap.

        Args:
            keep_undo: drop what `undo` needs where it is older than so many seconds.
            progress: called with the number of faces written and of all.
        """
        return self._do(lambda session: upkeep.compact(session, keep_undo=keep_undo, progress=progress or unseen))
