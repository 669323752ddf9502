"""Define the device and the precision that networks run with; import nothing heavy, since `--help` reads this file."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES, PRECISIONS = ("auto", "cpu", "gpu"), ("auto", "f32", "bf16", "int8")


@dataclass(frozen=True)
class Compute:
    """A device and a precision: as the user asks for them (DEVICES, PRECISIONS), or as `engines.choose` resolves them.

    Resolved, the device is 'CPU:0' or 'GPU:0' and the precision 'f32', 'bf16' or 'int8'.
    """

    device: str = "auto"
    precision: str = "auto"

    @property
    def on_gpu(self) -> bool:
        """Whether the resolved device is a GPU."""
        return self.device.startswith("GPU")


AUTO = Compute()
