"""Count what became of the photos of one `add`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facegallery import results
from facegallery.embedder.outcomes import TOO_LARGE
from facegallery.remote.errors import RequestRefused

if TYPE_CHECKING:
    from facegallery.embedder.progress import Progress
    from facegallery.remote.uploads import Upload


def outcome_of(refused: RequestRefused) -> str | None:
    """Return the outcome of a photo that was refused; None where it was not the photo that was."""
    return TOO_LARGE if refused.kind == "large" else refused.problem.get("outcome")


@dataclass(frozen=True)
class Enrolment:
    """What became of a photo that was to be enrolled: one of the four."""

    photo: Upload
    done: results.Enrolled | None = None
    outcome: str | None = None  # why there is no face
    conflict: results.Conflict | None = None
    forgotten: bool = False


def refused_enrolment(photo: Upload, refused: RequestRefused) -> Enrolment:
    """Return what a refusal says of the photo. Raises the error where it says nothing of it."""
    if (outcome := outcome_of(refused)) is not None:
        return Enrolment(photo, outcome=outcome)
    if refused.kind == "forgotten":
        return Enrolment(photo, forgotten=True)
    problem = refused.problem
    if refused.kind == "conflict" and "face_id" in problem:
        kept, name = problem["identity"], photo.identity or ""
        return Enrolment(photo, conflict=results.Conflict(problem["face_id"], photo.image, kept, name))
    raise refused


@dataclass
class Tally:
    """What an `add` did so far."""

    total: int
    progress: Progress
    left: Counter[str]
    enrolments: list[Enrolment] = field(default_factory=list)
    command: str | None = None

    def count(self, enrolment: Enrolment) -> None:
        self.enrolments.append(enrolment)
        if enrolment.outcome:
            self.left[enrolment.outcome] += 1
        if enrolment.done:
            self.command = self.command or enrolment.done.command
        self.progress(len(self.enrolments), self.total)

    def result(self, info: results.GalleryInfo) -> results.Added:
        done = [(one.photo, one.done) for one in self.enrolments if one.done]
        conflicts = tuple(one.conflict for one in self.enrolments if one.conflict)
        return results.Added(
            index=info.index,
            added=sum(face.added for _, face in done),
            again=sum(face.again for _, face in done),
            forgotten=sum(one.forgotten for one in self.enrolments),
            conflicts=conflicts,
            left_out={why: n for why, n in self.left.items() if n},
            face_ids=tuple(face.face.face_id for _, face in done if face.added),
            unsure=tuple(photo.image for photo, face in done if face.added and face.unsure),
            command=self.command,
            faces=info.faces,
            people=info.people,
            notes=tuple(
                f"face {one.face_id} ({one.image}) is {one.kept}'s already and was not added as {one.refused}'s"
                for one in conflicts
            ),
        )
