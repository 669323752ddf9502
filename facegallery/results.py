"""Hold what the API returns: frozen dataclasses, the same from a folder, from a server and in its JSON documents.

Results that hold many things are sequences of them, with `to_arrow()` and `to_pandas()`. The metadata of a field are
arguments of pydantic's `Field`: the server's OpenAPI document takes descriptions, limits and examples from them. This
module imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from facegallery.embedder.errors import SystemFault
from facegallery.embedder.outcomes import OF_BYTES, OK

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from facegallery.embedder.photos.understood import Understood
    from facegallery.indexer.suspects import Suspect

T = TypeVar("T")
Box = tuple[float, float, float, float]
Point = tuple[float, float]
ColumnKind = Literal["number", "date", "text"]

NAME = {"description": "A person's name.", "examples": ["Ada Lovelace"]}
FACE_ID = {"pattern": r"^[0-9a-f]{32}$", "examples": ["6e6cafb5ab4d2c51c9d3ea2d7ca8ff31"]}
BOX = {
    "description": "x0, y0, x1, y1 in pixels of the photo as it is shown, to a hundredth.",
    "examples": [[14.2, 20.1, 78.9, 102.4]],
}
COMMAND = {"description": "Give it to `undo` to take back this change and no other; null where nothing was changed."}


def box_of(values: Iterable[float] | None) -> Box | None:
    """Round a box x0, y0, x1, y1 to a hundredth of a pixel, as results hold it."""
    if values is None:
        return None
    x0, y0, x1, y1 = (round(float(value), 2) for value in values)
    return x0, y0, x1, y1


def as_document(result: Any) -> Any:
    """Return a result, or a list of results, as JSON holds it.

    Dataclasses become dicts, sequences lists; pixels and vectors are left out.
    """
    if isinstance(result, Mapping):
        return {key: as_document(value) for key, value in result.items()}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        shown = [one for one in dataclasses.fields(result) if not one.metadata.get("binary")]
        return {one.name: as_document(getattr(result, one.name)) for one in shown}
    if isinstance(result, list | tuple):
        return [as_document(value) for value in result]
    return result


class ResultList(Sequence[T]):
    """A sequence of results that is a table, too. `==` compares two of them; a slice is a plain tuple."""

    @property
    @abstractmethod
    def _items(self) -> Sequence[T]:
        """The results in order."""

    @abstractmethod
    def _columns(self) -> dict[str, str]:
        """The columns of the table: name -> type, of `_arrow_type`."""

    @abstractmethod
    def _rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table by column; a column that a row leaves out is null."""

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[T, ...]: ...

    def __getitem__(self, at: int | slice) -> T | tuple[T, ...]:
        return tuple(self._items[at]) if isinstance(at, slice) else self._items[at]

    def to_arrow(self) -> pa.Table:
        """Return the table as `pyarrow.Table`; the columns are those that the class names."""
        import pyarrow as pa

        schema = pa.schema([(name, _arrow_type(kind)) for name, kind in self._columns().items()])
        return pa.Table.from_pylist(list(self._rows()), schema)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as `pandas.DataFrame`. Raises SystemFault where pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError:
            raise SystemFault(
                "expected pandas for to_pandas(), it is not installed: run `pip install pandas`"
            ) from None
        return self.to_arrow().to_pandas()


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    lists = {"floats": pa.list_(pa.float64()), "vector": pa.list_(pa.float32())}
    return lists[kind] if kind in lists else pa.type_for_alias(kind)


# search ---------------------------------------------------------------------


@dataclass(frozen=True)
class Hit:
    """One answer: a person by the best of their faces, or one enrolled face."""

    rank: int = field(metadata={"ge": 1, "description": "From 1."})
    identity: str
    score: float = field(metadata={"description": "Cosine."})
    face_id: str = field(metadata=FACE_ID)
    image: str = field(metadata={"description": "The enrolled photo."})


@dataclass(frozen=True)
class VectorResult:
    """The answer to one vector: the hits, and whether they count."""

    known: bool | None = field(
        metadata={"description": "Whether the best hit counts; null without a calibration."},
    )
    chance: float | None = field(
        metadata={"description": "That a stranger scores as high; null without a calibration."},
    )
    chance_limit: float | None = field(
        metadata={
            "description": "The smallest chance that the calibration can tell. A chance that is equal to it is an "
            "upper bound, 'at most 1 in 9'."
        }
    )
    weak: str | None = field(
        metadata={
            "description": "Why the calibration is weak: too few people for its rate.",
            "examples": ["only 8 people are enrolled, too few for a rate of 0.01"],
        }
    )
    stale: str | None = field(
        metadata={
            "description": "Why the calibration is stale: the gallery changed since.",
            "examples": ["it was made at 40 people, now there are 60"],
        }
    )
    margin: float | None = field(
        metadata={"description": "From the best person's score to that of the best other person, also among faces."}
    )
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class PhotoFace:
    """A face in a photo."""

    face: int = field(metadata={"description": "Its number in the photo, the largest and most central one first."})
    face_id: str = field(metadata=FACE_ID)
    box: Box | None = field(metadata=BOX)
    confidence: float | None = field(metadata={"description": "Of the detector."})


@dataclass(frozen=True)
class FoundFace(VectorResult, PhotoFace):
    """A face that was searched for, and the answer."""

    image: str = field(default="", metadata={"description": "The photo that shows the face."})


@dataclass(frozen=True)
class PhotoResult:
    """What a search found in one photo."""

    image: str
    outcome: str = field(metadata={"description": f"{', '.join(OF_BYTES[:-1])} or {OF_BYTES[-1]}.", "examples": [OK]})
    why: str = field(default="", metadata={"description": "Why there is no face to search for."})
    left_out: int = field(default=0, metadata={"description": "Faces of the photo that were not searched for."})
    faces: tuple[FoundFace, ...] = ()
    identity: str | None = field(default=None, metadata={"description": "Who the photo's folder says it shows."})


@dataclass(frozen=True)
class SearchResult(ResultList[FoundFace]):
    """The faces found in all photos, in order; `photos` has the same by photo, with those that show no face.

    The table has a row for each hit, and one row without a hit for a face or a photo that has none.
    """

    photos: tuple[PhotoResult, ...]

    @functools.cached_property
    def _items(self) -> Sequence[FoundFace]:
        return tuple(face for photo in self.photos for face in photo.faces)

    def _columns(self) -> dict[str, str]:
        probe = {"image": "string", "outcome": "string", "identity": "string", "face": "int16", "face_id": "string"}
        verdict = {"known": "bool", "chance": "float64", "margin": "float64"}
        hit = {"rank": "int32", "hit_identity": "string", "score": "float64", "hit_face_id": "string"}
        more = {"hit_image": "string", "chance_limit": "float64", "weak": "string", "stale": "string"}
        return probe | {"box": "floats", "confidence": "float64"} | verdict | hit | more

    def _rows(self) -> Iterator[dict[str, Any]]:
        for photo in self.photos:
            of_photo = {"image": photo.image, "outcome": photo.outcome, "identity": photo.identity}
            if not photo.faces:
                yield of_photo
            for face in photo.faces:
                of_face = of_photo | fields_of(face, but=("image", "hits"))
                for hit in face.hits:
                    renamed = {"hit_identity": hit.identity, "hit_face_id": hit.face_id, "hit_image": hit.image}
                    yield of_face | {"rank": hit.rank, "score": hit.score} | renamed
                if not face.hits:
                    yield of_face


def fields_of(result: Any, but: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a result by name, without some of them."""
    return {one.name: getattr(result, one.name) for one in dataclasses.fields(result) if one.name not in but}


# faces of photos ------------------------------------------------------------


@dataclass(frozen=True)
class Face:
    """A face that `detect` or `embed` found."""

    image: str
    face: int  # its number in the photo, the largest and most central one first
    face_id: str  # 32 hex digits: the same for the same face of the same bytes
    box: Box  # x0, y0, x1, y1 in pixels of the photo as it is shown, not rounded
    landmarks: tuple[Point, ...]  # x, y of the person's right eye, left eye, nose, right and left corner of the mouth
    confidence: float  # of the detector, 0 to 1
    quality: float  # how sharp the crop is: the variance of its Laplacian; a blurred crop has less than a sharp one
    identity: str | None = None  # who the photo's folder says it shows
    vector: np.ndarray | None = field(default=None, compare=False, metadata={"binary": True})  # float32 (d,), length 1
    crop: np.ndarray | None = field(default=None, compare=False, metadata={"binary": True})  # uint8 RGB (160, 160, 3)


@dataclass(frozen=True)
class PhotoFaces:
    """What `detect` or `embed` found in one photo."""

    image: str
    outcome: str  # ok, no_face, too_small, unreadable, too_large, ...: see `facegallery.embedder.outcomes`
    why: str = ""  # why there is no face
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True)
class Faces(ResultList[Face]):
    """The faces found in all photos, in order; `photos` has the same by photo, with those that show no face.

    The table has a row for each face, without the crops, and one row without a face for a photo that has none.
    """

    photos: tuple[PhotoFaces, ...]

    @functools.cached_property
    def _items(self) -> Sequence[Face]:
        return tuple(face for photo in self.photos for face in photo.faces)

    @property
    def vectors(self) -> np.ndarray:
        """The vectors as float32 (n, d). Raises ValueError where there are none: `detect` makes no vectors."""
        import numpy as np

        return np.stack([face.vector for face in self if face.vector is not None])

    def _columns(self) -> dict[str, str]:
        photo = {"image": "string", "outcome": "string", "identity": "string"}
        face = {"face": "int16", "face_id": "string", "box": "floats", "landmarks": "floats"}
        return photo | face | {"confidence": "float64", "quality": "float64", "vector": "vector"}

    def _rows(self) -> Iterator[dict[str, Any]]:
        for photo in self.photos:
            of_photo = {"image": photo.image, "outcome": photo.outcome}
            if not photo.faces:
                yield of_photo
            for face in photo.faces:
                landmarks = [value for point in face.landmarks for value in point]
                yield of_photo | fields_of(face, but=("image", "crop")) | {"landmarks": landmarks}


# people ---------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Somebody who is enrolled."""

    identity: str
    faces: int = field(metadata={"description": "How many are enrolled."})
    face_id: str | None = field(metadata=FACE_ID | {"description": "Of the oldest face, for a thumbnail."})


@dataclass(frozen=True)
class People(ResultList[Person]):
    """The enrolled people by name. The table has a row for each: identity, faces, face_id."""

    people: tuple[Person, ...]

    @property
    def _items(self) -> Sequence[Person]:
        return self.people

    def _columns(self) -> dict[str, str]:
        return {"identity": "string", "faces": "int64", "face_id": "string"}

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (fields_of(person) for person in self.people)


@dataclass(frozen=True)
class EnrolledFace:
    """An enrolled face."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    split: str | None
    box: Box | None = field(metadata=BOX)
    columns: dict[str, str] = field(
        default_factory=dict, metadata={"description": "The user's own columns, as `metadata` gave them to `add`."}
    )

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EnrolledFace:
        """Make one from a row of the store, in which the user's own columns stand beside the others."""
        own = {name: value for name, value in row.items() if name not in ("face_id", "image", "split", "box")}
        return cls(row["face_id"], row["image"], row["split"], box_of(row["box"]), own)


@dataclass(frozen=True)
class EnrolledFaces(ResultList[EnrolledFace]):
    """The enrolled faces of one person, oldest first.

    The table has a row for each: identity, face_id, image, split, box, and a column for each of the user's own.
    """

    identity: str
    faces: tuple[EnrolledFace, ...]

    @property
    def _items(self) -> Sequence[EnrolledFace]:
        return self.faces

    def _columns(self) -> dict[str, str]:
        own = dict.fromkeys(sorted({name for face in self.faces for name in face.columns}), "string")
        return {"identity": "string", "face_id": "string", "image": "string", "split": "string", "box": "floats"} | own

    def _rows(self) -> Iterator[dict[str, Any]]:
        for face in self.faces:
            yield face.columns | {"identity": self.identity} | fields_of(face, but=("columns",))


# changes --------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """A face that was offered for another person than the one it is enrolled under; the first one keeps it."""

    face_id: str = field(metadata=FACE_ID)
    image: str
    kept: str = field(metadata={"description": "Who the face is enrolled as."})
    refused: str = field(metadata={"description": "Who it was offered for."})


@dataclass(frozen=True)
class Added:
    """What `add` enrolled, and what became of the rest."""

    index: str
    added: int = field(metadata={"description": "Faces that are enrolled now."})
    again: int = field(default=0, metadata={"description": "Faces that were enrolled already."})
    forgotten: int = field(default=0, metadata={"description": "Faces refused because they were forgotten."})
    conflicts: tuple[Conflict, ...] = ()
    left_out: dict[str, int] = field(
        default_factory=dict, metadata={"description": "Photos without an enrolled face: their number by reason."}
    )
    face_ids: tuple[str, ...] = field(default=(), metadata={"description": "Of the faces that were added."})
    unsure: tuple[str, ...] = field(
        default=(), metadata={"description": "Photos with another face nearly as large as the one that was taken."}
    )
    command: str | None = field(default=None, metadata=COMMAND)
    faces: int | None = field(default=None, metadata={"description": "All faces that are enrolled now."})
    people: int | None = field(default=None, metadata={"description": "All people who are enrolled now."})
    notes: tuple[str, ...] = field(default=(), metadata={"description": "What the user should read, a line each."})
    understood: Understood | None = None  # whose the photos were taken to be; of a local gallery
    suspects: tuple[Suspect, ...] = ()  # added faces that may be somebody else's; of a local gallery

    @property
    def text(self) -> str:
        """One line for people."""
        kept = {"known already": self.again, "forgotten": self.forgotten, "another person's": len(self.conflicts)}
        now = "" if self.faces is None else f", now {self.faces} of {self.people} people"
        why = "".join(f"; {n} {what}" for what, n in (kept | self.left_out).items() if n)
        return f"{self.index}: {self.added} faces added{now}{why}"


@dataclass(frozen=True)
class Enrolled:
    """What a server did with the one face of a photo that was to be enrolled."""

    added: int
    again: int = field(metadata={"description": "Was enrolled already."})
    face: PhotoFace
    command: str | None = field(metadata=COMMAND)
    unsure: bool = field(
        default=False,
        metadata={"description": "Whether the photo has another face nearly as large as the one that was taken."},
    )


@dataclass(frozen=True)
class Change:
    """What a change of the gallery did, or `undo` took back."""

    verb: str = field(metadata={"examples": ["rename"]})
    faces: int
    people: tuple[str, ...]
    command: str | None = field(default=None, compare=False, metadata=COMMAND)


@dataclass(frozen=True)
class LogLine:
    """A change in the gallery's log, as `undo` takes it back."""

    time: float = field(metadata={"description": "Seconds since 1970."})
    verb: str
    faces: int
    people: tuple[str, ...]
    command: str = field(metadata={"description": "Give it to `undo` to take back this change and no other."})


@dataclass(frozen=True)
class Receipt:
    """What `forget` removed, and where it looked for traces afterwards. It names nobody."""

    index: str
    time: str
    face_ids: tuple[str, ...]
    found: int = field(metadata={"description": "Traces that are left."})
    pending: bool = field(
        metadata={
            "description": "A reader, or a running build, still holds an older state: whoever opens the gallery next "
            "finishes."
        }
    )
    files: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How often a trace was found in each file afterwards."}
    )
    data_sets: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How many rows were taken out of each data set."}
    )
    not_cleaned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: dict[str, int] = field(
        default_factory=dict, metadata={"description": "How many faces of the person each other index holds."}
    )
    outputs: tuple[str, ...] = field(
        default=(), metadata={"description": "Files that were written with the gallery's people, and are there."}
    )
    withheld: int = field(
        default=0, metadata={"description": "Paths that are not shown whole because they name the person."}
    )
    receipt: str | None = field(default=None, metadata={"description": "The file that this was written to."})


# the gallery as a whole -----------------------------------------------------


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery holds, by which model, how far it is behind its last build, and its calibration."""

    index: str
    faces: int
    people: int
    dimensions: int = field(metadata={"description": "Of a vector."})
    model: str
    fingerprint: str = field(metadata={"description": "16 hex digits: what makes vectors comparable."})
    centred: bool
    encrypted: bool
    generation: int
    built: int = field(metadata={"description": "Faces at the last build."})
    added_since: int
    changed_since: int
    kind: str = field(metadata={"description": "Of the index: exact or compressed.", "examples": ["exact"]})
    reason: str | None
    recall: float
    memory: int | None
    columns: tuple[str, ...] = field(metadata={"description": "The users' own columns, for filters."})
    column_kinds: dict[str, ColumnKind] = field(
        metadata={"description": "What the users' own columns hold, for filters."}
    )
    changes_kept: int
    other_model: str | None
    threshold: float | None
    fpir: float | None
    calibration_stale: str | None
    calibration_weak: str | None
    forgotten: int
    forgetting_pending: bool
    bytes: int = field(metadata={"description": "Of all files in the folder."})


@dataclass(frozen=True)
class Calibrated:
    """The score from which a hit counts, and how sure it is."""

    index: str
    fpir: float = field(metadata={"description": "Share of strangers that may be taken for somebody."})
    threshold: float
    interval: tuple[float, float] = field(metadata={"description": "Of the share of strangers above it, 95 %."})
    samples: int = field(metadata={"description": "Best scores of strangers that the threshold was fitted on."})
    held_out: int = field(metadata={"description": "Of the samples, those of photos of real strangers."})
    exceeding: int = field(metadata={"description": "Samples that reach the threshold."})
    design_effect: float
    detection: tuple[float, float, float] | None = field(
        metadata={"description": "Share of probes of enrolled people that are identified, and its interval of 95 %."}
    )
    genuine: int = field(metadata={"description": "Probes of enrolled people."})
    people: int
    weak: str | None
    chance_limit: float
    warnings: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for people."""
        low, high = self.interval
        text = (
            f"{self.index}: a hit counts from a score of {self.threshold:.4f}; of strangers, {self.exceeding} of "
            f"{self.samples} reach it: in the long run {low:.2%} to {high:.2%} (95 %), asked for {self.fpir:.2%}"
        )
        if self.detection:
            share, least, most = self.detection
            text += (
                f"; {share:.1%} ({least:.1%} to {most:.1%}) of {self.genuine} probes of enrolled people are identified"
            )
        return text


@dataclass(frozen=True)
class Compacted:
    """The generation that `compact` built."""

    index: str
    generation: int
    faces: int
    dropped: int = field(metadata={"description": "Old changes that can no longer be taken back."})


@dataclass(frozen=True)
class TrainedNetwork:
    """A network that `train` finetuned."""

    name: str
    sha256: str  # of its weights
    parent: str | None  # sha256 of the weights that it was finetuned from
    delivered: str  # which weights were kept, and why
    seconds: float  # of all stages
    best_top1: float | None  # of the validation; None without one


@dataclass(frozen=True)
class Trained:
    """The model that `train` made."""

    model: str  # its folder
    networks: tuple[TrainedNetwork, ...]
    photos: int
    people: int


@dataclass(frozen=True)
class ComparedFace(PhotoFace):
    """A face that was compared: the largest, most central one of its photo."""

    others: int = field(metadata={"description": "Further faces in the photo, which were not compared."})
    image: str = ""


@dataclass(frozen=True)
class Compared:
    """How alike two faces are."""

    score: float = field(metadata={"description": "Cosine of the two."})
    faces: tuple[ComparedFace, ComparedFace]
    threshold: float | None = field(
        default=None, metadata={"description": "From which score a hit counts, by the gallery's calibration."}
    )

    @property
    def same(self) -> bool | None:
        """Whether the score reaches the threshold; None without one."""
        return None if self.threshold is None else self.score >= self.threshold


@dataclass(frozen=True)
class Job:
    """A long change of a whole gallery on a server."""

    id: str
    index: str
    kind: Literal["compact", "calibrate"]
    state: Literal["running", "done", "failed"]
    done: int
    total: int
    began: float
    ended: float | None
    detail: str | None
    result: Calibrated | Compacted | None = field(
        default=None, metadata={"description": "What the job returned; null before its end, or where it failed."}
    )
