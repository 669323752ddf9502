"""The routes under /v1: each reads its question, asks what the commands ask, and answers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, File, Header, Path, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse as FastJSONResponse
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

import workflows.calibrate
import workflows.enrol
import workflows.forget
import workflows.upkeep
from embedder.compute import cores
from embedder.decoder import Photo
from embedder.errors import FaceGalleryError
from embedder.outcomes import REFUSED
from embedder.row import Row
from embedder.spec import FaceSpec
from embedder.text import to_json
from indexer import filters
from indexer.database import Replaced
from indexer.faces import Change
from indexer.gallery import Gallery
from indexer.search import checked, exact_scores
from server import models
from server.accounts import Key
from server.batches import Full
from server.bodies import MOST_VALUES, StrictRoute, check_photo, parse_document
from server.guard import COOKIE, session_secret
from server.indexes import Answer, Served
from server.intake import Intake, photo_name
from server.problems import Problem, busy, of_error
from server.state import State
from workflows.probes import Question

T = TypeVar("T")
HITS = 10_000  # of all vectors or faces of a question
AHEAD = 16  # photos of a stream that are at work
RETRY_SECONDS, RETRY_AT_MOST = 0.1, 2.0  # until a photo of a stream is tried again: each time twice as long
GIVE_UP_SECONDS = 60.0  # after which a photo of a stream is not tried again
LINE = "application/x-ndjson"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": models.Problem, "description": "A problem (RFC 9457).", "content": {"application/problem+json": {}}}
}
PHOTO = {"requestBody": {"required": True, "description": "The bytes of a photo: JPEG, PNG, WebP, ...", "content": {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png", "application/octet-stream")}}}  # fmt: skip
LINES = {"requestBody": {"required": False, "content": {LINE: {"schema": {}, "example": '{"id": "1", "photo": "/9j/4AAQ..."}\n'}}}}
router = APIRouter(prefix="/v1", route_class=StrictRoute)


# who, which -----------------------------------------------------------------


async def state(request: Request) -> State:  # async, as all that are asked for a request: else FastAPI takes a thread for each
    return request.app.state.facegallery


def needs(scope: str) -> Any:
    async def check(request: Request) -> Key:
        key: Key = request.state.key
        if not key.may(scope):
            raise Problem(
                403, "scope", f"expected a key with the scope {scope}, {key.name!r} has {key.scope}: make another with `keys make`"
            )
        return key

    return Depends(check)


Asker = Annotated[Key, needs("read")]
Writer = Annotated[Key, needs("write")]
Admin = Annotated[Key, needs("admin")]
Whole = Annotated[State, Depends(state)]
Mark = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=200, description="The same change sent again with it is done once.")
]


async def index_of(
    whole: Whole, index: Annotated[str, Path(description="Name of an index that is served.", examples=["friends"])]
) -> Served:
    if index not in whole.indexes:
        raise Problem(
            404, "index", f"expected an index that is served ({', '.join(whole.indexes)}), received {index[:100]!r}: mend the path"
        )
    return whole.indexes[index]


Index = Annotated[Served, Depends(index_of)]


# photos ---------------------------------------------------------------------


async def photo_of(request: Request) -> bytes:
    check_photo(request.headers.get("content-type", ""), b"")
    if not (data := await request.body()):
        raise Problem(
            422, "invalid", "expected the bytes of a photo as the body, received none: send them, such as with --data-binary @FILE"
        )
    check_photo(request.headers.get("content-type", ""), data)
    return data


PhotoBytes = Annotated[bytes, Depends(photo_of)]


async def faces_of(whole: State, index: Served, data: bytes, name: str) -> tuple[Photo, list[Row], FaceSpec]:
    """What is in a photo, and the contract of its vectors; raises Problem where too many wait."""
    if len(data) > whole.settings.photo_bytes:
        raise Problem(
            413, "large", f"expected a photo of at most {whole.settings.photo_bytes:,} bytes, received {len(data):,}: make it smaller"
        )
    while True:
        intake: Intake = await whole.intake(index)
        try:
            with whole.meters.at_work.track_inprogress():
                return *await intake.faces(data, name), intake.spec
        except Full:
            if whole.is_current(intake):
                raise busy("more photos wait than may: try again") from None


async def answers_to(index: Served, vectors: np.ndarray, question: Question, contract: str | None = None) -> list[Answer]:
    if not len(vectors):
        return []
    try:
        found = await asyncio.wrap_future(index.ask(vectors, question, contract))
    except Full:
        raise busy("more questions wait than may: try again") from None
    if isinstance(found, FaceGalleryError):
        raise of_error(found)
    return found


async def persistently(answer: Callable[[], Awaitable[T]]) -> T:
    """Asked again where the index was replaced meanwhile: each of its searchers may notice only when it is asked."""
    for _ in range(cores()):
        with suppress(Replaced):
            return await answer()
    return await answer()


async def photo_answer(whole: State, index: Served, data: bytes, name: str, question: Question) -> dict[str, Any]:
    return await persistently(lambda: _photo_answer(whole, index, data, name, question))


async def _photo_answer(whole: State, index: Served, data: bytes, name: str, question: Question) -> dict[str, Any]:
    photo, rows, spec = await faces_of(whole, index, data, name)
    faces = [row for row in rows if row.vector is not None]
    question = replace(question, k=min(question.k, HITS // max(1, len(faces))))
    answers = await answers_to(index, np.array([row.vector for row in faces], np.float32), question, spec.fingerprint)
    found = [models.as_face(row) | answer for row, answer in zip(faces, answers, strict=True)]
    return {"image": name, "outcome": photo.outcome, "why": photo.why, "left_out": photo.faces - len(faces), "faces": found}


async def question_of(
    k: Annotated[int, Query(ge=1, le=1000, description="Answers to each face.")] = 5,
    faces: Annotated[bool, Query(description="Faces in the place of people.")] = False,
    score: Annotated[Literal["best", "mean", "template"], Query(description="How a person's faces count.")] = "best",
    where: Annotated[list[str] | None, Query(max_length=100, description="Filters such as year>=1999.")] = None,
    min_score: Annotated[float | None, Query(description="Hits below are left out.", allow_inf_nan=False)] = None,
) -> Question:
    filters.parse(where or ())  # once, and not for each photo of a stream
    return Question(k, faces, score, tuple(where or ()), min_score)


Asked = Annotated[Question, Depends(question_of)]
ImageName = Annotated[str | None, Query(max_length=300, description="What to call the photo.")]


@router.post("/indexes/{index}/search", response_model=models.PhotoAnswer, openapi_extra=PHOTO, tags=["search"])
async def search_by_photo(whole: Whole, key: Asker, index: Index, data: PhotoBytes, question: Asked, image: ImageName = None):
    """Everybody in a photo: for each face the k nearest people."""
    answer = await photo_answer(whole, index, data, photo_name(data, image), question)
    if (status := REFUSED.get(answer["outcome"])) is not None:
        raise Problem(status, answer["outcome"], f"expected a photo, this one is {answer['outcome']} ({answer['why']}): send another")
    return JSONResponse(answer)


async def vectors_of(request: Request, whole: Whole, index: Index) -> tuple[np.ndarray, models.VectorQuestion]:
    """The vectors of a question, float32 (n, d), and the question; parsed on a thread, and only where it is no larger than it can be."""
    dimension = await asyncio.wrap_future(index.read(lambda gallery: gallery.spec.dimension))
    data = await request.body()
    return await run_in_threadpool(_vectors, data, whole.settings.vectors, dimension)


def _vectors(data: bytes, most: int, dimension: int) -> tuple[np.ndarray, models.VectorQuestion]:
    document = parse_document(data, most * dimension + MOST_VALUES)
    given = document.get("vectors") if isinstance(document, dict) else None
    if isinstance(given, list) and len(given) > most:
        raise Problem(422, "invalid", f"expected at most {most} vectors, received {len(given)}: ask in parts")
    if isinstance(given, list) and (wrong := next((x for x in given if isinstance(x, list) and len(x) != dimension), None)) is not None:
        raise Problem(422, "invalid", f"expected vectors of {dimension} numbers, received one of {len(wrong)}: use the index's model")
    try:
        asked = models.VectorQuestion.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError([one | {"loc": ("body", *one["loc"])} for one in error.errors()]) from None
    with np.errstate(over="ignore"):
        return np.array(asked.vectors, np.float64).astype(np.float32), asked


VECTORS = {"requestBody": {"required": True, "content": {"application/json": {"schema": models.VectorQuestion.model_json_schema()}}}}
Vectors = Annotated[tuple[np.ndarray, models.VectorQuestion], Depends(vectors_of)]


@router.post("/indexes/{index}/search/vectors", response_model=models.VectorAnswers, openapi_extra=VECTORS, tags=["search"])
async def search_by_vectors(key: Asker, index: Index, found: Vectors):
    """The nearest people to vectors of the index's model."""
    xq, asked = found
    if asked.k * len(xq) > HITS:
        raise Problem(422, "invalid", f"expected at most {HITS} hits in all, received {len(xq)} vectors with k = {asked.k}: ask in parts")
    question = Question(asked.k, asked.faces, asked.score, tuple(asked.where), asked.min_score)
    xq = checked(xq, xq.shape[1])  # here, so that one bad question spoils no others that are asked together
    return JSONResponse({"answers": await persistently(lambda: answers_to(index, xq, question))})


@router.post("/indexes/{index}/search/stream", openapi_extra=LINES, tags=["search"], response_class=StreamingResponse,
             responses={200: {"content": {LINE: {"schema": {"type": "string"}}}, "description": "A line for each, in order: id and answer, or problem."}})  # fmt: skip
async def search_many_photos(request: Request, whole: Whole, key: Asker, index: Index, question: Asked):
    """Any number of photos, a line of JSON each (`id`, `photo` in base64); answers come as they are ready, in order."""
    hold: Callable[[int], None] = request.state.hold

    async def one(asked: models.StreamedPhoto, data: bytes) -> bytes:
        async def answer() -> dict[str, Any]:
            await whole.desk.admit(key)
            return await photo_answer(whole, index, data, asked.id, question)

        try:
            return _line({"id": asked.id, "answer": await _patiently(answer)})
        except Problem as problem:
            return _line({"id": asked.id, "problem": problem.body})
        except FaceGalleryError as error:
            return _line({"id": asked.id, "problem": of_error(error).body})

    async def refused(problem: Problem) -> bytes:
        return _line({"id": None, "problem": problem.body})

    async def bad_line(detail: str) -> bytes:
        try:
            await _patiently(lambda: whole.desk.admit(key))  # it counts as a photo does
        except Problem as problem:
            return await refused(problem)
        return await refused(Problem(422, "invalid", detail))

    def task_of(line: bytes) -> asyncio.Task[bytes]:
        try:
            asked = models.StreamedPhoto.model_validate(parse_document(line))
            data, asked.photo = base64.b64decode(asked.photo, validate=True), ""
        except (Problem, ValidationError, binascii.Error) as error:
            detail = f"expected a line with id and photo (base64), received another ({str(error).splitlines()[0][:100]}): mend it"
            return asyncio.create_task(bad_line(detail))
        hold(size := len(data))
        task = asyncio.create_task(one(asked, data))
        task.add_done_callback(lambda _: hold(-size))
        return task

    async def tasks() -> AsyncIterator[asyncio.Task[bytes]]:
        try:
            async for line in _split(request.stream(), whole.settings.photo_bytes * 4 // 3 + 1000, hold):
                yield task_of(line)
        except Problem as problem:  # of the whole: it came too slowly, or too much is held
            yield asyncio.create_task(refused(problem))

    return Lines(_in_order(tasks(), AHEAD, lambda: _gone(request.receive)), media_type=LINE)


async def _patiently(answer: Callable[[], Awaitable[T]]) -> T:
    """An answer, asked for again while the server is busy or the key asks too often; raises Problem for others, and after GIVE_UP_SECONDS."""
    pause, until = RETRY_SECONDS, time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            return await answer()
        except Problem as problem:
            if problem.status_code not in (429, 503) or time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_AT_MOST)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when the client has gone; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_order(tasks: AsyncIterator[asyncio.Task[bytes]], ahead: int, leave: Callable[[], Awaitable[Any]]) -> AsyncIterator[bytes]:
    """The results of tasks, in order and as soon as they are done, while at most `ahead` run and others are still to come.

    leave: called once all have come; when it returns, those that still run are cancelled.
    """
    waiting: deque[asyncio.Task[bytes]] = deque()
    coming: asyncio.Task[asyncio.Task[bytes]] | None = asyncio.ensure_future(anext(tasks))  # type: ignore[arg-type]
    gone: asyncio.Future[Any] | None = None
    try:
        while coming or waiting:
            watched: set[asyncio.Future[Any]] = {waiting[0]} if waiting else set()
            if coming and len(waiting) < ahead:
                watched.add(coming)
            if not coming:
                watched.add(gone := gone or asyncio.ensure_future(leave()))
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if gone and gone.done():
                return
            if coming in watched and coming.done():
                try:
                    waiting.append(coming.result())
                    coming = asyncio.ensure_future(anext(tasks))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    coming = None
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
    finally:
        for task in (*waiting, coming, gone):
            if task:
                task.cancel()


class JSONResponse(FastJSONResponse):
    """JSON in which control characters of names are escaped, so that a terminal may show it."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class Lines(StreamingResponse):
    """One that is sent while the request's body is still read: it leaves that to whoever makes the lines."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.stream_response(send)


def _line(answer: dict[str, Any]) -> bytes:
    return to_json(answer).encode() + b"\n"


async def _split(parts: AsyncIterator[bytes], most: int, hold: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Lines that are not empty; one that is too long is cut, and then no JSON. hold: is told how many bytes more, or fewer, wait for their end."""
    rest = bytearray()
    async for part in parts:
        if b"\n" not in part:
            hold(len(part := part[: most + 1 - len(rest)]))
            rest += part
            continue
        first, *others = part.split(b"\n")
        hold(len(others[-1]) - len(rest))
        rest += first[: most + 1 - len(rest)]
        for line in (bytes(rest), *others[:-1]):
            if line.strip():
                yield line
        rest = bytearray(others[-1])
    if rest.strip():
        yield bytes(rest)


@router.post("/indexes/{index}/verify", response_model=models.Compared, tags=["search"])
async def verify_two_photos(
    whole: Whole, key: Asker, index: Index, first: Annotated[UploadFile, File()], second: Annotated[UploadFile, File()]
):
    """How alike the largest, most central faces of two photos are, by the index's model; `others` counts their other faces."""
    photos = [("first", first.filename, await first.read()), ("second", second.filename, await second.read())]

    async def both() -> list[tuple[Row, int]]:
        rows, contracts = [], set()
        for which, name, data in photos:
            photo, found, spec = await faces_of(whole, index, data, name or which)
            if found[0].vector is None:
                raise Problem(
                    422,
                    photo.outcome,
                    f"expected a face in the {which} photo, its outcome is {photo.outcome} ({photo.why}): choose another",
                )
            rows.append((found[0], photo.faces - 1))
            contracts.add(spec.fingerprint)
        if len(contracts) > 1:
            raise Replaced("expected one model for both photos, the index got another one between them: ask again")
        return rows

    rows = await persistently(both)
    a, b = (np.asarray(row.vector, np.float32) for row, _ in rows)
    faces = [models.as_face(row) | {"others": others} for row, others in rows]
    return JSONResponse({"score": float(exact_scores(a, b[None])[0]), "faces": faces})


# people ---------------------------------------------------------------------


@router.get("/indexes", response_model=models.Indexes, tags=["indexes"])
async def list_indexes(whole: Whole, key: Asker):
    """The indexes that are served."""
    return {"indexes": list(whole.indexes)}


@router.get("/indexes/{index}", response_model=models.IndexInfo, tags=["indexes"])
async def index_info(key: Asker, index: Index):
    """What an index holds, by which model, how far it is behind its last build, and its calibration."""
    return JSONResponse(await asyncio.wrap_future(index.read(Gallery.info)))


@router.get("/indexes/{index}/people", response_model=models.People, tags=["people"])
async def list_people(
    key: Asker,
    index: Index,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=4000, description="`next` of the page before.")] = None,
    containing: Annotated[str, Query(max_length=200, description="A part of the name.")] = "",
):
    """Everybody by name, page by page."""
    after = _after(cursor)

    def ask(gallery: Gallery) -> tuple[list[tuple[str, int]], dict[str, str]]:
        with gallery.reading():
            found = gallery.list_people(after, limit + 1, containing)
            return found, gallery.first_faces([name for name, _ in found[:limit]])

    found, faces = await asyncio.wrap_future(index.read(ask))
    people = [{"identity": name, "faces": n, "face_id": faces.get(name)} for name, n in found[:limit]]
    return JSONResponse({"people": people, "next": _cursor(found[limit - 1][0]) if len(found) > limit else None})


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _after(cursor: str | None) -> str:
    try:
        return base64.b64decode(cursor, b"-_", validate=True).decode() if cursor else ""
    except (ValueError, UnicodeError):
        raise Problem(422, "invalid", "expected `next` of the page before as the cursor, received another text: leave it out") from None


@router.get("/indexes/{index}/faces", response_model=models.FacesOf, tags=["people"])
async def list_faces(key: Asker, index: Index, identity: Annotated[str, Query(min_length=1, max_length=10_000)]):
    """A person's faces, oldest first."""
    name, faces = await asyncio.wrap_future(index.read(lambda gallery: (gallery.spelled(identity), gallery.list_faces(identity))))
    return JSONResponse({"identity": name, "faces": faces})


@router.get("/indexes/{index}/faces/{face_id}/thumbnail", tags=["people"], response_class=Response,
            responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The crop."}})  # fmt: skip
async def face_thumbnail(key: Asker, index: Index, face_id: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]):
    """The crop of an enrolled face."""
    png = await asyncio.wrap_future(index.read(lambda gallery: gallery.crop(face_id)))
    if png is None:
        raise Problem(404, "unknown", f"expected a face of {index.name} whose crop is kept, there is none with the id {face_id}")
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})


# changes --------------------------------------------------------------------


async def change(whole: State, key: Key, index: Served, mark: str | None, what: str, asked: bytes, work: Callable[[], Any]) -> Response:
    """A change, once for each mark, with a line of the audit; `work` gives a future of (answer, face_ids)."""
    asked = sha256(f"{what} {index.name} ".encode() + asked).digest()
    if mark is not None:
        is_new, status, answer, is_same = await whole.desk.ask(lambda accounts: accounts.begin_write(key, mark, asked))
        if not is_new:
            return _again(status, answer, is_same)
    status, faces, body = 500, [], b""
    try:
        answer, faces = await work()
        status, body = 200, to_json(answer).encode()
        return Response(body, media_type="application/json")
    except (Problem, FaceGalleryError) as error:
        problem = error if isinstance(error, Problem) else of_error(error)
        status = problem.status_code
        raise problem from None
    finally:
        if mark is not None and (status < 500 or status == 503):  # after a fault nobody knows whether it was done
            kept = status if status < 400 else None  # what was refused may be asked again
            await asyncio.shield(whole.desk.ask(lambda accounts: accounts.end_write(key, mark, kept, body)))
        await asyncio.shield(whole.desk.ask(lambda accounts: accounts.note(key.name, what, index.name, status, faces)))


def _again(status: int | None, answer: bytes | None, is_same: bool) -> Response:
    if status is not None and answer is None:
        raise Problem(409, "done", "the change was done; its answer is no longer kept, since somebody was forgotten")
    if not is_same:
        raise Problem(
            422, "mark", "expected the same change as before with this Idempotency-Key, received another: give it a key of its own"
        )
    if status is None:
        raise Problem(409, "in-work", "expected a change that has ended, this one is at work, or was when the server ended: look whether it was "
                      "done, and if not ask with another Idempotency-Key", {"Retry-After": "1"})  # fmt: skip
    return Response(answer, status, media_type="application/json", headers={"Idempotency-Replayed": "true"})


@router.post("/indexes/{index}/faces", response_model=models.Enrolled, openapi_extra=PHOTO, tags=["people"])
async def enrol(
    whole: Whole,
    key: Writer,
    index: Index,
    data: PhotoBytes,
    identity: Annotated[str, Query(min_length=1, max_length=500, pattern=models.TEXT, description=f"Whose face it is. {models.SPELLING}")],
    face: Annotated[int | None, Query(ge=0, le=999, description="Which, where there are several.")] = None,
    readmit: Annotated[bool, Query(description="Take back a face that was forgotten.")] = False,
    image: ImageName = None,
    mark: Mark = None,
):
    """Enrols the face of a photo. Of several faces one must be named by its number."""

    async def work() -> tuple[dict[str, Any], list[str]]:
        photo, rows, spec = await faces_of(whole, index, data, photo_name(data, image))
        row = _chosen(photo, rows, face)
        done = await asyncio.wrap_future(index.write(lambda gallery: workflows.enrol.enrol(gallery, row, spec, identity, readmit)))
        if done.conflicts:
            raise Problem(
                409,
                "conflict",
                f"expected a face that nobody has, it is enrolled as {done.conflicts[0].kept!r}: give it to another with `split`",
                face_id=row.face_id,
                identity=done.conflicts[0].kept,
            )
        if done.forgotten:
            raise Problem(409, "forgotten", "expected a face that was not forgotten, this one was: `readmit` takes it back")
        return {"added": done.added, "again": done.again, "face": models.as_face(row), "command": done.command}, [row.face_id]

    asked = json.dumps([identity, face, readmit, image, sha256(data).hexdigest()]).encode()
    return await change(whole, key, index, mark, "enrol", asked, work)


def _chosen(photo: Photo, rows: list[Row], face: int | None) -> Row:
    if rows[0].vector is None:
        raise Problem(422, photo.outcome, f"expected a face in the photo, its outcome is {photo.outcome} ({photo.why}): choose another")
    if face is None and len(rows) > 1:
        found = list(map(models.as_face, rows))
        raise Problem(422, "several-faces", f"expected one face, the photo has {len(rows)}: say which with `face`", faces=found)
    if (face or 0) >= len(rows):
        raise Problem(422, "invalid", f"expected a face from 0 to {len(rows) - 1}, received {face}: mend `face`")
    return rows[face or 0]


async def corrected(whole: State, key: Key, index: Served, mark: str | None, asked: BaseModel, do: Callable[[Gallery], Change],
                    faces: Callable[[Gallery], list[str]]) -> Response:  # fmt: skip
    """A verb of the gallery, by the document that asks for it; `faces` are those that it is about."""

    def work(gallery: Gallery) -> tuple[dict[str, Any], list[str]]:
        about = faces(gallery)
        return asdict(do(gallery)), about

    async def write() -> tuple[dict[str, Any], list[str]]:
        return await asyncio.wrap_future(index.write(work))

    return await change(whole, key, index, mark, type(asked).__name__.lower(), asked.model_dump_json().encode(), write)


def _ids_of(identity: str) -> Callable[[Gallery], list[str]]:
    return lambda gallery: [face["face_id"] for face in gallery.list_faces(identity)]


@router.post("/indexes/{index}/people/rename", response_model=models.Change, tags=["people"])
async def rename(whole: Whole, key: Writer, index: Index, asked: models.Rename, mark: Mark = None):
    """Gives a person another name, which nobody has."""
    return await corrected(whole, key, index, mark, asked, lambda gallery: gallery.rename(asked.old, asked.new), _ids_of(asked.old))


@router.post("/indexes/{index}/people/merge", response_model=models.Change, tags=["people"])
async def merge(whole: Whole, key: Writer, index: Index, asked: models.Merge, mark: Mark = None):
    """Gives all faces of one person to another."""
    return await corrected(whole, key, index, mark, asked, lambda gallery: gallery.merge(asked.source, asked.into), _ids_of(asked.source))


@router.post("/indexes/{index}/people/split", response_model=models.Change, tags=["people"])
async def split(whole: Whole, key: Writer, index: Index, asked: models.Split, mark: Mark = None):
    """Gives chosen faces to another person, enrolled already or new."""
    return await corrected(
        whole, key, index, mark, asked, lambda gallery: gallery.split(asked.face_ids, asked.to), lambda gallery: asked.face_ids
    )


@router.post("/indexes/{index}/people/remove", response_model=models.Change, tags=["people"])
async def remove(whole: Whole, key: Writer, index: Index, asked: models.Remove, mark: Mark = None):
    """Takes a person out, or one face; undo brings them back."""
    if (asked.identity is None) == (asked.face_id is None):
        raise Problem(422, "invalid", "expected an identity or a face_id, received both or none: give one")
    faces = _ids_of(asked.identity) if asked.identity is not None else lambda gallery: [str(asked.face_id)]
    return await corrected(whole, key, index, mark, asked, lambda gallery: gallery.remove(asked.identity, asked.face_id), faces)


@router.post("/indexes/{index}/undo", response_model=list[models.Change], tags=["people"])
async def undo(whole: Whole, key: Writer, index: Index, asked: models.Undo | None = None, mark: Mark = None):
    """Takes the last change back, if it is the one that is meant."""
    asked = asked or models.Undo()

    async def work() -> tuple[list[dict[str, Any]], list[str]]:
        return [asdict(one) for one in await asyncio.wrap_future(index.write(lambda gallery: gallery.undo(asked.command)))], []

    return await change(whole, key, index, mark, "undo", asked.model_dump_json().encode(), work)


@router.post("/indexes/{index}/people/forget", response_model=models.Receipt, tags=["people"])
async def forget(whole: Whole, key: Admin, index: Index, asked: models.Forget, mark: Mark = None):
    """Removes a person for good: rows, vectors, crops, names. There is no undo; the receipt lies beside the index, too."""

    def do() -> tuple[dict[str, Any], list[str]]:
        done, _ = workflows.forget.forget(index.name, asked.identity, (), None, lambda line: None)
        return asdict(done) | {"found": done.found}, done.face_ids

    async def work() -> tuple[dict[str, Any], list[str]]:
        return await asyncio.wrap_future(index.write_apart(do))

    try:
        return await change(whole, key, index, mark, "forget", asked.model_dump_json().encode(), work)
    finally:
        await asyncio.shield(whole.desk.ask(lambda accounts: accounts.drop_answers()))


# the whole ------------------------------------------------------------------


@router.post("/indexes/{index}/compact", response_model=models.Job, status_code=202, tags=["indexes"])
async def compact(whole: Whole, key: Admin, index: Index, asked: models.Compact | None = None):
    """Builds the index anew from all changes, beside the one in use, and swaps; a job."""
    days = asked.keep_undo_days if asked else None
    keep = None if days is None else days * 86400

    def work(tell: Callable[[int, int], None]) -> str:
        done = workflows.upkeep.compact(index.name, keep, tell)
        return f"generation {done['generation']}, {done['faces']} faces, {done['dropped']} old changes dropped"

    return JSONResponse(await whole.begin_job(key, index, "compact", work), 202)


@router.post("/indexes/{index}/calibrate", response_model=models.Job, status_code=202, tags=["indexes"])
async def calibrate(whole: Whole, key: Admin, index: Index, asked: models.Calibrate | None = None):
    """Fits the score from which a hit counts, on the enrolled people; a job."""
    fpir = (asked or models.Calibrate()).fpir

    def work(tell: Callable[[int, int], None]) -> str:
        return workflows.calibrate.calibrate(index.name, fpir, (), None, None, 0, whole.settings.compute, lambda line: None)["text"]

    return JSONResponse(await whole.begin_job(key, index, "calibrate", work), 202)


@router.get("/jobs/{id}", response_model=models.Job, tags=["indexes"])
async def job(whole: Whole, key: Asker, id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]):
    """How a job stands."""
    if (found := await whole.desk.ask(lambda accounts: accounts.job(id))) is None:
        raise Problem(404, "unknown", f"expected the id of a job, there is none with {id}")
    return JSONResponse(found)


# sessions -------------------------------------------------------------------


@router.post("/session", response_model=models.Session, tags=["session"])
async def sign_in(request: Request, whole: Whole, asked: models.SignIn):
    """A session of the page in the place of a key: an HttpOnly cookie."""
    key = await whole.desk.who(asked.key, False)
    if key is None:
        await asyncio.sleep(0.5)
        raise Problem(401, "key", "expected a key of this server, received another: see `keys make`", {"WWW-Authenticate": "Bearer"})
    await whole.desk.count(key)
    seconds = whole.settings.session_seconds
    secret = await whole.desk.ask(lambda accounts: accounts.begin_session(key, seconds))
    if secret is None:
        raise Problem(401, "key", "expected a key that is valid, this one was just revoked", {"WWW-Authenticate": "Bearer"})
    answer = JSONResponse({"name": key.name, "scope": key.scope})
    secure = whole.settings.tls or request.headers.get("origin", "").startswith("https://")  # or by a proxy
    answer.set_cookie(COOKIE, secret, max_age=int(seconds), path="/", secure=secure, httponly=True, samesite="strict")
    return answer


@router.get("/me", response_model=models.Session, tags=["session"])
async def who_am_i(key: Asker):
    """The name and scope of the key, or of the session's."""
    return {"name": key.name, "scope": key.scope}


@router.delete("/session", status_code=204, tags=["session"])
async def sign_out(request: Request, whole: Whole):
    """Ends the session."""
    if secret := session_secret(dict(request.headers.raw)):
        whole.desk.forget_session(secret)
        await whole.desk.ask(lambda accounts: accounts.end_session(secret))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/")
    return answer
