"""Search many photos in one request, with a line of JSON for each."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from facegallery import schemas
from facegallery.accounts import Key
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.text import to_json
from facegallery.results import PhotoResult, as_document
from facegallery.server.bodies import StrictRoute, parse_document
from facegallery.server.intake import SentPhoto
from facegallery.server.problems import HttpProblem, of_error
from facegallery.server.routes.dependencies import CurrentState, Index, QuestionOf, Reader, search_photo
from facegallery.server.served_index import ServedIndex
from facegallery.server.state import ServerState
from facegallery.workflows.probes import Question

T = TypeVar("T")
AHEAD = 16  # photos of a stream that are in progress
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds before a photo is tried again; each pause is twice the last one
GIVE_UP_SECONDS = 60.0  # time for which a photo is tried again
NDJSON = "application/x-ndjson"
REQUEST = {
    "requestBody": {
        "required": False,
        "content": {NDJSON: {"schema": {}, "example": '{"id": "1", "photo": "/9j/4AAQ..."}\n'}},
    }
}
RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NDJSON: {"schema": {"type": "string"}}},
        "description": "A line for each photo, in order: its id, and its answer or a problem.",
    }
}
router = APIRouter(prefix="/v1", route_class=StrictRoute)
Hold = Callable[[int], None]  # receives how many bytes more, or fewer, are held in memory


@router.post(
    "/indexes/{index}/search/stream",
    openapi_extra=REQUEST,
    tags=["search"],
    response_class=StreamingResponse,
    responses=RESPONSE,
)
async def search_many_photos(request: Request, state: CurrentState, key: Reader, index: Index, question: QuestionOf):
    """Search any number of photos, a line of JSON each (`id`, `photo` in base64); results come as they are ready."""
    stream = PhotoStream(state, key, index, question, request.state.hold)
    lines = _in_order(stream.tasks(request.stream()), AHEAD, lambda: _disconnected(request.receive))
    return NdjsonResponse(lines, media_type=NDJSON)


class PhotoStream:
    """One request with many photos."""

    def __init__(self, state: ServerState, key: Key, index: ServedIndex, question: Question, hold: Hold):
        self._state, self._key, self._index, self._question, self._hold = state, key, index, question, hold

    async def tasks(self, parts: AsyncIterator[bytes]) -> AsyncIterator[asyncio.Task[bytes]]:
        """Begin a task for each line of a body; its result is a line of the response."""
        longest = self._state.settings.photo_bytes * 4 // 3 + 1000
        try:
            async for line in _split(parts, longest, self._hold):
                yield self._task_of(line)
        except HttpProblem as problem:  # of the whole body: it is too slow, or too much is held
            yield asyncio.create_task(_refuse(problem))

    def _task_of(self, line: bytes) -> asyncio.Task[bytes]:
        try:
            asked = schemas.StreamedPhoto.model_validate(parse_document(line))
            data, asked.photo = base64.b64decode(asked.photo, validate=True), ""
        except (HttpProblem, ValidationError, binascii.Error) as error:
            reason = str(error).splitlines()[0][:100]
            detail = f"expected a line with id and photo (base64), received another ({reason}): send such lines"
            return asyncio.create_task(self._refuse_line(detail))
        self._hold(size := len(data))
        task = asyncio.create_task(self._search(SentPhoto(data, asked.id, asked.pixels)))
        task.add_done_callback(lambda _: self._hold(-size))
        return task

    async def _search(self, sent: SentPhoto) -> bytes:
        async def search() -> PhotoResult:
            await self._state.desk.admit(self._key)
            return await search_photo(self._state, self._index, sent, self._question)

        try:
            return _line({"id": sent.name, "answer": await _retry_busy(search)})
        except HttpProblem as problem:
            return _line({"id": sent.name, "problem": problem.body})
        except FaceGalleryError as error:
            return _line({"id": sent.name, "problem": of_error(error).body})

    async def _refuse_line(self, detail: str) -> bytes:
        try:
            await _retry_busy(lambda: self._state.desk.admit(self._key))  # it counts like a photo
        except HttpProblem as problem:
            return await _refuse(problem)
        return await _refuse(HttpProblem(422, "invalid", detail))


async def _refuse(problem: HttpProblem) -> bytes:
    return _line({"id": None, "problem": problem.body})


async def _retry_busy(answer: Callable[[], Awaitable[T]]) -> T:
    """Call a function again while the server is busy or the key exceeds its rate.

    Raises HttpProblem for other problems, and for these after GIVE_UP_SECONDS.
    """
    pause, until = FIRST_PAUSE, time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            return await answer()
        except HttpProblem as problem:
            if problem.status_code not in (429, 503) or time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return once the client has disconnected; discard what it still sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_order(
    tasks: AsyncIterator[asyncio.Task[bytes]], ahead: int, leave: Callable[[], Awaitable[Any]]
) -> AsyncIterator[bytes]:
    """Yield the results of tasks in order, each as soon as it is ready, while at most `ahead` of them run.

    leave: called once all tasks have begun; when it returns, the tasks that still run are cancelled.
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


class NdjsonResponse(StreamingResponse):
    """A response that is sent while the body of the request is still arriving, and does not read that body itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.stream_response(send)


def _line(result: dict[str, Any]) -> bytes:
    return to_json(as_document(result)).encode() + b"\n"


async def _split(parts: AsyncIterator[bytes], longest: int, hold: Hold) -> AsyncIterator[bytes]:
    """Yield the lines that are not empty. A line that is too long is cut, and so is no JSON.

    hold: receives how many bytes more, or fewer, wait for the end of their line.
    """
    rest = bytearray()
    async for part in parts:
        if b"\n" not in part:
            hold(len(part := part[: longest + 1 - len(rest)]))
            rest += part
            continue
        first, *others = part.split(b"\n")
        hold(len(others[-1]) - len(rest))
        rest += first[: longest + 1 - len(rest)]
        for line in (bytes(rest), *others[:-1]):
            if line.strip():
                yield line
        rest = bytearray(others[-1])
    if rest.strip():
        yield bytes(rest)
