"""Change who is in an index: each change is done once for its mark and noted in the audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

import facegallery.workflows.enrol
import facegallery.workflows.forget
from facegallery import schemas
from facegallery.accounts import Key
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.text import to_json
from facegallery.indexer.store.log import Change
from facegallery.indexer.store.store import Store
from facegallery.results import as_document
from facegallery.server.bodies import StrictRoute
from facegallery.server.intake import photo_name
from facegallery.server.problems import HttpProblem, of_error
from facegallery.server.routes.dependencies import (
    PHOTO,
    Admin,
    CurrentState,
    ImageName,
    Index,
    Mark,
    PhotoBytes,
    Writer,
    faces_of,
)
from facegallery.server.served_index import Served
from facegallery.server.state import ServerState

router = APIRouter(prefix="/v1", route_class=StrictRoute)


async def change(
    whole: ServerState, key: Key, index: Served, mark: str | None, what: str, asked: bytes, work: Callable[[], Any]
) -> Response:
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
    except (HttpProblem, FaceGalleryError) as error:
        problem = error if isinstance(error, HttpProblem) else of_error(error)
        status = problem.status_code
        raise problem from None
    finally:
        if mark is not None and (status < 500 or status == 503):  # after a fault nobody knows whether it was done
            kept = status if status < 400 else None  # what was refused may be asked again
            await asyncio.shield(whole.desk.ask(lambda accounts: accounts.end_write(key, mark, kept, body)))
        await asyncio.shield(whole.desk.ask(lambda accounts: accounts.note(key.name, what, index.name, status, faces)))


def _again(status: int | None, answer: bytes | None, is_same: bool) -> Response:
    if status is not None and answer is None:
        raise HttpProblem(
            409, "done", "the change was done; its answer is no longer kept, since somebody was forgotten"
        )
    if not is_same:
        raise HttpProblem(
            422,
            "mark",
            "expected the same change as before with this Idempotency-Key, received another: give it a key of its own",
        )
    if status is None:
        raise HttpProblem(
            409,
            "in-work",
            "expected a change that has ended, this one is at work, or was when the server ended: look whether it was "
            "done, and if not ask with another Idempotency-Key",
            {"Retry-After": "1"},
        )
    return Response(answer, status, media_type="application/json", headers={"Idempotency-Replayed": "true"})


@router.post("/indexes/{index}/faces", response_model=schemas.Enrolled, openapi_extra=PHOTO, tags=["people"])
async def enrol(
    whole: CurrentState,
    key: Writer,
    index: Index,
    data: PhotoBytes,
    identity: Annotated[
        str,
        Query(min_length=1, max_length=500, pattern=schemas.TEXT, description=f"Whose face it is. {schemas.SPELLING}"),
    ],
    face: Annotated[int | None, Query(ge=0, le=999, description="Which, where there are several.")] = None,
    readmit: Annotated[bool, Query(description="Take back a face that was forgotten.")] = False,
    image: ImageName = None,
    mark: Mark = None,
):
    """Enrols the face of a photo. Of several faces one must be named by its number."""

    async def work() -> tuple[dict[str, Any], list[str]]:
        photo, rows, spec = await faces_of(whole, index, data, photo_name(data, image))
        row = _chosen(photo, rows, face)
        done = await asyncio.wrap_future(
            index.write(
                lambda gallery: facegallery.workflows.enrol.enrol(gallery, row, spec, identity, readmit=readmit)
            )
        )
        if done.conflicts:
            raise HttpProblem(
                409,
                "conflict",
                f"expected a face that nobody has, it is enrolled as {done.conflicts[0].kept!r}: give it to another with `split`",
                face_id=row.face_id,
                identity=done.conflicts[0].kept,
            )
        if done.forgotten:
            raise HttpProblem(
                409, "forgotten", "expected a face that was not forgotten, this one was: `readmit` takes it back"
            )
        return {"added": done.added, "again": done.again, "face": schemas.as_face(row), "command": done.command}, [
            row.face_id
        ]

    asked = json.dumps([identity, face, readmit, image, sha256(data).hexdigest()]).encode()
    return await change(whole, key, index, mark, "enrol", asked, work)


def _chosen(photo: Photo, rows: list[Row], face: int | None) -> Row:
    if rows[0].vector is None:
        raise HttpProblem(
            422,
            photo.outcome,
            f"expected a face in the photo, its outcome is {photo.outcome} ({photo.why}): choose another",
        )
    if face is None and len(rows) > 1:
        found = list(map(schemas.as_face, rows))
        raise HttpProblem(
            422, "several-faces", f"expected one face, the photo has {len(rows)}: say which with `face`", faces=found
        )
    if (face or 0) >= len(rows):
        raise HttpProblem(422, "invalid", f"expected a face from 0 to {len(rows) - 1}, received {face}: mend `face`")
    return rows[face or 0]


async def corrected(
    whole: ServerState,
    key: Key,
    index: Served,
    mark: str | None,
    asked: BaseModel,
    do: Callable[[Store], Change],
    faces: Callable[[Store], list[str]],
) -> Response:
    """A verb of the gallery, by the document that asks for it; `faces` are those that it is about."""

    def work(gallery: Store) -> tuple[dict[str, Any], list[str]]:
        about = faces(gallery)
        return asdict(do(gallery)), about

    async def write() -> tuple[dict[str, Any], list[str]]:
        return await asyncio.wrap_future(index.write(work))

    return await change(whole, key, index, mark, type(asked).__name__.lower(), asked.model_dump_json().encode(), write)


def _ids_of(identity: str) -> Callable[[Store], list[str]]:
    return lambda gallery: [face["face_id"] for face in gallery.list_faces(identity)]


@router.post("/indexes/{index}/people/rename", response_model=schemas.Change, tags=["people"])
async def rename(whole: CurrentState, key: Writer, index: Index, asked: schemas.Rename, mark: Mark = None):
    """Gives a person another name, which nobody has."""
    return await corrected(
        whole, key, index, mark, asked, lambda gallery: gallery.rename(asked.old, asked.new), _ids_of(asked.old)
    )


@router.post("/indexes/{index}/people/merge", response_model=schemas.Change, tags=["people"])
async def merge(whole: CurrentState, key: Writer, index: Index, asked: schemas.Merge, mark: Mark = None):
    """Gives all faces of one person to another."""
    return await corrected(
        whole, key, index, mark, asked, lambda gallery: gallery.merge(asked.source, asked.into), _ids_of(asked.source)
    )


@router.post("/indexes/{index}/people/split", response_model=schemas.Change, tags=["people"])
async def split(whole: CurrentState, key: Writer, index: Index, asked: schemas.Split, mark: Mark = None):
    """Gives chosen faces to another person, enrolled already or new."""
    return await corrected(
        whole,
        key,
        index,
        mark,
        asked,
        lambda gallery: gallery.split(asked.face_ids, asked.to),
        lambda gallery: asked.face_ids,
    )


@router.post("/indexes/{index}/people/remove", response_model=schemas.Change, tags=["people"])
async def remove(whole: CurrentState, key: Writer, index: Index, asked: schemas.Remove, mark: Mark = None):
    """Takes a person out, or one face; undo brings them back."""
    if (asked.identity is None) == (asked.face_id is None):
        raise HttpProblem(422, "invalid", "expected an identity or a face_id, received both or none: give one")
    faces = _ids_of(asked.identity) if asked.identity is not None else lambda gallery: [str(asked.face_id)]
    return await corrected(
        whole, key, index, mark, asked, lambda gallery: gallery.remove(asked.identity, asked.face_id), faces
    )


@router.post("/indexes/{index}/undo", response_model=list[schemas.Change], tags=["people"])
async def undo(whole: CurrentState, key: Writer, index: Index, asked: schemas.Undo | None = None, mark: Mark = None):
    """Takes the last change back, if it is the one that is meant."""
    asked = asked or schemas.Undo()

    async def work() -> tuple[list[dict[str, Any]], list[str]]:
        return [
            asdict(one) for one in await asyncio.wrap_future(index.write(lambda gallery: gallery.undo(asked.command)))
        ], []

    return await change(whole, key, index, mark, "undo", asked.model_dump_json().encode(), work)


@router.post("/indexes/{index}/people/forget", response_model=schemas.Receipt, tags=["people"])
async def forget(whole: CurrentState, key: Admin, index: Index, asked: schemas.Forget, mark: Mark = None):
    """Removes a person for good: rows, vectors, crops, names. There is no undo; the receipt lies beside the index, too."""

    def do() -> tuple[dict[str, Any], list[str]]:
        done = facegallery.workflows.forget.forget(index.name, asked.identity)
        return as_document(replace(done, receipt=None)), list(done.face_ids)

    async def work() -> tuple[dict[str, Any], list[str]]:
        return await asyncio.wrap_future(index.write_apart(do))

    try:
        return await change(whole, key, index, mark, "forget", asked.model_dump_json().encode(), work)
    finally:
        await asyncio.shield(whole.desk.ask(lambda accounts: accounts.drop_answers()))
