"""Check the index of a TensorFlow checkpoint, a sorted string table, before TensorFlow opens it.

TensorFlow allocates what a block's handle states and ends the process where that is too much, so that every block must
lie inside the file. The layout is LevelDB's,
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/format.h (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facegallery.embedder.weights.protobuf import whole

FOOTER, TRAILER, MAGIC = 48, 5, 0xDB4775248B80FB57
MOST_BYTES = 64 << 20  # an index names arrays and holds none of their numbers


def check_index(path: Path) -> None:
    """Raise ValueError unless every block of the index lies inside the file and is not compressed."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"an index of {size:,} bytes")
    data = memoryview(path.read_bytes())
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise ValueError("not an index of a checkpoint")
    meta, at = _handle(data, len(data) - FOOTER)
    index, _ = _handle(data, at)
    _block(data, meta)
    for handle in _handles(_block(data, index)):
        _block(data, handle)


def _handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of a block, and the offset after its handle."""
    offset, at = whole(data, at)
    size, at = whole(data, at)
    return (offset, size), at


def _block(data: memoryview, handle: tuple[int, int]) -> memoryview:
    offset, size = handle
    if offset + size + TRAILER > len(data) or data[offset + size]:
        raise ValueError("a block outside of the file, or compressed")
    return data[offset : offset + size]


def _handles(block: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the handles in the values of an index block.

    A block holds entries, then the offsets of restarts and their number.
    """
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    at = 0
    while at < end:
        _, at = whole(block, at)
        unshared, at = whole(block, at)
        value, at = whole(block, at)
        yield _handle(block, at + unshared)[0]
        at += unshared + value
