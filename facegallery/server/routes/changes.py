"""Change who is in an index. A change is made once for its Idempotency-Key, and is recorded in the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, StringConstraints

from facegallery import schemas
from facegallery.accounts import AuditEntry, Key, Write
from facegallery.embedder.dataset.row import COLUMNS, Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.text import to_json
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store
from facegallery.results import Change, Enrolled, Receipt, as_document
from facegallery.server.bodies import StrictRoute
from facegallery.server.intake import SentPhoto
from facegallery.server.problems import HttpProblem, of_error
from facegallery.server.routes.dependencies import (
    PHOTO,
    Admin,
    CurrentState,
    Index,
    Mark,
    Sent,
    Writer,
    face_of,
    rows_of,
)
from facegallery.server.routes.search import no_face
from facegallery.server.served_index import ServedIndex
from facegallery.server.state import ServerState
from facegallery.workflows import enrol as enrolling
from facegallery.workflows import forget as forgetting

router = APIRouter(prefix="/v1", route_class=StrictRoute)
RESERVED = {*COLUMNS, "columns"}
Work = Callable[
    [], Awaitable[tuple[Any, Sequence[str]]]
]  # returns the result and the ids of the faces that it is about


@dataclass(frozen=True)
class ChangeRequest:
    """A change as it was requested: by which key, of which index, with which Idempotency-Key.

    what: the kind of the change, for the audit log; asked: all that distinguishes it from other changes.
    """

    key: Key
    index: ServedIndex
    mark: str | None
    what: str
    asked: bytes

    @property
    def hash(self) -> bytes:
        return sha256(f"{self.what} {self.index.name} ".encode() + self.asked).digest()


async def make_change(state: ServerState, request: ChangeRequest, work: Work) -> Response:
    """Make a change once for each Idempotency-Key, and add a line to the audit log."""
    key, mark = request.key, request.mark
    if mark is not None:
        write = await state.desk.ask(lambda accounts: accounts.begin_write(key, mark, request.hash))
        if not write.is_new:
            return _repeat(write)
    status, body = 500, b""
    faces: Sequence[str] = ()
    try:
        result, faces = await work()
        status, body = 200, to_json(as_document(result)).encode()
        return Response(body, media_type="application/json")
    except (HttpProblem, FaceGalleryError) as error:
        problem = error if isinstance(error, HttpProblem) else of_error(error)
        status = problem.status_code
        raise problem from None
    finally:
        if mark is not None and (status < 500 or status == 503):  # after other faults it may have been made
            stored = status if status < 400 else None  # a refused change may be sent again
            await asyncio.shield(state.desk.ask(lambda accounts: accounts.end_write(key, mark, stored, body)))
        entry = AuditEntry(key.name, request.what, request.index.name, status, faces)
        await asyncio.shield(state.desk.ask(lambda accounts: accounts.note(entry)))


def _repeat(write: Write) -> Response:
    """Return the response to an earlier change with the same Idempotency-Key."""
    if write.status is not None and write.answer is None:
        detail = "the change was made; its response was deleted because a person was forgotten since: look at the index"
        raise HttpProblem(409, "done", detail)
    if not write.is_same:
        detail = (
            "expected the same change as before with this Idempotency-Key, received another: send another "
            "Idempotency-Key"
        )
        raise HttpProblem(422, "mark", detail)
    if write.status is None:
        detail = (
            "expected a change that has ended, this one is running, or was when the server ended: look whether it was "
            "made, and if not send it with another Idempotency-Key"
        )
        raise HttpProblem(409, "in-work", detail, {"Retry-After": "1"})
    headers = {"Idempotency-Replayed": "true"}
    return Response(write.answer, write.status, media_type="application/json", headers=headers)


# enrol ----------------------------------------------------------------------


@dataclass(frozen=True)
class PhotoLabels:
    """What is stored with an enrolled face: the split of its photo, and columns of the user's own."""

    split: str | None
    columns: dict[str, str]


async def labels_of(
    split: Annotated[
        str | None, Query(max_length=100, pattern=schemas.TEXT, description="Split of the photo, such as gallery.")
    ] = None,
    column: Annotated[
        list[Annotated[str, StringConstraints(max_length=1000, pattern=schemas.TEXT)]] | None,
        Query(max_length=100, description="A column of your own for filters, as name=value; may be repeated."),
    ] = None,
) -> PhotoLabels:
    """Return the labels of a photo. Raises HttpProblem for a column with an empty, reserved or repeated name."""
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in column or ())]
    if any(not name or name in RESERVED for name, _ in pairs) or len(dict(pairs)) < len(pairs):
        detail = f"expected columns as name=value with names of your own, each once, received {column!r:.200}"
        raise HttpProblem(422, "invalid", f"{detail}: change `column`")
    return PhotoLabels(split, dict(pairs))


@dataclass(frozen=True)
class EnrolmentOptions:
    """Which face is enrolled, and how."""

    identity: str
    face: int | None
    readmit: bool
    command: str | None


async def enrolment_options(
    *,
    identity: Annotated[
        str,
        Query(
            min_length=1,
            max_length=500,
            pattern=schemas.TEXT,
            description=f"The person in the photo. {schemas.SPELLING}",
        ),
    ],
    face: Annotated[
        int | None, Query(ge=0, le=999, description="Number of the face, where the photo has several.")
    ] = None,
    readmit: Annotated[bool, Query(description="Enrol the face even if it was forgotten.")] = False,
    command: Annotated[
        str | None,
        Query(
            pattern="^[0-9a-f]{32}$",
            description="`command` of an earlier enrolment: `undo` takes back both as one change.",
        ),
    ] = None,
) -> EnrolmentOptions:
    """Return the options of an enrolment."""
    return EnrolmentOptions(identity, face, readmit, command)


@dataclass(frozen=True)
class EnrolmentRequest:
    """A photo that is to be enrolled: whose key sent it, for which index, with which Idempotency-Key."""

    state: ServerState
    key: Key
    index: ServedIndex
    sent: SentPhoto
    mark: str | None


async def enrolment_of(
    state: CurrentState, key: Writer, index: Index, sent: Sent, mark: Mark = None
) -> EnrolmentRequest:
    """Return the enrolment that is requested."""
    return EnrolmentRequest(state, key, index, sent, mark)


RequestedEnrolment = Annotated[EnrolmentRequest, Depends(enrolment_of)]
Labels = Annotated[PhotoLabels, Depends(labels_of)]
Options = Annotated[EnrolmentOptions, Depends(enrolment_options)]


@router.post("/indexes/{index}/faces", response_model=Enrolled, openapi_extra=PHOTO, tags=["people"])
async def enrol(enrolment: RequestedEnrolment, options: Options, labels: Labels):
    """Enrol the face of a photo. Where the photo has several faces, `face` says which."""
    state, index, sent = enrolment.state, enrolment.index, enrolment.sent

    async def work() -> tuple[Enrolled, Sequence[str]]:
        photo, rows, spec = await rows_of(state, index, sent)
        row = replace(_choose(photo, rows, options.face), split=labels.split, extra=labels.columns)

        def write(store: Store) -> Added:
            if options.command is not None:
                _check_command(store, options.command)
            readmit, command = options.readmit, options.command
            return enrolling.enrol(store, row, spec, options.identity, readmit=readmit, command=command)

        done = await asyncio.wrap_future(index.write(write))
        _check_enrolled(done, row)
        return Enrolled(done.added, done.again, face_of(row), done.command, row.is_unsure), [row.face_id]

    asked = json.dumps(
        [asdict(options), asdict(labels), sent.name, sent.by_pixels, sha256(sent.data).hexdigest()]
    ).encode()
    return await make_change(state, ChangeRequest(enrolment.key, index, enrolment.mark, "enrol", asked), work)


def _choose(photo: Photo, rows: list[Row], face: int | None) -> Row:
    if rows[0].vector is None:
        raise no_face(photo.outcome, photo.why, "the photo")
    if face is None and len(rows) > 1:
        detail = f"expected one face, the photo has {len(rows)}: say which with `face`"
        raise HttpProblem(422, "several-faces", detail, faces=as_document(list(map(face_of, rows))))
    if (face or 0) >= len(rows):
        detail = f"expected a face from 0 to {len(rows) - 1}, received {face}: change `face`"
        raise HttpProblem(422, "invalid", detail)
    return rows[face or 0]


def _check_command(store: Store, command: str) -> None:
    """Raise HttpProblem unless a command enrolled faces, and nothing else."""
    verbs = {verb for (verb,) in store.execute("SELECT DISTINCT verb FROM log WHERE command = ?", (command,))}
    if verbs != {"add"}:
        detail = "expected the `command` of an earlier enrolment that was not undone, received another: leave it out"
        raise HttpProblem(409, "command", detail)


def _check_enrolled(done: Added, row: Row) -> None:
    """Raise HttpProblem for a face that belongs to another person, or was forgotten."""
    if done.conflicts:
        kept = done.conflicts[0].kept
        detail = f"expected a face of nobody, it is enrolled as {kept!r}: use `split` to give it to another person"
        raise HttpProblem(409, "conflict", detail, face_id=row.face_id, identity=kept)
    if done.forgotten:
        detail = "expected a face that was not forgotten, this one was: send `readmit` to enrol it again"
        raise HttpProblem(409, "forgotten", detail, face_id=row.face_id)


# people ---------------------------------------------------------------------


async def correct(
    state: ServerState, request: ChangeRequest, do: Callable[[Store], Any], faces: Callable[[Store], Sequence[str]]
) -> Response:
    """Call a method of the store that changes people. faces: returns the ids of the faces that it is about."""

    def work(store: Store) -> tuple[Change, Sequence[str]]:
        about = faces(store)
        return Change(**asdict(do(store))), about

    async def write() -> tuple[Change, Sequence[str]]:
        return await asyncio.wrap_future(request.index.write(work))

    return await make_change(state, request, write)


def request_of(key: Key, index: ServedIndex, mark: str | None, asked: BaseModel) -> ChangeRequest:
    """Return a change as it was requested by a body."""
    return ChangeRequest(key, index, mark, type(asked).__name__.lower(), asked.model_dump_json().encode())


def _ids_of(identity: str) -> Callable[[Store], Sequence[str]]:
    return lambda store: [face["face_id"] for face in store.list_faces(identity)]


@router.post("/indexes/{index}/people/rename", response_model=Change, tags=["people"])
async def rename(state: CurrentState, key: Writer, index: Index, asked: schemas.Rename, mark: Mark = None):
    """Give a person another name, which nobody has."""
    request = request_of(key, index, mark, asked)
    return await correct(state, request, lambda store: store.rename(asked.old, asked.new), _ids_of(asked.old))


@router.patch("/indexes/{index}/person", response_model=Change, tags=["people"])
async def set_person(state: CurrentState, key: Writer, index: Index, asked: schemas.Set, mark: Mark = None):
    """Change the note and the metadata of a person; what is not sent stays."""
    request = request_of(key, index, mark, asked)

    def faces(store: Store) -> list[str]:
        return [face["face_id"] for face in store.find(store.person(asked.identity)[0])]

    return await correct(
        state, request, lambda store: store.set_person(asked.identity, asked.metadata, asked.note), faces
    )


@router.post("/indexes/{index}/people/merge", response_model=Change, tags=["people"])
async def merge(state: CurrentState, key: Writer, index: Index, asked: schemas.Merge, mark: Mark = None):
    """Give all faces of a person to another one."""
    request = request_of(key, index, mark, asked)
    return await correct(state, request, lambda store: store.merge(asked.source, asked.into), _ids_of(asked.source))


@router.post("/indexes/{index}/people/split", response_model=Change, tags=["people"])
async def split(state: CurrentState, key: Writer, index: Index, asked: schemas.Split, mark: Mark = None):
    """Give chosen faces to another person, who may be new."""
    request = request_of(key, index, mark, asked)
    return await correct(
        state, request, lambda store: store.split(asked.face_ids, asked.to), lambda store: asked.face_ids
    )


@router.post("/indexes/{index}/people/remove", response_model=Change, tags=["people"])
async def remove(state: CurrentState, key: Writer, index: Index, asked: schemas.Remove, mark: Mark = None):
    """Remove a person or one face; `undo` brings them back."""
    if (asked.identity is None) == (asked.face_id is None):
        raise HttpProblem(422, "invalid", "expected an identity or a face_id, received both or neither: send one")
    faces = _ids_of(asked.identity) if asked.identity is not None else lambda store: [str(asked.face_id)]
    request = request_of(key, index, mark, asked)
    return await correct(state, request, lambda store: store.remove(asked.identity, asked.face_id), faces)


@router.post("/indexes/{index}/undo", response_model=list[Change], tags=["people"])
async def undo(state: CurrentState, key: Writer, index: Index, asked: schemas.Undo | None = None, mark: Mark = None):
    """Undo the last change; where `command` is given, only if it is that change."""
    asked = asked or schemas.Undo()

    async def work() -> tuple[list[Change], Sequence[str]]:
        undone = await asyncio.wrap_future(index.write(lambda store: store.undo(asked.command)))
        return [Change(**asdict(one)) for one in undone], ()

    return await make_change(state, request_of(key, index, mark, asked), work)


@router.post("/indexes/{index}/people/forget", response_model=Receipt, tags=["people"])
async def forget(state: CurrentState, key: Admin, index: Index, asked: schemas.Forget, mark: Mark = None):
    """Remove a person for good: rows, vectors, crops, names. It cannot be undone; the receipt is stored as well."""

    def do() -> tuple[Receipt, Sequence[str]]:
        done = forgetting.forget(index.name, asked.identity, unnamed=asked.unnamed)
        done = replace(done, receipt=None)  # a path of this machine
        return done, done.face_ids

    async def work() -> tuple[Receipt, Sequence[str]]:
        return await asyncio.wrap_future(index.write_apart(do))

    try:
        return await make_change(state, request_of(key, index, mark, asked), work)
    finally:
        await asyncio.shield(state.desk.ask(lambda accounts: accounts.drop_answers()))
