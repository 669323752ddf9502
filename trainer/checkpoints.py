"""Write and read the checkpoints of a run: a safetensors file each, with the state of the run in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from facegallery.embedder.files import drop_stale_temporaries, write_atomic

if TYPE_CHECKING:
    from facegallery.trainer.learner import Sums

Arrays = dict[str, np.ndarray]
KEPT = 2  # checkpoints of a run


@dataclass
class RunState:
    """The state of a run; with the arrays of a checkpoint, all that is needed to resume the run.

    stage, epoch, step: from 0; epochs of this stage and batches of this epoch that are done. position: of the stream,
    over all stages. batches: over all stages. moved: whether the network differs from the pretrained one. sums: loss,
    cross-entropy, correct, photos and seconds of this epoch. seconds: of each stage. softmax: accuracy on the training
    photos after each stage. after: the network after each stage, where it is kept. before: top1 and tar of the
    validation before training. best: the same with stage and epoch of the best weights. history: a line for each epoch.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    position: int = 0
    batches: int = 0
    moved: bool = False
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    seconds: list[float] = field(default_factory=list)
    softmax: list[float] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, sums: Sums, batch: int, seconds: float, *, moved: bool) -> None:
        """Count a batch of the stream. moved: whether the batch moved the network."""
        self.step, self.batches, self.position = self.step + 1, self.batches + 1, self.position + batch
        self.moved = self.moved or moved
        more = (sums.loss * sums.photos, sums.cross_entropy * sums.photos, sums.correct, sums.photos, seconds)
        self.sums = [a + b for a, b in zip(self.sums, more, strict=True)]


def path_of(folder: Path, number: int) -> Path:
    """Return the path of the checkpoint after so many batches."""
    return folder / f"checkpoint-{number:09d}.safetensors"


def all_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def write(path: Path, arrays: Arrays, state: dict[str, Any] | None = None) -> None:
    """Write arrays by name, and a state of JSON values, atomically."""
    write_atomic(path, save({k: np.asarray(v, order="C") for k, v in arrays.items()}, {"state": json.dumps(state)}))


def read(path: Path) -> tuple[Arrays, Any]:
    """Return (arrays, state), as `write` wrote them; raise SafetensorError, KeyError or OSError for a damaged file."""
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118


def save_newest(folder: Path, number: int, arrays: Arrays, state: dict[str, Any]) -> None:
    """Write a checkpoint and remove all but the newest two."""
    drop_stale_temporaries(folder)
    write(path_of(folder, number), arrays, state)
    for path in all_of(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """Return the newest checkpoint that can be read, or None; damaged ones are skipped."""
    for path in reversed(all_of(folder)):
        try:
            return read(path)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            continue
    return None
