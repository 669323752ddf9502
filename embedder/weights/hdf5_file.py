"""Read the datasets of an HDF5 file after checking all of them.

Only numbers that lie in the file itself are accepted, as plain as Keras writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.shapes import check_shapes

if TYPE_CHECKING:
    import h5py

DEEPEST = 32  # groups within groups
MOST_OBJECTS = 20_000
FLOAT_BYTES = (2, 4, 8)


@contextmanager
def open_datasets(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """Provide the unread datasets of floats by their paths.

    Raise ModelError where a link or a dataset leads out of the file, or a dataset is chunked, compressed, virtual or
    not stored.
    """
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        found: dict[str, h5py.Dataset] = {}
        _collect(file, "", 0, found, path, set())
        yield found


def _collect(
    group: h5py.Group, prefix: str, depth: int, found: dict[str, h5py.Dataset], path: Path, seen: set[int]
) -> None:
    """Add the float datasets of a group to `found`.

    seen: addresses of the visited groups, since one group can be linked many times.
    """
    import h5py

    if (address := h5py.h5o.get_info(group.id).addr) in seen:
        raise _refused(path, prefix, "expected each group once, it is linked twice")
    seen.add(address)
    if depth > DEEPEST or len(found) + len(group) > MOST_OBJECTS:
        raise _refused(
            path,
            prefix,
            f"expected at most {DEEPEST} groups within each other and {MOST_OBJECTS} objects, there are more",
        )
    for key in group:
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise _refused(path, name, "expected objects of the file itself, this is a link elsewhere")
        item = group[key]
        if isinstance(item, h5py.Group):
            _collect(item, f"{name}/", depth + 1, found, path, seen)
        elif isinstance(item, h5py.Dataset):
            if fault := _fault(item, path):
                raise _refused(path, name, fault)
            if item.dtype.kind == "f":
                found[name] = item
        else:
            raise _refused(path, name, f"expected groups and datasets, this is a {type(item).__name__}")


def _fault(item: h5py.Dataset, path: Path) -> str | None:
    """Return why a dataset is refused; None where it is as Keras writes it."""
    import h5py

    if item.external or item.is_virtual:
        return "expected numbers in the file itself, they are in another file"
    if item.chunks is not None or item.id.get_create_plist().get_nfilters():
        return "expected plain numbers, they are chunked or compressed: save the model without compression"
    if item.dtype.kind not in "fiu":
        return None if h5py.check_dtype(ref=item.dtype) is None else "expected numbers, these are references"
    if item.dtype.kind == "f" and item.dtype.itemsize not in FLOAT_BYTES:
        return f"expected floats of 2, 4 or 8 bytes, these have {item.dtype.itemsize}"
    declared = item.size * item.dtype.itemsize if item.shape is not None else 0
    if declared > path.stat().st_size or item.id.get_storage_size() != declared:
        return f"expected {declared:,} bytes of numbers, {item.id.get_storage_size():,} are stored"
    return None


def _refused(path: Path, name: str, what: str) -> ModelError:
    return ModelError(f"{what} ({path}, {name[:100]!r}): nothing of it was read, get the weights elsewhere")


def read_keras_h5(path: Path) -> dict[str, np.ndarray]:
    """Read facenet's Keras 2 HDF5, a whole model or weights alone: `<layer>/<layer>/<weight>:0`."""
    with open_datasets(path) as datasets:
        inside = {name: item for name, item in datasets.items() if name.startswith("model_weights/")} or datasets
        ours = [
            (_keras_name(name), item) for name, item in inside.items() if "/" in name.removeprefix("model_weights/")
        ]
        check_shapes((name, item.shape) for name, item in ours)
        return {name: np.asarray(item, np.float32) for name, item in ours}


def _keras_name(name: str) -> str:
    layer, weight = name.split("/")[-2:]
    return f"{layer}/{weight.removesuffix(':0')}"
