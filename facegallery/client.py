"""A client in Python: what the API answers, as the types of its OpenAPI document.

from facegallery.client import Client
with Client("http://127.0.0.1:8000", KEY) as faces:
    print(faces.search("friends", "party.jpg").faces[0].hits[0].identity)
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from facegallery import schemas
from facegallery.embedder.errors import FaceGalleryError

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Photo = bytes | str | Path
TOGETHER = 16  # photos of a request: httpx reads no answer before all of them are sent
TRIES = 5  # of a request that is refused for now
LONGEST_PAUSE = 60.0  # seconds between two of them, whatever the server or a proxy says


class StreamedAnswer(BaseModel):
    """A line of the answers to many photos."""

    id: str | None
    answer: schemas.PhotoAnswer | None = None
    problem: dict[str, Any] | None = None


LINE, CHANGES = TypeAdapter(StreamedAnswer), TypeAdapter(list[schemas.Change])


class RequestRefused(FaceGalleryError):
    """The server answered with a problem (RFC 9457)."""

    def __init__(self, problem: dict[str, Any]):
        super().__init__(problem.get("detail", ""))
        self.status, self.problem = problem.get("status"), problem


class Client:
    """A server, by its address and a key. Use it as a context manager; threads may share it.

    What is refused because too much waits or is asked is tried again after as long as the server says; a change is done once all the same.
    Raises Refused where the server says no, httpx.TransportError where it is not reached.
    """

    def __init__(self, url: str, key: str, seconds: float = 60):
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # search

    def search(
        self,
        index: str,
        photo: Photo,
        k: int = 5,
        faces: bool = False,
        score: Literal["best", "mean", "template"] = "best",
        where: Iterable[str] = (),
        min_score: float | None = None,
    ) -> schemas.PhotoAnswer:
        """Everybody in a photo (bytes, or the path of a file): for each face the k nearest people."""
        data, name = _read(photo)
        params = _given(k=k, faces=faces, score=score, where=list(where), min_score=min_score, image=name)
        return self._ask(schemas.PhotoAnswer, "POST", f"/v1/indexes/{index}/search", content=data, params=params)

    def search_vectors(self, index: str, vectors: Iterable[Iterable[float]], **question: Any) -> schemas.VectorAnswers:
        """The nearest people to unit vectors; question: as `models.VectorQuestion` has it."""
        asked = schemas.VectorQuestion(vectors=[list(map(float, x)) for x in vectors], **question)
        return self._ask(schemas.VectorAnswers, "POST", f"/v1/indexes/{index}/search/vectors", json=asked.model_dump())

    def search_many(
        self, index: str, photos: Iterable[tuple[str, Photo]], k: int = 5
    ) -> Iterator[tuple[str, schemas.PhotoAnswer | RequestRefused]]:
        """Any number of photos, each with an id, some at a time; answers in order."""
        rest = iter(photos)
        while some := list(islice(rest, TOGETHER)):
            lines = [json.dumps({"id": id, "photo": base64.b64encode(_read(photo)[0]).decode()}) for id, photo in some]
            answer = self._send(
                "POST", f"/v1/indexes/{index}/search/stream", content="\n".join(lines).encode(), params={"k": k}
            )
            answers = [_parsed(answer, LINE, line) for line in answer.content.split(b"\n") if line]
            if len(answers) != len(some):
                raise RequestRefused(
                    {
                        "status": answer.status_code,
                        "detail": f"expected {len(some)} answers, received {len(answers)}: ask again",
                    }
                )
            for found in answers:
                yield found.id or "", found.answer or RequestRefused(found.problem or {})

    def verify(self, index: str, first: Photo, second: Photo) -> schemas.Compared:
        """How alike the largest faces of two photos are."""
        (a, _), (b, _) = _read(first), _read(second)
        return self._ask(schemas.Compared, "POST", f"/v1/indexes/{index}/verify", files={"first": a, "second": b})

    # people

    def indexes(self) -> list[str]:
        return self._ask(schemas.Indexes, "GET", "/v1/indexes").indexes

    def info(self, index: str) -> schemas.IndexInfo:
        return self._ask(schemas.IndexInfo, "GET", f"/v1/indexes/{index}")

    def people(self, index: str, containing: str = "") -> Iterator[schemas.Person]:
        """Everybody by name, page by page."""
        cursor: str | None = ""
        while cursor is not None:
            params = _given(containing=containing, cursor=cursor or None, limit=1000)
            page = self._ask(schemas.People, "GET", f"/v1/indexes/{index}/people", params=params)
            yield from page.people
            cursor = page.next

    def faces(self, index: str, identity: str) -> list[schemas.EnrolledFace]:
        return self._ask(schemas.FacesOf, "GET", f"/v1/indexes/{index}/faces", params={"identity": identity}).faces

    def thumbnail(self, index: str, face_id: str) -> bytes:
        """A PNG."""
        return self._send("GET", f"/v1/indexes/{index}/faces/{face_id}/thumbnail").content

    # changes

    def enrol(
        self, index: str, photo: Photo, identity: str, face: int | None = None, readmit: bool = False
    ) -> schemas.Enrolled:
        """The face of a photo under a name; of several one must be named by its number."""
        data, name = _read(photo)
        params = _given(identity=identity, face=face, readmit=readmit, image=name)
        return self._ask(schemas.Enrolled, "POST", f"/v1/indexes/{index}/faces", content=data, params=params)

    def rename(self, index: str, old: str, new: str) -> schemas.Change:
        return self._change(index, "people/rename", schemas.Rename(old=old, new=new))

    def merge(self, index: str, source: str, into: str) -> schemas.Change:
        return self._change(index, "people/merge", schemas.Merge(source=source, into=into))

    def split(self, index: str, face_ids: Iterable[str], to: str) -> schemas.Change:
        return self._change(index, "people/split", schemas.Split(face_ids=list(face_ids), to=to))

    def remove(self, index: str, identity: str | None = None, face_id: str | None = None) -> schemas.Change:
        return self._change(index, "people/remove", schemas.Remove(identity=identity, face_id=face_id))

    def undo(self, index: str, command: str | None = None) -> list[schemas.Change]:
        """The last change; where its `command` is given, only that one."""
        answer = self._send("POST", f"/v1/indexes/{index}/undo", json={"command": command})
        return _parsed(answer, CHANGES)

    def forget(self, index: str, identity: str) -> schemas.Receipt:
        """For good."""
        return self._ask(schemas.Receipt, "POST", f"/v1/indexes/{index}/people/forget", json={"identity": identity})

    # jobs

    def compact(self, index: str, keep_undo_days: float | None = None) -> schemas.Job:
        return self._ask(schemas.Job, "POST", f"/v1/indexes/{index}/compact", json={"keep_undo_days": keep_undo_days})

    def calibrate(self, index: str, fpir: float = 0.01) -> schemas.Job:
        return self._ask(schemas.Job, "POST", f"/v1/indexes/{index}/calibrate", json={"fpir": fpir})

    def job(self, id: str) -> schemas.Job:
        return self._ask(schemas.Job, "GET", f"/v1/jobs/{id}")

    def wait(self, job: schemas.Job) -> schemas.Job:
        """The job when it has ended."""
        while job.state == "running":
            time.sleep(0.2)
            job = self.job(job.id)
        return job

    # requests

    def _change(self, index: str, path: str, asked: BaseModel) -> schemas.Change:
        return self._ask(schemas.Change, "POST", f"/v1/indexes/{index}/{path}", json=asked.model_dump())

    def _ask(self, model: type[M], method: str, path: str, **content: Any) -> M:
        return _parsed(self._send(method, path, **content), TypeAdapter(model))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"Idempotency-Key": uuid.uuid4().hex} if method == "POST" else {}
        for left in reversed(range(TRIES)):
            answer = self._http.request(method, path, headers=headers, **content)
            if answer.status_code not in (429, 503) or not left:
                break
            time.sleep(_pause(answer.headers.get("Retry-After", "")))
        if not answer.is_success:
            raise _refused(answer)
        return answer


def _pause(retry_after: str) -> float:
    """Seconds to wait by a Retry-After header: a number, or a date; 1 where it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(min(int(retry_after[:9]), LONGEST_PAUSE))
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 1.0
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _refused(answer: httpx.Response) -> RequestRefused:
    """The problem of an answer; what is none, such as a proxy's page, is told by its status."""
    try:
        problem = answer.json()
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return RequestRefused({"status": answer.status_code} | problem)
    return RequestRefused(
        {"status": answer.status_code, "detail": f"{answer.status_code} {answer.reason_phrase}".strip()}
    )


def _parsed(answer: httpx.Response, model: TypeAdapter[T], line: bytes | None = None) -> T:
    """An answer, or a line of it, as its type; raise Refused where it is another's, such as a proxy's page with status 200."""
    try:
        return model.validate_json(answer.content if line is None else line)
    except ValidationError:
        kind = answer.headers.get("Content-Type", "no type")[:100]
        detail = f"expected an answer of facegallery's API from {answer.url.host}, received another ({kind}): check the address and the proxy"
        raise RequestRefused({"status": answer.status_code, "detail": detail}) from None


def _read(photo: Photo) -> tuple[bytes, str | None]:
    """Its bytes, and its name where it is a file."""
    return (photo, None) if isinstance(photo, bytes) else (Path(photo).read_bytes(), Path(photo).name)


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
