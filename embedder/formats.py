"""Weights of Inception-ResNet-v1 as others ship them, one reader a format: a path -> arrays by our layer names.

Constants are read; nothing in a file is ever run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedder.errors import ModelError

Arrays = dict[str, np.ndarray]


def read_keras_h5(path: Path) -> Arrays:
    """Keras 2 HDF5 of facenet: `model_weights/<layer>/<layer>/<weight>:0`."""
    import h5py

    arrays: Arrays = {}

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, weight = name.split("/")[-2:]
            arrays[f"{layer}/{weight.removesuffix(':0')}"] = np.asarray(item, np.float32)

    with h5py.File(path) as file:
        if "model_weights" not in file:
            raise ModelError(f"expected a Keras 2 HDF5 file with 'model_weights', {path} has none: not these weights")
        file["model_weights"].visititems(take)
    return arrays


def read_frozen_graph(path: Path) -> Arrays:
    """A frozen TensorFlow 1 graph of facenet whose batch norm is folded into weights and offsets."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    arrays: Arrays = {}
    for node in graph.node:
        parts = node.name.split("/")
        if node.op == "Const" and parts[0] == "InceptionResnetV1":
            name = _graph_name(parts[1:])
            if name:
                arrays[name] = tf.make_ndarray(node.attr["value"].tensor).astype(np.float32)
        if node.op == "FusedBatchNorm" and abs(node.attr["epsilon"].f - 1e-3) > 1e-9:
            raise ModelError(f"expected a batch norm with epsilon 0.001, {node.name} has {node.attr['epsilon'].f:g}: not these weights")
    gamma = arrays.pop("Bottleneck_BatchNorm/gamma", np.ones(1))
    if not (gamma == 1).all():
        raise ModelError(f"expected a bottleneck without gamma, {path} has one: not these weights")
    return arrays


GRAPH_WEIGHTS = {"weights": "kernel", "Conv2D_bn_offset": "bias", "biases": "bias"}
GRAPH_NORM = {"beta": "beta", "moving_mean": "moving_mean", "moving_variance": "moving_variance", "Const": "gamma"}


def _graph_name(parts: list[str]) -> str | None:
    """'Repeat/block35_1/Branch_0/Conv2d_1x1/weights' -> 'Block35_1_Branch_0_Conv2d_1x1/kernel'; None for other constants."""
    *scope, last = [p for p in parts if not p.startswith("Repeat")]
    norm = scope[-1:] == ["BatchNorm"]
    weight = (GRAPH_NORM if norm else GRAPH_WEIGHTS).get(last)
    if weight is None:
        return None
    layer = "_".join(scope[:-1] if norm else scope).replace("block", "Block")
    if layer.startswith("Block8_Conv") or layer.startswith("Block8_Branch"):
        layer = layer.replace("Block8", "Block8_6", 1)
    return f"{layer}{'_BatchNorm' if norm else ''}/{weight}"


def read_safetensors(path: Path) -> Arrays:
    """Our own format."""
    from safetensors.numpy import load

    return load(path.read_bytes())


READERS: dict[str, Callable[[Path], Arrays]] = {".h5": read_keras_h5, ".pb": read_frozen_graph, ".safetensors": read_safetensors}


def read(path: Path) -> Arrays:
    """The arrays of a weights file, by its suffix; raises ModelError in one line where it cannot be read."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ModelError(f"expected weights as {', '.join(READERS)}, received {path.name}: convert it to one of these")
    try:
        return reader(path)
    except (ModelError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # each library has its own way to say that a file is damaged
        raise ModelError(f"expected readable weights, {path} is damaged ({str(error).splitlines()[0][:100]}): get it again") from None
