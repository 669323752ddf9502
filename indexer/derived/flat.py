"""The exact FAISS index: every vector as it is, faces.id as FAISS id. Written row by row, read where it lies."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

HEADER = struct.Struct("<4siqqq?i")  # kind, d, n, two numbers that FAISS does not read, whether trained, metric
INNER_PRODUCT = 0
UNUSED = 1 << 20
LENGTH = struct.Struct("<Q")


def write(sink: Callable[[bytes], Any], n: int, d: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """The bytes that faiss.write_index gives an IndexIDMap of an IndexFlatIP of n vectors, while memory holds one block.

    blocks: ids int64 (b,) and vectors float32 (b, d), n in all.
    """
    for kind in (b"IxMp", b"IxFI"):
        sink(HEADER.pack(kind, d, n, UNUSED, UNUSED, True, INNER_PRODUCT))
    sink(LENGTH.pack(n * d))
    ids = []
    for of_block, xb in blocks:
        sink(np.ascontiguousarray(xb, "<f4").tobytes())
        ids.append(np.ascontiguousarray(of_block, "<i8"))
    sink(LENGTH.pack(n))
    sink(b"".join(block.tobytes() for block in ids))


def opened(path: Path) -> Any:
    """The faiss.IndexIDMap of a file, its vectors memory-mapped; raises RuntimeError where FAISS cannot read it."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def inner(index: Any) -> Any:
    """The IndexFlatIP in an IndexIDMap, which goes on owning it."""
    import faiss

    return faiss.downcast_index(index.index)


def rows(flat: Any) -> np.ndarray:
    """float32 (n, d): the vectors of an IndexFlatIP where they lie; valid as long as it is."""
    import faiss

    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
