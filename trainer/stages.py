"""A network through the stages of a recipe: epochs, checkpoints, validation, and which weights come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import ModelError
from facegallery.embedder.files import make_folder
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.spec import Part
from facegallery.embedder.weights import store
from facegallery.trainer import checkpoints, gate, losses, teacher, views
from facegallery.trainer.batches import Data, Stream, TrainingCrops, plain_crops
from facegallery.trainer.gate import Judged
from facegallery.trainer.learner import Distilled, Head, Learner, NotFinite, Softmax, TrainableNetwork
from facegallery.trainer.recipe import Recipe, Stage
from facegallery.trainer.views import Views

CHECKPOINT_SECONDS = 240.0  # between two checkpoints of a long epoch, so that they are less than 5 minutes apart
Arrays = dict[str, np.ndarray]
Say = Callable[[str], None]


class Source(Protocol):
    """Where batches come from: a Stream of crops, or Views of what frozen layers make of them."""

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
    sums: list[float] = field(
        default_factory=lambda: [0.0] * 5
    )  # loss, cross-entropy, correct, photos, seconds of this epoch
    seconds: list[float] = field(default_factory=list)  # of each stage
    softmax: list[float] = field(default_factory=list)  # accuracy on the training photos after each stage
    after: list[dict[str, Any]] = field(default_factory=list)  # the part after each stage, where they are kept
    best: dict[str, Any] = field(default_factory=dict)  # top1, tar, stage, epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # a line an epoch


@dataclass(frozen=True)
class Trained:
    """What one network's training gave."""

    part: Part
    after: tuple[Part, ...]
    delivered: str  # which weights, in words
    progress: Progress


def judged(net: TrainableNetwork, photos: TrainingCrops) -> Judged:
    """How well a network tells people apart."""
    return gate.judge(unit(net.embed(plain_crops(photos))).astype(np.float32), photos.labels)


class Run:
    """One network's training in a folder of its own; made again on the same folder, it goes on."""

    def __init__(
        self,
        folder: Path,
        part: Part,
        start: Arrays,
        recipe: Recipe,
        data: Data,
        seed: int,
        keep: bool,
        say: Say,
        report: Callable[[list[dict[str, Any]]], None],
        compute: Compute = Compute("cpu", "f32"),
    ):  # noqa: B008
        """`report` receives the history after each epoch."""
        self.folder, self.part, self.start, self.recipe, self.data = make_folder(folder), part, start, recipe, data
        self.seed, self.keep, self.say, self.report, self.compute = seed, keep, say, report, compute
        self.net = TrainableNetwork(start, part, compute.precision)
        self.photos, self.head = self._lesson()
        self.progress, self._saved = Progress(seconds=[0.0] * len(recipe.stages)), 0.0

    def _lesson(self) -> tuple[TrainingCrops, Head]:
        """What is learnt: people's names, or a teacher's vectors, which are computed once and kept in the folder."""
        photos = self.data.train
        if not self.recipe.teacher:
            return photos, Softmax(
                self.net.dimension, len(photos.people), self.seed, self.recipe.scale, self.recipe.margin
            )
        vectors, usable = teacher.side_by_side([self._as_seen_by(name) for name in self.recipe.teacher])
        if left_out := len(photos) - int(usable.sum()):
            self.say(f"{self.part.name}: {left_out:,} photos are left out: the teacher finds no face on their crops")
        return photos.numbered(usable), Distilled(vectors[usable])

    def _as_seen_by(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One teacher's vectors and which photos have one; other networks than itself teach every network of the run."""
        path = (self.folder if name == teacher.ITSELF else self.folder.parent) / f"teacher-{name}.safetensors"
        if not path.exists():
            self.say(f"{self.part.name}: {len(self.data.train):,} photos as {name} sees them")
            vectors, usable = teacher.vectors(name, self._store(self.start, False), self.data.train, self.compute)
            checkpoints.write(path, {"vectors": vectors, "usable": usable})
        found = checkpoints.read(path)[0]
        return found["vectors"], found["usable"]

    def train(self) -> Trained:
        """All stages, from wherever the folder stands."""
        arrays = self._resume()
        if not arrays and self.data.validation:
            before = judged(self.net, self.data.validation)
            checkpoints.write(self._before, {"hits": before.hits})
            self.progress.best = {"top1": before.top1, "tar": before.tar, "stage": 0, "epoch": 0}
            self.say(f"{self.part.name}: before training {_held_out(before.top1, before.tar)}")
        while self.progress.stage < len(self.recipe.stages):
            self._ticked = time.monotonic()
            learner = None if self._is_solved else self._learner()
            if learner and arrays:
                learner.restore(arrays)
            arrays = {}
            self._run_stage(learner)
        return self._deliver()

    def _resume(self) -> Arrays:
        found = checkpoints.newest(self.folder)
        if found is None:
            return {}
        arrays, state = found
        self.progress = p = Progress(**state)
        if p.moved:
            self._use({k.removeprefix("network/"): v for k, v in arrays.items() if k.startswith("network/")})
        self.report(p.history)
        self.say(f"{self.part.name}: going on in stage {p.stage + 1}, epoch {p.epoch + 1}, batch {p.step + 1}")
        return arrays

    def _use(self, arrays: Arrays) -> None:
        """Goes on with these weights, whose dimension may be another."""
        if arrays["Bottleneck/kernel"].shape[-1] != self.net.dimension:
            self.net = TrainableNetwork(arrays, self.part, self.compute.precision)
        else:
            self.net.assign(arrays)

    @property
    def _stage(self) -> Stage:
        return self.recipe.stages[self.progress.stage]

    @property
    def _is_solved(self) -> bool:
        """Whether the stage needs no steps: a bottleneck that gives a teacher's vectors is a matter of linear algebra."""
        return bool(self.recipe.teacher) and self._stage.trains == "head"

    @property
    def _title(self) -> str:
        return f"{self.part.name}, stage {self.progress.stage + 1} of {len(self.recipe.stages)}"

    def _learner(self) -> Learner:
        labels = len(self.photos) if self.recipe.teacher else len(self.photos.people)
        return Learner(self.net, self.head, self._stage, self.recipe.live_batch_norm, self.seed, labels)

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
        was_solved = learner is None and p.epoch > 0
        p.softmax.append(
            1 - p.history[-1]["loss"]
            if was_solved
            else self.head.accuracy(self._prelogits(learner), self.photos.labels)
        )
        self.say(f"{self._title}: done, {self.head.score} on the training photos {p.softmax[-1]:.4f}")
        if self.keep:
            self._keep_stage(learner)
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
        """Of the training photos as they are, in inference mode (n, d): on from their first view, where it was kept."""
        if (
            learner is None
            or not learner.takes_features
            or not self._stage.epochs
            or self.recipe.augmentation.copies > 1
        ):
            return self.net.embed(plain_crops(self.photos))
        rows = views.blocks(self._view(self._stage.trains, 0))
        return np.concatenate([self.net.above(self._stage.trains, tf.constant(some)).numpy() for some in rows])

    def _views(self, trains: str) -> list[np.ndarray]:
        """What layers that train are given by the frozen ones below them, for each view (N, ...)."""
        return [self._view(trains, number) for number in range(self._stage.views)]

    def _view(self, trains: str, number: int) -> np.ndarray:
        """Of one view: computed once, from the maps of the lower layers, which are kept where a stage trains the upper ones."""
        name = "maps" if trains == "upper" else f"stage-{self.progress.stage + 1}"
        path = self.folder / f"{name}-view-{number}.npy"
        if not path.exists():
            if trains != "upper" and self._keeps_maps(number):
                maps = views.blocks(self._view("upper", number))
            else:
                self.say(f"{self._title}: view {number + 1} of {len(self.photos):,} photos as the frozen layers see it")
                maps = self.net.maps(self._stream.view(number))
            views.keep(path, len(self._stream), self.net.below(trains, maps))
        return views.kept(path)

    def _keeps_maps(self, number: int) -> bool:
        """Whether the upper layers train from this view in some stage, and the lower ones are as they were."""
        stages, done = self.recipe.stages, self.recipe.stages[: self.progress.stage]
        needed = any(stage.trains == "upper" and stage.epochs and number < stage.views for stage in stages)
        return needed and not any(stage.trains == "all" for stage in done)

    def _solve(self) -> None:
        """The bottleneck anew, and the only epoch of this stage."""
        p, features = self.progress, self._views("bottleneck")
        assert isinstance(self.head, Distilled)
        labels = np.repeat(self.photos.labels, self._stream.rule.copies)
        solved = teacher.solve(features, self.head.targets[labels], self._stage.weight_decay)
        self._use(self.net.arrays() | solved)
        checkpoints.write(self.folder / "solved.safetensors", self.net.arrays())
        plain = features[0] @ solved["Bottleneck/kernel"] + solved["Bottleneck_BatchNorm/beta"]
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
            p.step, p.batches, p.position, p.moved = (
                p.step + 1,
                p.batches + 1,
                p.position + stage.batch,
                p.moved or learner.moves_network,
            )
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
        if self.data.validation:
            line["validation_top1"], line["validation_tar"] = self._validate(learner, self.data.validation)
        p.history.append(line)
        p.epoch, p.step, p.sums = p.epoch + 1, 0, [0.0] * 5
        self._save(learner)
        self.report(p.history)
        left = (stage.epochs - p.epoch) * steps * stage.batch / max(line["photos_per_second"], 1e-9)
        self.say(
            f"{self._title}, epoch {p.epoch} of {stage.epochs}: loss {line['loss']:.4f}, accuracy {line['accuracy']:.4f}, "
            + (_held_out(line["validation_top1"], line["validation_tar"]) + ", " if self.data.validation else "")
            + f"{line['photos_per_second']:,.0f} photos/s, {_duration(left)} left in this stage"
        )

    def _validate(self, learner: Learner | None, photos: TrainingCrops) -> tuple[float, float]:
        """(top-1, soft TAR) of the weights that would be delivered after this stage; the best are kept beside the checkpoints."""
        p = self.progress
        if learner is not None and not learner.moves_network:
            last = p.history[-1] if p.history else {"validation_top1": p.best["top1"], "validation_tar": p.best["tar"]}
            return last["validation_top1"], last["validation_tar"]
        raw, would = self.net.arrays(), self._would_deliver(learner)
        self.net.assign(would)
        found = judged(self.net, photos)
        self.net.assign(raw)
        if gate.is_kept(found, p.best["tar"], checkpoints.read(self._before)[0]["hits"]):
            p.best = {"top1": found.top1, "tar": found.tar, "stage": p.stage + 1, "epoch": p.epoch + 1}
            checkpoints.write(self.folder / "best.safetensors", would, p.best)
        return found.top1, found.tar

    @property
    def _before(self) -> Path:
        """Whom the network that training starts from tells apart."""
        return self.folder / "before.safetensors"

    def _reached(self, learner: Learner | None) -> Arrays:
        return learner.network_weights(self.recipe.delivered == "average") if learner else self.net.arrays()

    def _would_deliver(self, learner: Learner | None) -> Arrays:
        return pulled_back(self._origin(), self._reached(learner), self.recipe.pull_back)

    def _save(self, learner: Learner | None) -> None:
        """A checkpoint; the network is in it only once it has moved."""
        p = self.progress
        self._tick()
        network = {f"network/{k}": v for k, v in self.net.arrays().items()} if p.moved else {}
        checkpoints.save_newest(self.folder, p.batches, network | (learner.state() if learner else {}), asdict(p))
        self._saved = time.monotonic()

    def _tick(self) -> None:
        """Adds the seconds since the last tick to the stage's."""
        now = time.monotonic()
        self.progress.seconds[self.progress.stage] += now - self._ticked
        self._ticked = now

    # what comes out ---------------------------------------------------------

    def _keep_stage(self, learner: Learner | None) -> None:
        """The head and centres, and the network as a stored part, after a stage."""
        p = self.progress
        state = {k: v for k, v in (learner.state() if learner else {}).items() if k.startswith(("head/", "centres"))}
        checkpoints.write(self.folder / f"head-{p.stage + 1}.safetensors", state)
        p.after.append(
            asdict(self._store(self._reached(learner) if p.moved else self.start, p.moved, f"-stage{p.stage + 1}"))
        )

    def _origin(self) -> Arrays:
        """What a pull back leads to: the pretrained weights, with the solved bottleneck where there is one."""
        path = self.folder / "solved.safetensors"
        return checkpoints.read(path)[0] if path.exists() else self.start

    def _store(self, arrays: Arrays, changed: bool, suffix: str = "") -> Part:
        """The part in data/models; weights that did not change keep their name and parent."""
        name, parent = (
            (f"{self.part.name}-{self.recipe.name}{suffix}", self.part.sha256)
            if changed
            else (self.part.name, self.part.parent)
        )
        return store.store_part(arrays, name, self.part.standardisation, parent, self.part.zoom)

    def _deliver(self) -> Trained:
        p, factor = self.progress, self.recipe.pull_back
        kept, changed = f", {factor:g} of their way from those before" if factor < 1 else "", p.moved
        if not p.moved:
            arrays, text = self.start, "the pretrained weights: no stage trained the network"
        elif self.data.validation and p.best["epoch"] == 0:
            arrays, changed = self.start, False
            text = f"the pretrained weights: no epoch was better than {_held_out(p.best['top1'], p.best['tar'])}"
        elif self.data.validation:
            arrays, best = checkpoints.read(self.folder / "best.safetensors")
            text = f"those of stage {best['stage']}, epoch {best['epoch']}{kept}: the best {_held_out(best['top1'], best['tar'])}"
        else:
            arrays, text = self._would_deliver(self._last), f"the last weights{kept}"
        self.say(f"{self.part.name}: delivered are {text}")
        return Trained(self._store(arrays, changed), tuple(Part(**a) for a in p.after), text, p)


def _held_out(top1: float, tar: float) -> str:
    return f"validation top-1 {top1:.4f}, soft TAR {tar:.4f}"


def pulled_back(start: Arrays, end: Arrays, factor: float) -> Arrays:
    """w0 + factor (w - w0), for every array; the factor 1 gives w itself."""
    return end if factor == 1 else {name: start[name] + np.float32(factor) * (end[name] - start[name]) for name in end}


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
