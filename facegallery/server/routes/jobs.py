"""Start jobs on a whole index, and tell how a job stands."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from facegallery import schemas
from facegallery.embedder.progress import Progress
from facegallery.results import Calibrated, Compacted, Job
from facegallery.server.bodies import StrictRoute
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import Admin, CurrentState, Index, JSONResponse, Reader
from facegallery.workflows import calibrate as calibrating
from facegallery.workflows import upkeep

router = APIRouter(prefix="/v1", route_class=StrictRoute)
DAY = 86400.0


@router.post("/indexes/{index}/compact", response_model=Job, status_code=202, tags=["indexes"])
async def compact(state: CurrentState, key: Admin, index: Index, asked: schemas.Compact | None = None):
    """Build the index again with all changes, and then replace the one in use; a job."""
    days = asked.keep_undo_days if asked else None
    keep = None if days is None else days * DAY

    def work(report: Progress) -> tuple[Compacted, str]:
        done = upkeep.compact(index.name, keep_undo=keep, progress=report)
        return done, f"generation {done.generation}, {done.faces} faces, {done.dropped} old changes deleted"

    return JSONResponse(await state.begin_job(key, index, "compact", work), 202)


@router.post("/indexes/{index}/calibrate", response_model=Job, status_code=202, tags=["indexes"])
async def calibrate(state: CurrentState, key: Admin, index: Index, asked: schemas.Calibrate | None = None):
    """Fit the score from which a hit counts, by the enrolled people; a job."""
    fpir = (asked or schemas.Calibrate()).fpir

    def work(report: Progress) -> tuple[Calibrated, str]:
        done = calibrating.calibrate(index.name, calibrating.CalibrationOptions(fpir))
        return done, done.text

    return JSONResponse(await state.begin_job(key, index, "calibrate", work), 202)


@router.get("/jobs/{id}", response_model=Job, tags=["indexes"])
async def job(state: CurrentState, key: Reader, id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]):
    """Return the state of a job, its progress, and its result once it has ended."""
    if (found := await state.desk.ask(lambda accounts: accounts.job(id))) is None:
        raise HttpProblem(404, "unknown", f"expected the id of a job, no job has the id {id}: start it again")
    return JSONResponse(found)
