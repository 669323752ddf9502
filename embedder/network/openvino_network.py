"""Build Inception-ResNet-v1 as an OpenVINO graph for CPUs, with batch norm folded into the convolutions.

In int8, the output of a ReLU is one of 256 steps between 0 and the layer's range, and a weight is one of 255 steps of
its output channel. OpenVINO sees this in the graph and runs the convolutions between such tensors on integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as op

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.architecture import Kernel, folded, lay
from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.spec import INPUT_SIZE

STEPS, WEIGHT_STEPS = 255, 127  # steps of a ReLU's output, and of a weight on each side of 0


class _Tensor(NamedTuple):
    node: Any
    name: str  # the layer whose range the tensor has; "" where it has none


class _OpenvinoBuilder:
    """Builds operations on (n, c, h, w); convolutions of tensors that have a range run in int8."""

    def __init__(self, arrays: Mapping[str, np.ndarray], int8: Quantisation):
        self._arrays, self._int8 = arrays, int8
        self.activations: dict[str, Any] = {}  # the output of each ReLU
        self.joined: list[set[str]] = []  # layers that share a range, since their channels are joined in one tensor

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
        kernel: Kernel,
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

    def residual(self, x: _Tensor, up: _Tensor, scale: float, prefix: str, *, relu: bool) -> _Tensor:
        name = f"{prefix}_Conv2d_1x1"
        kernel, bias = folded(self._arrays, name)
        y = op.add(x.node, self._convolution(up, name, kernel * scale, bias * scale, 1, "valid"))
        return self._relu(y, prefix) if relu else _Tensor(y, "")

    def bottleneck(self, x: _Tensor) -> Any:
        kernel, bias = (array.astype(np.float32) for array in folded(self._arrays, "Bottleneck"))
        mean = op.reduce_mean(x.node, op.constant(np.array([2, 3])), keep_dims=False)
        product = op.matmul(mean, op.constant(kernel), transpose_a=False, transpose_b=False)
        return op.add(product, op.constant(bias))


class _MeasuringBuilder(_OpenvinoBuilder):
    """Builds the network in float32, and the mean error of each convolution if its weights were rounded."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays, FLOAT)
        self.moves: dict[str, Any] = {}

    def _multiplied(self, x: _Tensor, name: str, weights: Any, strides: int, padding: str) -> Any:
        if x.name:
            error = op.subtract(_rounded(weights.data), weights)
            moved = super()._multiplied(x, name, error, strides, padding)
            self.moves[name] = op.reduce_mean(moved, op.constant(np.array([0, 2, 3])), keep_dims=False)
        return super()._multiplied(x, name, weights, strides, padding)


def _rounded(kernel: np.ndarray) -> Any:
    """Round a kernel (filters, channels, h, w) to integers of -127 to 127, times a step for each filter."""
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
    """Add the network to a graph behind a node of standardised float32 (n, 160, 160, 3); return a node (n, d)."""
    return _lay(_OpenvinoBuilder(arrays, FLOAT), crops)


def build(arrays: Mapping[str, np.ndarray], batch: int, int8: Quantisation = FLOAT) -> ov.Model:
    """Build the network: standardised float32 (batch, 160, 160, 3) -> float32 (batch, d).

    int8: ranges and shifts; without them the network is float32. Raise ModelError where an array is missing.
    """
    crops = _parameter(batch)
    return ov.Model([_lay(_OpenvinoBuilder(arrays, int8), crops)], [crops], "inception_resnet_v1")


@dataclass(frozen=True)
class Measuring:
    """A float32 graph that measures the ranges and shifts of int8.

    Its outputs are the ReLUs of `layers`, (batch, c, h, w), then the mean errors (c,) of `convolutions` after rounding.
    joined: layers that need one range.
    """

    graph: ov.Model
    layers: list[str]
    convolutions: list[str]
    joined: list[set[str]]


def build_measuring(arrays: Mapping[str, np.ndarray], batch: int) -> Measuring:
    """Build the measuring graph for crops as `build` takes them."""
    make, crops = _MeasuringBuilder(arrays), _parameter(batch)
    _lay(make, crops)
    graph = ov.Model([*make.activations.values(), *make.moves.values()], [crops], "measuring")
    return Measuring(graph, list(make.activations), list(make.moves), make.joined)
