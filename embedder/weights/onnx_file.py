"""Read the constants of the ONNX files of SFace and YuNet: 8-bit integers in blocks, which OpenVINO does not read.

The numbers of fields and of element types are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
(Apache-2.0). Other ONNX files are read by OpenVINO (`embedder.network.onnx_network`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.shapes import MOST_BYTES, check_size
from facegallery.embedder.weights.protobuf import fields_of, wholes

GRAPH, INITIALIZER = 7, 5
DIMS, ELEMENT, FLOATS, NAME, RAW = 1, 2, 4, 8, 9
LOCATION, EXTERNAL = 14, 1  # the field of a tensor's location, and its value for another file
MOST_AXES = 8
ELEMENTS = {1: "<f4", 3: "<i1", 7: "<i8"}


def constants(path: Path) -> dict[str, np.ndarray]:
    """Return the initializers of a graph by name: float32, int8 and int64 arrays.

    Raise ModelError where the file is cut or holds other types.
    """
    check_size(path)
    return constants_in(path.read_bytes(), str(path))


def constants_in(data: bytes, owner: str) -> dict[str, np.ndarray]:
    """Return `constants` of the bytes of a file. owner: the file that an error names."""
    try:
        graph = next(value for number, value in fields_of(memoryview(data)) if number == GRAPH)
        return dict(_tensor(value) for number, value in fields_of(graph) if number == INITIALIZER)
    except (IndexError, KeyError, OverflowError, StopIteration, TypeError, ValueError) as error:
        raise ModelError(
            f"expected an ONNX file of float32 and int8, {owner} is damaged or another ({error}): get it again"
        ) from None


def dequantised(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return float32 arrays: X from `X_quantized`, `X_scales` and `X_zero_point`, reshaped to `X_shape` if given.

    Other arrays stay as they are.
    """
    names = [name.removesuffix("_quantized") for name in tensors if name.endswith("_quantized")]
    parts = {f"{name}_{part}" for name in names for part in ("quantized", "scales", "zero_point", "shape")}
    found = {name: tensor for name, tensor in tensors.items() if name not in parts}
    for name in names:
        quantized = tensors[f"{name}_quantized"]
        zeros, scales = (_spread(tensors[f"{name}_{part}"], quantized.shape) for part in ("zero_point", "scales"))
        array = (quantized.astype(np.float32) - zeros.astype(np.float32)) * scales
        found[name] = array.reshape(tensors.get(f"{name}_shape", quantized.shape))
    return found


def _spread(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat one number a block to one number an element; all blocks of an axis are equally long."""
    for axis, size in enumerate(shape):
        blocks = blocks.repeat(size // blocks.shape[axis], axis)
    return blocks


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    fields = list(fields_of(message))
    found = dict(fields)
    shape = [size for number, value in fields if number == DIMS for size in wholes(value)]
    if found.get(LOCATION) == EXTERNAL:
        raise ValueError("its numbers are in another file")
    if len(shape) > MOST_AXES or any(size > MOST_BYTES for size in shape):
        raise ValueError(f"a tensor of shape {str(shape)[:50]}")
    element = ELEMENTS[found[ELEMENT]]
    return bytes(found[NAME]).decode(), np.frombuffer(found.get(RAW, found.get(FLOATS, b"")), element).reshape(shape)
