"""Name the people in photos, and find the photos of a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import is_data_set
from facegallery.embedder.outcomes import READ
from facegallery.workflows.photos import Say
from facegallery.workflows.probes import ProbeReader, Question, answered_by, open_index, open_store
from facegallery.workflows.search import NO_ANSWER, Judge, Searched

if TYPE_CHECKING:
    from facegallery.embedder.pipeline import OnProgress


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
    box: tuple[float, ...] | None


@dataclass(frozen=True)
class PhotosOfPerson:
    """All photos of a person: the enrolled ones, and those they were found on."""

    identity: str
    enrolled: tuple[EnrolledPhoto, ...]
    found: tuple[Sighting, ...]
    photos: int  # that were asked about
    unread: int


@dataclass(frozen=True)
class Asking:
    """How photos are asked about: the question, the faces of a photo, the model and where it runs."""

    question: Question
    one_face: bool = False
    model: str | None = None  # where the gallery's model lies, if it is not stored
    compute: Compute = Compute()


@dataclass
class _Tally:
    faces: int = 0
    score: float = -1.0
    photos: dict[int, str] = field(default_factory=dict)  # by number: two may have one name

    def count(self, number: int, image: str, score: float) -> None:
        self.faces, self.score = self.faces + 1, max(self.score, score)
        self.photos[number] = image


def summarise(probes: Iterable[Mapping[str, Any]], *, threshold: bool = False) -> PeopleSummary:
    """Count the answers of a search by person; a face counts for its nearest person, or as a stranger's.

    probes: the documents of photos as `search --json` has them. threshold: whether answers below a minimal score were
    left out.
    """
    tallies: dict[str, _Tally] = {}
    strangers, judged, photos, faceless, unread = _Tally(), threshold, 0, 0, 0
    for photos, probe in enumerate(probes, 1):
        unread += probe["outcome"] not in READ
        faceless += probe["outcome"] in READ and not probe["faces"]
        for face in probe["faces"]:
            judged = judged or face["known"] is not None
            best = nearest(face)
            if best is None:
                strangers.count(photos, probe["image"], 0.0)
            else:
                tallies.setdefault(best["identity"], _Tally()).count(photos, probe["image"], best["score"])
    people = [
        FoundPerson(name, one.faces, round(one.score, 6), tuple(one.photos.values())) for name, one in tallies.items()
    ]
    people.sort(key=lambda one: (-len(one.photos), one.identity))
    return PeopleSummary(
        tuple(people),
        strangers.faces if judged else None,
        tuple(strangers.photos.values()),
        photos,
        faceless,
        unread,
    )


def nearest(face: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the best hit of a face; None where it is a stranger's."""
    return face["hits"][0] if face["hits"] and face["known"] is not False else None


def who(name: str, sources: Sequence[Path], asking: Asking, on_progress: OnProgress, say: Say) -> PeopleSummary:
    """Name the people in photos, folders of photos and data sets of vectors; any number in bounded memory."""
    threshold = asking.question.min_score is not None
    return summarise(_answered(name, sources, asking, on_progress, say), threshold=threshold)


def photos_of(
    name: str, identity: str, sources: Sequence[Path], asking: Asking, on_progress: OnProgress, say: Say
) -> PhotosOfPerson:
    """Find all photos of a person: those enrolled, and those of `sources` with a face whose nearest person they are.

    Raises Unknown where nobody is called `identity`.
    """
    with open_store(name) as store, store.reading():
        identity = store.spelled(identity)
        faces = store.list_faces(identity)
    enrolled: dict[str, list[str]] = {}
    for face in faces:
        enrolled.setdefault(face["image"], []).append(face["face_id"])
    found: list[Sighting] = []
    photos = unread = 0
    for probe in _answered(name, sources, asking, on_progress, say) if sources else ():
        photos += 1
        unread += probe["outcome"] not in READ
        found += _sightings(probe, identity)
    shown = tuple(EnrolledPhoto(image, tuple(ids)) for image, ids in enrolled.items())
    return PhotosOfPerson(identity, shown, tuple(found), photos, unread)


def _sightings(probe: Mapping[str, Any], identity: str) -> Iterator[Sighting]:
    for face in probe["faces"]:
        best = nearest(face)
        if best is not None and best["identity"] == identity:
            box = None if face["box"] is None else tuple(face["box"])
            yield Sighting(probe["image"], best["score"], face["known"], box)


def _answered(
    name: str, sources: Sequence[Path], asking: Asking, on_progress: OnProgress, say: Say
) -> Iterator[dict[str, Any]]:
    """The documents of photos as `search --json` has them, each photo by its path."""
    with open_index(name) as searcher:
        judge = Judge(searcher, asking.question, say)
        reader = ProbeReader(searcher, asking.model, asking.compute, asking.one_face, say)
        done = 0
        for source in sources:
            for answered in answered_by(reader.read(source), judge.answers, NO_ANSWER):
                (probe,) = Searched([answered]).result()["probes"]
                done += 1
                on_progress(done, 0)
                yield probe | {"image": _path_of(source, probe["image"])}
        if reader.note:
            say(reader.note)


def _path_of(source: Path, image: str) -> str:
    """Return where a photo of a source lies; of a data set, the name that its photo had."""
    if source.is_dir():
        return image if is_data_set(source) else str(source / image)
    return str(source.parent / image)
