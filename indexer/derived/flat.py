"""The file of the exact FAISS index: written row by row, read where it lies; faces.id is the FAISS id."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

HEADER = struct.Struct("<4siqqq?i")  # kind, d, n, two numbers that FAISS ignores, trained, metric
INNER_PRODUCT = 0
TRAINED = True
UNUSED = 1 << 20
LENGTH = struct.Struct("<Q")


def write(sink: Callable[[bytes], Any], n: int, d: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the bytes that faiss.write_index gives an IndexIDMap of an IndexFlatIP; memory holds one block.

    n: number of vectors. blocks: ids int64 (b,) and vectors float32 (b, d), n in all.
    """
    for kind in (b"IxMp", b"IxFI"):
        sink(HEADER.pack(kind, d, n, UNUSED, UNUSED, TRAINED, INNER_PRODUCT))
    sink(LENGTH.pack(n * d))
    ids = []
    for of_block, xb in blocks:
        sink(np.ascontiguousarray(xb, "<f4").tobytes())
        ids.append(np.ascontiguousarray(of_block, "<i8"))
    sink(LENGTH.pack(n))
    sink(b"".join(block.tobytes() for block in ids))


def opened(path: Path) -> Any:
    """Open a file as a faiss.IndexIDMap with memory-mapped vectors; raises RuntimeError where FAISS cannot read it."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def inner(index: Any) -> Any:
    """Return the IndexFlatIP in an IndexIDMap, which keeps owning it."""
    import faiss

    return faiss.downcast_index(index.index)


def rows(flat: Any) -> np.ndarray:
    """Return the vectors of an IndexFlatIP without a copy, float32 (n, d), valid as long as the index exists."""
    import faiss

    if not flat.ntotal:
        return np.empty((0, flat.d), np.float32)
    return faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
