"""Inception-ResNet-v1 as an OpenVINO graph, batch norm folded into the convolutions: what runs on CPUs.

In int8, what a ReLU gives is one of 256 steps between 0 and a range of its own, weights are one of 255 steps for each output channel; OpenVINO
sees that in the graph and runs the convolutions between such tensors on integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as op

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.architecture import folded, lay
from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.spec import INPUT_SIZE

STEPS, WEIGHT_STEPS = 255, 127  # of what a ReLU gives, of a weight on each side of 0


class _Tensor(NamedTuple):
    node: Any
    name: str  # of the layer whose range it has; "" where none has


class _OpenvinoBuilder:
    """Operations on (n, c, h, w) with the weights themselves; those between tensors with a range in int8."""

    def __init__(self, arrays: Mapping[str, np.ndarray], int8: Quantisation):
        self._arrays, self._int8 = arrays, int8
        self.activations: dict[str, Any] = {}  # what each ReLU gives
        self.joined: list[set[str]] = []  # layers that must have one range, as their channels lie in one tensor

    def _convolution(
        self, x: _Tensor, name: str, kernel: np.ndarray, bias: np.ndarray, strides: int, padding: str
    ) -> Any:
        turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32)
        weights = op.constant(turned)
        if x.name in self._int8.ranges:
            weights, bias = _rounded(turned), bias + np.asarray(self._int8.shifts[name])
        y = self._multiplied(x, name, weights, strides, padding)
        return op.add(y, op.constant(bias.astype(np.float32).reshape(1, -1, 1, 1)))

    def _multiplied(self, x: _Tensor, name: str, weights: Any, strides: int, padding: str) -> Any:
        return op.convolution(
            x.node, weights, [strides] * 2, [0, 0], [0, 0], [1, 1], "same_upper" if padding == "same" else "valid"
        )

    def _relu(self, x: Any, name: str) -> _Tensor:
        x = self.activations[name] = op.relu(x)
        if name in self._int8.ranges:
            least, most = (op.constant(np.float32(v)) for v in (0, self._int8.ranges[name]))
            x = op.fake_quantize(x, least, most, least, most, STEPS + 1)
        return _Tensor(x, name)

    def conv(
        self,
        x: _Tensor,
        filters: int,
        kernel: int | tuple[int, int],
        name: str,
        strides: int = 1,
        padding: str = "same",
    ) -> _Tensor:
        return self._relu(self._convolution(x, name, *folded(self._arrays, name), strides, padding), name)

    def max_pool(self, x: _Tensor, name: str) -> _Tensor:
        return _Tensor(op.max_pool(x.node, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]).output(0), x.name)

    def concatenate(self, branches: Sequence[_Tensor], name: str) -> _Tensor:
        self.joined.append({branch.name for branch in branches})
        return _Tensor(op.concat([branch.node for branch in branches], 1), branches[0].name)

    def residual(self, x: _Tensor, up: _Tensor, scale: float, relu: bool, prefix: str) -> _Tensor:
        name = f"{prefix}_Conv2d_1x1"
        kernel, bias = folded(self._arrays, name)
        y = op.add(x.node, self._convolution(up, name, kernel * scale, bias * scale, 1, "valid"))
        return self._relu(y, prefix) if relu else _Tensor(y, "")

    def bottleneck(self, x: _Tensor) -> Any:
        kernel, bias = (array.astype(np.float32) for array in folded(self._arrays, "Bottleneck"))
        mean = op.reduce_mean(x.node, op.constant(np.array([2, 3])), False)
        return op.add(op.matmul(mean, op.constant(kernel), False, False), op.constant(bias))


class _MeasuringBuilder(_OpenvinoBuilder):
    """The network in float32, and by how much the rounding of weights would move what each convolution gives in the mean."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays, FLOAT)
        self.moves: dict[str, Any] = {}

    def _multiplied(self, x: _Tensor, name: str, weights: Any, strides: int, padding: str) -> Any:
        if x.name:
            error = op.subtract(_rounded(weights.data), weights)
            self.moves[name] = op.reduce_mean(
                super()._multiplied(x, name, error, strides, padding), op.constant(np.array([0, 2, 3])), False
            )
        return super()._multiplied(x, name, weights, strides, padding)


def _rounded(kernel: np.ndarray) -> Any:
    """(filters, channels, h, w) as integers of -127 to 127, times a step for each filter."""
    steps = np.maximum(np.abs(kernel).max(axis=(1, 2, 3), keepdims=True), 1e-12) / WEIGHT_STEPS
    return op.multiply(op.convert(op.constant(np.rint(kernel / steps).astype(np.int8)), np.float32), op.constant(steps))


def _lay(make: _OpenvinoBuilder, crops: Any) -> Any:
    try:
        return lay(make, _Tensor(op.transpose(crops, op.constant(np.array([0, 3, 1, 2]))), ""))
    except KeyError as error:
        raise ModelError(
            f"expected the arrays of Inception-ResNet-v1, the file misses {error.args[0]!r}: not these weights"
        ) from None


def _parameter(batch: int) -> Any:
    return op.parameter([batch, INPUT_SIZE, INPUT_SIZE, 3], np.float32, name="crops")


def append(arrays: Mapping[str, np.ndarray], crops: Any) -> Any:
    """The network behind a node of any graph that gives float32 (n, 160, 160, 3), standardised: a node of float32 (n, d)."""
    return _lay(_OpenvinoBuilder(arrays, FLOAT), crops)


def build(arrays: Mapping[str, np.ndarray], batch: int, int8: Quantisation = FLOAT) -> ov.Model:
    """float32 (batch, 160, 160, 3), standardised -> float32 (batch, d); raises ModelError where an array is missing."""
    crops = _parameter(batch)
    return ov.Model([_lay(_OpenvinoBuilder(arrays, int8), crops)], [crops], "inception_resnet_v1")


@dataclass(frozen=True)
class Measuring:
    """A float32 graph that gives what each ReLU gives, (batch, c, h, w), then the mean moves (c,) by which shifts make up for."""

    graph: ov.Model
    layers: list[str]
    convolutions: list[str]
    joined: list[set[str]]  # layers that need one range


def build_measuring(arrays: Mapping[str, np.ndarray], batch: int) -> Measuring:
    """For crops as `build` takes them."""
    make, crops = _MeasuringBuilder(arrays), _parameter(batch)
    _lay(make, crops)
    graph = ov.Model([*make.activations.values(), *make.moves.values()], [crops], "measuring")
    return Measuring(graph, list(make.activations), list(make.moves), make.joined)
