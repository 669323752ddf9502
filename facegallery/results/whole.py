"""Hold what is said of a gallery as a whole, of trainings, comparisons and jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from facegallery.results.base import ColumnKind
from facegallery.results.faces import PhotoFace

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery holds, by which model, how far it is behind its last build, and its calibration."""

    index: str
    faces: int
    people: int
    unnamed: int = field(metadata={"description": "Faces without a person."})
    groups: int = field(metadata={"description": "Of unnamed faces."})
    loose: int = field(metadata={"description": "Unnamed faces in no group."})
    ignored: int = field(metadata={"description": "Unnamed faces that were to be left alone."})
    rejected: int = field(metadata={"description": "Times that somebody said that a face is not of a group or person."})
    photos: int = field(metadata={"description": "With a face that is enrolled or unnamed."})
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
    holds_for: str = field(metadata={"description": "Whom it was fitted on, and for which strangers the rate holds."})
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
        return f"{text}; {self.holds_for}"


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
