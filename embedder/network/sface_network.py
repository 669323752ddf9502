"""Build SFace as an OpenVINO graph for CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.network.sface_int8 import STEPS, Rounded, equalised
from facegallery.embedder.network.sface_layers import SIDE, Layer, folded, standardisation


def parameter(batch: int) -> Any:
    """Return a graph's input: float32 RGB of 0 to 255, (batch, 112, 112, 3)."""
    return op.parameter([batch, SIDE, SIDE, 3], np.float32, name="faces")


def append(
    arrays: Mapping[str, np.ndarray], faces: Any, int8: Quantisation = FLOAT, inputs: dict[str, Any] | None = None
) -> Any:
    """Add the network to a graph behind a node of float32 RGB of 0 to 255, (n, 112, 112, 3); return a node (n, 128).

    inputs: receives the input of each layer by the layer's name. Raise ModelError where an array is missing.
    """
    layers, kernel, bias = folded(arrays)
    layers, rounded = equalised(layers, int8)
    mean, factor = standardisation(arrays)
    x = op.transpose(faces, op.constant(np.array([0, 3, 1, 2])))
    x = op.multiply(op.subtract(x, op.constant(mean)), op.constant(factor))
    for layer in layers:
        if inputs is not None:
            inputs[layer.name] = x
        made = _in_int8(x, rounded[layer.name]) if layer.name in rounded else _in_float(x, layer)
        x = op.prelu(made, op.constant(layer.slopes))
    x = op.reshape(x, op.constant(np.array([-1, kernel.shape[1]])), special_zero=False)
    return op.add(op.matmul(x, op.constant(kernel), transpose_a=False, transpose_b=True), op.constant(bias))


def _in_float(x: Any, layer: Layer) -> Any:
    how = [layer.stride] * 2, [layer.pad] * 2, [layer.pad] * 2, [1, 1]
    if layer.depthwise:
        x = op.group_convolution(x, op.constant(layer.kernel[:, None]), *how)
    else:
        x = op.convolution(x, op.constant(layer.kernel), *how)
    return op.add(x, _of_channels(layer.bias))


def _in_int8(x: Any, layer: Rounded) -> Any:
    least, most = (op.constant(np.float32(n * layer.step)) for n in (-STEPS - 1, STEPS))
    x = op.fake_quantize(op.subtract(x, _of_channels(layer.middle)), least, most, least, most, 2 * (STEPS + 1))
    kernel = op.convert(op.constant(layer.kernel[:, :, None, None]), np.float32)
    weights = op.multiply(kernel, op.constant(layer.steps.reshape(-1, 1, 1, 1)))
    return op.add(op.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1]), _of_channels(layer.bias))


def _of_channels(values: np.ndarray) -> Any:
    return op.constant(values.reshape(1, -1, 1, 1))


def build(arrays: Mapping[str, np.ndarray], batch: int, int8: Quantisation = FLOAT) -> ov.Model:
    """Build the network: float32 RGB of 0 to 255, (batch, 112, 112, 3) -> float32 (batch, 128), of any length.

    int8: spans and shifts; without them the network is float32. Raise ModelError where an array is missing.
    """
    faces = parameter(batch)
    return ov.Model([append(arrays, faces, int8)], [faces], "sface")


def measuring(arrays: Mapping[str, np.ndarray], batch: int, layers: Sequence[Layer]) -> ov.Model:
    """Build the network in float32 for faces as `build` takes them; it returns the input of each of these layers."""
    inputs: dict[str, Any] = {}
    faces = parameter(batch)
    append(arrays, faces, inputs=inputs)
    return ov.Model([inputs[layer.name] for layer in layers], [faces], "measuring")
