"""Check the bodies and parameters of requests: JSON of a limited size, and photos as plain bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from facegallery.server.problems import HttpProblem

MAX_VALUES = 20_000  # in a document without vectors
MAX_BRACKETS = 2_000  # lists and objects in a document
BASE64 = (b"/9j/", b"iVBORw", b"R0lGOD", b"UklGR", b"Qk", b"SUkq", b"TU0A", b"AAAA")  # how photos begin in base64
SEND = "send the bytes of the photo themselves as the body, such as curl --data-binary @FILE"
ACCEPT = {"Accept": "image/*, application/octet-stream"}


def parse_document(data: bytes, most_values: int = MAX_VALUES) -> Any:
    """Parse a JSON document.

    Raises HttpProblem (422) for bytes that are no JSON, a document that is larger or deeper than any request needs,
    a number that is not finite, and an object that has a name twice. Commas are counted before parsing, because that
    costs nothing beside parsing.
    """
    if data.count(b",") > most_values or data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise _invalid(
            f"a document of at most {most_values:,} values and {MAX_BRACKETS:,} lists, received a larger one"
        )
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise _invalid("a document of a few levels, received a deeper one") from None
    except ValueError as error:  # of JSON and of UTF-8
        reason = (str(error).splitlines() or ["none"])[0][:100]
        raise _invalid(f"a JSON document, received something else ({reason})") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _invalid(expected: str) -> HttpProblem:
    return HttpProblem(422, "invalid", f"expected {expected}: see the OpenAPI document")


def check_photo(content_type: str, data: bytes) -> None:
    """Raise HttpProblem (415) for a photo inside a form, a data URI, JSON or base64; it says what to send instead."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise _unsupported("a form (multipart)")
    head = data[:256].lstrip()
    if head[:5].lower() == b"data:":
        raise _unsupported("a data URI")
    if kind == "application/json" or kind.endswith("+json") or head[:2] in (b'{"', b"{\n", b"{ ", b'["', b"[{"):
        raise _unsupported("JSON")
    if head.startswith(BASE64) and re.fullmatch(rb"[A-Za-z0-9+/\r\n]{16,}[=\r\n]*", head):
        raise _unsupported("base64")


def _unsupported(received: str) -> HttpProblem:
    detail = f"expected the bytes of a photo as the body, received {received}: {SEND}"
    return HttpProblem(415, "media-type", detail, ACCEPT)


def _query_fields(dependant: Dependant) -> Iterator[tuple[str, str]]:
    """Yield name and type of each query parameter of a route and of its dependencies."""
    for field in dependant.query_params:
        yield field.alias, str(field.field_info.annotation)
    for other in dependant.dependencies:
        yield from _query_fields(other)


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_document(await self.body())


class StrictRoute(APIRoute):
    """A route that parses JSON by `parse_document` and refuses unknown and repeated query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        fields = dict(_query_fields(self.dependant))
        lists = {name for name, kind in fields.items() if "list" in kind}

        async def handle_strictly(request: Request) -> Response:
            given = [name for name, _ in request.query_params.multi_items()]
            for name in given:
                if name not in fields:
                    raise _invalid(f"the parameters {', '.join(fields) or '(none)'}, received {name[:100]!r}")
                if name not in lists and given.count(name) > 1:
                    raise _invalid(f"the parameter {name} once, received it several times")
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly
