"""Give the routes what they share: the state, keys and scopes, parameters, bodies, and the result of a photo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

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
from facegallery.results import FoundFace, PhotoFace, PhotoResult, VectorResult, as_document, box_of
from facegallery.server.batches import QueueFull
from facegallery.server.bodies import MAX_VALUES, check_photo, parse_document
from facegallery.server.intake import Intake, SentPhoto
from facegallery.server.problems import HttpProblem, busy, of_error
from facegallery.server.served_index import ServedIndex
from facegallery.server.state import ServerState
from facegallery.workflows.probes import Question

T = TypeVar("T")
MAX_HITS = 10_000  # of all vectors or faces of a request
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
    """A result as JSON in which control characters are escaped, so that a terminal can show it."""

    def render(self, content: Any) -> bytes:
        return to_json(as_document(content)).encode()


# keys and indexes -----------------------------------------------------------


async def state_of(request: Request) -> ServerState:
    """Return the state; async, like all dependencies here, so that FastAPI does not run it in its thread pool."""
    return request.app.state.facegallery


def needs(scope: str) -> Any:
    """Make a dependency that returns the key of a request. Raises HttpProblem where the key lacks a scope."""

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


Reader = Annotated[Key, needs("read")]
Writer = Annotated[Key, needs("write")]
Admin = Annotated[Key, needs("admin")]
CurrentState = Annotated[ServerState, Depends(state_of)]
Mark = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="A change that is sent again with the same value is made once.",
    ),
]


async def index_of(
    state: CurrentState,
    index: Annotated[str, Path(description="Name of an index that is served.", examples=["friends"])],
) -> ServedIndex:
    """Return a served index. Raises HttpProblem for an unknown name."""
    if index not in state.indexes:
        known = ", ".join(state.indexes)
        detail = f"expected an index that is served ({known}), received {index[:100]!r}: change the path"
        raise HttpProblem(404, "index", detail)
    return state.indexes[index]


Index = Annotated[ServedIndex, Depends(index_of)]


# photos ---------------------------------------------------------------------


async def photo_of(request: Request) -> bytes:
    """Return the body as the bytes of a photo. Raises HttpProblem for an empty body and for wrapped photos."""
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
ImageName = Annotated[str | None, Query(max_length=300, description="Name of the photo.")]
ByPixels = Annotated[
    bool,
    Query(description="Make the ids of the faces from the pixels of the photo, as for an array, not from its bytes."),
]


async def sent_photo(*, data: PhotoBytes, image: ImageName = None, pixels: ByPixels = False) -> SentPhoto:
    """Return the photo of a request."""
    return SentPhoto.of(data, image, by_pixels=pixels)


Sent = Annotated[SentPhoto, Depends(sent_photo)]


def face_of(row: Row) -> PhotoFace:
    """Return the face of a row."""
    return PhotoFace(max(row.face, 0), row.face_id, box_of(row.box), row.confidence)


async def rows_of(state: ServerState, index: ServedIndex, sent: SentPhoto) -> tuple[Photo, list[Row], FaceSpec]:
    """Find the faces of a photo; return its rows and the contract of their vectors.

    Raises HttpProblem for a photo that is too large, and where too many wait.
    """
    if (size := len(sent.data)) > (most := state.settings.photo_bytes):
        detail = f"expected a photo of at most {most:,} bytes, received {size:,}: shrink it"
        raise HttpProblem(413, "large", detail)
    while True:
        intake: Intake = await state.intake(index)
        try:
            with state.meters.in_progress.track_inprogress():
                return *await intake.faces(sent), intake.spec
        except QueueFull:
            if state.is_current(intake):
                raise busy("expected fewer photos at a time, too many wait: try again") from None


async def answers_to(
    index: ServedIndex, vectors: np.ndarray, question: Question, contract: str | None = None
) -> Sequence[VectorResult]:
    """Answer a question about each vector, float32 (n, d). Raises HttpProblem where there is no answer."""
    if not len(vectors):
        return []
    try:
        found = await asyncio.wrap_future(index.ask(vectors, question, contract))
    except QueueFull:
        raise busy("expected fewer questions at a time, too many wait: try again") from None
    if isinstance(found, FaceGalleryError):
        raise of_error(found)
    return found


async def retry_replaced(answer: Callable[[], Awaitable[T]]) -> T:
    """Call a function again while the index was replaced: each of its searchers may notice only when it is asked."""
    for _ in range(cores()):
        with suppress(Replaced):
            return await answer()
    return await answer()


async def search_photo(state: ServerState, index: ServedIndex, sent: SentPhoto, question: Question) -> PhotoResult:
    """Search for every face of a photo."""

    async def search() -> PhotoResult:
        photo, rows, spec = await rows_of(state, index, sent)
        faces = [row for row in rows if row.vector is not None]
        limited = replace(question, k=min(question.k, MAX_HITS // max(1, len(faces))))
        vectors = np.array([row.vector for row in faces], np.float32)
        answers = await answers_to(index, vectors, limited, spec.fingerprint)
        found = tuple(_found_face(row, answer, sent.name) for row, answer in zip(faces, answers, strict=True))
        return PhotoResult(sent.name, photo.outcome, photo.why, photo.faces - len(faces), found)

    return await retry_replaced(search)


def _found_face(row: Row, answer: VectorResult, image: str) -> FoundFace:
    return FoundFace(**asdict(face_of(row)), **vars(answer), image=image)


async def question_of(
    *,
    k: Annotated[int, Query(ge=1, le=1000, description="Number of hits for each face.")] = 5,
    faces: Annotated[bool, Query(description="Return faces instead of people.")] = False,
    score: Annotated[schemas.Score, Query(description="How the faces of a person are scored.")] = "best",
    where: Annotated[list[str] | None, Query(max_length=100, description="Filters such as year>=1999.")] = None,
    min_score: Annotated[
        float | None, Query(description="Leave out hits with a lower score.", allow_inf_nan=False)
    ] = None,
) -> Question:
    """Return the question of a request. Raises InputError for a filter that cannot be parsed."""
    filters.parse(where or ())  # once, and not for each photo of a stream
    return Question(k, faces, score, tuple(where or ()), min_score)


QuestionOf = Annotated[Question, Depends(question_of)]


# vectors --------------------------------------------------------------------


async def vectors_of(request: Request, state: CurrentState, index: Index) -> tuple[np.ndarray, schemas.VectorQuestion]:
    """Return the vectors of a request, float32 (n, d), and its question.

    Raises HttpProblem for vectors of another size, and for a body that is larger than it can be, before parsing it.
    """
    dimension = await asyncio.wrap_future(index.read(lambda store: store.spec.dimension))
    data = await request.body()
    return await run_in_threadpool(_parse_vectors, data, state.settings.vectors, dimension)


def _parse_vectors(data: bytes, most: int, dimension: int) -> tuple[np.ndarray, schemas.VectorQuestion]:
    document = parse_document(data, most * dimension + MAX_VALUES)
    given = document.get("vectors") if isinstance(document, dict) else None
    if isinstance(given, list):
        _check_sizes(given, most, dimension)
    try:
        asked = schemas.VectorQuestion.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError([one | {"loc": ("body", *one["loc"])} for one in error.errors()]) from None
    with np.errstate(over="ignore"):
        return np.array(asked.vectors, np.float64).astype(np.float32), asked


def _check_sizes(given: list[Any], most: int, dimension: int) -> None:
    if len(given) > most:
        raise HttpProblem(422, "invalid", f"expected at most {most} vectors, received {len(given)}: send them in parts")
    wrong = next((len(x) for x in given if isinstance(x, list) and len(x) != dimension), None)
    if wrong is not None:
        detail = f"expected vectors of {dimension} numbers, received one of {wrong}: use the index's model"
        raise HttpProblem(422, "invalid", detail)


VECTORS = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.VectorQuestion.model_json_schema()}},
    }
}
Vectors = Annotated[tuple[np.ndarray, schemas.VectorQuestion], Depends(vectors_of)]
