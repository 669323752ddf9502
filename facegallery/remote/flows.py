"""The operations of a server and of its galleries, as flows."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from facegallery import results, schemas
from facegallery.embedder.errors import DataError
from facegallery.interface import several
from facegallery.remote.enrolment import Enrolment, Tally, outcome_of, refused_enrolment
from facegallery.remote.errors import JobFailed, RequestRefused, UnusablePhoto, refusal
from facegallery.remote.steps import Call, Flow, Gather, Pause, ask, given, parse, send

if TYPE_CHECKING:
    from facegallery.embedder.progress import Progress
    from facegallery.interface import Metadata, PhotoInput, PhotoInputs, Score
    from facegallery.remote.uploads import Upload

STREAM_PHOTOS, STREAM_BYTES = 16, 32 << 20  # of one request: no response is read before all of them are sent
VECTORS, NUMBERS, HITS = 256, 150_000, 10_000  # of one request: vectors, numbers in them, and hits
PEOPLE = 1000  # of one page
FIRST_POLL, LONGEST_POLL = 0.1, 2.0  # seconds between two looks at a job; each pause is 1.5 times the last one
DAY = 86400.0


# the server -----------------------------------------------------------------


def indexes() -> Flow[list[str]]:
    """List the indexes that the server has."""
    found: schemas.Indexes = yield from ask(schemas.Indexes, "GET", "/v1/indexes")
    return found.indexes


def health() -> Flow[schemas.ServerHealth]:
    """Ask whether the server has loaded its networks."""
    try:
        yield from ask(schemas.Health, "GET", "/readyz", retry=False)
    except RequestRefused as refused:
        if refused.kind != "not-ready":
            raise
        return schemas.ServerHealth(ready=False, detail=str(refused))
    return schemas.ServerHealth(ready=True)


def session() -> Flow[schemas.Session]:
    """Ask for the name and the scope of the key."""
    found: schemas.Session = yield from ask(schemas.Session, "GET", "/v1/me")
    return found


def job(id: str) -> Flow[results.Job]:
    """Ask for a job."""
    found: results.Job = yield from ask(results.Job, "GET", f"/v1/jobs/{quote(id, safe='')}")
    return found


# galleries ------------------------------------------------------------------


@dataclass(frozen=True)
class SearchArguments:
    """What is asked of every face: arguments of `search`."""

    k: int = 5
    where: str | Sequence[str] = ()
    faces: bool = False
    score: Score = "best"
    min_score: float | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The question as the API has it."""
        where = several(self.where)
        asked = given(k=self.k, faces=self.faces, score=self.score, min_score=self.min_score)
        return asked | ({"where": where} if where else {})


@dataclass(frozen=True)
class AddArguments:
    """What is enrolled, and as whom: arguments of `add`."""

    identity: str | None = None
    metadata: Metadata | None = None
    readmit: bool = False


@dataclass(frozen=True)
class GalleryFlows:
    """The operations on one gallery of the server, as flows."""

    name: str

    @property
    def _path(self) -> str:
        return f"/v1/indexes/{quote(self.name, safe='')}"

    def _ask(self, kind: Any, method: str, rest: str = "", **content: Any) -> Flow[Any]:
        return ask(kind, method, self._path + rest, **content)

    # search

    def search(self, photos: PhotoInputs, question: SearchArguments) -> Flow[results.SearchResult]:
        """Search for every face of photos."""
        from facegallery.remote import uploads

        found: list[Upload] = yield Call(lambda: uploads.to_search(photos))
        if len(found) == 1:
            return results.SearchResult(((yield from self._search_one(found[0], question)),))
        parts = [self._search_many(part, question) for part in _parts(found)]
        each: list[list[results.PhotoResult]] = yield Gather(parts)
        return results.SearchResult(tuple(photo for part in each for photo in part))

    def _search_one(self, photo: Upload, question: SearchArguments) -> Flow[results.PhotoResult]:
        data: bytes | results.PhotoResult = yield Call(photo.read)
        if isinstance(data, results.PhotoResult):
            return data
        params = question.parameters | photo.pixels
        try:
            found = yield from self._ask(results.PhotoResult, "POST", "/search", content=data, params=params)
        except UnusablePhoto as refused:
            return _refused_photo(photo, refused)
        return photo.named(found)

    def _search_many(self, photos: Sequence[Upload], question: SearchArguments) -> Flow[list[results.PhotoResult]]:
        read: list[bytes | results.PhotoResult] = yield Call(lambda: [photo.read() for photo in photos])
        sent = [(i, data) for i, data in enumerate(read) if isinstance(data, bytes)]
        found: dict[int, results.PhotoResult] = {
            i: data for i, data in enumerate(read) if isinstance(data, results.PhotoResult)
        }
        if sent:
            body = b"\n".join(
                json.dumps({"id": str(i), "photo": base64.b64encode(data).decode()} | photos[i].pixels).encode()
                for i, data in sent
            )
            response = yield from send("POST", f"{self._path}/search/stream", content=body, params=question.parameters)
            lines = [parse(schemas.StreamedResult, response, line) for line in response.body.split(b"\n") if line]
            if [line.id for line in lines] != [str(i) for i, _ in sent]:
                raise refusal({"status": response.status} | _cut_off(lines, len(sent)))
            found |= {i: _streamed(photos[i], line) for (i, _), line in zip(sent, lines, strict=True)}
        return [found[i] for i in range(len(photos))]

    def search_vectors(
        self, vectors: Iterable[Iterable[float]], question: SearchArguments
    ) -> Flow[list[results.VectorResult]]:
        """Search for every vector of (n, d)."""
        rows = [list(map(float, vector)) for vector in vectors]
        found: list[results.VectorResult] = []
        most = max(1, min(VECTORS, NUMBERS // max(1, len(rows[0]) if rows else 1), HITS // max(1, question.k)))
        for start in range(0, len(rows), most):
            body = question.parameters | {"vectors": rows[start : start + most]}
            part = yield from self._ask(schemas.VectorResults, "POST", "/search/vectors", json=body)
            found += part.answers
        return found

    def compare(self, first: PhotoInput, second: PhotoInput) -> Flow[results.Compared]:
        """Compare the faces of two photos."""
        from facegallery.remote import uploads

        both: list[Upload] = yield Call(lambda: [uploads.single(first), uploads.single(second)])
        files, pixels = {}, []
        for which, photo in zip(("first", "second"), both, strict=True):
            data: bytes | results.PhotoResult = yield Call(photo.read)
            if isinstance(data, results.PhotoResult):
                why = f"its outcome is {data.outcome} ({data.why})"
                raise DataError(f"expected a face in {photo.image}, {why}: choose another photo")
            files[which] = (photo.image, data)
            pixels += [which] if photo.pixels else []
        found = yield from self._ask(results.Compared, "POST", "/verify", files=files, params={"pixels": pixels})
        faces = tuple(
            replace(face, image=uploads.name_of(photo, upload))
            for face, photo, upload in zip(found.faces, (first, second), both, strict=True)
        )
        compared: results.Compared = replace(found, faces=faces)
        return compared

    # people

    def people(self, containing: str) -> Flow[results.People]:
        """List the enrolled people, page by page."""
        found: list[results.Person] = []
        cursor: str | None = None
        while True:
            params = given(containing=containing or None, cursor=cursor, limit=PEOPLE)
            page: schemas.PeoplePage = yield from self._ask(schemas.PeoplePage, "GET", "/people", params=params)
            found += page.people
            if (cursor := page.next) is None:
                return results.People(tuple(found))

    def person(self, identity: str) -> Flow[results.Person]:
        """Ask for one person."""
        return self._ask(results.Person, "GET", "/person", params={"identity": identity})

    def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None, note: str | None
    ) -> Flow[results.Change]:
        """Change the metadata and the note of a person."""
        texts = {key: None if value is None else str(value) for key, value in (metadata or {}).items()}
        body = {"identity": identity, "metadata": texts} | given(note=note)
        return self._ask(results.Change, "PATCH", "/person", json=body)

    def faces(self, identity: str) -> Flow[results.EnrolledFaces]:
        """List the enrolled faces of a person."""
        return self._ask(results.EnrolledFaces, "GET", "/faces", params={"identity": identity})

    def thumbnail(self, face_id: str) -> Flow[bytes]:
        """Get the crop of an enrolled face."""
        response = yield from send("GET", f"{self._path}/faces/{quote(face_id, safe='')}/thumbnail")
        return response.body

    def info(self) -> Flow[results.GalleryInfo]:
        """Describe the gallery."""
        return self._ask(results.GalleryInfo, "GET")

    # changes

    def add(self, photos: PhotoInputs, options: AddArguments, progress: Progress) -> Flow[results.Added]:
        """Enrol photos, some at a time, as one change."""
        from facegallery.remote import uploads

        found: list[Upload] = yield Call(lambda: uploads.to_enrol(photos, options.identity, options.metadata))
        named = [photo for photo in found if photo.identity]
        tally = Tally(len(named), progress, Counter({"without a name": len(found) - len(named)}))
        rest = iter(named)
        for photo in rest:  # one by one until the change has a command, which the others join
            tally.count((yield from self._enrol(photo, options, None)))
            if tally.command:
                break
        flows = [self._enrol(photo, options, tally.command) for photo in rest]
        if flows:
            yield Gather(flows, tally.count)
        info: results.GalleryInfo = yield from self.info()
        return tally.result(info)

    def _enrol(self, photo: Upload, options: AddArguments, command: str | None) -> Flow[Enrolment]:
        data: bytes | results.PhotoResult = yield Call(photo.read)
        if isinstance(data, results.PhotoResult):
            return Enrolment(photo, outcome=data.outcome)
        params = given(identity=photo.identity, face=0, readmit=options.readmit, image=photo.image, command=command)
        params |= given(split=photo.split, column=[f"{name}={value}" for name, value in photo.columns] or None)
        try:
            done = yield from self._ask(results.Enrolled, "POST", "/faces", content=data, params=params | photo.pixels)
        except RequestRefused as refused:
            return refused_enrolment(photo, refused)
        return Enrolment(photo, done=done)

    def rename(self, old: str, new: str) -> Flow[results.Change]:
        """Give a person another name."""
        return self._ask(results.Change, "POST", "/people/rename", json={"old": old, "new": new})

    def merge(self, source: str, into: str) -> Flow[results.Change]:
        """Give all faces of a person to another."""
        return self._ask(results.Change, "POST", "/people/merge", json={"source": source, "into": into})

    def split(self, face_ids: str | Sequence[str], to: str) -> Flow[results.Change]:
        """Give chosen faces to another person."""
        return self._ask(results.Change, "POST", "/people/split", json={"face_ids": several(face_ids), "to": to})

    def remove(self, identity: str | None, face_id: str | None) -> Flow[results.Change]:
        """Remove a person, or a face."""
        body = given(identity=identity, face_id=face_id)
        return self._ask(results.Change, "POST", "/people/remove", json=body)

    def undo(self, command: str | None) -> Flow[list[results.Change]]:
        """Undo the last change."""
        return self._ask(list[results.Change], "POST", "/undo", json={"command": command})

    def forget(self, identity: str, *, unnamed: bool) -> Flow[results.Receipt]:
        """Remove a person for good."""
        body = {"identity": identity} | ({"unnamed": True} if unnamed else {})
        return self._ask(results.Receipt, "POST", "/people/forget", json=body)

    # jobs

    def calibrate(self, fpir: float) -> Flow[results.Calibrated]:
        """Fit the score from which a hit counts."""
        return self._finish("/calibrate", {"fpir": fpir})

    def compact(self, keep_undo: float | None) -> Flow[results.Compacted]:
        """Build the index again."""
        return self._finish("/compact", {"keep_undo_days": None if keep_undo is None else keep_undo / DAY})

    def _finish(self, rest: str, body: dict[str, Any]) -> Flow[Any]:
        """Start a job, wait for its end and return its result. Raises JobFailed."""
        began, pause = time.monotonic(), FIRST_POLL
        found: results.Job = yield from self._ask(results.Job, "POST", rest, json=body)
        while found.state == "running":
            yield Pause(pause, began)
            pause = min(1.5 * pause, LONGEST_POLL)
            found = yield from job(found.id)
        if found.state == "failed" or found.result is None:
            raise JobFailed(found)
        return found.result


# photos of a request --------------------------------------------------------


def _parts(photos: Iterable[Upload]) -> Iterator[list[Upload]]:
    """Split photos into requests by number and size."""
    rest = iter(photos)
    while some := list(islice(rest, STREAM_PHOTOS)):
        part: list[Upload] = []
        size = 0
        for photo in some:
            if part and size + photo.size > STREAM_BYTES:
                yield part
                part, size = [], 0
            part.append(photo)
            size += photo.size
        yield part


def _streamed(photo: Upload, line: schemas.StreamedResult) -> results.PhotoResult:
    if line.answer is not None:
        return photo.named(line.answer)
    refused = refusal(line.problem or {})
    if isinstance(refused, UnusablePhoto):
        return _refused_photo(photo, refused)
    raise refused


def _cut_off(lines: Sequence[schemas.StreamedResult], sent: int) -> dict[str, Any]:
    """Return the problem of a stream that does not answer each photo: its own, where it says one."""
    own = next((line.problem for line in lines if line.id is None and line.problem), None)
    return own or {"detail": f"expected {sent} results from the server, received {len(lines)}: search again"}


def _refused_photo(photo: Upload, refused: UnusablePhoto) -> results.PhotoResult:
    """Return the result of a photo that cannot be used. Raises the error where that is not the photo's fault."""
    if (outcome := outcome_of(refused)) is None:
        raise refused
    return photo.failed(outcome, refused.problem.get("why") or str(refused))
