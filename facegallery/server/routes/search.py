"""Search by a photo or by vectors, and compare two photos."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, File, Query, UploadFile

from facegallery import schemas
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.outcomes import REFUSED
from facegallery.indexer.calibrate import Calibration
from facegallery.indexer.search.searcher import checked, exact_scores
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.store import Store
from facegallery.results import Compared, ComparedFace, PhotoResult
from facegallery.server.bodies import StrictRoute
from facegallery.server.intake import SentPhoto
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import (
    MAX_HITS,
    PHOTO,
    VECTORS,
    CurrentState,
    Index,
    JSONResponse,
    QuestionOf,
    Reader,
    Sent,
    Vectors,
    answers_to,
    face_of,
    retry_replaced,
    rows_of,
    search_photo,
)
from facegallery.workflows.probes import Question

router = APIRouter(prefix="/v1", route_class=StrictRoute)
Which = Literal["first", "second"]


@router.post("/indexes/{index}/search", response_model=PhotoResult, openapi_extra=PHOTO, tags=["search"])
async def search_by_photo(state: CurrentState, key: Reader, index: Index, sent: Sent, question: QuestionOf):
    """Search for everybody in a photo: return the k nearest people for each face."""
    result = await search_photo(state, index, sent, question)
    if (status := REFUSED.get(result.outcome)) is not None:
        detail = f"expected a photo, this one is {result.outcome} ({result.why}): send another"
        raise HttpProblem(status, result.outcome, detail, outcome=result.outcome, why=result.why)
    return JSONResponse(result)


@router.post(
    "/indexes/{index}/search/vectors", response_model=schemas.VectorResults, openapi_extra=VECTORS, tags=["search"]
)
async def search_by_vectors(key: Reader, index: Index, found: Vectors):
    """Search for the nearest people to vectors of the index's model."""
    xq, asked = found
    if asked.k * len(xq) > MAX_HITS:
        detail = f"expected at most {MAX_HITS} hits in all, received {len(xq)} vectors with k = {asked.k}: ask in parts"
        raise HttpProblem(422, "invalid", detail)
    question = Question(asked.k, asked.faces, asked.score, tuple(asked.where), asked.min_score)
    xq = checked(xq, xq.shape[1])  # before it joins a batch, where one bad question would fail all others
    answers = await retry_replaced(lambda: answers_to(index, xq, question))
    return JSONResponse(schemas.VectorResults(tuple(answers)))


@router.post("/indexes/{index}/verify", response_model=Compared, tags=["search"])
async def verify_two_photos(
    state: CurrentState,
    key: Reader,
    index: Index,
    first: Annotated[UploadFile, File()],
    second: Annotated[UploadFile, File()],
    pixels: Annotated[
        list[Which] | None,
        Query(max_length=2, description="Photos whose faces get their ids from the pixels, as for an array."),
    ] = None,
):
    """Compare the largest, most central faces of two photos by the index's model; `others` counts the other faces."""
    files: list[tuple[Which, UploadFile]] = [("first", first), ("second", second)]
    photos = [SentPhoto(await file.read(), file.filename or which, which in (pixels or ())) for which, file in files]

    async def compare() -> Compared:
        found = [await rows_of(state, index, photo) for photo in photos]
        faces = []
        for which, (photo, rows, _) in zip(("first", "second"), found, strict=True):
            if rows[0].vector is None:
                raise no_face(photo.outcome, photo.why, f"the {which} photo")
            faces.append(ComparedFace(**asdict(face_of(rows[0])), others=photo.faces - 1, image=photo.name))
        contracts = {spec.fingerprint for _, _, spec in found}
        if len(contracts) > 1:
            raise Replaced("expected one model for both photos, the index received another meanwhile: ask again")
        threshold = await asyncio.wrap_future(index.read(lambda store: _threshold(store, contracts.pop())))
        return Compared(_score(*(rows[0] for _, rows, _ in found)), (faces[0], faces[1]), threshold)

    return JSONResponse(await retry_replaced(compare))


def no_face(outcome: str, why: str, where: str) -> HttpProblem:
    """Make the problem of a photo in which no face was found."""
    reason = f" ({why})" if why else ""
    detail = f"expected a face in {where}, its outcome is {outcome}{reason}: choose another"
    return HttpProblem(422, outcome, detail, outcome=outcome, why=why)


def _score(first: Row, second: Row) -> float:
    a, b = (np.asarray(row.vector, np.float32) for row in (first, second))
    return float(exact_scores(a, b[None])[0])


def _threshold(store: Store, fingerprint: str) -> float | None:
    """Return the score from which a hit counts; None without a calibration for this contract."""
    with store.reading():
        text = store.fact("calibration")
    calibration = None if text is None else Calibration.from_json(text)
    return calibration.threshold if calibration and calibration.fingerprint == fingerprint else None
