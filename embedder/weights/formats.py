"""Read weights of Inception-ResNet-v1 in the formats that others ship: a path -> arrays by our layer names.

Readers read constants and never run anything in a file. They check every name and shape before reading the first
number, so that a file costs no more memory than itself and the network, whatever it declares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.architecture import BLOCKS, EPSILON, REDUCTIONS
from facegallery.embedder.network.shapes import Shape, check_shapes, check_size, damaged
from facegallery.embedder.weights.checkpoint_index import check_index
from facegallery.embedder.weights.reader_process import read_apart

Arrays = dict[str, np.ndarray]
FLOATS = ("float32", "float64", "float16")
MOST_HEADER = 1 << 20  # bytes of the header of a safetensors file; the network's header has 50,000


def read_frozen_graph(path: Path) -> Arrays:
    """Read a frozen TensorFlow 1 graph of facenet, with batch norm apart or folded.

    The reader looks at the nodes one by one and builds no graph, so that no operation of the file can run.
    """
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    tensors = []
    for node in graph.node:
        name, tensor = _layer_name(node.name), node.attr["value"].tensor
        if node.op == "Const" and name and tensor.tensor_shape.dim:
            tensors.append((name, tensor))
        if node.op.startswith("FusedBatchNorm"):
            _check_epsilon(node.attr["epsilon"].f, node.name)
        if node.op == "Const" and node.name.endswith("batchnorm/add/y"):
            _check_epsilon(tensor, node.name)
    check_shapes((name, tuple(d.size for d in tensor.tensor_shape.dim)) for name, tensor in tensors)
    for name, tensor in tensors:
        _check_type(tf.dtypes.as_dtype(tensor.dtype).name, name)
    return {name: tf.make_ndarray(tensor).astype(np.float32) for name, tensor in tensors}


def _check_epsilon(epsilon: Any, name: str) -> None:
    """Raise ModelError unless a number, or a tensor of a graph, is the network's epsilon."""
    if not isinstance(epsilon, float):
        import tensorflow as tf

        if epsilon.tensor_shape.dim or epsilon.tensor_shape.unknown_rank:
            raise ModelError(
                f"expected one number as the epsilon of a batch norm, {name[:100]} has several: not these weights"
            )
        epsilon = float(tf.make_ndarray(epsilon))
    if not abs(epsilon - EPSILON) <= 1e-9:
        raise ModelError(
            f"expected a batch norm with epsilon {EPSILON:g}, {name[:100]} has {epsilon:g}: not these weights"
        )


def _check_type(kind: str, name: str) -> None:
    if kind not in FLOATS:
        raise ModelError(f"expected numbers of {', '.join(FLOATS)}, {name[:100]} has {kind}: not these weights")


def read_checkpoint(path: Path) -> Arrays:
    """Read a TensorFlow 1 checkpoint of facenet by its .index.

    The variables are read without head, optimizer and moving averages: those that facenet's Saver keeps (the trainable
    ones and the statistics of batch norm) and that its frozen graphs hold.
    """
    import tensorflow as tf

    check_index(path)
    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    names = [(name, ours) for name in shapes if (ours := _layer_name(name))]
    check_shapes((ours, tuple(shapes[name])) for name, ours in names)
    for name, ours in names:
        _check_type(types[name].name, ours)
    return {ours: np.asarray(reader.get_tensor(name), np.float32) for name, ours in names}


SLIM_WEIGHTS = {"weights": "kernel", "Conv2D_bn_offset": "bias", "biases": "bias"}
SLIM_NORM = {
    "beta": "beta",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
    "gamma": "gamma",
    "Const": "gamma",
}


def _layer_name(name: str) -> str | None:
    """Return our name of a slim variable; None for variables that the network does not have.

    'InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/weights' -> 'Block35_1_Branch_0_Conv2d_1x1/kernel'
    """
    root, *parts = name.split("/")
    *scope, last = [p for p in parts if not p.startswith("Repeat")] or [""]
    norm = scope[-1:] == ["BatchNorm"]
    weight = (SLIM_NORM if norm else SLIM_WEIGHTS).get(last)
    if weight is None or root != "InceptionResnetV1":
        return None
    layer = "_".join(scope[:-1] if norm else scope).replace("block", "Block")
    if layer.startswith("Block8_Conv") or layer.startswith("Block8_Branch"):
        layer = layer.replace("Block8", "Block8_6", 1)
    return f"{layer}{'_BatchNorm' if norm else ''}/{weight}"


def read_torch(path: Path) -> Arrays:
    """Read the state dict of facenet-pytorch's InceptionResnetV1, without its head."""
    from facegallery.embedder.weights.torch_file import read_state

    layers = _torch_layers()

    def ours(name: str) -> str | None:
        module, _, weight = name.rpartition(".")
        layer = layers.get(module.removesuffix(".conv").removesuffix(".bn"))
        if module == "logits" or (layer and weight == "num_batches_tracked"):
            return None
        names = TORCH_NORM if module.endswith((".bn", "last_bn")) else TORCH_WEIGHTS
        if layer is None or weight not in names:
            raise ModelError(
                f"expected the layers of facenet-pytorch's InceptionResnetV1, {path} has {name[:100]!r}: "
                "not these weights"
            )
        return f"{layer}_BatchNorm/{names[weight]}" if names is TORCH_NORM else f"{layer}/{names[weight]}"

    def choose(shapes: Mapping[str, Shape]) -> list[str]:
        chosen = [name for name in shapes if ours(name)]
        check_shapes((str(ours(name)), _keras_axes(shapes[name])) for name in chosen)
        return chosen

    arrays = read_state(path, choose)
    return {
        str(ours(name)): np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)
        for name, array in arrays.items()
    }


def _keras_axes(shape: Shape) -> Shape:
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape[::-1]


TORCH_WEIGHTS = {"weight": "kernel", "bias": "bias"}
TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
TORCH_STEM = {
    "conv2d_1a": "Conv2d_1a_3x3",
    "conv2d_2a": "Conv2d_2a_3x3",
    "conv2d_2b": "Conv2d_2b_3x3",
    "conv2d_3b": "Conv2d_3b_1x1",
    "conv2d_4a": "Conv2d_4a_3x3",
    "conv2d_4b": "Conv2d_4b_3x3",
    "last_linear": "Bottleneck",
    "last_bn": "Bottleneck",
}
TORCH_BLOCKS = {"repeat_1": "Block35", "repeat_2": "Block17", "repeat_3": "Block8"}


def _torch_layers() -> dict[str, str]:
    """Return our name of each layer: 'repeat_1.0.branch1.1' -> 'Block35_1_Branch_1_Conv2d_0b_3x3'."""
    blocks = {f"{module}.{i}": (kind, f"{kind}_{i + 1}") for module, kind in TORCH_BLOCKS.items() for i in range(10)}
    blocks |= {"block8": ("Block8", "Block8_6")} | {kind.lower(): (kind, kind) for kind in REDUCTIONS}
    layers = dict(TORCH_STEM)
    for module, (kind, prefix) in blocks.items():
        layers[f"{module}.conv2d"] = f"{prefix}_Conv2d_1x1"
        for b, steps in enumerate((BLOCKS | REDUCTIONS)[kind]):
            for s, (_, _, name) in enumerate(steps):
                layers[f"{module}.branch{b}" + (f".{s}" if len(steps) > 1 else "")] = f"{prefix}_Branch_{b}_{name}"
    return layers


def read_safetensors(path: Path) -> Arrays:
    """Read our own format."""
    return parse_safetensors(path.read_bytes(), path)


def parse_safetensors(data: bytes, path: Path) -> Arrays:
    """Return the arrays of FaceNet in the bytes of a safetensors file.

    path: named by errors. Raise ModelError where the arrays are not the network's, or the file is damaged.
    """
    return _parsed(data, path, lambda shapes: check_shapes(shapes.items()))


def parse_sface(data: bytes, path: Path) -> Arrays:
    """Return SFace's arrays in the bytes of a safetensors file; errors as for `parse_safetensors`."""
    from facegallery.embedder.network.sface_layers import shapes

    def check(found: dict[str, Shape]) -> None:
        if found != shapes():
            raise ModelError(f"expected the arrays of SFace, {path} has others: not these weights")

    return _parsed(data, path, check)


def _parsed(data: bytes, path: Path, check: Callable[[dict[str, Shape]], None]) -> Arrays:
    """Parse a safetensors file. check: raises ModelError for the shapes of another network, before a number is read."""
    from safetensors.numpy import load

    try:
        check(header_shapes(data))
        return load(data)
    except ModelError:
        raise
    except Exception as error:  # JSON, Rust and NumPy raise errors of their own
        raise damaged(path, error) from None


def header_shapes(data: bytes) -> dict[str, Shape]:
    """Return the shape of each array by the header of a safetensors file.

    Raise ValueError for a damaged header, and for numbers that are not floats.
    """
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(MOST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {size} bytes")
    header = json.loads(data[8 : 8 + size])
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    for name, tensor in tensors.items():
        if tensor["dtype"] not in ("F64", "F32", "F16"):
            raise ValueError(f"{name[:50]} has numbers of the type {str(tensor['dtype'])[:10]}")
    return {name: tuple(tensor["shape"]) for name, tensor in tensors.items()}


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".h5": read_apart,
    ".pb": read_frozen_graph,
    ".index": read_checkpoint,
    ".pt": read_torch,
    ".pth": read_torch,
    ".safetensors": read_safetensors,
}


def locate(path: Path) -> Path:
    """Return the file to read for a path: of a checkpoint, given by its prefix or any of its files, the .index."""
    prefix = re.sub(r"\.(meta|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.parent / f"{prefix}.index"
    return index if path.suffix not in READERS and index.is_file() else path


def read(path: Path) -> Arrays:
    """Read a weights file by its suffix; raise ModelError, in one line, where it cannot be read."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ModelError(f"expected weights as {', '.join(READERS)}, received {path.name}: convert it to one of these")
    check_size(path)
    try:
        return _without_gamma({name: np.asarray(array, np.float32) for name, array in reader(path).items()})
    except (ModelError, FileNotFoundError, PermissionError, ModuleNotFoundError):
        raise
    except Exception as error:  # each library reports damage by errors of its own
        raise damaged(path, error) from None


def _without_gamma(arrays: Arrays) -> Arrays:
    """Fold batch norm's factor, which our layers lack, into its input.

    gamma (W x - mean) = (gamma W) x - gamma mean
    """
    for name in [n for n in arrays if n.endswith("_BatchNorm/gamma")]:
        gamma, norm = arrays.pop(name), name.removesuffix("/gamma")
        if not (gamma == 1).all():
            for scaled in (f"{norm.removesuffix('_BatchNorm')}/kernel", f"{norm}/moving_mean"):
                arrays[scaled] = arrays[scaled] * gamma
    return arrays
