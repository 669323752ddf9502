"""Choose the weights that a training delivers: judge each epoch, keep the best, pull the weights back, store them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.spec import Part
from facegallery.embedder.weights import store
from facegallery.trainer import checkpoints, gate
from facegallery.trainer.batches import plain_crops
from facegallery.trainer.checkpoints import Arrays, RunState
from facegallery.trainer.faces import TrainingCrops
from facegallery.trainer.gate import Judged
from facegallery.trainer.learner import Learner
from facegallery.trainer.network import TrainableNetwork
from facegallery.trainer.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of one network's training.

    part: the network as stored. after: the network after each stage, where the run's files are kept. delivered: which
    weights these are, in words. progress: the state at the end of the run.
    """

    part: Part
    after: tuple[Part, ...]
    delivered: str
    progress: RunState


def judged(net: TrainableNetwork, photos: TrainingCrops) -> Judged:
    """Judge how well a network tells people apart."""
    return gate.judge(unit(net.embed(plain_crops(photos))).astype(np.float32), photos.labels)


class Delivery:
    """Judges, keeps and stores the weights of one network's training.

    folder: of the run. part, start: the network before training and its weights. validation: crops of the people by
    whom the best epoch is chosen; None delivers the last weights.
    """

    def __init__(self, folder: Path, part: Part, start: Arrays, recipe: Recipe, validation: TrainingCrops | None):
        self.folder, self.part, self.start, self.recipe, self.validation = folder, part, start, recipe, validation

    def begin(self, net: TrainableNetwork, state: RunState) -> None:
        """Judge the network before training, which an epoch has to beat."""
        if self.validation:
            before = judged(net, self.validation)
            checkpoints.write(self._before, {"hits": before.hits})
            state.before = {"top1": before.top1, "tar": before.tar}
            state.best = {**state.before, "stage": 0, "epoch": 0}
            log.info("%s: before training %s", self.part.name, figures(before.top1, before.tar))

    def validate(self, net: TrainableNetwork, learner: Learner | None, state: RunState) -> dict[str, float]:
        """Judge the weights that would be delivered now, keep them if they are the best, and return their figures."""
        if self.validation is None:
            return {}
        if learner is not None and not learner.moves_network:  # the network is as it was judged last
            last = state.history[-1] if state.history else {}
            return {
                "validation_top1": last.get("validation_top1", state.best["top1"]),
                "validation_tar": last.get("validation_tar", state.best["tar"]),
            }
        raw, candidate = net.arrays(), self.candidate(net, learner)
        net.assign(candidate)
        found = judged(net, self.validation)
        net.assign(raw)
        if gate.is_kept(found, state.best["tar"], checkpoints.read(self._before)[0]["hits"]):
            state.best = {"top1": found.top1, "tar": found.tar, "stage": state.stage + 1, "epoch": state.epoch + 1}
            checkpoints.write(self.folder / "best.safetensors", candidate, state.best)
        return {"validation_top1": found.top1, "validation_tar": found.tar}

    def candidate(self, net: TrainableNetwork, learner: Learner | None) -> Arrays:
        """Return the weights that would be delivered now: pulled back towards those before training."""
        return pulled_back(self._origin(), self._reached(net, learner), self.recipe.pull_back)

    def keep_stage(self, net: TrainableNetwork, learner: Learner | None, state: RunState) -> None:
        """Keep the head and centres after a stage, and store the network; add it to `state.after`."""
        arrays = learner.state() if learner else {}
        head = {name: array for name, array in arrays.items() if name.startswith(("head/", "centres"))}
        checkpoints.write(self.folder / f"head-{state.stage + 1}.safetensors", head)
        reached = self._reached(net, learner) if state.moved else self.start
        state.after.append(asdict(self.store(reached, changed=state.moved, suffix=f"-stage{state.stage + 1}")))

    def store(self, arrays: Arrays, *, changed: bool, suffix: str = "") -> Part:
        """Store weights in data/models; weights that did not change keep their name and parent."""
        part = replace(self.part, weight=1.0)
        if changed:
            part = replace(part, name=f"{part.name}-{self.recipe.name}{suffix}", parent=part.sha256)
        return store.store_arrays(arrays, part)

    def deliver(self, net: TrainableNetwork, learner: Learner | None, state: RunState) -> Trained:
        """Store the best weights, or the last ones without validation, or the pretrained ones if none were better."""
        arrays, text, changed = self._chosen(net, learner, state)
        log.info("%s: delivered are %s", self.part.name, text)
        part = self.store(arrays, changed=changed)
        return Trained(part, tuple(Part(**fields) for fields in state.after), text, state)

    def _chosen(self, net: TrainableNetwork, learner: Learner | None, state: RunState) -> tuple[Arrays, str, bool]:
        """Return (weights, which ones in words, whether they differ from the pretrained ones)."""
        factor, best = self.recipe.pull_back, state.best
        kept = f", {factor:g} of their way from those before" if factor < 1 else ""
        if not state.moved:
            return self.start, "the pretrained weights: no stage trained the network", False
        if self.validation is None:
            return self.candidate(net, learner), f"the last weights{kept}", True
        if best["epoch"] == 0:
            scores = figures(best["top1"], best["tar"])
            return self.start, f"the pretrained weights: no epoch was better than {scores}", False
        arrays, best = checkpoints.read(self.folder / "best.safetensors")
        where = f"those of stage {best['stage']}, epoch {best['epoch']}{kept}"
        return arrays, f"{where}: the best {figures(best['top1'], best['tar'])}", True

    @property
    def _before(self) -> Path:
        """The file of the hits of the network before training."""
        return self.folder / "before.safetensors"

    def _reached(self, net: TrainableNetwork, learner: Learner | None) -> Arrays:
        return learner.network_weights(average=self.recipe.delivered == "average") if learner else net.arrays()

    def _origin(self) -> Arrays:
        """Return the weights that a pull back leads to: the pretrained ones, with a bottleneck that was solved."""
        path = self.folder / "solved.safetensors"
        return checkpoints.read(path)[0] if path.exists() else self.start


def figures(top1: float, tar: float) -> str:
    """Return the figures of a validation for the user."""
    return f"validation top-1 {top1:.4f}, soft TAR {tar:.4f}"


def pulled_back(start: Arrays, end: Arrays, factor: float) -> Arrays:
    """Return w0 + factor (w - w0) for every array; with the factor 1, `end` itself."""
    return end if factor == 1 else {name: start[name] + np.float32(factor) * (end[name] - start[name]) for name in end}
