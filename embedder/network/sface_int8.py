"""Prepare SFace for int8: its 1 x 1 convolutions multiply integers, everything else stays in float32.

A depthwise convolution and the 1 x 1 convolution behind it are equalised (Nagel et al. 2019): each channel between them
is moved to the middle of its span and scaled, so that all channels use most of the 256 steps of their tensor. Neither
changes the network: PReLU keeps positive factors, and a 1 x 1 convolution takes both into its weights and biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from facegallery.embedder.network.int8 import Quantisation
from facegallery.embedder.network.sface_layers import Layer

IN_FLOAT = frozenset(("conv_1", "conv_2", "conv_3", "conv_5", "conv_13"))  # much error for the time that they take
SHARE = 0.8  # of a channel's span that becomes its scale; the rest is left to the weights
WITHIN = 99.99  # per cent of the values that a span holds
LEAST_SPAN = 1e-3  # as a share of the widest channel's
STEPS = 127  # steps of a number on each side of 0


@dataclass(frozen=True)
class Rounded:
    """A 1 x 1 convolution in int8, whose input is moved and scaled.

    kernel: int8 (filters, channels). steps: float32 (filters,), the value of 1 in the kernel. bias: (filters,). middle:
    (channels,), subtracted from the scaled input. step: the value of 1 in the input.
    """

    kernel: np.ndarray
    steps: np.ndarray
    bias: np.ndarray
    middle: np.ndarray
    step: float


def equalised(layers: Sequence[Layer], int8: Quantisation) -> tuple[list[Layer], dict[str, Rounded]]:
    """Return the layers, scaled, and by its name each that runs in int8: those that have spans."""
    found, rounded = list(layers), {}
    for i, (before, layer) in enumerate(pairwise(layers)):
        if layer.name in int8.spans:
            low, high = map(np.array, int8.spans[layer.name])
            scales, rounded[layer.name] = _rounded(layer, low, high, int8)
            kernel = before.kernel / scales[:, None, None, None]
            found[i] = replace(before, kernel=kernel.astype(np.float32), bias=(before.bias / scales).astype(np.float32))
    return found, rounded


def _rounded(layer: Layer, low: np.ndarray, high: np.ndarray, int8: Quantisation) -> tuple[np.ndarray, Rounded]:
    """Return the factor by which each channel of the input is divided, and the layer behind that."""
    scales, kernel, steps = _scaled(layer, low, high)
    middle = (low + high) / 2
    bias = layer.bias + layer.kernel[:, :, 0, 0] @ middle + np.asarray(int8.shifts[layer.name])
    made = kernel, steps, bias.astype(np.float32), (middle / scales).astype(np.float32)
    return scales, Rounded(*made, int8.ranges[layer.name] / STEPS)


def _scaled(layer: Layer, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scale of each channel, the kernel for scaled inputs in int8, and the step of each filter."""
    kernel = layer.kernel[:, :, 0, 0].astype(np.float64)
    span = np.maximum((high - low) / 2, LEAST_SPAN * max(float((high - low).max()) / 2, 1e-9))
    scales = span**SHARE / np.maximum(np.abs(kernel).max(axis=0), 1e-9) ** (1 - SHARE)
    kernel = kernel * scales
    steps = np.maximum(np.abs(kernel).max(axis=1), 1e-12) / STEPS
    return scales, np.rint(kernel / steps[:, None]).astype(np.int8), steps.astype(np.float32)


def spans_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of each channel but for rare ones: (n, channels) -> two (channels,)."""
    low, high = np.percentile(values, [100 - WITHIN, WITHIN], axis=0).round(6)
    return low, high


def scaled(layer: Layer, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return inputs (n, channels) of a layer as they are moved and scaled before they are rounded."""
    return (values - (low + high) / 2) / _scaled(layer, low, high)[0]


def shifts(layer: Layer, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return what makes up for the rounding of a layer's weights at its mean input: float64 (filters,)."""
    scales, kernel, steps = _scaled(layer, low, high)
    exact = layer.kernel[:, :, 0, 0] * scales
    mean = scaled(layer, values, low, high).mean(axis=0)
    return ((exact - kernel * steps[:, None].astype(np.float64)) @ mean).round(6)


def measured(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that can run in int8."""
    return [layer for layer in layers if not layer.depthwise and layer.name not in IN_FLOAT]
