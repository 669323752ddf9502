"""Keep what frozen layers make of every photo, plain and augmented, on disk: computed once, read as it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from facegallery.embedder.files import atomic
from facegallery.trainer.batches import samples

READ = 256  # rows that are read at once


@dataclass(frozen=True)
class Views:
    """Features instead of crops; each pass takes the next view.

    features: (N, ...) for each view. labels: int32 (N,).
    """

    features: Sequence[np.ndarray]
    labels: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, start: int, batch: int, steps: int) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
        """Yield batches of features (batch, ...) and labels int32 (batch,), in the order of `Stream.batches`."""
        chosen = samples(self.seed, len(self), start, batch * steps)
        views = np.arange(start, start + batch * steps) // len(self) % len(self.features)
        for i in range(0, batch * steps, batch):
            rows = slice(i, i + batch)
            of_each = [self.features[view][row] for view, row in zip(views[rows], chosen[rows], strict=True)]
            yield tf.constant(np.stack(of_each)), self.labels[chosen[rows]]


def keep(path: Path, n: int, blocks: Iterable[np.ndarray]) -> None:
    """Write n rows, which come in blocks, as one .npy file, atomically."""
    with atomic(path) as file:
        for i, block in enumerate(blocks):
            if i == 0:
                header = {
                    "descr": np.lib.format.dtype_to_descr(block.dtype),
                    "fortran_order": False,
                    "shape": (n, *block.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(block).data)


def kept(path: Path) -> np.ndarray:
    """Open a file of `keep` without loading it into memory."""
    return np.load(path, mmap_mode="r")


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array, READ at a time."""
    for i in range(0, len(rows), READ):
        yield rows[i : i + READ]
