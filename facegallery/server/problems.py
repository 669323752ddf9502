"""Errors as problem details (RFC 9457): one line of what was expected, what came and what to do."""

from __future__ import annotations

import http
from typing import Any

from starlette.exceptions import HTTPException

from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError, SystemFault
from facegallery.indexer.store.errors import Busy, Damaged, Replaced, Unknown

MEDIA = "application/problem+json"
TYPES = "urn:facegallery:problem:"
RETRY_SECONDS = 1


class HttpProblem(HTTPException):
    """An answer that is no success. kind: the end of its `type`; extra: further members."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extra: Any):
        super().__init__(status, detail, headers or {})
        title = http.HTTPStatus(status).phrase
        self.body = {"type": TYPES + kind, "title": title, "status": status, "detail": detail, **extra}


def busy(detail: str) -> HttpProblem:
    return HttpProblem(503, "busy", detail, {"Retry-After": str(RETRY_SECONDS)})


def fault() -> HttpProblem:
    return HttpProblem(500, "fault", "a fault of ours: the log of the server says more")


def of_error(error: FaceGalleryError) -> HttpProblem:
    """What a command would have printed, as a status."""
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
