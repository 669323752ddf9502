"""Where networks run, and how exactly. Imports nothing heavy: every command's `--help` reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from facegallery.embedder.errors import InputError, SystemFault

DEVICES, PRECISIONS = ("auto", "cpu", "gpu"), ("auto", "f32", "bf16", "int8")
CGROUP = Path("/sys/fs/cgroup")
GPU_FILES = ("/dev/nvidia0", "/dev/dxg")


@dataclass(frozen=True)
class Compute:
    """What was asked for, one of DEVICES and one of PRECISIONS; or, from `chosen`, what it came to: 'CPU:0' or 'GPU:0', 'f32', 'bf16' or 'int8'."""

    device: str = "auto"
    precision: str = "auto"

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("GPU")

    def chosen(self) -> Compute:
        """With nothing left open: bf16 on CPUs that multiply it natively, else f32; whether int8 is better, the model says.

        Raises SystemFault for a GPU that is not there, InputError for a precision that the device does not offer here.
        """
        device = choose_device(self.device)
        if device.startswith("GPU"):
            if self.precision not in ("auto", "f32"):
                raise InputError(f"expected --precision auto or f32 on a GPU, received {self.precision}: leave it out")
            return Compute(device, "f32")
        from facegallery.embedder.network.engines import has_bf16, has_vnni

        if self.precision == "int8" and not has_vnni():
            raise InputError("expected a CPU with VNNI for --precision int8, this one has none: leave it out")
        if self.precision != "auto":
            return Compute(device, self.precision)
        return Compute(device, "bf16" if has_bf16() else "f32")


def usable() -> list[int]:
    """The cores that this process may run on, by number."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may keep busy, a container's limit considered."""
    n = len(usable())
    return max(1, min(n, _limit("cpu.max", n)))


def memory_gb() -> int:
    """What this process may fill, in whole GiB."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, _limit("memory.max", physical)) >> 30


@lru_cache
def _limit(name: str, otherwise: int) -> int:
    """A limit of this control group (cgroup v2), in whole units: 'max', '8589934592', or a share such as '150000 100000'."""
    try:
        number, *period = (CGROUP / name).read_text().split()
        return int(number) // int(period[0] if period else 1)
    except (OSError, ValueError):
        return otherwise


def choose_device(device: str) -> str:
    """'auto', 'cpu' or 'gpu' -> 'CPU:0' or 'GPU:0'; raises SystemFault for a GPU that is not there.

    TensorFlow is asked only where there might be one: its import takes seconds.
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
        raise SystemFault("expected a GPU for --device gpu, TensorFlow sees none: install the extra `gpu`, or use --device cpu")
    return "CPU:0"
