"""Begin jobs on a whole index, and tell how one stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path

import facegallery.workflows.upkeep
from facegallery import schemas
from facegallery.server.bodies import StrictRoute
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import Admin, Asker, CurrentState, Index, JSONResponse
from facegallery.workflows import calibrate as calibration

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post("/indexes/{index}/compact", response_model=schemas.Job, status_code=202, tags=["indexes"])
async def compact(whole: CurrentState, key: Admin, index: Index, asked: schemas.Compact | None = None):
    """Builds the index anew from all changes, beside the one in use, and swaps; a job."""
    days = asked.keep_undo_days if asked else None
    keep = None if days is None else days * 86400

    def work(tell: Callable[[int, int], None]) -> str:
        done = facegallery.workflows.upkeep.compact(index.name, keep_undo=keep, progress=tell)
        return f"generation {done.generation}, {done.faces} faces, {done.dropped} old changes dropped"

    return JSONResponse(await whole.begin_job(key, index, "compact", work), 202)


@router.post("/indexes/{index}/calibrate", response_model=schemas.Job, status_code=202, tags=["indexes"])
async def calibrate(whole: CurrentState, key: Admin, index: Index, asked: schemas.Calibrate | None = None):
    """Fits the score from which a hit counts, on the enrolled people; a job."""
    fpir = (asked or schemas.Calibrate()).fpir

    def work(tell: Callable[[int, int], None]) -> str:
        return calibration.calibrate(index.name, calibration.CalibrationOptions(fpir)).text

    return JSONResponse(await whole.begin_job(key, index, "calibrate", work), 202)


@router.get("/jobs/{id}", response_model=schemas.Job, tags=["indexes"])
async def job(whole: CurrentState, key: Asker, id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]):
    """How a job stands."""
    if (found := await whole.desk.ask(lambda accounts: accounts.job(id))) is None:
        raise HttpProblem(404, "unknown", f"expected the id of a job, there is none with {id}")
    return JSONResponse(found)
