"""Name the people in photos, and find the photos of a person."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from facegallery.embedder.dataset.dataset import is_data_set
from facegallery.embedder.outcomes import READ
from facegallery.embedder.progress import Progress, unseen
from facegallery.results import Hit, PhotoResult, VectorResult
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.probes import Question, answered_by
from facegallery.workflows.search import NO_ANSWER, Judge, Searched
from facegallery.workflows.session import Where, session_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPerson:
    """A person, and the photos with a face of theirs."""

    identity: str
    faces: int
    score: float  # the best of those faces
    photos: tuple[str, ...]  # in order


@dataclass(frozen=True)
class PeopleSummary:
    """Who is in photos.

    Where the index is calibrated, or --min-score gives a threshold, a face below it is a stranger's. Without either,
    each face counts for the nearest person, and `strangers` is None.
    """

    people: tuple[FoundPerson, ...]  # most photos first
    strangers: int | None  # faces of nobody who is enrolled
    photos_with_strangers: tuple[str, ...]
    photos: int
    without_face: int  # photos that were read
    unread: int


@dataclass(frozen=True)
class EnrolledPhoto:
    """A photo of a gallery, with the ids of a person's faces on it."""

    image: str
    face_ids: tuple[str, ...]


@dataclass(frozen=True)
class Sighting:
    """A face of a person on a photo that was asked about."""

    image: str
    score: float
    known: bool | None  # None without a calibration
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class PhotosOfPerson:
    """All photos of a person: the enrolled ones, and those they were found on."""

    identity: str
    enrolled: tuple[EnrolledPhoto, ...]
    found: tuple[Sighting, ...]
    photos: int  # that were asked about
    unread: int


@dataclass
class _Tally:
    faces: int = 0
    score: float = -1.0
    photos: dict[int, str] = field(default_factory=dict)  # by number: two may have one name

    def count(self, number: int, image: str, score: float) -> None:
        self.faces, self.score = self.faces + 1, max(self.score, score)
        self.photos[number] = image


def summarise(photos: Iterable[PhotoResult], *, threshold: bool = False) -> PeopleSummary:
    """Count the answers of a search by person; a face counts for its nearest person, or as a stranger's.

    threshold: whether answers below a minimal score were left out.
    """
    tallies: dict[str, _Tally] = {}
    strangers, judged, number, faceless, unread = _Tally(), threshold, 0, 0, 0
    for number, photo in enumerate(photos, 1):
        unread += photo.outcome not in READ
        faceless += photo.outcome in READ and not photo.faces
        for face in photo.faces:
            judged = judged or face.known is not None
            best = nearest(face)
            if best is None:
                strangers.count(number, photo.image, 0.0)
            else:
                tallies.setdefault(best.identity, _Tally()).count(number, photo.image, best.score)
    people = [FoundPerson(name, one.faces, one.score, tuple(one.photos.values())) for name, one in tallies.items()]
    people.sort(key=lambda one: (-len(one.photos), one.identity))
    return PeopleSummary(
        tuple(people),
        strangers.faces if judged else None,
        tuple(strangers.photos.values()),
        number,
        faceless,
        unread,
    )


def nearest(face: VectorResult) -> Hit | None:
    """Return the best hit of a face; None where it is a stranger's."""
    return face.hits[0] if face.hits and face.known is not False else None


def who(
    where: Where,
    sources: Sequence[Path],
    question: Question = Question(k=1),  # noqa: B008
    options: ReadOptions = ReadOptions(),  # noqa: B008
    *,
    progress: Progress = unseen,
) -> PeopleSummary:
    """Name the people in photos, folders of photos and data sets of vectors; any number in bounded memory."""
    answered = _answered(where, sources, question, options, progress)
    return summarise(answered, threshold=question.min_score is not None)


def photos_of(
    where: Where,
    identity: str,
    sources: Sequence[Path] = (),
    *,
    min_score: float | None = None,
    progress: Progress = unseen,
) -> PhotosOfPerson:
    """Find all photos of a person: those enrolled, and those of `sources` with a face whose nearest person they are.

    Raises Unknown where nobody is called `identity`.
    """
    found: list[Sighting] = []
    number = unread = 0
    with session_of(where) as session:
        with session.store() as store, store.reading():
            identity = store.spelled(identity)
            faces = store.list_faces(identity)
        if sources:
            question = Question(k=1, min_score=min_score)
            for photo in _answered(session, sources, question, ReadOptions(), progress):
                number += 1
                unread += photo.outcome not in READ
                found += _sightings(photo, identity)
    enrolled: dict[str, list[str]] = {}
    for face in faces:
        enrolled.setdefault(face["image"], []).append(face["face_id"])
    shown = tuple(EnrolledPhoto(image, tuple(ids)) for image, ids in enrolled.items())
    return PhotosOfPerson(identity, shown, tuple(found), number, unread)


def _sightings(photo: PhotoResult, identity: str) -> Iterator[Sighting]:
    for face in photo.faces:
        best = nearest(face)
        if best is not None and best.identity == identity:
            yield Sighting(photo.image, best.score, face.known, face.box)


def _answered(
    where: Where, sources: Sequence[Path], question: Question, options: ReadOptions, progress: Progress
) -> Iterator[PhotoResult]:
    """The answers about photos, each photo by its path."""
    with session_of(where) as session:
        judge, reader, done = Judge(session.searcher, question), session.reader(options), 0
        for line in judge.notes:
            log.info(line)
        for source in sources:
            for answered in answered_by(reader.read(source), judge.answers, NO_ANSWER):
                (photo,) = Searched([answered]).results().photos
                done += 1
                progress(done, 0)
                yield replace(photo, image=_path_of(source, photo.image))
        reader.log_note()


def _path_of(source: Path, image: str) -> str:
    """Return where a photo of a source lies; of a data set, the name that its photo had."""
    if source.is_dir():
        return image if is_data_set(source) else str(source / image)
    return str(source.parent / image)
