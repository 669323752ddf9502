"""Give the routes what they share: the state, keys and scopes, parameters, bodies and the answer to a photo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import Depends, Header, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse as FastJSONResponse
from pydantic import ValidationError

from facegallery import schemas
from facegallery.accounts import Key
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.machine import cores
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.text import to_json
from facegallery.indexer.search import filters
from facegallery.indexer.store.errors import Replaced
from facegallery.server.batches import Full
from facegallery.server.bodies import MOST_VALUES, check_photo, parse_document
from facegallery.server.intake import Intake
from facegallery.server.problems import HttpProblem, busy, of_error
from facegallery.server.served_index import Answer, Served
from facegallery.server.state import ServerState
from facegallery.workflows.probes import Question

T = TypeVar("T")
HITS = 10_000  # of all vectors or faces of a question
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": schemas.Problem,
        "description": "A problem (RFC 9457).",
        "content": {"application/problem+json": {}},
    }
}
PHOTO = {
    "requestBody": {
        "required": True,
        "description": "The bytes of a photo: JPEG, PNG, WebP, ...",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "application/octet-stream")
        },
    }
}


class JSONResponse(FastJSONResponse):
    """JSON in which control characters of names are escaped, so that a terminal may show it."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


# who, which -----------------------------------------------------------------


async def state(
    request: Request,
) -> ServerState:  # async, as all that are asked for a request: else FastAPI takes a thread for each
    return request.app.state.facegallery


def needs(scope: str) -> Any:
    async def check(request: Request) -> Key:
        key: Key = request.state.key
        if not key.may(scope):
            raise HttpProblem(
                403,
                "scope",
                f"expected a key with the scope {scope}, {key.name!r} has {key.scope}: make another with `keys make`",
            )
        return key

    return Depends(check)


Asker = Annotated[Key, needs("read")]
Writer = Annotated[Key, needs("write")]
Admin = Annotated[Key, needs("admin")]
CurrentState = Annotated[ServerState, Depends(state)]
Mark = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="The same change sent again with it is done once."),
]


async def index_of(
    whole: CurrentState,
    index: Annotated[str, Path(description="Name of an index that is served.", examples=["friends"])],
) -> Served:
    if index not in whole.indexes:
        raise HttpProblem(
            404,
            "index",
            f"expected an index that is served ({', '.join(whole.indexes)}), received {index[:100]!r}: mend the path",
        )
    return whole.indexes[index]


Index = Annotated[Served, Depends(index_of)]


# photos ---------------------------------------------------------------------


async def photo_of(request: Request) -> bytes:
    check_photo(request.headers.get("content-type", ""), b"")
    if not (data := await request.body()):
        raise HttpProblem(
            422,
            "invalid",
            "expected the bytes of a photo as the body, received none: send them, such as with --data-binary @FILE",
        )
    check_photo(request.headers.get("content-type", ""), data)
    return data


PhotoBytes = Annotated[bytes, Depends(photo_of)]


async def faces_of(whole: ServerState, index: Served, data: bytes, name: str) -> tuple[Photo, list[Row], FaceSpec]:
    """What is in a photo, and the contract of its vectors; raises Problem where too many wait."""
    if len(data) > whole.settings.photo_bytes:
        raise HttpProblem(
            413,
            "large",
            f"expected a photo of at most {whole.settings.photo_bytes:,} bytes, received {len(data):,}: make it smaller",
        )
    while True:
        intake: Intake = await whole.intake(index)
        try:
            with whole.meters.at_work.track_inprogress():
                return *await intake.faces(data, name), intake.spec
        except Full:
            if whole.is_current(intake):
                raise busy("more photos wait than may: try again") from None


async def answers_to(
    index: Served, vectors: np.ndarray, question: Question, contract: str | None = None
) -> list[Answer]:
    if not len(vectors):
        return []
    try:
        found = await asyncio.wrap_future(index.ask(vectors, question, contract))
    except Full:
        raise busy("more questions wait than may: try again") from None
    if isinstance(found, FaceGalleryError):
        raise of_error(found)
    return found


async def persistently(answer: Callable[[], Awaitable[T]]) -> T:
    """Asked again where the index was replaced meanwhile: each of its searchers may notice only when it is asked."""
    for _ in range(cores()):
        with suppress(Replaced):
            return await answer()
    return await answer()


async def photo_answer(whole: ServerState, index: Served, data: bytes, name: str, question: Question) -> dict[str, Any]:
    return await persistently(lambda: _photo_answer(whole, index, data, name, question))


async def _photo_answer(
    whole: ServerState, index: Served, data: bytes, name: str, question: Question
) -> dict[str, Any]:
    photo, rows, spec = await faces_of(whole, index, data, name)
    faces = [row for row in rows if row.vector is not None]
    question = replace(question, k=min(question.k, HITS // max(1, len(faces))))
    answers = await answers_to(index, np.array([row.vector for row in faces], np.float32), question, spec.fingerprint)
    found = [schemas.as_face(row) | answer for row, answer in zip(faces, answers, strict=True)]
    return {
        "image": name,
        "outcome": photo.outcome,
        "why": photo.why,
        "left_out": photo.faces - len(faces),
        "faces": found,
    }


async def question_of(
    k: Annotated[int, Query(ge=1, le=1000, description="Answers to each face.")] = 5,
    faces: Annotated[bool, Query(description="Faces in the place of people.")] = False,
    score: Annotated[Literal["best", "mean", "template"], Query(description="How a person's faces count.")] = "best",
    where: Annotated[list[str] | None, Query(max_length=100, description="Filters such as year>=1999.")] = None,
    min_score: Annotated[float | None, Query(description="Hits below are left out.", allow_inf_nan=False)] = None,
) -> Question:
    filters.parse(where or ())  # once, and not for each photo of a stream
    return Question(k, faces, score, tuple(where or ()), min_score)


QuestionOf = Annotated[Question, Depends(question_of)]
ImageName = Annotated[str | None, Query(max_length=300, description="What to call the photo.")]


async def vectors_of(request: Request, whole: CurrentState, index: Index) -> tuple[np.ndarray, schemas.VectorQuestion]:
    """The vectors of a question, float32 (n, d), and the question; parsed on a thread, and only where it is no larger than it can be."""
    dimension = await asyncio.wrap_future(index.read(lambda gallery: gallery.spec.dimension))
    data = await request.body()
    return await run_in_threadpool(_vectors, data, whole.settings.vectors, dimension)


def _vectors(data: bytes, most: int, dimension: int) -> tuple[np.ndarray, schemas.VectorQuestion]:
    document = parse_document(data, most * dimension + MOST_VALUES)
    given = document.get("vectors") if isinstance(document, dict) else None
    if isinstance(given, list) and len(given) > most:
        raise HttpProblem(422, "invalid", f"expected at most {most} vectors, received {len(given)}: ask in parts")
    if (
        isinstance(given, list)
        and (wrong := next((x for x in given if isinstance(x, list) and len(x) != dimension), None)) is not None
    ):
        raise HttpProblem(
            422,
            "invalid",
            f"expected vectors of {dimension} numbers, received one of {len(wrong)}: use the index's model",
        )
    try:
        asked = schemas.VectorQuestion.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError([one | {"loc": ("body", *one["loc"])} for one in error.errors()]) from None
    with np.errstate(over="ignore"):
        return np.array(asked.vectors, np.float64).astype(np.float32), asked


VECTORS = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.VectorQuestion.model_json_schema()}},
    }
}
Vectors = Annotated[tuple[np.ndarray, schemas.VectorQuestion], Depends(vectors_of)]
