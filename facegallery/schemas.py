"""What the API takes and gives, as its OpenAPI document says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from facegallery.embedder.outcomes import OF_BYTES, OK

TEXT = r"^[^\x00]+$"
NAME, SPELLING = "Ada Lovelace", "White space and characters that nobody sees are brought into one form."
# Somebody who is enrolled, under any text that an earlier version allowed
Name = Annotated[str, Field(min_length=1, max_length=10_000, description="A person's name.", examples=[NAME])]
NewName = Annotated[
    str, Field(min_length=1, max_length=500, pattern=TEXT, description=f"A person's name. {SPELLING}", examples=[NAME])
]
FaceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", examples=["6e6cafb5ab4d2c51c9d3ea2d7ca8ff31"])]
Filter = Annotated[str, Field(max_length=1000)]
Box = Annotated[
    list[float],
    Field(
        min_length=4,
        max_length=4,
        description="x0, y0, x1, y1 in pixels of the photo as it is shown.",
        examples=[[14.2, 20.1, 78.9, 102.4]],
    ),
]


class Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(examples=["urn:facegallery:problem:unknown"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["expected a person of friends, nobody is called 'Ada': see `list friends`"])


class Hit(BaseModel):
    rank: int = Field(ge=1)
    identity: str
    score: float = Field(description="Cosine.")
    face_id: FaceId
    image: str


class Face(BaseModel):
    face: int = Field(description="Its number in the photo, the largest and most central one first.")
    face_id: FaceId
    box: Box | None
    confidence: float | None = Field(description="Of the detector.")


class Verdict(BaseModel):
    known: bool | None = Field(description="Whether the best hit counts; null without a calibration.")
    chance: float | None = Field(description="That a stranger scores as high; null without a calibration.")
    chance_limit: float | None = Field(
        description="The smallest chance that the calibration can tell. A chance that is equal to it is an upper bound, 'at most 1 in 9'."
    )
    weak: str | None = Field(
        description="Why the calibration is weak: too few people for its rate.",
        examples=["only 8 people are enrolled, too few for a rate of 0.01"],
    )
    stale: str | None = Field(
        description="Why the calibration is stale: the index changed since.",
        examples=["it was made at 40 people, now there are 60"],
    )
    margin: float | None = Field(
        description="From the best person's score to that of the best other person, also among faces."
    )
    hits: list[Hit]


class FaceAnswer(Face, Verdict):
    pass


class PhotoAnswer(BaseModel):
    image: str
    outcome: str = Field(description=f"{', '.join(OF_BYTES[:-1])} or {OF_BYTES[-1]}.", examples=[OK])
    why: str = ""
    left_out: int = Field(default=0, description="Faces beyond the limit of a photo.")
    faces: list[FaceAnswer]


class VectorQuestion(Taken):
    vectors: list[list[float]] = Field(min_length=1, description="Of unit length, by the index's model.")
    k: int = Field(default=5, ge=1, le=1000)
    faces: bool = Field(default=False, description="Faces in the place of people.")
    score: Literal["best", "mean", "template"] = "best"
    where: list[Filter] = Field(default=[], max_length=100, description="Filters such as year>=1999.")
    min_score: float | None = None


class VectorAnswers(BaseModel):
    answers: list[Verdict]


class StreamedPhoto(Taken):
    id: str = Field(max_length=500)
    photo: str = Field(description="Base64.")


class ComparedFace(Face):
    others: int = Field(description="Further faces in the photo, which were not compared.")


class Compared(BaseModel):
    score: float = Field(description="Cosine of the two.")
    faces: list[ComparedFace] = Field(min_length=2, max_length=2)


class Enrolled(BaseModel):
    added: int
    again: int = Field(description="Was enrolled already.")
    face: Face
    command: str | None = Field(
        description="Give it to `undo` to take back this and nothing else; null where nothing was added."
    )


class Change(BaseModel):
    verb: str = Field(examples=["rename"])
    faces: int
    people: list[str]
    command: str | None = Field(
        description="Give it to `undo` to take back this and nothing else; null where nothing was to be done."
    )


class Undo(Taken):
    command: str | None = Field(
        default=None, max_length=100, description="The last change, or nothing is done; any, unless it is given."
    )


class Rename(Taken):
    old: Name
    new: NewName


class Merge(Taken):
    source: Name
    into: Name


class Split(Taken):
    face_ids: list[FaceId] = Field(min_length=1, max_length=10_000)
    to: Name


class Remove(Taken):
    """One of the two."""

    identity: Name | None = None
    face_id: FaceId | None = None


class Forget(Taken):
    identity: Name


class Receipt(BaseModel):
    """What was forgotten, and where it was looked for; it names nobody."""

    model_config = ConfigDict(extra="allow")
    index: str
    time: str
    face_ids: list[str]
    found: int = Field(description="Traces that are left.")
    pending: bool
    not_cleaned: list[str]
    notes: list[str]


class Person(BaseModel):
    identity: str
    faces: int
    face_id: FaceId | None = Field(description="Of the oldest face, for a thumbnail.")


class People(BaseModel):
    people: list[Person]
    next: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


class EnrolledFace(BaseModel):
    model_config = ConfigDict(extra="allow")
    face_id: FaceId
    image: str
    split: str | None
    box: Box | None


class FacesOf(BaseModel):
    identity: str
    faces: list[EnrolledFace]


class IndexInfo(BaseModel):
    model_config = ConfigDict(extra="allow")
    index: str
    faces: int
    people: int
    dimensions: int
    model: str
    generation: int
    threshold: float | None
    fpir: float | None
    calibration_stale: str | None
    calibration_weak: str | None
    column_kinds: dict[str, Literal["number", "date", "text"]] = Field(
        description="What the users' own columns hold, for filters."
    )


class Indexes(BaseModel):
    indexes: list[str]


class Calibrate(Taken):
    fpir: float = Field(default=0.01, gt=0, lt=1, description="Share of strangers that may be taken for somebody.")


class Compact(Taken):
    keep_undo_days: float | None = Field(default=None, ge=0, description="Drop what undo needs where it is older.")


class Job(BaseModel):
    id: str
    index: str
    kind: Literal["compact", "calibrate"]
    state: Literal["running", "done", "failed"]
    done: int
    total: int
    began: float
    ended: float | None
    detail: str | None


class SignIn(Taken):
    key: str = Field(min_length=1, max_length=200)


class Session(BaseModel):
    name: str
    scope: Literal["read", "write", "admin"]


class Health(BaseModel):
    status: Literal["ok"]


def as_face(row: Any) -> dict[str, Any]:
    """A row of the pipeline as `Face`."""
    box = None if row.box is None else [round(float(v), 2) for v in row.box]
    return {"face": max(row.face, 0), "face_id": row.face_id, "box": box, "confidence": row.confidence}
