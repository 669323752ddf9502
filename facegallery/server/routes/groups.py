"""List faces without a person and their groups, suggest what to name, and record what is said of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from facegallery import schemas
from facegallery.accounts import Key
from facegallery.indexer.store.store import Store
from facegallery.results import Change, FaceGroups, Suggestion, UnnamedFaces
from facegallery.server.bodies import StrictRoute
from facegallery.server.problems import busy
from facegallery.server.routes.changes import correct, request_of
from facegallery.server.routes.dependencies import CurrentState, Index, JSONResponse, Mark, Reader, Writer
from facegallery.server.served_index import ServedIndex
from facegallery.server.state import ServerState
from facegallery.workflows import suggest as suggesting
from facegallery.workflows import unnamed
from facegallery.workflows.unnamed import What

router = APIRouter(prefix="/v1", route_class=StrictRoute)
SUGGEST_SECONDS = 60.0  # until a request for suggestions is given up


@router.get("/indexes/{index}/groups", response_model=FaceGroups, tags=["unnamed"])
async def list_groups(
    key: Reader, index: Index, limit: Annotated[int, Query(ge=1, le=10_000, description="Groups at most.")] = 1000
):
    """List the groups of faces without a person, largest first."""

    def read(store: Store) -> FaceGroups:
        with store.reading():
            return unnamed.groups(store, limit)

    return JSONResponse(await asyncio.wrap_future(index.read(read)))


@router.get("/indexes/{index}/unnamed", response_model=schemas.UnnamedPage, tags=["unnamed"])
async def list_unnamed(
    key: Reader,
    index: Index,
    group: Annotated[int | None, Query(ge=1, le=schemas.MOST_NUMBER, description="Those of this group alone.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Faces of a page.")] = 1000,
    cursor: Annotated[
        int, Query(ge=0, le=schemas.MOST_NUMBER, description="`next` of the previous page.", alias="cursor")
    ] = 0,
):
    """List the faces without a person, oldest first, page by page."""

    def read(store: Store) -> tuple[UnnamedFaces, int | None]:
        with store.reading():
            return unnamed.page(store, group, cursor, limit)

    faces, following = await asyncio.wrap_future(index.read(read))
    return JSONResponse({"faces": faces.faces, "next": following})


@router.get("/indexes/{index}/suggestions", response_model=list[Suggestion], tags=["unnamed"])
async def suggestions(
    key: Reader, index: Index, limit: Annotated[int, Query(ge=1, le=100, description="Questions at most.")] = 5
):
    """Suggest what to name next: the question that settles most faces first."""
    work = asyncio.wrap_future(index.write_apart(lambda: suggesting.suggest(index.name, limit)))
    try:
        return JSONResponse(await asyncio.wait_for(work, SUGGEST_SECONDS))
    except TimeoutError:
        raise busy("expected an index that can be looked through in a minute, it is large or busy: try again") from None


@router.post("/indexes/{index}/groups/name", response_model=Change, tags=["unnamed"])
async def name_faces(state: CurrentState, key: Writer, index: Index, asked: schemas.NameFaces, mark: Mark = None):
    """Enrol groups and faces under a person's name, enrolled already or new."""
    return await _say(state, key, index, mark, asked, lambda store: unnamed.name(store, asked.what, asked.identity))


@router.post("/indexes/{index}/groups/confirm", response_model=Change, tags=["unnamed"])
async def confirm(state: CurrentState, key: Writer, index: Index, asked: schemas.Confirm, mark: Mark = None):
    """Note that a group, or several, are one person; the first keeps its number."""
    return await _say(state, key, index, mark, asked, lambda store: unnamed.confirm(store, asked.groups))


@router.post("/indexes/{index}/groups/reject", response_model=Change, tags=["unnamed"])
async def reject(state: CurrentState, key: Writer, index: Index, asked: schemas.Reject, mark: Mark = None):
    """Take faces out of their group or person; they never come back there by themselves."""
    return await _say(state, key, index, mark, asked, lambda store: unnamed.reject(store, asked.face_ids, asked.of))


@router.post("/indexes/{index}/groups/ignore", response_model=Change, tags=["unnamed"])
async def ignore(state: CurrentState, key: Writer, index: Index, asked: schemas.Ignore, mark: Mark = None):
    """Leave groups and faces without a person alone."""
    return await _say(state, key, index, mark, asked, lambda store: unnamed.ignore(store, asked.what))


async def _say(
    state: ServerState,
    key: Key,
    index: ServedIndex,
    mark: str | None,
    asked: schemas.RequestBody,
    do: Callable[[Store], Change],
) -> Response:
    """Record what is said of faces as a change, with the ids of the faces in the audit log."""

    def faces(store: Store) -> Sequence[str]:
        what: list[What] = [*getattr(asked, "what", ()), *getattr(asked, "groups", ()), *getattr(asked, "face_ids", ())]
        groups = [face.face_id for one in what if isinstance(one, int) for face in store.group(one)]
        return [*groups, *(one for one in what if isinstance(one, str))]

    return await correct(state, request_of(key, index, mark, asked), do, faces)
