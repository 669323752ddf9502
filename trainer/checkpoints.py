"""Checkpoints of a run: one safetensors file each, the JSON state in its header; complete, on disk, or not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from facegallery.embedder.files import drop_stale_temporaries, write_atomic

Arrays = dict[str, np.ndarray]
KEPT = 2


def path_of(folder: Path, number: int) -> Path:
    return folder / f"checkpoint-{number:09d}.safetensors"


def all_of(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def write(path: Path, arrays: Arrays, state: dict[str, Any] | None = None) -> None:
    """Arrays by name and a state of JSON values, atomically."""
    write_atomic(path, save({k: np.asarray(v, order="C") for k, v in arrays.items()}, {"state": json.dumps(state)}))


def read(path: Path) -> tuple[Arrays, Any]:
    """The opposite of `write`; raises SafetensorError, KeyError or OSError where the file is not whole."""
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118


def save_newest(folder: Path, number: int, arrays: Arrays, state: dict[str, Any]) -> None:
    """Writes a checkpoint and drops all but the newest two."""
    drop_stale_temporaries(folder)
    write(path_of(folder, number), arrays, state)
    for path in all_of(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """The newest one that can be read, or None: a damaged one is passed over."""
    for path in reversed(all_of(folder)):
        try:
            return read(path)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            continue
    return None
