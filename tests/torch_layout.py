"""State dicts as `torch.save` writes them, in both layouts, made of pickle opcodes; torch is not needed."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def tensor(key: str, array: np.ndarray, older: bool) -> bytes:
    """One tensor in a storage of its own, by its strides."""
    strides = tuple(s // array.itemsize for s in array.strides)
    storage = (
        b"("
        + text("storage")
        + named("torch", STORAGES[array.dtype.name])
        + text(key)
        + text("cpu")
        + number(array.size)
    )
    storage += (b"N" if older else b"") + b"tQ"
    arguments = (
        b"("
        + storage
        + number(0)
        + numbers(array.shape)
        + numbers(strides)
        + b"\x89"
        + named("collections", "OrderedDict")
    )
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + b")Rt" + b"R"


def state_dict(state: dict[str, np.ndarray], older: bool) -> bytes:
    """With the attribute `_metadata` that a module's state dict has."""
    items = b"".join(text(name) + tensor(str(i), array, older) for i, (name, array) in enumerate(state.items()))
    body = named("collections", "OrderedDict") + b")Rq\x00(" + items + b"u"
    return pickled(body + b"}(" + text("_metadata") + b"}" + b"u" + b"b")


def in_memory(array: np.ndarray) -> bytes:
    """Its numbers as they lie, whatever the order of its axes."""
    return array.transpose(np.argsort(array.strides)[::-1]).tobytes()


def save(path: Path, state: dict[str, np.ndarray], older: bool) -> None:
    flat = {str(i): in_memory(array) for i, array in enumerate(state.values())}
    if not older:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", state_dict(state, older))
            for key, content in flat.items():
                archive.writestr(f"model/data/{key}", content)
        return
    magic = MAGIC.to_bytes(10, "little")
    start = [b"\x8a\x0a" + magic, b"M" + struct.pack("<H", PROTOCOL), b"}(" + text("little_endian") + b"\x88" + b"u"]
    content = [*map(pickled, start), state_dict(state, older), pickled(b"](" + b"".join(map(text, flat)) + b"e")]
    for data, array in zip(flat.values(), state.values(), strict=True):
        content += [struct.pack("<q", array.size), data]
    path.write_bytes(b"".join(content))


# modules of facenet-pytorch, read off its source, and facenet's names of the same layers
STEM = {
    "conv2d_1a": "Conv2d_1a_3x3",
    "conv2d_2a": "Conv2d_2a_3x3",
    "conv2d_2b": "Conv2d_2b_3x3",
    "conv2d_3b": "Conv2d_3b_1x1",
    "conv2d_4a": "Conv2d_4a_3x3",
    "conv2d_4b": "Conv2d_4b_3x3",
}
BLOCK35 = {
    "branch0": "0_Conv2d_1x1",
    "branch1.0": "1_Conv2d_0a_1x1",
    "branch1.1": "1_Conv2d_0b_3x3",
    "branch2.0": "2_Conv2d_0a_1x1",
    "branch2.1": "2_Conv2d_0b_3x3",
    "branch2.2": "2_Conv2d_0c_3x3",
}
BLOCK17 = {
    "branch0": "0_Conv2d_1x1",
    "branch1.0": "1_Conv2d_0a_1x1",
    "branch1.1": "1_Conv2d_0b_1x7",
    "branch1.2": "1_Conv2d_0c_7x1",
}
BLOCK8 = {
    "branch0": "0_Conv2d_1x1",
    "branch1.0": "1_Conv2d_0a_1x1",
    "branch1.1": "1_Conv2d_0b_1x3",
    "branch1.2": "1_Conv2d_0c_3x1",
}
MIXED_6A = {
    "branch0": "0_Conv2d_1a_3x3",
    "branch1.0": "1_Conv2d_0a_1x1",
    "branch1.1": "1_Conv2d_0b_3x3",
    "branch1.2": "1_Conv2d_1a_3x3",
}
MIXED_7A = {
    "branch0.0": "0_Conv2d_0a_1x1",
    "branch0.1": "0_Conv2d_1a_3x3",
    "branch1.0": "1_Conv2d_0a_1x1",
    "branch1.1": "1_Conv2d_1a_3x3",
    "branch2.0": "2_Conv2d_0a_1x1",
    "branch2.1": "2_Conv2d_0b_3x3",
    "branch2.2": "2_Conv2d_1a_3x3",
}
MODULES = [(f"repeat_1.{i}", f"Block35_{i + 1}", BLOCK35) for i in range(5)] + [("mixed_6a", "Mixed_6a", MIXED_6A)]
MODULES += [(f"repeat_2.{i}", f"Block17_{i + 1}", BLOCK17) for i in range(10)] + [("mixed_7a", "Mixed_7a", MIXED_7A)]
MODULES += [(f"repeat_3.{i}", f"Block8_{i + 1}", BLOCK8) for i in range(5)] + [("block8", "Block8_6", BLOCK8)]


def facenet_pytorch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of these arrays; gamma is 1 where they have none."""
    layers = STEM | {
        f"{module}.{b}": f"{name}_Branch_{ours}" for module, name, branches in MODULES for b, ours in branches.items()
    }
    state = {
        f"{module}.conv.weight": arrays[f"{layer}/kernel"].transpose(3, 2, 0, 1) for module, layer in layers.items()
    }
    for module, layer in [(f"{module}.bn", layer) for module, layer in layers.items()] + [("last_bn", "Bottleneck")]:
        for theirs, ours in {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }.items():
            state[f"{module}.{theirs}"] = arrays.get(
                f"{layer}_BatchNorm/{ours}", np.ones_like(arrays[f"{layer}_BatchNorm/beta"])
            )
        state[f"{module}.num_batches_tracked"] = np.array(0)
    for module, name, _ in MODULES:
        if "mixed" not in module:
            state[f"{module}.conv2d.weight"] = arrays[f"{name}_Conv2d_1x1/kernel"].transpose(3, 2, 0, 1)
            state[f"{module}.conv2d.bias"] = arrays[f"{name}_Conv2d_1x1/bias"]
    state["last_linear.weight"] = arrays["Bottleneck/kernel"].T
    return state | {"logits.weight": np.zeros((10, 512), np.float32), "logits.bias": np.zeros(10, np.float32)}
