"""Send errors as problem details (RFC 9457). A detail is one line: what was expected and received, what to do."""

from __future__ import annotations

import http
from typing import Any

from starlette.exceptions import HTTPException

from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError, SystemFault
from facegallery.indexer.store.errors import Busy, Damaged, Replaced, Unknown

MEDIA = "application/problem+json"
TYPES = "urn:facegallery:problem:"
RETRY_SECONDS = 1
FAULT = "an internal error: see the log of the server"


class HttpProblem(HTTPException):
    """A response that is an error. kind: the last part of its `type`; extra: further members of the document."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extra: Any):
        super().__init__(status, detail, headers or {})
        title = http.HTTPStatus(status).phrase
        self.body = {"type": TYPES + kind, "title": title, "status": status, "detail": detail, **extra}


def busy(detail: str) -> HttpProblem:
    """Make the problem of a server that is busy for the moment."""
    return HttpProblem(503, "busy", detail, {"Retry-After": str(RETRY_SECONDS)})


def fault() -> HttpProblem:
    """Make the problem of an error in this program, which tells nothing of its cause."""
    return HttpProblem(500, "fault", FAULT)


def of_error(error: FaceGalleryError) -> HttpProblem:
    """Make the problem of an error that the command line would print."""
    match error:
        case Busy() | Replaced():
            return busy(str(error))
        case Unknown():
            return HttpProblem(404, "unknown", str(error))
        case Damaged():
            return HttpProblem(500, "damaged", str(error))
        case GalleryError():
            return HttpProblem(409, "conflict", str(error))
        case InputError() | DataError():
            return HttpProblem(422, "invalid", str(error))
        case SystemFault():
            return HttpProblem(507, "system", str(error))
    return HttpProblem(500, "fault", str(error))
