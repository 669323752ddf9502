"""Define Inception-ResNet-v1 (Szegedy et al. 2016, as in davidsandberg/facenet) for any runtime.

The network maps (n, 160, 160, 3) to (n, d). Layer names are those of facenet's Keras 2 files, so that weights load by
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Kernel = int | tuple[int, int]
EPSILON = 1e-3  # added to the variance by batch norm
UPPER = ("Mixed_7a", "Block8", "Bottleneck")  # prefixes of the names of the layers in `upper`

# kind -> its branches, each a list of (filters, kernel, name)
BLOCKS: dict[str, list[list[tuple[int, Kernel, str]]]] = {
    "Block35": [
        [(32, 1, "Conv2d_1x1")],
        [(32, 1, "Conv2d_0a_1x1"), (32, 3, "Conv2d_0b_3x3")],
        [(32, 1, "Conv2d_0a_1x1"), (32, 3, "Conv2d_0b_3x3"), (32, 3, "Conv2d_0c_3x3")],
    ],
    "Block17": [
        [(128, 1, "Conv2d_1x1")],
        [(128, 1, "Conv2d_0a_1x1"), (128, (1, 7), "Conv2d_0b_1x7"), (128, (7, 1), "Conv2d_0c_7x1")],
    ],
    "Block8": [
        [(192, 1, "Conv2d_1x1")],
        [(192, 1, "Conv2d_0a_1x1"), (192, (1, 3), "Conv2d_0b_1x3"), (192, (3, 1), "Conv2d_0c_3x1")],
    ],
}
# kind -> its branches beside the max pooling; the last convolution of each has stride 2
REDUCTIONS: dict[str, list[list[tuple[int, Kernel, str]]]] = {
    "Mixed_6a": [
        [(384, 3, "Conv2d_1a_3x3")],
        [(192, 1, "Conv2d_0a_1x1"), (192, 3, "Conv2d_0b_3x3"), (256, 3, "Conv2d_1a_3x3")],
    ],
    "Mixed_7a": [
        [(256, 1, "Conv2d_0a_1x1"), (384, 3, "Conv2d_1a_3x3")],
        [(256, 1, "Conv2d_0a_1x1"), (256, 3, "Conv2d_1a_3x3")],
        [(256, 1, "Conv2d_0a_1x1"), (256, 3, "Conv2d_0b_3x3"), (256, 3, "Conv2d_1a_3x3")],
    ],
}


class Builder(Protocol):
    """The operations of the network on tensors of some runtime."""

    def conv(self, x: Any, filters: int, kernel: Kernel, name: str, strides: int = 1, padding: str = "same") -> Any:
        """Add a convolution, batch norm or bias, and ReLU."""
        ...

    def max_pool(self, x: Any, name: str) -> Any:
        """Add max pooling over 3 x 3 with stride 2."""
        ...

    def concatenate(self, branches: Sequence[Any], name: str) -> Any:
        """Join branches along the channels."""
        ...

    def residual(self, x: Any, up: Any, scale: float, prefix: str, *, relu: bool) -> Any:
        """Add x + scale x (1 x 1 convolution of `up`, with bias), then ReLU if `relu`."""
        ...

    def bottleneck(self, x: Any) -> Any:
        """Add the mean over the places, a matrix product and batch norm: (n, d)."""
        ...


def lay(make: Builder, x: Any) -> Any:
    """Build the network over standardised crops; return the bottleneck's output, before its length is made 1."""
    return upper(make, lower(make, x))


def lower(make: Builder, x: Any) -> Any:
    """Build the layers from standardised crops to the maps (n, 8, 8, 896); they take most of the network's time."""
    x = make.conv(x, 32, 3, "Conv2d_1a_3x3", 2, "valid")  # (n, 79, 79, 32)
    x = make.conv(x, 32, 3, "Conv2d_2a_3x3", 1, "valid")  # (n, 77, 77, 32)
    x = make.conv(x, 64, 3, "Conv2d_2b_3x3")  # (n, 77, 77, 64)
    x = make.max_pool(x, "MaxPool_3a_3x3")  # (n, 38, 38, 64)
    x = make.conv(x, 80, 1, "Conv2d_3b_1x1", 1, "valid")  # (n, 38, 38, 80)
    x = make.conv(x, 192, 3, "Conv2d_4a_3x3", 1, "valid")  # (n, 36, 36, 192)
    x = make.conv(x, 256, 3, "Conv2d_4b_3x3", 2, "valid")  # (n, 17, 17, 256)
    for i in range(1, 6):
        x = _block(make, x, "Block35", i, 0.17)
    x = _reduction(make, x, "Mixed_6a")  # (n, 8, 8, 896)
    for i in range(1, 11):
        x = _block(make, x, "Block17", i, 0.10)
    return x


def upper(make: Builder, x: Any) -> Any:
    """Build the layers from the maps to the bottleneck's output (n, d); they hold more than half of the weights."""
    x = _reduction(make, x, "Mixed_7a")  # (n, 3, 3, 1792)
    for i in range(1, 6):
        x = _block(make, x, "Block8", i, 0.20)
    x = _block(make, x, "Block8", 6, 1.0, relu=False)
    return make.bottleneck(x)


def _block(make: Builder, x: Any, kind: str, index: int, scale: float, *, relu: bool = True) -> Any:
    prefix = f"{kind}_{index}"
    branches = []
    for b, steps in enumerate(BLOCKS[kind]):
        y = x
        for filters, kernel, name in steps:
            y = make.conv(y, filters, kernel, f"{prefix}_Branch_{b}_{name}")
        branches.append(y)
    return make.residual(x, make.concatenate(branches, f"{prefix}_Concatenate"), scale, prefix, relu=relu)


def _reduction(make: Builder, x: Any, kind: str) -> Any:
    branches = []
    for b, steps in enumerate(REDUCTIONS[kind]):
        y = x
        for filters, kernel, name in steps[:-1]:
            y = make.conv(y, filters, kernel, f"{kind}_Branch_{b}_{name}")
        filters, kernel, name = steps[-1]
        branches.append(make.conv(y, filters, kernel, f"{kind}_Branch_{b}_{name}", 2, "valid"))
    branches.append(make.max_pool(x, f"{kind}_MaxPool"))
    return make.concatenate(branches, f"{kind}_Concatenate")


def is_folded(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether batch norm is folded into the convolutions of these weights."""
    return "Conv2d_1a_3x3/bias" in arrays


def folded(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's kernel and bias with batch norm folded in; raise KeyError where an array is missing."""
    kernel = arrays[f"{name}/kernel"]
    if f"{name}_BatchNorm/beta" not in arrays:
        return kernel, arrays[f"{name}/bias"]
    beta, mean, variance = (
        arrays[f"{name}_BatchNorm/{part}"].astype(np.float64) for part in ("beta", "moving_mean", "moving_variance")
    )
    factor = 1 / np.sqrt(variance + EPSILON)
    return kernel * factor, beta - mean * factor
