"""Sign in to the page, tell whose key is in use, and sign out."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from facegallery import schemas
from facegallery.server.bodies import StrictRoute
from facegallery.server.guard import BEARER, COOKIE, session_secret
from facegallery.server.problems import HttpProblem
from facegallery.server.routes.dependencies import CurrentState, JSONResponse, Reader

router = APIRouter(prefix="/v1", route_class=StrictRoute)
WRONG_KEY_SECONDS = 0.5


@router.post("/session", response_model=schemas.Session, tags=["session"])
async def sign_in(request: Request, state: CurrentState, asked: schemas.SignIn):
    """Begin a session, which the page uses instead of a key: an HttpOnly cookie."""
    key = await state.desk.key_of(asked.key)
    if key is None:
        await asyncio.sleep(WRONG_KEY_SECONDS)
        detail = "expected a key of this server, received another: see `keys make`"
        raise HttpProblem(401, "key", detail, BEARER)
    await state.desk.count(key)
    seconds = state.settings.session_seconds
    secret = await state.desk.ask(lambda accounts: accounts.begin_session(key, seconds))
    if secret is None:
        detail = "expected a key that is valid, this one was just revoked: use another"
        raise HttpProblem(401, "key", detail, BEARER)
    response = JSONResponse({"name": key.name, "scope": key.scope})
    secure = state.settings.tls or request.headers.get("origin", "").startswith("https://")  # the latter by a proxy
    response.set_cookie(COOKIE, secret, max_age=int(seconds), path="/", secure=secure, httponly=True, samesite="strict")
    return response


@router.get("/me", response_model=schemas.Session, tags=["session"])
async def who_am_i(key: Reader):
    """Return the name and the scope of the key, or of the session's key."""
    return {"name": key.name, "scope": key.scope}


@router.delete("/session", status_code=204, tags=["session"])
async def sign_out(request: Request, state: CurrentState):
    """End the session."""
    if secret := session_secret(dict(request.headers.raw)):
        state.desk.forget_session(secret)
        await state.desk.ask(lambda accounts: accounts.end_session(secret))
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response
