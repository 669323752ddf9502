"""Weights of Inception-ResNet-v1 as others ship them, one reader a format: a path -> arrays by our layer names.

Constants are read; nothing in a file is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedder.architecture import BLOCKS, EPSILON, REDUCTIONS
from embedder.errors import ModelError

Arrays = dict[str, np.ndarray]


def read_keras_h5(path: Path) -> Arrays:
    """Keras 2 HDF5 of facenet, whole model or weights alone: `<layer>/<layer>/<weight>:0`."""
    import h5py

    arrays: Arrays = {}

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "/" in name:
            layer, weight = name.split("/")[-2:]
            arrays[f"{layer}/{weight.removesuffix(':0')}"] = np.asarray(item, np.float32)

    with h5py.File(path) as file:
        file.get("model_weights", file).visititems(take)
    return arrays


def read_frozen_graph(path: Path) -> Arrays:
    """A frozen TensorFlow 1 graph of facenet, with batch norm apart or folded into weights and offsets."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    arrays: Arrays = {}
    for node in graph.node:
        name = _layer_name(node.name)
        if node.op == "Const" and name and (array := tf.make_ndarray(node.attr["value"].tensor)).ndim:
            arrays[name] = array.astype(np.float32)
        if node.op.startswith("FusedBatchNorm"):
            _check_epsilon(node.attr["epsilon"].f, node.name)
        if node.op == "Const" and node.name.endswith("batchnorm/add/y"):
            _check_epsilon(float(tf.make_ndarray(node.attr["value"].tensor)), node.name)
    return arrays


def _check_epsilon(epsilon: float, name: str) -> None:
    if abs(epsilon - EPSILON) > 1e-9:
        raise ModelError(f"expected a batch norm with epsilon {EPSILON:g}, {name} has {epsilon:g}: not these weights")


def read_checkpoint(path: Path) -> Arrays:
    """A TensorFlow 1 checkpoint of facenet, by its .index: the variables themselves, without head, optimiser and moving averages.

    Those are what facenet's Saver keeps (its trainable ones, with the statistics of batch norm) and what its frozen graphs hold.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
    names = {name: _layer_name(name) for name in reader.get_variable_to_shape_map()}
    return {ours: np.asarray(reader.get_tensor(name), np.float32) for name, ours in names.items() if ours}


SLIM_WEIGHTS = {"weights": "kernel", "Conv2D_bn_offset": "bias", "biases": "bias"}
SLIM_NORM = {"beta": "beta", "moving_mean": "moving_mean", "moving_variance": "moving_variance", "gamma": "gamma", "Const": "gamma"}


def _layer_name(name: str) -> str | None:
    """'InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/weights' -> 'Block35_1_Branch_0_Conv2d_1x1/kernel'; None for others."""
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
    """The state dict of facenet-pytorch's InceptionResnetV1, without its head."""
    from embedder.torch_file import read_state

    layers, arrays = _torch_layers(), {}
    for name, array in read_state(path).items():
        module, _, weight = name.rpartition(".")
        norm = module.endswith((".bn", "last_bn"))
        layer = layers.get(module.removesuffix(".conv").removesuffix(".bn"))
        if layer is None and module != "logits":
            raise ModelError(f"expected the layers of facenet-pytorch's InceptionResnetV1, {path} has {name!r}: not these weights")
        if layer is not None and weight != "num_batches_tracked":
            ours = f"{layer}_BatchNorm/{TORCH_NORM[weight]}" if norm else f"{layer}/{TORCH_WEIGHTS[weight]}"
            arrays[ours] = np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)
    return arrays


TORCH_WEIGHTS = {"weight": "kernel", "bias": "bias"}
TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
TORCH_STEM = {
    "conv2d_1a": "Conv2d_1a_3x3", "conv2d_2a": "Conv2d_2a_3x3", "conv2d_2b": "Conv2d_2b_3x3", "conv2d_3b": "Conv2d_3b_1x1",
    "conv2d_4a": "Conv2d_4a_3x3", "conv2d_4b": "Conv2d_4b_3x3", "last_linear": "Bottleneck", "last_bn": "Bottleneck",
}  # fmt: skip
TORCH_BLOCKS = {"repeat_1": "Block35", "repeat_2": "Block17", "repeat_3": "Block8"}


def _torch_layers() -> dict[str, str]:
    """'repeat_1.0.branch1.1' -> 'Block35_1_Branch_1_Conv2d_0b_3x3', and so on."""
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
    """Our own format."""
    from safetensors.numpy import load

    return load(path.read_bytes())


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".h5": read_keras_h5, ".pb": read_frozen_graph, ".index": read_checkpoint, ".pt": read_torch, ".pth": read_torch,
    ".safetensors": read_safetensors,
}  # fmt: skip


def locate(path: Path) -> Path:
    """The file that is read for a path: of a checkpoint, which may be given by its prefix or by any of its files, the .index."""
    prefix = re.sub(r"\.(meta|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.parent / f"{prefix}.index"
    return index if path.suffix not in READERS and index.is_file() else path


def read(path: Path) -> Arrays:
    """The arrays of a weights file, by its suffix; raises ModelError in one line where it cannot be read."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ModelError(f"expected weights as {', '.join(READERS)}, received {path.name}: convert it to one of these")
    try:
        return _without_gamma(reader(path))
    except (ModelError, FileNotFoundError, PermissionError, ModuleNotFoundError):
        raise
    except Exception as error:  # each library has its own way to say that a file is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ModelError(f"expected readable weights, {path} is damaged ({reason}): get it again") from None


def _without_gamma(arrays: Arrays) -> Arrays:
    """Batch norm's factor, which our layers lack, as part of what it is given: gamma (W x - mean) = (gamma W) x - gamma mean."""
    for name in [n for n in arrays if n.endswith("_BatchNorm/gamma")]:
        gamma, norm = arrays.pop(name), name.removesuffix("/gamma")
        if not (gamma == 1).all():
            for scaled in (f"{norm.removesuffix('_BatchNorm')}/kernel", f"{norm}/moving_mean"):
                arrays[scaled] = arrays[scaled] * gamma
    return arrays
