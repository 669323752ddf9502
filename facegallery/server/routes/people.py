"""List the indexes, their people, and the faces of each person."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from facegallery import schemas
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.info import info
from facegallery.results import FACE_ID, NAME, EnrolledFace, EnrolledFaces, GalleryInfo, Person
from facegallery.server.bodies import StrictRoute
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import CurrentState, Index, JSONResponse, Reader
from facegallery.workflows import persons

router = APIRouter(prefix="/v1", route_class=StrictRoute)
PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The crop."}


@router.get("/indexes", response_model=schemas.Indexes, tags=["indexes"])
async def list_indexes(state: CurrentState, key: Reader):
    """List the indexes that are served."""
    return {"indexes": list(state.indexes)}


@router.get("/indexes/{index}", response_model=GalleryInfo, tags=["indexes"])
async def index_info(key: Reader, index: Index):
    """Describe an index: what it holds, its model, the changes since its last build, and its calibration."""
    return JSONResponse(await asyncio.wrap_future(index.read(info)))


@router.get("/indexes/{index}/people", response_model=schemas.PeoplePage, tags=["people"])
async def list_people(
    key: Reader,
    index: Index,
    limit: Annotated[int, Query(ge=1, le=1000, description="People of a page.")] = 100,
    cursor: Annotated[str | None, Query(max_length=4000, description="`next` of the previous page.")] = None,
    containing: Annotated[str, Query(max_length=200, description="A part of the name.")] = "",
):
    """List the enrolled people by name, page by page."""
    after = _name_of(cursor)

    def read(store: Store) -> list[Person]:
        with store.reading():
            return persons.listed(store, after, limit + 1, containing)

    found = await asyncio.wrap_future(index.read(read))
    following = _cursor(found[limit - 1].identity) if len(found) > limit else None
    return JSONResponse({"people": found[:limit], "next": following})


@router.get("/indexes/{index}/person", response_model=Person, tags=["people"])
async def one_person(
    key: Reader,
    index: Index,
    identity: Annotated[str, Query(min_length=1, max_length=10_000, description="The name, or the id, of a person.")],
):
    """Return a person, with note and metadata."""

    def read(store: Store) -> Person:
        with store.reading():
            return persons.person(store, identity)

    return JSONResponse(await asyncio.wrap_future(index.read(read)))


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(cursor: str | None) -> str:
    try:
        return base64.b64decode(cursor, b"-_", validate=True).decode() if cursor else ""
    except (ValueError, UnicodeError):
        detail = "expected the `next` of the previous page as cursor, received something else: begin again without one"
        raise HttpProblem(422, "invalid", detail) from None


@router.get("/indexes/{index}/faces", response_model=EnrolledFaces, tags=["people"])
async def list_faces(
    key: Reader,
    index: Index,
    identity: Annotated[str, Query(min_length=1, max_length=10_000, description=NAME["description"])],
):
    """List the enrolled faces of a person, oldest first."""
    name, faces = await asyncio.wrap_future(
        index.read(lambda store: (store.spelled(identity), store.list_faces(identity)))
    )
    return JSONResponse(EnrolledFaces(name, tuple(map(EnrolledFace.of, faces))))


@router.get(
    "/indexes/{index}/faces/{face_id}/thumbnail", tags=["people"], response_class=Response, responses={200: PNG}
)
async def face_thumbnail(key: Reader, index: Index, face_id: Annotated[str, Path(pattern=FACE_ID["pattern"])]):
    """Return the crop of a face, enrolled or without a person."""
    png = await asyncio.wrap_future(index.read(lambda store: store.crop(face_id) or store.unnamed_crop(face_id)))
    if png is None:
        detail = (
            f"expected a face of {index.name} with a stored crop, none has the id {face_id}: see the person's faces"
        )
        raise HttpProblem(404, "unknown", detail)
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})
