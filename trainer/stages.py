"""A network through the stages of a recipe: epochs, checkpoints, validation, and which weights come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from embedder import weights
from embedder.errors import ModelError
from embedder.spec import Part
from embedder.table import make_folder
from indexer.metrics import nearest_people
from trainer import checkpoints, losses
from trainer.batches import Data, Photos, Stream, Views, plain_crops
from trainer.learner import Head, Learner, Net, NotFinite, softmax_accuracy
from trainer.recipe import Recipe, Stage

CHECKPOINT_SECONDS = 240.0  # between two checkpoints of a long epoch, so that they are less than 5 minutes apart
Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]


class Source(Protocol):
    """Where batches come from: a Stream of crops, or Views of features."""

    def __len__(self) -> int: ...
    def batches(self, start: int, batch: int, steps: int) -> Iterator[tuple[tf.Tensor, np.ndarray]]: ...


@dataclass
class Progress:
    """Where a run stands; with the arrays, all that a resumed one must know."""

    stage: int = 0  # from 0
    epoch: int = 0  # done in this stage
    step: int = 0  # batches done in this epoch
    position: int = 0  # of the stream, over all stages
    batches: int = 0  # over all stages
    moved: bool = False  # whether the network differs from the pretrained one
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # loss, cross-entropy, correct, photos, seconds of this epoch
    seconds: list[float] = field(default_factory=list)  # of each stage
    softmax: list[float] = field(default_factory=list)  # accuracy on the training photos after each stage
    after: list[dict[str, Any]] = field(default_factory=list)  # the part after each stage, where they are kept
    best: dict[str, Any] = field(default_factory=dict)  # top1, stage, epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # a line an epoch


@dataclass(frozen=True)
class Trained:
    """What one network's training gave."""

    part: Part
    after: tuple[Part, ...]
    delivered: str  # which weights, in words
    progress: Progress


def top1(net: Net, photos: Photos) -> float:
    """Share of photos, but each person's first, whose nearest first photo (cosine) is their person's."""
    features = net.embed(plain_crops(photos))
    vectors = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, first = np.unique(photos.labels, return_index=True)
    rest = np.setdiff1d(np.arange(len(photos)), first)
    nearest, _ = nearest_people(vectors[first], photos.labels[first], vectors[rest], 1)
    return float(np.mean(nearest[:, 0] == photos.labels[rest]))


class Run:
    """One network's training in a folder of its own; made again on the same folder, it goes on."""

    def __init__(self, folder: Path, part: Part, start: Arrays, recipe: Recipe, data: Data, seed: int, keep: bool, say: Say,
                 report: Callable[[list[dict[str, Any]]], None], precision: str = "f32"):  # fmt: skip
        """`report` receives the history after each epoch; precision: 'f32' or 'bf16', as in `Net`."""
        self.folder, self.part, self.start, self.recipe, self.data = make_folder(folder), part, start, recipe, data
        self.seed, self.keep, self.say, self.report = seed, keep, say, report
        self.net = Net(start, part, precision)
        self.head = Head(self.net.dimension, len(data.train.people), seed)
        self.progress, self._saved = Progress(seconds=[0.0] * len(recipe.stages)), 0.0

    def train(self) -> Trained:
        """All stages, from wherever the folder stands."""
        arrays = self._resume()
        if not arrays and self.data.validation:
            self.progress.best = {"top1": top1(self.net, self.data.validation), "stage": 0, "epoch": 0}
            self.say(f"{self.part.name}: validation top-1 before training {self.progress.best['top1']:.4f}")
        while self.progress.stage < len(self.recipe.stages):
            learner, self._ticked = self._learner(), time.monotonic()
            if arrays:
                learner.restore(arrays)
                arrays = {}
            self._train_stage(learner)
        return self._deliver()

    def _resume(self) -> Arrays:
        found = checkpoints.newest(self.folder)
        if found is None:
            return {}
        arrays, state = found
        self.progress = p = Progress(**state)
        if p.moved:
            self.net.assign({k.removeprefix("network/"): v for k, v in arrays.items() if k.startswith("network/")})
        self.report(p.history)
        self.say(f"{self.part.name}: going on in stage {p.stage + 1}, epoch {p.epoch + 1}, batch {p.step + 1}")
        return arrays

    @property
    def _stage(self) -> Stage:
        return self.recipe.stages[self.progress.stage]

    @property
    def _title(self) -> str:
        return f"{self.part.name}, stage {self.progress.stage + 1} of {len(self.recipe.stages)}"

    def _learner(self) -> Learner:
        return Learner(self.net, self.head, self._stage, self.recipe.live_batch_norm, self.seed)

    # one stage --------------------------------------------------------------

    def _train_stage(self, learner: Learner) -> None:
        p, stage = self.progress, self._stage
        if p.epoch < stage.epochs:
            source = self._source(learner)
            steps = stage.steps or -(-len(source) // stage.batch)
            while p.epoch < stage.epochs:
                self._train_epoch(learner, source, steps)
        p.softmax.append(softmax_accuracy(self.net, self.head, self.data.train))
        self.say(f"{self._title}: done, softmax accuracy on the training photos {p.softmax[-1]:.4f}")
        if self.keep:
            self._keep_stage(learner)
        self._tick()
        p.stage, p.epoch, self._last = p.stage + 1, 0, learner

    def _source(self, learner: Learner) -> Source:
        stream = Stream(self.data.train, self.recipe.augmentation, self.seed)
        return stream if learner.moves_network else self._views(stream)

    def _views(self, stream: Stream) -> Views:
        """The frozen network's features of every view, computed once and kept in the folder."""
        views = []
        for number in range(self._stage.views):
            path = self.folder / f"views-{self.progress.stage + 1}-{number}.safetensors"
            if not path.exists():
                self.say(f"{self._title}: features of view {number + 1} of {self._stage.views}, {len(stream):,} photos")
                checkpoints.write(path, {"features": self.net.embed(stream.view(number))})
            views.append(checkpoints.read(path)[0]["features"])
        return Views(np.stack(views), np.repeat(stream.photos.labels, stream.rule.copies), self.seed)

    def _train_epoch(self, learner: Learner, source: Source, steps: int) -> None:
        p, stage = self.progress, self._stage
        rate = losses.staircase(stage.learning_rate, stage.decay, stage.decay_epochs, p.epoch)
        begun, self._saved = time.monotonic(), time.monotonic()
        for inputs, labels in source.batches(p.position, stage.batch, steps - p.step):
            sums = self._step(learner, inputs, labels, rate)
            p.step, p.batches, p.position, p.moved = p.step + 1, p.batches + 1, p.position + stage.batch, p.moved or learner.moves_network
            now = time.monotonic()
            seconds, begun = now - begun, now
            more = (sums.loss * sums.photos, sums.cross_entropy * sums.photos, sums.correct, sums.photos, seconds)
            p.sums = [a + b for a, b in zip(p.sums, more, strict=True)]
            if p.step < steps and now - self._saved > CHECKPOINT_SECONDS:
                self._save(learner)
        self._end_epoch(learner, rate, steps)

    def _step(self, learner: Learner, inputs: tf.Tensor, labels: np.ndarray, rate: float) -> Any:
        try:
            return learner.step(inputs, labels, self.progress.position, rate)
        except NotFinite:
            good = checkpoints.all_of(self.folder)
            where = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
            at = f"{self._title}, epoch {self.progress.epoch + 1}, batch {self.progress.step + 1}"
            raise ModelError(
                f"expected a finite loss, received NaN or infinity in {at}; {where}: lower learning_rate and train into another --out"
            ) from None

    def _end_epoch(self, learner: Learner, rate: float, steps: int) -> None:
        p, stage = self.progress, self._stage
        loss, cross_entropy, correct, photos, seconds = p.sums
        line: dict[str, Any] = {
            "network": self.part.name, "stage": p.stage + 1, "epoch": p.epoch + 1, "learning_rate": rate,
            "loss": loss / photos, "cross_entropy": cross_entropy / photos, "accuracy": correct / photos,
            "photos_per_second": round(photos / max(seconds, 1e-9), 1),
        }  # fmt: skip
        if self.data.validation:
            line["validation_top1"] = self._validate(learner, self.data.validation)
        p.history.append(line)
        p.epoch, p.step, p.sums = p.epoch + 1, 0, [0.0] * 5
        self._save(learner)
        self.report(p.history)
        left = (stage.epochs - p.epoch) * steps * stage.batch / max(line["photos_per_second"], 1e-9)
        self.say(
            f"{self._title}, epoch {p.epoch} of {stage.epochs}: loss {line['loss']:.4f}, accuracy {line['accuracy']:.4f}, "
            + (f"validation top-1 {line['validation_top1']:.4f}, " if self.data.validation else "")
            + f"{line['photos_per_second']:,.0f} photos/s, {_duration(left)} left in this stage"
        )

    def _validate(self, learner: Learner, photos: Photos) -> float:
        """Top-1 of the weights that would be delivered now; the best are kept beside the checkpoints."""
        p = self.progress
        if not learner.moves_network:
            return p.history[-1]["validation_top1"] if p.history else p.best["top1"]
        raw, would = self.net.arrays(), self._would_deliver(learner)
        self.net.assign(would)
        score = top1(self.net, photos)
        self.net.assign(raw)
        if score > p.best["top1"]:
            p.best = {"top1": score, "stage": p.stage + 1, "epoch": p.epoch + 1}
            checkpoints.write(self.folder / "best.safetensors", would, p.best)
        return score

    def _would_deliver(self, learner: Learner) -> Arrays:
        return learner.network_weights(self.recipe.delivered == "average")

    def _save(self, learner: Learner) -> None:
        """A checkpoint; the network is in it only once it has moved."""
        p = self.progress
        self._tick()
        network = {f"network/{k}": v for k, v in self.net.arrays().items()} if p.moved else {}
        checkpoints.save_newest(self.folder, p.batches, network | learner.state(), asdict(p))
        self._saved = time.monotonic()

    def _tick(self) -> None:
        """Adds the seconds since the last tick to the stage's."""
        now = time.monotonic()
        self.progress.seconds[self.progress.stage] += now - self._ticked
        self._ticked = now

    # what comes out ---------------------------------------------------------

    def _keep_stage(self, learner: Learner) -> None:
        """The head and centres, and the network as a stored part, after a stage."""
        p = self.progress
        state = {k: v for k, v in learner.state().items() if k.startswith(("head/", "centres"))}
        checkpoints.write(self.folder / f"head-{p.stage + 1}.safetensors", state)
        p.after.append(asdict(self._store(self._would_deliver(learner) if p.moved else self.start, p.moved, f"-stage{p.stage + 1}")))

    def _store(self, arrays: Arrays, changed: bool, suffix: str = "") -> Part:
        """The part in data/models; weights that did not change keep their name and parent."""
        name, parent = (f"{self.part.name}-{self.recipe.name}{suffix}", self.part.sha256) if changed else (self.part.name, self.part.parent)
        return weights.store_part(arrays, name, self.part.standardisation, parent, self.part.zoom)

    def _deliver(self) -> Trained:
        p, factor = self.progress, self.recipe.pull_back
        changed = p.moved
        if not p.moved:
            arrays, text = self.start, "the pretrained weights: no stage trained the network"
        elif self.data.validation and p.best["epoch"] == 0:
            arrays, changed = self.start, False
            text = f"the pretrained weights: no epoch had a better validation top-1 than {p.best['top1']:.4f}"
        elif self.data.validation:
            arrays, best = checkpoints.read(self.folder / "best.safetensors")
            text = f"stage {best['stage']}, epoch {best['epoch']}: the best validation top-1, {best['top1']:.4f}"
        else:
            arrays = pulled_back(self.start, self._would_deliver(self._last), factor)
            text = f"the last weights, {factor:g} of their way from the pretrained ones" if factor < 1 else "the last weights"
        self.say(f"{self.part.name}: delivered are {text}")
        return Trained(self._store(arrays, changed), tuple(Part(**a) for a in p.after), text, p)


def pulled_back(start: Arrays, end: Arrays, factor: float) -> Arrays:
    """w0 + factor (w - w0), for every array; the factor 1 gives w itself."""
    return end if factor == 1 else {name: start[name] + np.float32(factor) * (end[name] - start[name]) for name in end}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
