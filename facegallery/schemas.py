"""Define the request bodies of the HTTP API, and the responses that exist only in HTTP.

All other responses are the results of the Python API (`facegallery.results`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from facegallery.results import FACE_ID, NAME, NUMBER, Person, PhotoResult, UnnamedFace, VectorResult

TEXT = r"^[^\x00]+$"
SPELLING = "White space and invisible characters are brought into one form."
Score = Literal["best", "mean", "template"]
# a person who is enrolled, under any name that an earlier version allowed
Name = Annotated[str, Field(min_length=1, max_length=10_000, **NAME)]
NewName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        pattern=TEXT,
        description=f"{NAME['description']} {SPELLING}",
        examples=NAME["examples"],
    ),
]
FaceId = Annotated[str, Field(**FACE_ID)]
MOST_NUMBER = 10**12
GroupNumber = Annotated[int, Field(ge=1, le=MOST_NUMBER, **NUMBER)]
GroupOrFace = GroupNumber | FaceId
Filter = Annotated[str, Field(max_length=1000)]


class RequestBody(BaseModel):
    """A JSON body; unknown members and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# requests -------------------------------------------------------------------


class VectorQuestion(RequestBody):
    """Vectors to search for, and the question about each."""

    vectors: list[list[float]] = Field(min_length=1, description="Of length 1, made by the index's model.")
    k: int = Field(default=5, ge=1, le=1000)
    faces: bool = Field(default=False, description="Return faces instead of people.")
    score: Score = "best"
    where: list[Filter] = Field(default=[], max_length=100, description="Filters such as year>=1999.")
    min_score: float | None = None


class StreamedPhoto(RequestBody):
    """A line of a stream of photos."""

    id: str = Field(max_length=500)
    photo: str = Field(description="Base64.")
    pixels: bool = Field(default=False, description="Identify the photo by its pixels, as an array, not by its bytes.")


class Undo(RequestBody):
    """Undo a change."""

    command: str | None = Field(
        default=None,
        max_length=100,
        description="Undo only if this is the last change; omit to undo the last change, whatever it is.",
    )


class Rename(RequestBody):
    """Give a person another name."""

    old: Name
    new: NewName


class Set(RequestBody):
    """Change what is kept of a person beside the name."""

    identity: Name
    metadata: dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=1000)] | None] = Field(
        default={}, max_length=200, description="Values by key; null deletes a key."
    )
    note: Annotated[str, Field(max_length=10_000)] | None = Field(default=None, description="Empty for none.")


class Merge(RequestBody):
    """Give all faces of a person to another."""

    source: Name
    into: Name


class Split(RequestBody):
    """Give chosen faces to a person."""

    face_ids: list[FaceId] = Field(min_length=1, max_length=10_000)
    to: Name


class Remove(RequestBody):
    """Remove a person or a face: one of the two members."""

    identity: Name | None = None
    face_id: FaceId | None = None


class Forget(RequestBody):
    """Remove a person for good."""

    identity: Name
    unnamed: bool = Field(default=False, description="Also forget the unnamed faces that look like the person.")


class NameFaces(RequestBody):
    """Enrol groups and faces without a person under a name."""

    what: list[GroupOrFace] = Field(min_length=1, max_length=10_000)
    identity: NewName


class Confirm(RequestBody):
    """Note that groups are one person."""

    groups: list[GroupNumber] = Field(min_length=1, max_length=1000)


class Reject(RequestBody):
    """Take faces out of their group or person."""

    face_ids: list[FaceId] = Field(min_length=1, max_length=10_000)
    of: Name | None = Field(default=None, description="The person that they are not; omit for where each is.")


class Ignore(RequestBody):
    """Leave groups and faces alone."""

    what: list[GroupOrFace] = Field(min_length=1, max_length=10_000)


class Calibrate(RequestBody):
    """Fit the score from which a hit counts."""

    fpir: float = Field(default=0.01, gt=0, lt=1, description="Share of strangers that may be identified as somebody.")


class Compact(RequestBody):
    """Build the index again."""

    keep_undo_days: float | None = Field(
        default=None, ge=0, description="Delete what `undo` needs of changes that are older; omit to keep all."
    )


class SignIn(RequestBody):
    """Begin a session of the page."""

    key: str = Field(min_length=1, max_length=200)


# responses ------------------------------------------------------------------


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(examples=["urn:facegallery:problem:unknown"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["expected a person of friends, nobody is called 'Ada': see `list friends`"])


@dataclass(frozen=True)
class VectorResults:
    """The result for each vector of a request, in order."""

    answers: tuple[VectorResult, ...]


class StreamedResult(BaseModel):
    """A line of the response to a stream of photos: the id of a photo, and its result or a problem."""

    id: str | None
    answer: PhotoResult | None = None
    problem: dict[str, Any] | None = None


class PeoplePage(BaseModel):
    """A page of the enrolled people, by name."""

    people: list[Person]
    next: str | None = Field(description="Send it as `cursor` to get the next page; null on the last one.")


class UnnamedPage(BaseModel):
    """A page of the faces without a person, oldest first."""

    faces: list[UnnamedFace]
    next: int | None = Field(description="Send it as `cursor` to get the next page; null on the last one.")


class Indexes(BaseModel):
    """The names of the served indexes."""

    indexes: list[str]


class Session(BaseModel):
    """Name and scope of the key in use."""

    name: str
    scope: Literal["read", "write", "admin"]


class Health(BaseModel):
    """A server that answers."""

    status: Literal["ok"]


@dataclass(frozen=True)
class ServerHealth:
    """Whether a server is ready to answer photos; detail: why it is not."""

    ready: bool
    detail: str | None = None
