"""Read the tensors of a PyTorch state dict without running its pickle.

A pickle is a program for a small stack machine. This reader takes only the steps that a state dict needs; functions of
ours stand for the only names that the pickle may call; anything else is refused. Both layouts of `torch.save` are read:
a zip, and the one before version 1.6.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from facegallery.embedder.errors import ModelError

Choose = Callable[[dict[str, tuple[int, ...]]], Collection[str]]
MOST_PICKLED, MOST_STEPS = 4 << 20, 500_000  # bytes and steps; facenet-pytorch's file has 124,000 and 30,000
MOST_AXES = 8
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older layout


class _Storage(NamedTuple):
    """A flat run of numbers that is stored outside of the pickle."""

    dtype: np.dtype
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Tensor:
    whole = all(isinstance(n, int) for n in (offset, *size, *stride))
    if not isinstance(storage, _Storage) or not whole or len(size) != len(stride) or len(size) > MOST_AXES:
        raise ValueError("a tensor that is not described by whole numbers")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


def _ordered_dict(pairs: Sequence[Sequence[Any]] = ()) -> dict[str, Any]:
    # the lengths are checked since one long list may occur many times
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError("items that are not pairs")
    return _filled({}, [item for pair in pairs for item in pair])


def _filled(target: dict[str, Any], items: Sequence[Any]) -> dict[str, Any]:
    """Set keys and values that follow one another; only text is a key.

    The hash of deeply nested tuples would overflow the stack.
    """
    if not all(isinstance(key, str) for key in items[::2]):
        raise ValueError("a key that is not text")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _short(value: Any) -> str:
    """Return a name of an unpickled object for a message; a tuple that holds itself has no end as text."""
    return value[:50] if isinstance(value, str) else type(value).__name__


CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
}
STORAGES = {
    f"torch {name}Storage": np.dtype(code)
    for name, code in {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8"}.items()
}
VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def read_state(path: Path, choose: Choose = dict.keys) -> dict[str, np.ndarray]:
    """Read float32 arrays by the names of a state dict.

    choose: called with the shapes by name before any number is read; returns the names to read. Raise ModelError where
    the file holds anything else, or declares more numbers than it has bytes for.
    """
    with open(path, "rb") as file:
        return _read_zip(path, choose) if zipfile.is_zipfile(file) else _read_older(file, path, choose)


def _chosen(found: Any, path: Path, choose: Choose) -> dict[str, _Tensor]:
    if not isinstance(found, dict) or not all(isinstance(value, _Tensor) for value in found.values()):
        kept = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__
        raise ModelError(
            f"expected a state dict of tensors, {path} holds {kept[:200]}: save `model.state_dict()` alone"
        )
    names = choose({name: tensor.size for name, tensor in found.items()})
    return {name: tensor for name, tensor in found.items() if name in names}


def _check_room(storages: Iterable[_Storage], path: Path) -> None:
    """Raise ModelError where storages declare more bytes than the file has.

    Members of a zip may share their bytes, and a storage may declare any number of them.
    """
    declared = sum(storage.numel * storage.dtype.itemsize for storage in storages)
    if declared > path.stat().st_size:
        raise ModelError(
            f"expected numbers of at most the file's own size, {path} declares {declared:,} bytes, another size: "
            "get it again"
        )


def _read_zip(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ModelError(
                f"expected a file of `torch.save`, {path} is another zip: save `model.state_dict()` with it"
            )
        if archive.getinfo(pickled).file_size > MOST_PICKLED:
            raise ModelError(
                f"expected a pickle of at most {MOST_PICKLED:,} bytes in {path}, its size is larger: "
                "save `model.state_dict()` alone"
            )
        with archive.open(pickled) as stream:
            program = io.BytesIO(stream.read(MOST_PICKLED))
        found, _ = _Machine(path).run(program)
        tensors = _chosen(found, path, choose)
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        content = {}
        _check_room(storages.values(), path)
        for storage in storages.values():
            member = archive.getinfo(f"{pickled.removesuffix('data.pkl')}data/{storage.key}")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != storage.numel * storage.dtype.itemsize:
                raise ModelError(
                    f"expected {storage.numel} numbers in {member.filename} of {path}, received another size: "
                    "get it again"
                )
            content[storage.key] = archive.read(member)
    return {name: _array(tensor, content) for name, tensor in tensors.items()}


def _read_older(opened: IO[bytes], path: Path, choose: Choose) -> dict[str, np.ndarray]:
    file: Any = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)  # reading beyond its end allocates nothing
    start = [_Machine(path).run(file)[0] for _ in range(2)]
    if start != [MAGIC, PROTOCOL]:
        raise ModelError(
            f"expected a file of `torch.save`, {path} is something else: save `model.state_dict()` with it"
        )
    _Machine(path).run(file)  # the system that the file was saved on
    found, storages = _Machine(path).run(file)
    tensors = _chosen(found, path, choose)
    _check_room(storages.values(), path)
    content = {}
    for key in _Machine(path).run(file)[0]:
        numel, storage = int.from_bytes(file.read(8), "little"), storages[key]
        content[key] = file.read(storage.numel * storage.dtype.itemsize)
        if numel != storage.numel or len(content[key]) != storage.numel * storage.dtype.itemsize:
            raise ModelError(
                f"expected {storage.numel} numbers in storage {key} of {path}, received another size: get it again"
            )
    return {name: _array(tensor, content) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, content: dict[str, bytes]) -> np.ndarray:
    flat = np.frombuffer(content[tensor.storage.key], tensor.storage.dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    inside = min((tensor.offset, last, *tensor.size, *tensor.stride), default=0) >= 0 and last < len(flat)
    if math.prod(tensor.size) and not (inside and math.prod(tensor.size) <= len(flat)):
        raise ModelError(
            f"expected a tensor inside its storage of {len(flat)} numbers, received size {tensor.size}: "
            "get the file again"
        )
    steps = [step * flat.itemsize for step in tensor.stride]
    return np.array(np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.size, steps), np.float32, order="C")


class _Machine:
    """Runs the steps of one pickle that a state dict needs."""

    def __init__(self, path: Path):
        self._path, self._stack, self._marks, self._memo = path, list[Any](), list[int](), dict[int, Any]()
        self._storages: dict[str, _Storage] = {}

    def run(self, file: IO[bytes]) -> tuple[Any, dict[str, _Storage]]:
        """Return the object of the pickle, and the storages that it names; leave `file` after the pickle's end."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_STEPS:
                self._refuse(f"more than {MOST_STEPS:,} steps")
            self._step(opcode.name, argument)
        return self._stack.pop(), self._storages

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                known = argument in self._memo
                stack.append(self._memo[argument] if known else self._refuse("an object that it never made"))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(name[-1]))))
            case "APPENDS":
                items = self._since_mark()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._since_mark() if name == "SETITEMS" else self._pop(2)
                _filled(stack[-1], items)
            case "GLOBAL":
                stack.append(self._known(argument))
            case "STACK_GLOBAL":
                stack.append(self._known(" ".join(self._pop(2))))
            case "BINPERSID":
                stack.append(self._storage(*stack.pop()))
            case "REDUCE":
                call, arguments = self._pop(2)
                if not any(call is known for known in CALLS.values()):
                    self._refuse(f"to call {_short(call)}")
                stack.append(call(*arguments))
            case "BUILD":
                stack.pop()  # the attributes of an OrderedDict, which are versions of the layers
            case _ if name in VALUES:
                stack.append(argument)
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case _:
                self._refuse(f"the step {name}")

    def _pop(self, n: int) -> list[Any]:
        items = self._stack[-n:]
        del self._stack[-n:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _known(self, name: str) -> Any:
        return CALLS.get(name) or STORAGES.get(name) or self._refuse(name.replace(" ", "."))

    def _storage(self, kind: str, dtype: np.dtype, key: str, place: str, numel: int, view: object = None) -> _Storage:
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            self._refuse(f"a {_short(kind)} of its own")
        if not isinstance(key, str) or not isinstance(numel, int) or not 0 <= numel < 1 << 40:
            self._refuse("a storage without a name or a size")
        return self._storages.setdefault(key, _Storage(dtype, key, numel))

    def _refuse(self, what: str) -> Any:
        raise ModelError(
            f"expected a state dict of tensors, {self._path} asks for {what}: nothing of it was run; "
            "save `model.state_dict()` alone"
        )
