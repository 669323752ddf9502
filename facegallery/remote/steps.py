"""Steps of an operation, and requests with their tries, without sending anything.

An operation is a generator, a flow: it yields steps and receives their outcomes, so that `Client` and `AsyncClient` run
the same code.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from facegallery.remote.errors import Disconnected, ServerFault, refusal

T = TypeVar("T")
TRIES = 5  # of a request that is refused for the moment
LONGEST_PAUSE = 60.0  # seconds between two tries, whatever the server or a proxy says
FIRST_PAUSE = 0.1  # seconds after the connection was cut


@dataclass(frozen=True)
class Request:
    """Send a request; the outcome is a Response. content: arguments of httpx's `request`."""

    method: str
    path: str
    content: Mapping[str, Any]
    headers: Mapping[str, str]
    began: float  # time.monotonic() of the first try; all tries have one deadline


@dataclass(frozen=True)
class Response:
    """A response as it arrived. host: of the server that sent it."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    host: str


@dataclass(frozen=True)
class Pause:
    """Wait for so many seconds. began: time.monotonic() of what waits, which has a deadline."""

    seconds: float
    began: float


@dataclass(frozen=True)
class Call:
    """Call a function that may block, such as one that reads a file; the outcome is what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Gather:
    """Run flows, some at a time; the outcome is the list of their results. on_result: called after each, in order."""

    flows: Sequence[Flow[Any]]
    on_result: Callable[[Any], None] = lambda result: None


Step = Request | Pause | Call | Gather
Flow = Generator[Step, Any, T]


def send(method: str, path: str, *, retry: bool = True, **content: Any) -> Flow[Response]:
    """Send a request, and again while the server refuses it for the moment; a change is made once all the same.

    Raises RequestRefused for every other response than a success.
    """
    headers = {"Idempotency-Key": uuid.uuid4().hex} if method in ("POST", "PATCH") else {}
    request = Request(method, path, content, headers, time.monotonic())
    for left in reversed(range(TRIES if retry else 1)):
        try:
            response: Response = yield request
        except Disconnected:
            if not left:
                raise
            yield Pause(FIRST_PAUSE, request.began)
            continue
        if not _is_passing(response) or not left:
            break
        yield Pause(pause_of(response.headers.get("Retry-After", "")), request.began)
    if not 200 <= response.status < 300:
        raise refusal(_problem_of(response))
    return response


def ask(kind: Any, method: str, path: str, **content: Any) -> Flow[Any]:
    """Send a request and read the response as a type."""
    return parse(kind, (yield from send(method, path, **content)))


def _is_passing(response: Response) -> bool:
    """Whether a refusal passes by itself: the server is busy, or runs the change that was sent before."""
    return response.status in (429, 503) or (response.status == 409 and "Retry-After" in response.headers)


def pause_of(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which has a number or a date; 1 where it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(min(int(retry_after[:9]), LONGEST_PAUSE))
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 1.0
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _problem_of(response: Response) -> dict[str, Any]:
    """Return the problem of a response; one made from its status where it has none, such as the page of a proxy."""
    try:
        problem = json.loads(response.body)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return {"status": response.status} | problem
    return {"status": response.status, "detail": f"{response.status} {response.reason}".strip()}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parse(kind: Any, response: Response, line: bytes | None = None) -> Any:
    """Read a response, or a line of it, as a type. Raises ServerFault for a response of something else."""
    try:
        return _adapter(kind).validate_json(response.body if line is None else line)
    except ValidationError:
        media = response.headers.get("Content-Type", "no type")[:100]
        detail = (
            f"expected a response of facegallery's API from {response.host}, received another ({media}): check the "
            "address and the proxy"
        )
        raise ServerFault({"status": response.status, "detail": detail}) from None


def given(**params: Any) -> dict[str, Any]:
    """Return the parameters that are not None."""
    return {name: value for name, value in params.items() if value is not None}
