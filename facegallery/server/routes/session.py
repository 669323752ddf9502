"""Sign in to the page, tell who asks, and sign out."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from facegallery import schemas
from facegallery.server.bodies import StrictRoute
from facegallery.server.guard import COOKIE, session_secret
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import Asker, CurrentState, JSONResponse

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post("/session", response_model=schemas.Session, tags=["session"])
async def sign_in(request: Request, whole: CurrentState, asked: schemas.SignIn):
    """A session of the page in the place of a key: an HttpOnly cookie."""
    key = await whole.desk.who(asked.key, False)
    if key is None:
        await asyncio.sleep(0.5)
        raise HttpProblem(
            401,
            "key",
            "expected a key of this server, received another: see `keys make`",
            {"WWW-Authenticate": "Bearer"},
        )
    await whole.desk.count(key)
    seconds = whole.settings.session_seconds
    secret = await whole.desk.ask(lambda accounts: accounts.begin_session(key, seconds))
    if secret is None:
        raise HttpProblem(
            401, "key", "expected a key that is valid, this one was just revoked", {"WWW-Authenticate": "Bearer"}
        )
    answer = JSONResponse({"name": key.name, "scope": key.scope})
    secure = whole.settings.tls or request.headers.get("origin", "").startswith("https://")  # or by a proxy
    answer.set_cookie(COOKIE, secret, max_age=int(seconds), path="/", secure=secure, httponly=True, samesite="strict")
    return answer


@router.get("/me", response_model=schemas.Session, tags=["session"])
async def who_am_i(key: Asker):
    """The name and scope of the key, or of the session's."""
    return {"name": key.name, "scope": key.scope}


@router.delete("/session", status_code=204, tags=["session"])
async def sign_out(request: Request, whole: CurrentState):
    """Ends the session."""
    if secret := session_secret(dict(request.headers.raw)):
        whole.desk.forget_session(secret)
        await whole.desk.ask(lambda accounts: accounts.end_session(secret))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/")
    return answer
