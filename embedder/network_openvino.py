"""Inception-ResNet-v1 as an OpenVINO graph, batch norm folded into the convolutions: what runs on CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from embedder.architecture import EPSILON, is_folded, lay
from embedder.errors import ModelError
from embedder.spec import INPUT_SIZE


class _OpenvinoBuilder:
    """Operations on (n, c, h, w) with the weights themselves."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays, self._folded = arrays, is_folded(arrays)

    def _norm(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Batch norm as a factor and what is added."""
        beta, mean, variance = (
            self._arrays[f"{name}_BatchNorm/{part}"].astype(np.float64) for part in ("beta", "moving_mean", "moving_variance")
        )
        factor = 1 / np.sqrt(variance + EPSILON)
        return factor, beta - mean * factor

    def _convolution(self, x: Any, kernel: np.ndarray, bias: np.ndarray, strides: int, padding: str) -> Any:
        turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32)
        x = op.convolution(x, op.constant(turned), [strides] * 2, [0, 0], [0, 0], [1, 1], "same_upper" if padding == "same" else "valid")
        return op.add(x, op.constant(bias.astype(np.float32).reshape(1, -1, 1, 1)))

    def conv(self, x: Any, filters: int, kernel: int | tuple[int, int], name: str, strides: int = 1, padding: str = "same") -> Any:
        if self._folded:
            return op.relu(self._convolution(x, self._arrays[f"{name}/kernel"], self._arrays[f"{name}/bias"], strides, padding))
        factor, bias = self._norm(name)
        return op.relu(self._convolution(x, self._arrays[f"{name}/kernel"] * factor, bias, strides, padding))

    def max_pool(self, x: Any, name: str) -> Any:
        return op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]).output(0)

    def concatenate(self, branches: Sequence[Any], name: str) -> Any:
        return op.concat(branches, 1)

    def residual(self, x: Any, up: Any, scale: float, relu: bool, prefix: str) -> Any:
        kernel, bias = (self._arrays[f"{prefix}_Conv2d_1x1/{part}"] * scale for part in ("kernel", "bias"))
        x = op.add(x, self._convolution(up, kernel, bias, 1, "valid"))
        return op.relu(x) if relu else x

    def bottleneck(self, x: Any) -> Any:
        factor, bias = self._norm("Bottleneck")
        kernel = (self._arrays["Bottleneck/kernel"] * factor).astype(np.float32)
        mean = op.reduce_mean(x, op.constant(np.array([2, 3])), False)
        return op.add(op.matmul(mean, op.constant(kernel), False, False), op.constant(bias.astype(np.float32)))


def build(arrays: Mapping[str, np.ndarray], batch: int) -> ov.Model:
    """float32 (batch, 160, 160, 3), standardised -> float32 (batch, d); raises ModelError where an array is missing."""
    crops = op.parameter([batch, INPUT_SIZE, INPUT_SIZE, 3], np.float32, name="crops")
    try:
        vectors = lay(_OpenvinoBuilder(arrays), op.transpose(crops, op.constant(np.array([0, 3, 1, 2]))))
    except KeyError as error:
        raise ModelError(f"expected the arrays of Inception-ResNet-v1, the file misses {error.args[0]!r}: not these weights") from None
    return ov.Model([vectors], [crops], "inception_resnet_v1")
