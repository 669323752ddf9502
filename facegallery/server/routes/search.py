"""Search by a photo or by vectors, and compare two photos."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, File, UploadFile

from facegallery import schemas
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.outcomes import REFUSED
from facegallery.indexer.search.searcher import checked, exact_scores
from facegallery.indexer.store.errors import Replaced
from facegallery.server.bodies import StrictRoute
from facegallery.server.intake import photo_name
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import (
    HITS,
    PHOTO,
    VECTORS,
    Asker,
    CurrentState,
    ImageName,
    Index,
    JSONResponse,
    PhotoBytes,
    QuestionOf,
    Vectors,
    answers_to,
    faces_of,
    persistently,
    photo_answer,
)
from facegallery.workflows.probes import Question

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post("/indexes/{index}/search", response_model=schemas.PhotoAnswer, openapi_extra=PHOTO, tags=["search"])
async def search_by_photo(
    whole: CurrentState, key: Asker, index: Index, data: PhotoBytes, question: QuestionOf, image: ImageName = None
):
    """Everybody in a photo: for each face the k nearest people."""
    answer = await photo_answer(whole, index, data, photo_name(data, image), question)
    if (status := REFUSED.get(answer["outcome"])) is not None:
        raise HttpProblem(
            status,
            answer["outcome"],
            f"expected a photo, this one is {answer['outcome']} ({answer['why']}): send another",
        )
    return JSONResponse(answer)


@router.post(
    "/indexes/{index}/search/vectors", response_model=schemas.VectorAnswers, openapi_extra=VECTORS, tags=["search"]
)
async def search_by_vectors(key: Asker, index: Index, found: Vectors):
    """The nearest people to vectors of the index's model."""
    xq, asked = found
    if asked.k * len(xq) > HITS:
        raise HttpProblem(
            422,
            "invalid",
            f"expected at most {HITS} hits in all, received {len(xq)} vectors with k = {asked.k}: ask in parts",
        )
    question = Question(asked.k, asked.faces, asked.score, tuple(asked.where), asked.min_score)
    xq = checked(xq, xq.shape[1])  # here, so that one bad question spoils no others that are asked together
    return JSONResponse({"answers": await persistently(lambda: answers_to(index, xq, question))})


@router.post("/indexes/{index}/verify", response_model=schemas.Compared, tags=["search"])
async def verify_two_photos(
    whole: CurrentState,
    key: Asker,
    index: Index,
    first: Annotated[UploadFile, File()],
    second: Annotated[UploadFile, File()],
):
    """How alike the largest, most central faces of two photos are, by the index's model; `others` counts their other faces."""
    photos = [("first", first.filename, await first.read()), ("second", second.filename, await second.read())]

    async def both() -> list[tuple[Row, int]]:
        rows, contracts = [], set()
        for which, name, data in photos:
            photo, found, spec = await faces_of(whole, index, data, name or which)
            if found[0].vector is None:
                raise HttpProblem(
                    422,
                    photo.outcome,
                    f"expected a face in the {which} photo, its outcome is {photo.outcome} ({photo.why}): choose another",
                )
            rows.append((found[0], photo.faces - 1))
            contracts.add(spec.fingerprint)
        if len(contracts) > 1:
            raise Replaced("expected one model for both photos, the index got another one between them: ask again")
        return rows

    rows = await persistently(both)
    a, b = (np.asarray(row.vector, np.float32) for row, _ in rows)
    faces = [schemas.as_face(row) | {"others": others} for row, others in rows]
    return JSONResponse({"score": float(exact_scores(a, b[None])[0]), "faces": faces})
