"""Bodies and parameters of requests: JSON that is small before it is parsed, and photos as bytes and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from facegallery.server.problems import HttpProblem

MOST_VALUES = 20_000  # of a document that holds no vectors
MOST_BRACKETS = 2_000  # of lists and objects
BASE64 = (b"/9j/", b"iVBORw", b"R0lGOD", b"UklGR", b"Qk", b"SUkq", b"TU0A", b"AAAA")  # how photos begin in base64
SEND = "send the bytes of the photo themselves as the body, such as curl --data-binary @FILE"


def parse_document(data: bytes, most_values: int = MOST_VALUES) -> Any:
    """Parse a document; raise Problem where it is none, larger or deeper than any question, or holds a number that is not finite or a name twice.

    Values are counted by the commas between them first: that costs nothing beside parsing.
    """
    if data.count(b",") > most_values or data.count(b"[") + data.count(b"{") > MOST_BRACKETS:
        raise _wrong(f"a document of at most {most_values:,} values and {MOST_BRACKETS:,} lists, received a larger one")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise _wrong("a document of a few levels, received a deeper one") from None
    except ValueError as error:  # of JSON and of UTF-8
        raise _wrong(
            f"a JSON document, received something else ({(str(error).splitlines() or ['none'])[0][:100]})"
        ) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _wrong(what: str) -> HttpProblem:
    return HttpProblem(422, "invalid", f"expected {what}: see the OpenAPI document")


def check_photo(content_type: str, data: bytes) -> None:
    """Raise Problem where a body is a photo in a wrapping, with what to send instead."""
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


def _unsupported(what: str) -> HttpProblem:
    return HttpProblem(
        415,
        "media-type",
        f"expected the bytes of a photo as the body, received {what}: {SEND}",
        {"Accept": "image/*, application/octet-stream"},
    )


def _query_fields(dependant: Dependant) -> Iterator[tuple[str, str]]:
    """Yield the name and the type of every parameter of the query, of what a route depends on too."""
    for field in dependant.query_params:
        yield field.alias, str(field.field_info.annotation)
    for other in dependant.dependencies:
        yield from _query_fields(other)


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_document(await self.body())


class StrictRoute(APIRoute):
    """A route that parses JSON by `parse_document` and takes no parameter of the query that it does not name, nor one value twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        fields = dict(_query_fields(self.dependant))
        several = {name for name, kind in fields.items() if "list" in kind}

        async def strictly(request: Request) -> Response:
            given = [name for name, _ in request.query_params.multi_items()]
            for name in given:
                if name not in fields:
                    raise _wrong(f"the parameters {', '.join(fields) or '(none)'}, received {name[:100]!r}")
                if name not in several and given.count(name) > 1:
                    raise _wrong(f"the parameter {name} once, received it several times")
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly
