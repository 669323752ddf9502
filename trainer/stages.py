"""Train one network through the stages of a recipe: epochs, checkpoints and views."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import ModelError
from facegallery.embedder.files import make_folder
from facegallery.embedder.spec import Part
from facegallery.trainer import checkpoints, losses, teacher, views
from facegallery.trainer.batches import Data, Stream, plain_crops
from facegallery.trainer.checkpoints import Arrays, RunState
from facegallery.trainer.delivery import Delivery, Trained, figures
from facegallery.trainer.faces import TrainingCrops
from facegallery.trainer.learner import Distilled, Head, Learner, NotFinite, Softmax, Sums
from facegallery.trainer.network import TrainableNetwork
from facegallery.trainer.recipe import Recipe, Stage
from facegallery.trainer.views import Views

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 240.0  # between two checkpoints of a long epoch, so that a kill loses less than 5 minutes


class Source(Protocol):
    """A source of batches: a Stream of crops, or Views of what frozen layers make of them."""

    def __len__(self) -> int: ...

    def batches(self, start: int, batch: int, steps: int) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
        """Yield `steps` batches of inputs (batch, ...) and labels int32 (batch,) from position `start`."""
        ...


def _unreported(state: RunState) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run.

    keep: keep the network and the head after each stage. compute: a resolved device and precision. report: called with
    the state of the run after each epoch.
    """

    seed: int = 0
    keep: bool = False
    compute: Compute = Compute("cpu", "f32")
    report: Callable[[RunState], None] = _unreported


class Run:
    """One network's training in a folder of its own; a new run in the same folder resumes.

    net, head: the network and its head. photos: the training crops with their labels. progress: the state of the run.
    """

    def __init__(self, folder: Path, part: Part, start: Arrays, recipe: Recipe, data: Data, settings: RunSettings):
        """part, start: the network before training and its weights."""
        self.folder, self.part, self.start, self.recipe, self.data = make_folder(folder), part, start, recipe, data
        self.seed, self.keep, self.compute = settings.seed, settings.keep, settings.compute
        self.report = settings.report
        validation = data.validation.seen_by(part) if data.validation else None
        self.delivery = Delivery(self.folder, part, start, recipe, validation)
        self.net = TrainableNetwork(start, part, self.compute.precision)
        self.photos, self.head = self._lesson()
        self.progress, self._saved = RunState(seconds=[0.0] * len(recipe.stages)), 0.0
        self._last: Learner | None = None

    def _lesson(self) -> tuple[TrainingCrops, Head]:
        """Return what is learnt: people's names, or teachers' vectors, computed once and kept in the folder."""
        photos, rule = self.data.train.seen_by(self.part), self.recipe
        if not rule.teacher:
            return photos, Softmax(self.net.dimension, len(photos.people), self.seed, rule.scale, rule.margin)
        vectors = teacher.side_by_side([self._as_seen_by(name) for name in rule.teacher])
        return photos.numbered(), Distilled(self.net.taught(vectors))

    def _as_seen_by(self, name: str) -> np.ndarray:
        """Return one teacher's vectors.

        Vectors of the network itself are kept in its folder; those of others serve every network of the training.
        """
        folder = self.folder if name == teacher.ITSELF else self.folder.parent
        path = folder / f"teacher-{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            log.info("%s: %s photos as %s sees them", self.part.name, f"{len(self.data.train):,}", name)
            own = self.delivery.store(self.start, changed=False)
            checkpoints.write(path, {"vectors": teacher.vectors(name, own, self.data.train, self.compute)})
        return checkpoints.read(path)[0]["vectors"]

    def train(self) -> Trained:
        """Run all stages from the state of the folder on."""
        arrays = self._resume()
        if not arrays:
            self.delivery.begin(self.net, self.progress)
        while self.progress.stage < len(self.recipe.stages):
            self._ticked = time.monotonic()
            learner = None if self._is_solved else self._learner()
            if learner and arrays:
                learner.restore(arrays)
            arrays = {}
            self._run_stage(learner)
        return self.delivery.deliver(self.net, self._last, self.progress)

    def _resume(self) -> Arrays:
        """Load the newest checkpoint; return its arrays, or {} where there is none."""
        found = checkpoints.newest(self.folder)
        if found is None:
            return {}
        arrays, state = found
        self.progress = p = RunState(**state)
        if p.moved:
            network = {k.removeprefix("network/"): v for k, v in arrays.items() if k.startswith("network/")}
            self.net = self.net.with_arrays(network)
        self.report(p)
        log.info("%s: resuming in stage %d, epoch %d, batch %d", self.part.name, p.stage + 1, p.epoch + 1, p.step + 1)
        return arrays

    @property
    def _stage(self) -> Stage:
        return self.recipe.stages[self.progress.stage]

    @property
    def _is_solved(self) -> bool:
        """Whether the stage needs no steps: a bottleneck that gives a teacher's vectors is solved by linear algebra."""
        return bool(self.recipe.teacher) and self._stage.trains == "head"

    @property
    def _title(self) -> str:
        return f"{self.part.name}, stage {self.progress.stage + 1} of {len(self.recipe.stages)}"

    def _learner(self) -> Learner:
        labels = len(self.photos) if self.recipe.teacher else len(self.photos.people)
        live = self.recipe.live_batch_norm
        return Learner(self.net, self.head, self._stage, labels, self.seed, live=live)

    # one stage --------------------------------------------------------------

    def _run_stage(self, learner: Learner | None) -> None:
        p, stage = self.progress, self._stage
        if learner is None:
            if p.epoch < min(1, stage.epochs):
                self._solve()
        elif p.epoch < stage.epochs:
            source = self._source(learner)
            steps = stage.steps or -(-len(source) // stage.batch)
            while p.epoch < stage.epochs:
                self._train_epoch(learner, source, steps)
        if learner is None and p.epoch > 0:  # solved
            accuracy = 1 - p.history[-1]["loss"]
        else:
            accuracy = self.head.accuracy(self._prelogits(learner), self.photos.labels)
        p.softmax.append(accuracy)
        log.info("%s: done, %s on the training photos %.4f", self._title, self.head.score, accuracy)
        if self.keep:
            self.delivery.keep_stage(self.net, learner, p)
        self._tick()
        p.stage, p.epoch, self._last = p.stage + 1, 0, learner

    @property
    def _stream(self) -> Stream:
        return Stream(self.photos, self.recipe.augmentation, self.seed)

    def _source(self, learner: Learner) -> Source:
        stream = self._stream
        if not learner.takes_features:
            return stream
        return Views(self._views(self._stage.trains), np.repeat(stream.photos.labels, stream.rule.copies), self.seed)

    def _prelogits(self, learner: Learner | None) -> np.ndarray:
        """Return prelogits (n, d) of the plain training photos in inference mode.

        They are computed from the first view if it was kept.
        """
        kept = learner is not None and learner.takes_features and self._stage.epochs
        if not kept or self.recipe.augmentation.copies > 1:
            return self.net.embed(plain_crops(self.photos))
        rows = views.blocks(self._view(self._stage.trains, 0))
        return np.concatenate([self.net.above(self._stage.trains, tf.constant(some)).numpy() for some in rows])

    def _views(self, trains: str) -> list[np.ndarray]:
        """Return the input (N, ...) of the layers that train, from the frozen ones below them, for each view."""
        return [self._view(trains, number) for number in range(self._stage.views)]

    def _view(self, trains: str, number: int) -> np.ndarray:
        """Return one view, computed once.

        It is computed from the maps of the lower layers, which are kept where a stage trains the upper ones.
        """
        name = "maps" if trains == "upper" else f"stage-{self.progress.stage + 1}"
        path = self.folder / f"{name}-view-{number}.npy"
        if not path.exists() or len(views.kept(path)) != len(self._stream):  # of an earlier version
            if trains != "upper" and self._keeps_maps(number):
                maps = views.blocks(self._view("upper", number))
            else:
                count = f"{len(self.photos):,}"
                log.info("%s: view %d of %s photos as the frozen layers see it", self._title, number + 1, count)
                maps = self.net.maps(self._stream.view(number))
            views.keep(path, len(self._stream), self.net.below(trains, maps))
        return views.kept(path)

    def _keeps_maps(self, number: int) -> bool:
        """Whether the upper layers train from this view in some stage, while the lower ones are as they were."""
        stages, done = self.recipe.stages, self.recipe.stages[: self.progress.stage]
        needed = any(stage.trains == "upper" and stage.epochs and number < stage.views for stage in stages)
        return needed and not any(stage.trains == "all" for stage in done)

    def _solve(self) -> None:
        """Solve the bottleneck by least squares, as the only epoch of the stage."""
        p, features = self.progress, self._views(self.net.architecture.SOLVED_FROM)
        assert isinstance(self.head, Distilled)
        labels = np.repeat(self.photos.labels, self._stream.rule.copies)
        kernel, bias = teacher.solve(features, self.head.targets[labels], self._stage.weight_decay)
        self.net = self.net.with_solved(kernel, bias)
        checkpoints.write(self.folder / "solved.safetensors", self.net.arrays())
        plain = features[0] @ kernel + bias
        batches = [slice(i, i + self._stage.batch) for i in range(0, len(plain), self._stage.batch)]
        each = [self.head.judged(tf.constant(plain[some]), tf.constant(labels[some])) for some in batches]
        loss, right = (float(np.concatenate(of).sum()) for of in zip(*each, strict=True))
        p.moved, p.sums = True, [loss, loss, right, float(len(plain)), time.monotonic() - self._ticked]
        self._end_epoch(None, 0.0, 0)

    def _train_epoch(self, learner: Learner, source: Source, steps: int) -> None:
        p, stage = self.progress, self._stage
        rate = losses.staircase(stage.learning_rate, stage.decay, stage.decay_epochs, p.epoch)
        begun, self._saved = time.monotonic(), time.monotonic()
        for inputs, labels in source.batches(p.position, stage.batch, steps - p.step):
            sums = self._step(learner, inputs, labels, rate)
            now = time.monotonic()
            p.add(sums, stage.batch, now - begun, moved=learner.moves_network)
            begun = now
            if p.step < steps and now - self._saved > CHECKPOINT_SECONDS:
                self._save(learner)
        self._end_epoch(learner, rate, steps)

    def _step(self, learner: Learner, inputs: tf.Tensor, labels: np.ndarray, rate: float) -> Sums:
        try:
            return learner.step(inputs, labels, self.progress.position, rate)
        except NotFinite:
            good = checkpoints.all_of(self.folder)
            where = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
            at = f"{self._title}, epoch {self.progress.epoch + 1}, batch {self.progress.step + 1}"
            raise ModelError(
                f"expected a finite loss, received NaN or infinity in {at}; {where}: "
                "lower learning_rate and train into another --out"
            ) from None

    def _end_epoch(self, learner: Learner | None, rate: float, steps: int) -> None:
        p, stage = self.progress, self._stage
        loss, cross_entropy, correct, photos, seconds = p.sums
        line: dict[str, Any] = {
            "network": self.part.name,
            "stage": p.stage + 1,
            "epoch": p.epoch + 1,
            "learning_rate": rate,
            "loss": loss / photos,
            "cross_entropy": cross_entropy / photos,
            "accuracy": correct / photos,
            "photos_per_second": round(photos / max(seconds, 1e-9), 1),
        }
        line |= self.delivery.validate(self.net, learner, p)
        p.history.append(line)
        p.epoch, p.step, p.sums = p.epoch + 1, 0, [0.0] * 5
        self._save(learner)
        self.report(p)
        left = (stage.epochs - p.epoch) * steps * stage.batch / max(line["photos_per_second"], 1e-9)
        log.info(
            "%s, epoch %d of %d: %s, %s left in this stage",
            self._title,
            p.epoch,
            stage.epochs,
            _text(line),
            _duration(left),
        )

    def _save(self, learner: Learner | None) -> None:
        """Write a checkpoint; it holds the network only once the network has moved."""
        p = self.progress
        self._tick()
        network = {f"network/{k}": v for k, v in self.net.arrays().items()} if p.moved else {}
        checkpoints.save_newest(self.folder, p.batches, network | (learner.state() if learner else {}), asdict(p))
        self._saved = time.monotonic()

    def _tick(self) -> None:
        """Add the seconds since the last tick to those of the stage."""
        now = time.monotonic()
        self.progress.seconds[self.progress.stage] += now - self._ticked
        self._ticked = now


def _text(line: dict[str, Any]) -> str:
    """Return the figures of an epoch for the user."""
    parts = [f"loss {line['loss']:.4f}", f"accuracy {line['accuracy']:.4f}"]
    if "validation_top1" in line:
        parts.append(figures(line["validation_top1"], line["validation_tar"]))
    return ", ".join([*parts, f"{line['photos_per_second']:,.0f} photos/s"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
