"""One network and its head, and one step of training: micro-batches, gradients, centres, moving averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from facegallery.embedder.network import architecture, keras_network
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime_tensorflow import seen
from facegallery.embedder.spec import Part
from facegallery.trainer import forward, losses, replicas
from facegallery.trainer.recipe import Stage

ACCUMULATOR = 0.1  # Adagrad's start
KEPT = {"f32": tf.float32, "bf16": tf.float16}  # of maps, by the precision of what computed them
HEAD, DROPOUT_1, DROPOUT_2 = 4 << 32, 5 << 32, 6 << 32  # streams of chance, beside those of augment.py


class TrainableNetwork:
    """Inception-ResNet-v1, computed in 'f32' or 'bf16'; dropout and batch norm are ours to switch."""

    def __init__(self, arrays: dict[str, np.ndarray], part: Part, precision: str = "f32"):
        self.model, self.part, self.precision = keras_network.load(arrays), part, precision
        self.folded = keras_network.is_folded(arrays)
        self.dimension = int(arrays["Bottleneck/kernel"].shape[-1])
        self._infer = tf.function(lambda crops: self.prelogits(crops, False, 1.0, None), reduce_retracing=True)
        self._maps = tf.function(self._kept_maps, reduce_retracing=True)
        self._pool = tf.function(lambda maps: forward.pooled(self.model, maps, precision), reduce_retracing=True)

    def _kept_maps(self, crops: tf.Tensor) -> tf.Tensor:
        return tf.cast(forward.maps(self.model, seen(crops, self.part), self.precision), KEPT[self.precision])

    @property
    def variables(self) -> list[keras.Variable]:
        """Kernels, biases and betas, in the network's order; not the moving statistics."""
        return self.model.trainable_variables

    def trained_by(self, trains: str) -> list[keras.Variable]:
        """Those of `variables` that a stage trains."""
        layers = {"head": (), "bottleneck": ("Bottleneck",), "upper": architecture.UPPER, "all": ("",)}[trains]
        named = {id(v): name for name, v in keras_network.variables_by_name(self.model).items()}
        return [v for v in self.variables if named[id(v)].startswith(layers)]

    def prelogits(self, crops: tf.Tensor, live: bool, keep: float, seed: tf.Tensor | None) -> tf.Tensor:
        """uint8 (n, 160, 160, 3) -> float32 (n, d). live: batch norm by the batch, moving its statistics; keep: before the bottleneck."""
        x = seen(crops, self.part)
        return forward.prelogits(self.model, x, self.precision, live, lambda x: dropout(x, keep, seed))

    def above(self, trains: str, features: tf.Tensor, keep: float = 1.0, seed: tf.Tensor | None = None) -> tf.Tensor:
        """What the layers below those that a stage trains gave -> prelogits float32 (n, d). keep: before the bottleneck of 'upper'."""
        if trains == "upper":
            return forward.upper(self.model, features, self.precision, lambda x: dropout(x, keep, seed))
        return forward.bottleneck(self.model, features) if trains == "bottleneck" else features

    def maps(self, batches: Iterable[tf.Tensor]) -> Iterator[np.ndarray]:
        """Crops -> what the lower layers give (n, 8, 8, 896), in inference mode: float32, or float16 in 'bf16'."""
        return (self._maps(crops).numpy() for crops in batches)

    def below(self, trains: str, maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """On to what the layers are given that a stage trains: the maps, pooled ones (n, channels), or prelogits (n, d) where it is the head."""
        for some in maps:
            if trains == "upper":
                yield some
            else:
                pooled = self._pool(tf.constant(some))
                yield (forward.bottleneck(self.model, pooled) if trains == "head" else pooled).numpy()

    def embed(self, batches: Iterable[tf.Tensor]) -> np.ndarray:
        """Prelogits (n, d) in inference mode."""
        return np.concatenate([self._infer(crops).numpy() for crops in batches])

    def arrays(self) -> dict[str, np.ndarray]:
        return keras_network.get_weights(self.model)

    def assign(self, arrays: dict[str, np.ndarray]) -> None:
        keras_network.set_weights(self.model, arrays)


def dropout(x: tf.Tensor, keep: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Keeps a share of the numbers, divided by it; stateless."""
    return x if keep == 1.0 or seed is None else tf.nn.experimental.stateless_dropout(x, 1 - keep, seed)


class Head(Protocol):
    """What features are trained for, and what of it trains with them. A label is a number of the training photos' labels."""

    score: str  # what `accuracy` tells, in words

    @property
    def variables(self) -> list[keras.Variable]: ...

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Features (n, d), labels (n,) -> the loss of each and whether it is right (n,)."""
        ...

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float: ...


class Softmax:
    """The logits layer: truncated normal of deviation 0.1, biases 0 (facenet's train_softmax); or scaled cosines with a margin (CosFace)."""

    score = "softmax accuracy"

    def __init__(self, dimension: int, people: int, seed: int, scale: float = 0.0, margin: float = 0.0):
        """scale: of the cosines; 0 takes the features' length and biases in."""
        self.scale, self.margin = scale, margin
        start = tf.random.stateless_truncated_normal([dimension, people], [seed + HEAD, 0], stddev=0.1)
        self.kernel, self.bias = (
            keras.Variable(start, name="head_kernel"),
            keras.Variable(tf.zeros([people]), name="head_bias"),
        )

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.kernel] if self.scale else [self.kernel, self.bias]

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.logits(features)
        lessened = losses.less_margin(logits, labels, self.scale * self.margin) if self.margin else logits
        return losses.cross_entropy(lessened, labels), tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """(n, d) -> (n, people)."""
        if self.scale:
            return losses.cosine_logits(features, self.kernel.value, self.scale)
        return tf.matmul(features, self.kernel.value) + self.bias.value

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Share of features (n, d) whose largest logit is their person's."""
        blocks = [
            tf.argmax(self.logits(tf.constant(features[i : i + 1024])), axis=1).numpy()
            for i in range(0, len(features), 1024)
        ]
        return float(np.mean(np.concatenate(blocks) == labels))


class Distilled:
    """A teacher's unit vectors (labels, d), which the features' directions are to become; nothing in it trains."""

    score = "cosine to the teacher"
    variables: list[keras.Variable] = []  # noqa: RUF012

    def __init__(self, targets: np.ndarray):
        self.targets = targets
        self._targets = tf.constant(targets)

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Right are those that are nearer to their own vector than to the others' of the batch."""
        targets = tf.gather(self._targets, labels)
        cosines = tf.matmul(tf.math.l2_normalize(features, axis=1), targets, transpose_b=True)
        own = tf.linalg.diag_part(cosines)
        return 1 - own, tf.greater_equal(own, tf.reduce_max(cosines, axis=1))

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The mean cosine."""
        return float(np.mean(np.einsum("ij,ij->i", unit(features), self.targets[labels])))


@dataclass(frozen=True)
class Sums:
    """What one batch adds up to."""

    loss: float  # mean over the batch: cross-entropy, center loss, L2
    cross_entropy: float
    correct: int
    photos: int


class NotFinite(Exception):
    """A loss or gradient is NaN or infinite; nothing was changed by this step."""


class Learner:
    """One stage's optimiser, centres and averages around a net and a head. Inputs are crops, or what frozen layers made of them."""

    def __init__(self, net: TrainableNetwork, head: Head, stage: Stage, live: bool, seed: int, labels: int):
        """labels: how many there are; each has a centre."""
        self.net, self.head, self.stage, self.live, self.seed, self.steps = net, head, stage, live, seed, 0
        self.variables = [*net.trained_by(stage.trains), *head.variables]
        self.kernels = [i for i, v in enumerate(self.variables) if v.name in ("kernel", "head_kernel")]
        self._values = [v.value for v in self.variables]
        self._gradients = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self._values]
        self._averages = [tf.Variable(v, trainable=False) for v in self._values] if stage.average else []
        self._centres = tf.Variable(tf.zeros([labels, net.dimension]), trainable=False)
        self._strategy = tf.distribute.get_strategy()
        self.optimiser = _optimiser(stage)
        self.optimiser.build(self.variables)
        self._accumulate = tf.function(self._add_gradients, reduce_retracing=True)
        self._decay, self._update = tf.function(self._add_decay), tf.function(self._move)
        self._centre = tf.function(self._move_centres, reduce_retracing=True)

    @property
    def moves_network(self) -> bool:
        """Whether the network's weights or moving statistics change."""
        return self.live or self.stage.trains != "head"

    @property
    def takes_features(self) -> bool:
        """Whether inputs are what the frozen layers below gave."""
        return not self.live and self.stage.trains != "all"

    def step(self, inputs: tf.Tensor, labels: np.ndarray, position: int, rate: float) -> Sums:
        """One batch, in micro-batches: crops (n, 160, 160, 3) or features (n, ...), labels (n,), at a position of the stream."""
        n, parts, sums = len(labels), [], np.zeros(3)
        share = tf.constant(1 / n)
        labels = tf.constant(labels)
        for slices in replicas.shares(n, self.stage.micro_batch, self._strategy.num_replicas_in_sync):
            each = [[x[s] for s in slices] for x in (inputs, labels)] + [
                [tf.constant(position + s.start, tf.int64) for s in slices]
            ]
            features, part = self._accumulate(*map(replicas.spread, each), share)
            parts.append(features)
            sums += part.numpy()
        l2, norm = (float(x) for x in self._decay())
        loss = float(sums[0]) / n + float(sums[1]) / n + l2
        if not np.isfinite([loss, norm]).all():
            raise NotFinite
        self.steps += 1
        self.optimiser.learning_rate.assign(rate)
        self._update(tf.constant(losses.warmed_up(self.stage.average, self.steps), tf.float32))
        if self.stage.center_loss:
            self._centre(tf.concat(parts, axis=0), labels)
        return Sums(loss, float(sums[0]) / n, int(sums[2]), n)

    def _add_gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor, position: tf.Tensor, share: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds the gradients of a micro-batch on each device; returns all features after dropout, and what `_differentiate` sums up."""
        features, sums, gradients = self._strategy.run(self._differentiate, args=(inputs, labels, position, share))
        of_each = self._strategy.experimental_local_results
        for total, gradient in zip(self._gradients, gradients, strict=True):
            total.assign_add(of_each(gradient)[0])
        return tf.concat(of_each(features), axis=0), of_each(sums)[0]

    def _differentiate(
        self, inputs: tf.Tensor, labels: tf.Tensor, position: tf.Tensor, share: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """A micro-batch's features after dropout, and over all devices (cross-entropy, center loss, correct) and the gradients."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._values)
            features = dropout(self._features(inputs, position), self.stage.keep, self._seed(DROPOUT_2, position))
            each, right = self.head.judged(features, labels)
            cross_entropy = tf.reduce_sum(each)
            center = tf.zeros([])
            if self.stage.center_loss:
                center = self.stage.center_loss * tf.reduce_sum(losses.center_distance(features, labels, self._centres))
            loss = share * (cross_entropy + center)
        correct = tf.reduce_sum(tf.cast(right, tf.float32))
        sums, *gradients = replicas.summed(
            [tf.stack([cross_entropy, center, correct]), *tape.gradient(loss, self._values)]
        )
        return features, sums, gradients

    def _features(self, inputs: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        keep, seed = self.stage.keep if self.moves_network else 1.0, self._seed(DROPOUT_1, position)
        if self.takes_features:
            return self.net.above(self.stage.trains, inputs, keep, seed)
        return self.net.prelogits(inputs, self.live, keep, seed)

    def _seed(self, stream: int, position: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self.seed + stream, tf.int64), position])

    def _add_decay(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds the L2 gradients; returns the L2 loss of what trains, and the length of the whole gradient."""
        weight = self.stage.weight_decay
        for i in self.kernels if weight else []:
            self._gradients[i].assign_add(weight * self._values[i])
        l2 = losses.slim_l2([self._values[i] for i in self.kernels], weight)
        return l2, tf.linalg.global_norm([tf.convert_to_tensor(g) for g in self._gradients])

    def _move(self, average: tf.Tensor) -> None:
        """The optimiser's step, then the averages; the gradients start anew."""
        self._strategy.run(self._apply)
        for mean, value in zip(self._averages, self._values, strict=bool(self._averages)):
            mean.assign_sub((1 - average) * (mean - value))
        for gradient in self._gradients:
            gradient.assign(tf.zeros_like(gradient))

    def _apply(self) -> None:
        """On each device; Keras adds up what they bring."""
        share = 1 / self._strategy.num_replicas_in_sync
        self.optimiser.apply([share * tf.convert_to_tensor(g) for g in self._gradients], self.variables)

    def _move_centres(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        moved = losses.move_centres(
            tf.convert_to_tensor(self._centres), features, labels, self.stage.center_alpha, self.stage.center_update
        )
        self._centres.assign(moved)

    def network_weights(self, average: bool) -> dict[str, np.ndarray]:
        """The network's arrays; with `average`, what trained is its moving average."""
        arrays = self.net.arrays()
        if average and self._averages and self.stage.trains != "head":
            means = {id(v): mean for v, mean in zip(self.variables, self._averages, strict=True)}
            arrays |= {
                name: means[id(v)].numpy()
                for name, v in keras_network.variables_by_name(self.net.model).items()
                if id(v) in means
            }
        return arrays

    def state(self) -> dict[str, np.ndarray]:
        """All that moves, but the network itself."""
        arrays = {f"head/{v.name.removeprefix('head_')}": v.numpy() for v in self.head.variables} | {
            "centres": self._centres.numpy(),
            "steps": np.array(self.steps),
        }
        arrays |= {f"average/{i:04d}": v.numpy() for i, v in enumerate(self._averages)}
        return arrays | {f"optimiser/{i:04d}": v.numpy() for i, v in enumerate(self.optimiser.variables)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """The opposite of `state`."""
        for variable in self.head.variables:
            variable.assign(arrays[f"head/{variable.name.removeprefix('head_')}"])
        self._centres.assign(arrays["centres"])
        self.steps = int(arrays["steps"])
        for kind, variables in (("average", self._averages), ("optimiser", self.optimiser.variables)):
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{kind}/{i:04d}"])


def _optimiser(stage: Stage) -> keras.optimizers.Optimizer:
    if stage.optimiser == "adagrad":
        return keras.optimizers.Adagrad(stage.learning_rate, initial_accumulator_value=ACCUMULATOR, epsilon=0.0)
    if stage.optimiser == "adam":
        return keras.optimizers.Adam(stage.learning_rate)
    return keras.optimizers.SGD(stage.learning_rate)
