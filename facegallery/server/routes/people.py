"""List the indexes, their people and the faces of each."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from facegallery import schemas
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.info import info
from facegallery.server.bodies import StrictRoute
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import Asker, CurrentState, Index, JSONResponse

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.get("/indexes", response_model=schemas.Indexes, tags=["indexes"])
async def list_indexes(whole: CurrentState, key: Asker):
    """The indexes that are served."""
    return {"indexes": list(whole.indexes)}


@router.get("/indexes/{index}", response_model=schemas.IndexInfo, tags=["indexes"])
async def index_info(key: Asker, index: Index):
    """What an index holds, by which model, how far it is behind its last build, and its calibration."""
    return JSONResponse(await asyncio.wrap_future(index.read(info)))


@router.get("/indexes/{index}/people", response_model=schemas.People, tags=["people"])
async def list_people(
    key: Asker,
    index: Index,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=4000, description="`next` of the page before.")] = None,
    containing: Annotated[str, Query(max_length=200, description="A part of the name.")] = "",
):
    """Everybody by name, page by page."""
    after = _after(cursor)

    def ask(gallery: Store) -> tuple[list[tuple[str, int]], dict[str, str]]:
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
        raise HttpProblem(
            422, "invalid", "expected `next` of the page before as the cursor, received another text: leave it out"
        ) from None


@router.get("/indexes/{index}/faces", response_model=schemas.FacesOf, tags=["people"])
async def list_faces(key: Asker, index: Index, identity: Annotated[str, Query(min_length=1, max_length=10_000)]):
    """A person's faces, oldest first."""
    name, faces = await asyncio.wrap_future(
        index.read(lambda gallery: (gallery.spelled(identity), gallery.list_faces(identity)))
    )
    return JSONResponse({"identity": name, "faces": faces})


@router.get(
    "/indexes/{index}/faces/{face_id}/thumbnail",
    tags=["people"],
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The crop."}
    },
)
async def face_thumbnail(key: Asker, index: Index, face_id: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]):
    """The crop of an enrolled face."""
    png = await asyncio.wrap_future(index.read(lambda gallery: gallery.crop(face_id)))
    if png is None:
        raise HttpProblem(
            404, "unknown", f"expected a face of {index.name} whose crop is kept, there is none with the id {face_id}"
        )
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})
