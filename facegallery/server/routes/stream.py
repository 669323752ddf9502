"""Search many photos, a line of JSON each."""

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
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.text import to_json
from facegallery.server.bodies import StrictRoute, parse_document
from facegallery.server.problems import HttpProblem, of_error
from facegallery.server.routes.dependencies import Asker, CurrentState, Index, QuestionOf, photo_answer

T = TypeVar("T")
AHEAD = 16  # photos of a stream that are at work
RETRY_SECONDS, RETRY_AT_MOST = 0.1, 2.0  # until a photo of a stream is tried again: each time twice as long
GIVE_UP_SECONDS = 60.0  # after which a photo of a stream is not tried again
LINE = "application/x-ndjson"
LINES = {
    "requestBody": {
        "required": False,
        "content": {LINE: {"schema": {}, "example": '{"id": "1", "photo": "/9j/4AAQ..."}\n'}},
    }
}
router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post(
    "/indexes/{index}/search/stream",
    openapi_extra=LINES,
    tags=["search"],
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {LINE: {"schema": {"type": "string"}}},
            "description": "A line for each, in order: id and answer, or problem.",
        }
    },
)
async def search_many_photos(request: Request, whole: CurrentState, key: Asker, index: Index, question: QuestionOf):
    """Any number of photos, a line of JSON each (`id`, `photo` in base64); answers come as they are ready, in order."""
    hold: Callable[[int], None] = request.state.hold

    async def one(asked: schemas.StreamedPhoto, data: bytes) -> bytes:
        async def answer() -> dict[str, Any]:
            await whole.desk.admit(key)
            return await photo_answer(whole, index, data, asked.id, question)

        try:
            return _line({"id": asked.id, "answer": await _patiently(answer)})
        except HttpProblem as problem:
            return _line({"id": asked.id, "problem": problem.body})
        except FaceGalleryError as error:
            return _line({"id": asked.id, "problem": of_error(error).body})

    async def refused(problem: HttpProblem) -> bytes:
        return _line({"id": None, "problem": problem.body})

    async def bad_line(detail: str) -> bytes:
        try:
            await _patiently(lambda: whole.desk.admit(key))  # it counts as a photo does
        except HttpProblem as problem:
            return await refused(problem)
        return await refused(HttpProblem(422, "invalid", detail))

    def task_of(line: bytes) -> asyncio.Task[bytes]:
        try:
            asked = schemas.StreamedPhoto.model_validate(parse_document(line))
            data, asked.photo = base64.b64decode(asked.photo, validate=True), ""
        except (HttpProblem, ValidationError, binascii.Error) as error:
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
        except HttpProblem as problem:  # of the whole: it came too slowly, or too much is held
            yield asyncio.create_task(refused(problem))

    return NdjsonResponse(_in_order(tasks(), AHEAD, lambda: _gone(request.receive)), media_type=LINE)


async def _patiently(answer: Callable[[], Awaitable[T]]) -> T:
    """An answer, asked for again while the server is busy or the key asks too often; raises Problem for others, and after GIVE_UP_SECONDS."""
    pause, until = RETRY_SECONDS, time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            return await answer()
        except HttpProblem as problem:
            if problem.status_code not in (429, 503) or time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_AT_MOST)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when the client has gone; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_order(
    tasks: AsyncIterator[asyncio.Task[bytes]], ahead: int, leave: Callable[[], Awaitable[Any]]
) -> AsyncIterator[bytes]:
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


class NdjsonResponse(StreamingResponse):
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
