"""Make the application: the API, the page, and the state for supervisors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.routing import Match, Mount

from facegallery import schemas
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.text import to_json
from facegallery.server.guard import OPEN, App, Desk, Guard, bearer
from facegallery.server.logs import escape_logs
from facegallery.server.meters import Meters
from facegallery.server.problems import MEDIA, HttpProblem, fault, of_error
from facegallery.server.routes import changes, groups, jobs, people, search, session, stream
from facegallery.server.routes.dependencies import PROBLEMS
from facegallery.server.settings import Settings
from facegallery.server.state import ServerState

NOT_READY = (
    "expected loaded networks, some are still being loaded or cannot be: see the log of the server, or ask with a key "
    "of the scope admin"
)
DETAILS = {404: "expected an address of the API or the page, received another: see /openapi.json"}
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
PAGE = Path(__file__).with_name("page")
ABOUT = """Find people in photos by their faces, in the indexes of this machine.

Every request but `/healthz`, `/readyz` and the page itself needs a key (`Authorization: Bearer KEY`, made by
`keys make`) or a session of the page. Errors are problem details (RFC 9457). Photos are sent as bytes; only crops of
enrolled faces are stored."""


def make(settings: Settings) -> App:
    """Make the ASGI application for these settings."""
    meters = Meters()
    escape_logs()
    MultiPartParser.spool_max_size = settings.photo_bytes  # so that no photo is written to a disk

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.facegallery = ServerState(settings, meters)
        yield
        await app.state.facegallery.close()

    app = FastAPI(
        title="facegallery",
        version="1",
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
    )
    for part in (search, stream, people, groups, changes, jobs, session):
        app.include_router(part.router)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    _add_state_routes(app)
    answer_problems(app)
    _describe(app)

    def desk() -> Desk:
        return app.state.facegallery.desk

    return Guard(app, settings, desk, meters)


def _add_state_routes(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/healthz", response_model=schemas.Health, tags=["state"])
    async def is_alive() -> Any:
        """Tell that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=schemas.Health, tags=["state"], responses={503: {"model": schemas.Problem}})
    async def is_ready(request: Request) -> Any:
        """Tell whether the networks are loaded, so that photos are answered. Only admin keys receive the reason."""
        state: ServerState = request.app.state.facegallery
        if (why := state.why_not_ready()) is not None:
            detail = why if await _is_admin(state, request) else NOT_READY
            raise HttpProblem(503, "not-ready", detail, {"Retry-After": "1"})
        return {"status": "ok"}

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Return the metrics in Prometheus' format."""
        text = await request.app.state.facegallery.metrics()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _is_admin(state: ServerState, request: Request) -> bool:
    secret = bearer(dict(request.headers.raw))
    key = await state.desk.key_of(secret) if secret else None
    return key is not None and key.may("admin")


def answer_problems(app: FastAPI) -> None:
    """Make an application respond to every error with a problem."""

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error, HttpProblem):
            return _response(error)
        allow = {"Allow": _methods_of(app, request)} if error.status_code == 405 else {}
        if allow and request.method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        detail = DETAILS.get(error.status_code, str(error.detail))
        return _response(HttpProblem(error.status_code, "http", detail, dict(error.headers or {}) | allow))

    @app.exception_handler(RequestValidationError)
    async def of_request(_: Request, error: RequestValidationError) -> Response:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        detail = f"expected a request as the OpenAPI document describes it, received another: {'; '.join(wrong)}"
        return _response(HttpProblem(422, "invalid", detail[:1000]))

    @app.exception_handler(FaceGalleryError)
    async def of_known(_: Request, error: FaceGalleryError) -> Response:
        return _response(of_error(error))

    @app.exception_handler(Exception)
    async def of_unknown(_: Request, error: Exception) -> Response:
        """Tell nothing of the error; Starlette raises it again, and the guard logs it."""
        return _response(fault())


def _response(problem: HttpProblem) -> Response:
    return Response(to_json(problem.body), problem.status_code, problem.headers, MEDIA)


def _methods_of(app: FastAPI, request: Request) -> str:
    """List the methods of a path, over all its routes."""
    scope = dict(request.scope)
    routes = [route for route in app.router.routes if not isinstance(route, Mount)]
    found = {m for m in METHODS if any(route.matches(scope | {"method": m})[0] == Match.FULL for route in routes)}
    if not found or "GET" in found:  # none: a file of the page
        found |= {"GET", "HEAD"}
    return ", ".join(sorted({*found, "OPTIONS"}))


def _describe(app: FastAPI) -> None:
    """Add keys to the OpenAPI document, and replace FastAPI's own errors by problems."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, methods in document["paths"].items():
                for method in methods.values():
                    _describe_method(method, is_open=path in OPEN)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_method(method: dict[str, Any], *, is_open: bool) -> None:
    method.get("responses", {}).pop("422", None)
    if not is_open:
        method["security"] = [{"key": []}]
    for code, response in method["responses"].items():
        if code in ("default", "503"):
            response["content"] = {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}
