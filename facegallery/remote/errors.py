"""Errors of a client: what the server refuses, and servers that do not answer.

RequestRefused           the server answered with a problem
├── InvalidRequest       an argument or the key; also an InputError
├── UnusablePhoto        a photo; also a DataError
├── GalleryRefused       the gallery; also a GalleryError
└── ServerFault          the server; also a SystemFault
ServerUnreachable        no answer; a SystemFault
JobFailed                a job ended without a result; a GalleryError
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError, SystemFault
from facegallery.results import Job


class RequestRefused(FaceGalleryError):
    """The server answered with a problem (RFC 9457).

    What is raised belongs to one of its subclasses as well, which say what is wrong as a local gallery's errors do.

    status: of the response; problem: its document, with `type`, `title`, `status` and `detail`.
    """

    def __init__(self, problem: Mapping[str, Any]):
        super().__init__(problem.get("detail", ""))
        self.status: int | None = problem.get("status")
        self.problem: dict[str, Any] = dict(problem)

    @property
    def kind(self) -> str:
        """The last part of the problem's type, such as "unknown"."""
        return str(self.problem.get("type", "")).rpartition(":")[2]


class InvalidRequest(RequestRefused, InputError):
    """An argument is wrong, or the key is."""


class UnusablePhoto(RequestRefused, DataError):
    """A photo cannot be used."""


class GalleryRefused(RequestRefused, GalleryError):
    """The gallery does not have what was named, or cannot be changed so."""


class ServerFault(RequestRefused, SystemFault):
    """The server failed, or what answered is no server of ours."""


class ServerUnreachable(SystemFault):
    """The server cannot be reached, or did not answer in time."""


class Disconnected(ServerUnreachable):
    """The server cut the connection, perhaps after it received the request."""


class JobFailed(GalleryError):
    """A job of the server failed. job: its document."""

    def __init__(self, job: Job):
        super().__init__(job.detail or f"{job.kind} of {job.index} failed")
        self.job = job


_KINDS: dict[str, type[RequestRefused]] = {
    **dict.fromkeys(("unknown", "index", "conflict", "forgotten", "command", "in-work", "done"), GalleryRefused),
    **dict.fromkeys(("busy", "rate", "fault", "damaged", "system", "not-ready"), ServerFault),
    **dict.fromkeys(("several-faces", "large", "media-type"), UnusablePhoto),
}


def refusal(problem: Mapping[str, Any]) -> RequestRefused:
    """Make the error for a problem."""
    kind = str(problem.get("type", "")).rpartition(":")[2]
    if "outcome" in problem:
        return UnusablePhoto(problem)
    status = problem.get("status")
    is_fault = not kind and (not isinstance(status, int) or not 400 <= status < 500)
    return _KINDS.get(kind, ServerFault if is_fault else InvalidRequest)(problem)
