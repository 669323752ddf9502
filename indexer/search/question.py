"""The question that a search answers."""

from __future__ import annotations

from dataclasses import dataclass

from facegallery.embedder.errors import InputError

ANSWERS = 5  # of `evaluate`
SCORES = ("best", "mean", "template")


@dataclass(frozen=True)
class Question:
    """What to return for each query.

    score: a person's score is that of their best face, the mean over their faces, or that of their template, the
    unit-length mean of their vectors.
    """

    k: int = ANSWERS  # number of people, or faces
    faces: bool = False  # return faces instead of people
    score: str = "best"
    where: tuple[str, ...] = ()  # filters as `filters.Condition` reads them
    min_score: float | None = None  # leave out hits below it
    unnamed: bool = False  # return near groups of unnamed faces, too

    def check(self) -> None:
        """Raise InputError for k < 1 or a score that does not exist."""
        if self.k < 1:
            raise InputError(f"expected k of at least 1, received {self.k}: give a larger one")
        if self.score not in SCORES or (self.faces and self.score != "best"):
            raise InputError(
                f"expected a score of {', '.join(SCORES)} (best alone for faces), received {self.score!r}: choose one"
            )
