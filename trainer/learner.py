"""Train one network and its head step by step: micro-batches, gradients, centres, moving averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from facegallery.embedder.network.preprocess import unit
from facegallery.trainer import losses, replicas
from facegallery.trainer.network import TrainableNetwork, dropout
from facegallery.trainer.recipe import Stage

ACCUMULATOR = 0.1  # initial value of Adagrad's accumulators
HEAD, DROPOUT_1, DROPOUT_2 = 4 << 32, 5 << 32, 6 << 32  # random streams, beside those of augment.py


class Head(Protocol):
    """What features are trained for. Labels are numbers: of people, or of photos.

    score: what `accuracy` measures, in words.
    """

    score: str

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that train with the network."""
        ...

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the loss of each feature, and whether it is right: features (n, d), labels (n,) -> (n,), (n,)."""
        ...

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return a score of features (n, d) with labels (n,)."""
        ...


class Softmax:
    """The logits layer of facenet's train_softmax, or scaled cosines with a margin (CosFace).

    The kernel begins as a truncated normal of deviation 0.1, the biases as 0.
    """

    score = "softmax accuracy"

    def __init__(self, dimension: int, people: int, seed: int, scale: float = 0.0, margin: float = 0.0):
        """scale: of the cosines; with 0, logits depend on the features' length and have biases."""
        self.scale, self.margin = scale, margin
        start = tf.random.stateless_truncated_normal([dimension, people], [seed + HEAD, 0], stddev=0.1)
        self.kernel = keras.Variable(start, name="head_kernel")
        self.bias = keras.Variable(tf.zeros([people]), name="head_bias")

    @property
    def variables(self) -> list[keras.Variable]:
        """The kernel, and the biases without a scale."""
        return [self.kernel] if self.scale else [self.kernel, self.bias]

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the cross-entropy of each feature, and whether its person has the largest logit."""
        logits = self.logits(features)
        lessened = losses.less_margin(logits, labels, self.scale * self.margin) if self.margin else logits
        return losses.cross_entropy(lessened, labels), tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Return the logits: (n, d) -> (n, people)."""
        if self.scale:
            return losses.cosine_logits(features, self.kernel.value, self.scale)
        return tf.matmul(features, self.kernel.value) + self.bias.value

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of features (n, d) with the largest logit at their person."""
        blocks = [
            tf.argmax(self.logits(tf.constant(features[i : i + 1024])), axis=1).numpy()
            for i in range(0, len(features), 1024)
        ]
        return float(np.mean(np.concatenate(blocks) == labels))


class Distilled:
    """Teachers' unit vectors (labels, d), which the features' directions are to become; nothing in it trains."""

    score = "cosine to the teacher"
    variables: list[keras.Variable] = []  # noqa: RUF012

    def __init__(self, targets: np.ndarray):
        self.targets = targets
        self._targets = tf.constant(targets)

    def judged(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return 1 - cosine of each feature to its own vector.

        A feature is right if no vector of another photo in the batch is nearer.
        """
        targets = tf.gather(self._targets, labels)
        cosines = tf.matmul(tf.math.l2_normalize(features, axis=1), targets, transpose_b=True)
        own = tf.linalg.diag_part(cosines)
        return 1 - own, tf.greater_equal(own, tf.reduce_max(cosines, axis=1))

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the mean cosine to the teacher."""
        return float(np.mean(np.einsum("ij,ij->i", unit(features), self.targets[labels])))


@dataclass(frozen=True)
class Sums:
    """The sums over one batch.

    loss: mean over the batch of cross-entropy and center loss, with L2. cross_entropy: mean. correct, photos: numbers.
    """

    loss: float
    cross_entropy: float
    correct: int
    photos: int


class NotFinite(Exception):
    """A loss or gradient is NaN or infinite; the step changed nothing."""


class Learner:
    """One stage's optimiser, centres and averages around a network and a head.

    Inputs are crops, or what frozen layers make of them.
    """

    def __init__(self, net: TrainableNetwork, head: Head, stage: Stage, labels: int, seed: int, *, live: bool):
        """labels: number of labels, each with a centre. live: normalise by the batch and move the statistics."""
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
        self._accumulate = tf.function(self._add_gradients, reduce_retracing=True, autograph=False)
        self._decay, self._update = (
            tf.function(self._add_decay, autograph=False),
            tf.function(self._move, autograph=False),
        )
        self._centre = tf.function(self._move_centres, reduce_retracing=True, autograph=False)

    @property
    def moves_network(self) -> bool:
        """Whether the network's weights or moving statistics change."""
        return self.live or self.stage.trains != "head"

    @property
    def takes_features(self) -> bool:
        """Whether inputs are the output of the frozen layers."""
        return not self.live and self.stage.trains != "all"

    def step(self, inputs: tf.Tensor, labels: np.ndarray, position: int, rate: float) -> Sums:
        """Train on one batch, in micro-batches.

        inputs: crops (n, s, s, 3) or features (n, ...). labels: (n,). position: of the stream. rate: the learning
        rate. Raise NotFinite.
        """
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
        """Add the gradients of a micro-batch on each device.

        Return all features after dropout, and the sums of `_differentiate`.
        """
        features, sums, gradients = self._strategy.run(self._differentiate, args=(inputs, labels, position, share))
        of_each = self._strategy.experimental_local_results
        for total, gradient in zip(self._gradients, gradients, strict=True):
            total.assign_add(of_each(gradient)[0])
        return tf.concat(of_each(features), axis=0), of_each(sums)[0]

    def _differentiate(
        self, inputs: tf.Tensor, labels: tf.Tensor, position: tf.Tensor, share: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return a micro-batch's features after dropout, and the sums and gradients over all devices.

        The sums are cross-entropy, center loss and the number of correct features.
        """
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
        return self.net.prelogits(inputs, keep, seed, live=self.live)

    def _seed(self, stream: int, position: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self.seed + stream, tf.int64), position])

    def _add_decay(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Add the gradients of L2; return the L2 loss of what trains, and the length of the whole gradient."""
        weight = self.stage.weight_decay
        for i in self.kernels if weight else []:
            self._gradients[i].assign_add(weight * self._values[i])
        l2 = losses.slim_l2([self._values[i] for i in self.kernels], weight)
        return l2, tf.linalg.global_norm([tf.convert_to_tensor(g) for g in self._gradients])

    def _move(self, average: tf.Tensor) -> None:
        """Apply the optimiser, then update the averages and reset the gradients."""
        self._strategy.run(self._apply)
        for mean, value in zip(self._averages, self._values, strict=bool(self._averages)):
            mean.assign_sub((1 - average) * (mean - value))
        for gradient in self._gradients:
            gradient.assign(tf.zeros_like(gradient))

    def _apply(self) -> None:
        """Apply the optimiser on each device; Keras adds up the devices' gradients."""
        share = 1 / self._strategy.num_replicas_in_sync
        self.optimiser.apply([share * tf.convert_to_tensor(g) for g in self._gradients], self.variables)

    def _move_centres(self, features: tf.Tensor, labels: tf.Tensor) -> None:
        moved = losses.move_centres(
            tf.convert_to_tensor(self._centres), features, labels, self.stage.center_alpha, self.stage.center_update
        )
        self._centres.assign(moved)

    def network_weights(self, *, average: bool) -> dict[str, np.ndarray]:
        """Return the network's arrays; with `average`, moving averages of those that trained."""
        means = {}
        if average and self._averages and self.stage.trains != "head":
            means = {id(v): mean.numpy() for v, mean in zip(self.variables, self._averages, strict=True)}
        return self.net.arrays(means)

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of all that moves, except the network."""
        arrays = {f"head/{v.name.removeprefix('head_')}": v.numpy() for v in self.head.variables} | {
            "centres": self._centres.numpy(),
            "steps": np.array(self.steps),
        }
        arrays |= {f"average/{i:04d}": v.numpy() for i, v in enumerate(self._averages)}
        return arrays | {f"optimiser/{i:04d}": v.numpy() for i, v in enumerate(self.optimiser.variables)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Set the arrays of `state`."""
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
