"""Run networks of one fixed shape on OpenVINO (CPUs) or TensorFlow (GPUs), and choose the device and precision."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.machine import cores
from facegallery.embedder.network import compiled_cache

if TYPE_CHECKING:
    import openvino

Batch = tuple[np.ndarray, ...]
CPU_FILE = Path("/proc/cpuinfo")
GPU_FILES = ("/dev/nvidia0", "/dev/dxg")


class Engine(Protocol):
    """A network that is ready to run; several threads may call it at once."""

    def __call__(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        """Return the output for the inputs of each batch."""
        ...


class OpenvinoEngine:
    """A graph compiled for the CPU."""

    def __init__(
        self,
        graph: Callable[[], openvino.Model],
        precision: str = "f32",
        streams: int | None = None,
        kept: compiled_cache.CompiledCache | None = None,
    ):
        """Compile the graph, or load it from the cache.

        streams: how many inferences run at once; by default as many as cores, of one thread each. kept: the cache.
        """
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": streams or cores(),
            "INFERENCE_NUM_THREADS": cores(),
        }
        self._network, self._memory = compiled_cache.compiled(core(), graph, settings, kept)
        self._own = threading.local()

    def __call__(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        requests, found = self._requests(len(batches)), []
        for i, batch in enumerate(batches):
            request = requests[i % len(requests)]
            if i >= len(requests):
                found.append(_output(request))
            request.start_async(batch, share_inputs=True)
        for i in range(max(0, len(batches) - len(requests)), len(batches)):
            found.append(_output(requests[i % len(requests)]))
        return found

    def _requests(self, n: int) -> list[openvino.InferRequest]:
        """Return requests of this thread's own: one a batch, at most one a core."""
        if not hasattr(self._own, "requests"):
            self._own.requests = []
        while len(self._own.requests) < min(n, cores()):
            self._own.requests.append(self._network.create_infer_request())
        return self._own.requests


def _output(request: openvino.InferRequest) -> np.ndarray:
    request.wait()
    return request.output_tensors[0].data.copy()


_core: list[openvino.Core] = []
_core_lock = threading.Lock()


def core() -> openvino.Core:
    """Return OpenVINO's core, created once for the process."""
    with _core_lock:
        if not _core:
            import openvino

            _core.append(openvino.Core())
        return _core[0]


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers faster than float32.

    Intel's do so by AMX alone, which many virtual machines hide: without it, networks in bfloat16 take 1.7 times as
    long.
    """
    words = _words_of(CPU_FILE)
    fast = "amx_bf16" in words or "GenuineIntel" not in words
    return fast and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit integers natively."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(_words_of(CPU_FILE))


@lru_cache
def _words_of(file: Path) -> frozenset[str]:
    """Return the words in which the system describes its CPUs: their maker, what they can do; none where unknown."""
    try:
        return frozenset(file.read_text().split())
    except OSError:
        return frozenset()


class TensorflowEngine:
    """A compiled TensorFlow function on one device, such as 'GPU:0'."""

    def __init__(self, run: Callable[..., Any], device: str):
        self._run, self._device = run, device

    def __call__(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        import tensorflow as tf

        with tf.device(self._device):
            answers = [self._run(*map(tf.constant, batch)) for batch in batches]
        return [answer.numpy() for answer in answers]


def filled_up(rows: np.ndarray, n: int) -> np.ndarray:
    """Pad rows (m, ...) with zeros to a multiple of n rows."""
    if len(rows) % n == 0:
        return rows
    filled = np.zeros((-(-len(rows) // n) * n, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled


def in_batches(engine: Engine, inputs: Batch, n: int) -> np.ndarray:
    """Run `engine` over any number of rows but 0; return the output of each row.

    inputs: arrays with the same number of rows. n: rows of a batch; the last batch is padded with zeros.
    """
    filled = [filled_up(rows, n) for rows in inputs]
    batches = [tuple(rows[i : i + n] for rows in filled) for i in range(0, len(filled[0]), n)]
    return np.concatenate(engine(batches))[: len(inputs[0])]


def choose(compute: Compute) -> Compute:
    """Resolve 'auto': bf16 on CPUs that multiply it faster, else f32; int8 depends on the model and is not chosen.

    Raise SystemFault for a GPU that does not exist, InputError for a precision that the device does not offer here.
    """
    device = choose_device(compute.device)
    if device.startswith("GPU"):
        if compute.precision not in ("auto", "f32"):
            raise InputError(f"expected --precision auto or f32 on a GPU, received {compute.precision}: leave it out")
        return Compute(device, "f32")
    if compute.precision == "int8" and not has_vnni():
        raise InputError("expected a CPU with VNNI for --precision int8, this one has none: leave it out")
    if compute.precision != "auto":
        return Compute(device, compute.precision)
    return Compute(device, "bf16" if has_fast_bf16() else "f32")


def choose_device(device: str) -> str:
    """Resolve 'auto', 'cpu' or 'gpu' to 'CPU:0' or 'GPU:0'; raise SystemFault for a GPU that does not exist.

    TensorFlow, whose import takes seconds, is asked only where there might be a GPU.
    """
    if device in ("CPU:0", "GPU:0"):
        return device
    if device == "cpu" or (device == "auto" and not any(map(os.path.exists, GPU_FILES))):
        return "CPU:0"
    from facegallery.embedder.network.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return "GPU:0"
    if device == "gpu":
        raise SystemFault(
            "expected a GPU for --device gpu, TensorFlow sees none: install the extra `gpu`, or use --device cpu"
        )
    return "CPU:0"
