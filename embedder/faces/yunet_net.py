"""Load YuNet (Wu et al. 2023), whose file OpenVINO reads, as a graph for one size of photo.

The file's weights are 8-bit blocks that are multiplied out once; the network runs in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from facegallery.embedder.network.engines import core

if TYPE_CHECKING:
    import openvino

STRIDES = 8, 16, 32  # pixels between two answers, on each of the network's levels
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # numbers of an answer
WIDTH = sum(HEADS.values())


def in_openvino(data: bytes, side: int) -> openvino.Model:
    """Build the network for one photo, uint8 RGB (1, side, side, 3); side: a multiple of the largest stride.

    It returns float32 (1, answers, WIDTH): the answers of each level in turn, row by row, with the numbers of HEADS.
    """
    import openvino as ov
    from openvino import opset13 as op
    from openvino.preprocess import ColorFormat, PrePostProcessor

    read = core().read_model(data)
    read.reshape([1, 3, side, side])
    heads = {name: output for output in read.outputs for name in output.names}

    def of_level(stride: int) -> Any:
        found = [heads[f"{head}_{stride}"].node.input_value(0) for head in HEADS]
        return op.concat(found, 2)

    answers = op.concat([of_level(stride) for stride in STRIDES], 1)
    steps = PrePostProcessor(ov.Model([answers], read.get_parameters(), "yunet"))
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.RGB)
    steps.input().preprocess().convert_color(ColorFormat.BGR).convert_element_type(ov.Type.f32)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def grid(side: int) -> np.ndarray:
    """Return column, row and stride of each answer: float64 (answers, 3), in the order of the network."""
    levels = []
    for stride in STRIDES:
        n = side // stride
        rows, columns = np.divmod(np.arange(n * n), n)
        levels.append(np.stack([columns, rows, np.full(n * n, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)
