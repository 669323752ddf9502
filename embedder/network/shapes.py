"""Know the names and shapes of Inception-ResNet-v1's arrays before a number of a weights file is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from facegallery.embedder.errors import ModelError, reason
from facegallery.embedder.network import architecture
from facegallery.embedder.network.architecture import Kernel

Shape = tuple[int, ...]
MOST_BYTES = 1 << 30  # of a weights file: ten times the network, to leave room for a head and an optimizer
MOST_DIMENSIONS = 4096
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


class _Recorder:
    """Builder that records the shape of every array; its tensors are numbers of channels."""

    def __init__(self, dimension: int):
        self.shapes: dict[str, Shape] = {}
        self._dimension = dimension

    def _add(self, name: str, kernel: Shape) -> None:
        self.shapes[f"{name}/kernel"], self.shapes[f"{name}/bias"] = kernel, kernel[-1:]
        self.shapes |= {f"{name}_BatchNorm/{weight}": kernel[-1:] for weight in NORM}

    def conv(self, x: int, filters: int, kernel: Kernel, name: str, strides: int = 1, padding: str = "same") -> int:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        self._add(name, (*size, x, filters))
        return filters

    def max_pool(self, x: int, name: str) -> int:
        return x

    def concatenate(self, branches: Sequence[int], name: str) -> int:
        return sum(branches)

    def residual(self, x: int, up: int, scale: float, prefix: str, *, relu: bool) -> int:
        self.shapes[f"{prefix}_Conv2d_1x1/kernel"], self.shapes[f"{prefix}_Conv2d_1x1/bias"] = (1, 1, up, x), (x,)
        return x

    def bottleneck(self, x: int) -> int:
        self._add("Bottleneck", (x, self._dimension))
        del self.shapes["Bottleneck/bias"]
        return self._dimension


def known_shapes(dimension: int) -> dict[str, Shape]:
    """Return the shape of every array that weights may have, with batch norm apart or folded."""
    recorder = _Recorder(dimension)
    architecture.lay(recorder, 3)
    return recorder.shapes


def check_size(path: Path) -> None:
    """Raise ModelError for a file that is larger than any weights of the network."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ModelError(
            f"expected a weights file of at most {MOST_BYTES:,} bytes, {path} has {size:,}: not these weights"
        )


def check_shapes(found: Iterable[tuple[str, Shape]]) -> None:
    """Raise ModelError unless every (name, shape) belongs to the network, and none occurs twice.

    Missing arrays are not looked for.
    """
    pairs = list(found)
    shapes = dict(pairs)
    if "Bottleneck/kernel" not in shapes:
        raise ModelError(
            f"expected the weights of Inception-ResNet-v1, received {len(shapes)} arrays, none called "
            "'Bottleneck/kernel': not these weights, give a file of facenet or facenet-pytorch"
        )
    bottleneck = shapes["Bottleneck/kernel"]
    known = known_shapes(bottleneck[-1] if bottleneck and 0 < bottleneck[-1] <= MOST_DIMENSIONS else MOST_DIMENSIONS)
    seen: set[str] = set()
    for name, shape in pairs:
        if name not in known or name in seen:
            fault = "twice" if name in seen else "unknown"
            raise ModelError(
                f"expected the arrays of Inception-ResNet-v1, the file has {fault} {name[:100]!r}: not these weights"
            )
        seen.add(name)
        if shape != known[name]:
            raise ModelError(f"expected {name} of shape {known[name]}, received {str(shape)[:100]}: not these weights")


def damaged(path: Path, error: Exception) -> ModelError:
    """Return a ModelError about a file that a library cannot read."""
    return ModelError(f"expected readable weights, {path} is damaged ({reason(error)}): get it again")
