"""Where networks run, and how exactly. Imports nothing heavy: every command's `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES, PRECISIONS = ("auto", "cpu", "gpu"), ("auto", "f32", "bf16", "int8")


@dataclass(frozen=True)
class Compute:
    """A device and a precision: as asked for, of DEVICES and PRECISIONS, or as `engines.choose` settles them.

    Settled, the device is 'CPU:0' or 'GPU:0' and the precision 'f32', 'bf16' or 'int8'.
    """

    device: str = "auto"
    precision: str = "auto"

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("GPU")
