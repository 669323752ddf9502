"""Run a network's layers for training, whatever its architecture: whole, from maps, or from the bottleneck's input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from facegallery.embedder.network.runtime_tensorflow import seen
from facegallery.embedder.spec import FACENET, Part
from facegallery.trainer import forward, sface_forward
from facegallery.trainer.forward import KEPT, Drop
from facegallery.trainer.teacher import projected

Arrays = Mapping[str, np.ndarray]


class Architecture(Protocol):
    """The functions of a module, such as `forward`, that runs one architecture."""

    @property
    def LAYERS_OF(self) -> Mapping[str, tuple[str, ...]]:  # noqa: N802
        """The beginnings of the names of the arrays that a stage trains, by what it trains."""
        ...

    @property
    def SOLVED_FROM(self) -> str:  # noqa: N802
        """What a solved bottleneck is computed from: the input of a stage that trains 'bottleneck' or 'head'."""
        ...

    @property
    def KEEPS_DIMENSION(self) -> bool:  # noqa: N802
        """Whether a solved bottleneck has as many outputs as the one before."""
        ...

    def load(self, arrays: dict[str, np.ndarray]) -> keras.Model:
        """Build the Keras model of these weights."""
        ...

    def variables_by_name(self, model: keras.Model) -> dict[str, keras.Variable]:
        """Return every variable by the name of its array."""
        ...

    def set_weights(self, model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
        """Set every variable by the name of its array."""
        ...

    def as_array(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return a variable's value as the array of that name holds it."""
        ...

    def dimension(self, arrays: Arrays) -> int:
        """Return the length of the vectors of these weights."""
        ...

    def maps(self, model: keras.Model, x: tf.Tensor, precision: str) -> tf.Tensor:
        """Run the lower layers in inference mode: standardised crops -> maps."""
        ...

    def pooled(self, model: keras.Model, maps: tf.Tensor, precision: str) -> tf.Tensor:
        """Run the upper layers in inference mode up to the bottleneck's input."""
        ...

    def upper(self, model: keras.Model, maps: tf.Tensor, precision: str, drop: Drop) -> tf.Tensor:
        """Run the upper layers in inference mode: maps -> prelogits. drop: applied before the bottleneck."""
        ...

    def bottleneck(self, model: keras.Model, features: tf.Tensor) -> tf.Tensor:
        """Run the bottleneck in inference mode: its input -> prelogits."""
        ...

    def prelogits(self, model: keras.Model, x: tf.Tensor, precision: str, drop: Drop, *, live: bool) -> tf.Tensor:
        """Run the whole network: standardised crops -> prelogits. live: normalise by the batch, move the statistics."""
        ...

    def solved(self, arrays: Arrays, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of the bottleneck that `SOLVED_FROM`, times a kernel (m, d) plus a bias (d,), makes."""
        ...


ARCHITECTURES: dict[str, Architecture] = {FACENET: forward, "sface": sface_forward}


class TrainableNetwork:
    """A network for training, in 'f32' or 'bf16'.

    In 'bf16' SFace computes in float32 and keeps its maps as float16.
    """

    def __init__(self, arrays: dict[str, np.ndarray], part: Part, precision: str = "f32"):
        self.architecture = run = ARCHITECTURES[part.network]
        self.model, self.part, self.precision = run.load(arrays), part, precision
        self.dimension = run.dimension(arrays)
        self._named = run.variables_by_name(self.model)
        self._constants = {name: array for name, array in arrays.items() if name not in self._named}
        self._infer = tf.function(lambda crops: self.prelogits(crops), reduce_retracing=True, autograph=False)
        self._maps = tf.function(self._kept_maps, reduce_retracing=True, autograph=False)
        self._pool = tf.function(
            lambda maps: run.pooled(self.model, maps, precision), reduce_retracing=True, autograph=False
        )

    def _kept_maps(self, crops: tf.Tensor) -> tf.Tensor:
        x = seen(crops, self.part)
        return tf.cast(self.architecture.maps(self.model, x, self.precision), KEPT[self.precision])

    @property
    def variables(self) -> list[keras.Variable]:
        """Kernels, biases, betas and slopes, in the network's order, without the moving statistics."""
        return self.model.trainable_variables

    def trained_by(self, trains: str) -> list[keras.Variable]:
        """Return the variables that a stage trains: 'head', 'bottleneck', 'upper' or 'all'."""
        layers = self.architecture.LAYERS_OF[trains]
        names = {id(v): name for name, v in self._named.items()}
        return [v for v in self.variables if names[id(v)].startswith(layers)]

    def prelogits(
        self, crops: tf.Tensor, keep: float = 1.0, seed: tf.Tensor | None = None, *, live: bool = False
    ) -> tf.Tensor:
        """Return the prelogits of crops: uint8 (n, size, size, 3) -> float32 (n, d).

        keep, seed: of the dropout before the bottleneck. live: normalise by the batch and move the statistics.
        """
        x, drop = seen(crops, self.part), _dropping(keep, seed)
        return self.architecture.prelogits(self.model, x, self.precision, drop, live=live)

    def above(self, trains: str, features: tf.Tensor, keep: float = 1.0, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Return prelogits float32 (n, d) from the output of the layers below those that a stage trains.

        keep, seed: of the dropout before the bottleneck, where the upper layers train.
        """
        if trains == "upper":
            return self.architecture.upper(self.model, features, self.precision, _dropping(keep, seed))
        return self.architecture.bottleneck(self.model, features) if trains == "bottleneck" else features

    def maps(self, batches: Iterable[tf.Tensor]) -> Iterator[np.ndarray]:
        """Yield the output of the lower layers in inference mode: FaceNet's (n, 8, 8, 896), SFace's (n, 7, 7, 512).

        It is float32, or float16 in 'bf16'.
        """
        return (self._maps(crops).numpy() for crops in batches)

    def below(self, trains: str, maps: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the input of the layers that a stage trains, from maps.

        It is the maps for 'upper', the bottleneck's input (n, m) for 'bottleneck', prelogits (n, d) for 'head'.
        """
        for some in maps:
            if trains == "upper":
                yield some
            else:
                pooled = self._pool(tf.constant(some))
                yield (self.architecture.bottleneck(self.model, pooled) if trains == "head" else pooled).numpy()

    def embed(self, batches: Iterable[tf.Tensor]) -> np.ndarray:
        """Return prelogits (n, d) of batches of crops in inference mode."""
        return np.concatenate([self._infer(crops).numpy() for crops in batches])

    def arrays(self, instead: Mapping[int, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Return copies of the network's arrays by name. instead: values to take for variables, by their `id`."""
        values = instead or {}
        return self._constants | {
            name: self.architecture.as_array(name, values[id(v)] if id(v) in values else v.numpy())
            for name, v in self._named.items()
        }

    def assign(self, arrays: dict[str, np.ndarray]) -> None:
        """Set the network's arrays by name."""
        self.architecture.set_weights(self.model, arrays)

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> TrainableNetwork:
        """Set the network's arrays, or return another network where their vectors have another length."""
        if self.architecture.dimension(arrays) != self.dimension:
            return TrainableNetwork(arrays, self.part, self.precision)
        self.assign(arrays)
        return self

    def taught(self, vectors: np.ndarray) -> np.ndarray:
        """Return a teacher's vectors, float32 (n, d), in the dimensions that this network can have."""
        return projected(vectors, self.dimension) if self.architecture.KEEPS_DIMENSION else vectors

    def with_solved(self, kernel: np.ndarray, bias: np.ndarray) -> TrainableNetwork:
        """Return the network with a solved bottleneck, as `Architecture.solved`."""
        arrays = self.arrays()
        return self.with_arrays(arrays | self.architecture.solved(arrays, kernel, bias))


def _dropping(keep: float, seed: tf.Tensor | None) -> Drop:
    return lambda x: dropout(x, keep, seed)


def dropout(x: tf.Tensor, keep: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Keep a share of the numbers, divided by the share; stateless. Without a seed, keep all."""
    return x if keep == 1.0 or seed is None else tf.nn.experimental.stateless_dropout(x, 1 - keep, seed)
