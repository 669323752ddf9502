"""State dicts as `torch.save` writes them, in both layouts, put together from the steps of the pickle machine; no torch is needed."""

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
    storage = b"(" + text("storage") + named("torch", STORAGES[array.dtype.name]) + text(key) + text("cpu") + number(array.size)
    storage += (b"N" if older else b"") + b"tQ"
    arguments = b"(" + storage + number(0) + numbers(array.shape) + numbers(strides) + b"\x89" + named("collections", "OrderedDict")
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
    content = b"".join(map(pickled, start)) + state_dict(state, older) + pickled(b"](" + b"".join(map(text, flat)) + b"e")
    for data, array in zip(flat.values(), state.values(), strict=True):
        content += struct.pack("<q", array.size) + data
    path.write_bytes(content)
