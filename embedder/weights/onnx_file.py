"""Read the constants of an ONNX file without the package onnx; the file is a protobuf message.

The numbers of fields and of element types are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
(Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.shapes import MOST_BYTES, check_size

GRAPH, INITIALIZER = 7, 5
DIMS, ELEMENT, FLOATS, NAME, RAW = 1, 2, 4, 8, 9
LOCATION, EXTERNAL = 14, 1  # the field of a tensor's location, and its value for another file
LONGEST = 63  # most bits before the last byte of a whole number
MOST_AXES = 8
ELEMENTS = {1: "<f4", 3: "<i1", 7: "<i8"}
WHOLE, BYTES, SIZES = 0, 2, {1: 8, 5: 4}  # wire types of values, and the sizes of those of fixed size


def constants(path: Path) -> dict[str, np.ndarray]:
    """Return the initializers of a graph by name: float32, int8 and int64 arrays.

    Raise ModelError where the file is cut or holds other types.
    """
    check_size(path)
    return constants_in(path.read_bytes(), str(path))


def constants_in(data: bytes, owner: str) -> dict[str, np.ndarray]:
    """Return `constants` of the bytes of a file. owner: the file that an error names."""
    try:
        graph = next(value for number, value in _fields(memoryview(data)) if number == GRAPH)
        return dict(_tensor(value) for number, value in _fields(graph) if number == INITIALIZER)
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
    fields = list(_fields(message))
    found = dict(fields)
    shape = [size for number, value in fields if number == DIMS for size in _wholes(value)]
    if found.get(LOCATION) == EXTERNAL:
        raise ValueError("its numbers are in another file")
    if len(shape) > MOST_AXES or any(size > MOST_BYTES for size in shape):
        raise ValueError(f"a tensor of shape {str(shape)[:50]}")
    element = ELEMENTS[found[ELEMENT]]
    return bytes(found[NAME]).decode(), np.frombuffer(found.get(RAW, found.get(FLOATS, b"")), element).reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of each field of a protobuf message; a value is a whole number, or bytes."""
    at = 0
    while at < len(message):
        key, at = whole(message, at)
        kind = key & 7
        if kind == WHOLE:
            value, at = whole(message, at)
            yield key >> 3, value
            continue
        size, at = whole(message, at) if kind == BYTES else (SIZES[kind], at)
        if at + size > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[at : at + size]
        at += size


def whole(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; return the number and the offset after it.

    Raise ValueError beyond 64 bits, IndexError at the end of the message.
    """
    number = shift = 0
    while True:
        byte = message[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
        if shift > LONGEST:
            raise ValueError("a number of more than 64 bits")


def _wholes(value: int | memoryview) -> Iterator[int]:
    """Yield one number, or the numbers of a packed field."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = whole(value, at)
        yield number
