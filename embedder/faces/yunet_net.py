"""Build YuNet (Wu et al. 2023) as an OpenVINO graph from the constants of OpenCV's ONNX file.

The file holds its weights in blocks of 8 bits, which are multiplied out once; the network runs in float32. OpenVINO's
own reader is not used: of a file with such blocks it has compiled networks with other weights, now and then.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino

STRIDES = 8, 16, 32  # pixels between two answers, on each of the network's levels
HEADS = "cls", "obj", "bbox", "kps"  # probabilities of a face's class and of an object, a box, points
WIDTH = 1 + 1 + 4 + 10  # numbers of an answer
STAGES = (  # blocks of the backbone between two halvings of the picture
    ("model0.conv2",),
    ("model1.conv1", "model1.conv2", "model2.conv1", "model2.conv2"),
    ("model3.conv1", "model3.conv2"),
    ("model4.conv1", "model4.conv2"),
    ("model5.conv1", "model5.conv2"),
)
FIRST, STEP = 420, 3  # the file calls the depthwise kernels by numbers, in the order in which they are used


def in_openvino(arrays: Mapping[str, np.ndarray], side: int) -> openvino.Model:
    """Build the network for one photo, uint8 RGB (1, side, side, 3); side: a multiple of the largest stride.

    arrays: the file's constants, multiplied out. The network returns float32 (1, answers, WIDTH): the answers of each
    level in turn, row by row, with the numbers of HEADS.
    """
    import openvino as ov
    from openvino import opset13 as op

    numbers = itertools.count(FIRST, STEP)

    def convolved(x: Any, kernel: np.ndarray, bias: np.ndarray, stride: int = 1) -> Any:
        """Add a convolution of an OIHW kernel, depthwise where it has one input of several."""
        pad = [kernel.shape[-1] // 2] * 2
        how = [stride] * 2, pad, pad, [1, 1]
        if kernel.shape[1] == 1 and x.shape[1] > 1:
            x = op.group_convolution(x, op.constant(kernel[:, None]), *how)
        else:
            x = op.convolution(x, op.constant(kernel), *how)
        return op.add(x, op.constant(bias.reshape(1, -1, 1, 1)))

    def numbered(x: Any, stride: int = 1) -> Any:
        number = next(numbers)
        return op.relu(convolved(x, arrays[str(number)], arrays[str(number + 1)], stride))

    def pointwise(x: Any, name: str) -> Any:
        return convolved(x, arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    def block(x: Any, name: str) -> Any:
        return numbered(pointwise(x, f"{name}.conv1"))

    def head(x: Any, name: str) -> Any:
        """Add a head: (1, c, h, w) -> (1, h x w, numbers)."""
        x = pointwise(pointwise(x, f"{name}.conv1"), f"{name}.conv2")
        x = op.reshape(op.transpose(x, op.constant([0, 2, 3, 1])), op.constant([1, -1, x.shape[1]]), special_zero=False)
        return op.sigmoid(x) if ".multi_level_cls" in name or ".multi_level_obj" in name else x

    photo = op.parameter([1, side, side, 3], np.uint8, name="photo")
    x = op.gather(op.convert(photo, np.float32), op.constant([2, 1, 0]), op.constant(3))  # to BGR
    x = numbered(op.transpose(x, op.constant([0, 3, 1, 2])), 2)
    levels = []
    for i, blocks in enumerate(STAGES):
        if i:
            x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        for name in blocks:
            x = block(x, f"backbone.{name}")
        levels.append(x)
    x = None
    found: list[Any] = []
    for i, level in zip((2, 1, 0), reversed(levels[2:]), strict=True):
        x = block(level if x is None else op.add(level, _doubled(x)), f"neck.lateral_convs.{i}")
        heads = [head(x, f"bbox_head.multi_level_{name}.{i}") for name in HEADS]
        found.insert(0, op.concat(heads, 2))
    return ov.Model([op.concat(found, 1)], [photo], "yunet")


def _doubled(x: Any) -> Any:
    """Repeat each pixel twice along both sides."""
    from openvino import opset13 as op

    how = {"shape_calculation_mode": "scales", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales, axes = op.constant(np.array([2, 2], np.float32)), op.constant([2, 3])
    return op.interpolate(x, scales, mode="nearest", axes=axes, **how)


@lru_cache
def grid(side: int) -> np.ndarray:
    """Return column, row and stride of each answer: float64 (answers, 3), in the order of the network."""
    levels = []
    for stride in STRIDES:
        n = side // stride
        rows, columns = np.divmod(np.arange(n * n), n)
        levels.append(np.stack([columns, rows, np.full(n * n, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)
