"""Describe what was measured in each epoch of a training, for the curves and the events of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facegallery.trainer.recipe import Recipe


@dataclass(frozen=True)
class NetworkHistory:
    """The epochs of one network.

    name: of the network before training. before: top1 and tar of the validation before training; empty without one.
    lines: one for each epoch, over all stages, as in metrics.jsonl.
    """

    name: str
    before: Mapping[str, float]
    lines: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Measure:
    """A number of an epoch.

    key: in a line of metrics.jsonl. tag: in TensorBoard. label: in words. before: its key in `NetworkHistory.before`.
    """

    key: str
    tag: str
    label: str
    before: str = ""


LOSS = Measure("loss", "loss", "whole loss")
RATE = Measure("learning_rate", "learning_rate", "learning rate")
VALIDATION = (
    Measure("validation_top1", "validation/top1", "validation top-1", "top1"),
    Measure("validation_tar", "validation/tar", "validation soft TAR", "tar"),
)
BY_NAMES = (
    Measure("cross_entropy", "cross_entropy", "cross-entropy"),
    Measure("accuracy", "accuracy", "softmax accuracy"),
)
BY_TEACHER = (
    Measure("cross_entropy", "teacher_distance", "1 - cosine to the teacher"),
    Measure("accuracy", "teacher_accuracy", "teacher's vector of the photo is the nearest"),
)


def losses(recipe: Recipe) -> tuple[Measure, ...]:
    """Return what falls: the whole loss, and its part without L2 and centres."""
    return LOSS, (BY_TEACHER if recipe.teacher else BY_NAMES)[0]


def accuracies(recipe: Recipe) -> tuple[Measure, ...]:
    """Return what rises: the accuracy on the photos as they trained, and the validation's figures."""
    return (BY_TEACHER if recipe.teacher else BY_NAMES)[1], *VALIDATION


def all_of(recipe: Recipe) -> tuple[Measure, ...]:
    """Return every measure of an epoch."""
    return *losses(recipe), *accuracies(recipe), RATE
