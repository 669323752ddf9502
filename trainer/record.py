"""Write what a training run leaves to read: its arguments, record and metrics. None of them names people."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import DataError
from facegallery.embedder.files import write_atomic
from facegallery.embedder.machine import cores, installed
from facegallery.embedder.process import ROOT
from facegallery.embedder.spec import FaceSpec
from facegallery.trainer.batches import Data
from facegallery.trainer.recipe import Recipe
from facegallery.trainer.teacher import sha256s

GIT_SECONDS = 30
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "safetensors")


def arguments(recipe: Recipe, source: FaceSpec, data: Data, seed: int, precision: str) -> dict[str, Any]:
    """Return what decides a run's result; a run is resumed only with the same arguments."""
    close = [part.zoom for part in source.parts if part.crop == "close"]  # earlier records have no such crops
    return {
        "from": [part.sha256 for part in source.parts],
        "split": list(data.splits),
        "training data": data.train.digest,
        "validation data": data.validation.digest if data.validation else None,
        "margin": data.spec.crop.margin,
        "border": data.spec.crop.border,
        "seed": seed,
        "precision": precision,
        "recipe": {"name": recipe.name} | recipe.values(),
        **({"zoom of close crops": close} if close else {}),
        **({"teacher": sha256s(recipe.teacher)} if recipe.teacher else {}),
    }


def run_id(given: dict[str, Any]) -> str:
    """Return 12 hex digits that tell runs of other arguments apart."""
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]


def check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raise DataError that names the first argument in which the run in `out` differs."""
    new = _flat(now)
    # before the precision was recorded, it was f32; before splits were, the digest of the crops told them
    old = {"precision": "f32", "split": new.get("split")} | _flat(before)
    for key in [*new, *(k for k in old if k not in new)]:
        if old.get(key) != new.get(key):
            raise DataError(
                f"expected the run that {out} was begun with, {key} was {_short(old.get(key))} and is now "
                f"{_short(new.get(key))}: choose another --out, or give what was given before"
            )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested values: {'a': [{'b': 1}]} -> {'a 1 b': 1}."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{key} {name}".strip()).items()}
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return {k: v for i, inner in enumerate(value, 1) for k, v in _flat(inner, f"{key} {i}").items()}
    return {key: value}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    text = str(value)
    return text[:16] + "..." if len(text) == 64 else text


def environment() -> dict[str, Any]:
    """Return versions, machine and git revision."""
    return {"versions": _versions(), "machine": _machine(), "git": _git()}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | installed(PACKAGES)


def _machine() -> dict[str, Any]:
    return {"system": platform.platform(), "processor": platform.machine(), "cores": cores()}


def _git() -> str | None:
    """Return the commit of this code, with '+' where files were changed; None outside of a repository."""
    if not (ROOT / ".git").exists():  # installed: a repository around the package is the user's
        return None
    try:
        commit = _git_says(ROOT, "rev-parse", "HEAD")
        return commit + ("+" if _git_says(ROOT, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git_says(folder: Path, *command: str) -> str:
    """Return the output of a git command; raise what `subprocess.run` raises.

    No program of git's configuration is started, and no variable leads to another repository.
    """
    line = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *command]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        line, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, env=variables, timeout=GIT_SECONDS
    )
    return done.stdout.strip()


def micro_batches(recipe: Recipe) -> list[str]:
    """Return, for each stage, a line about what is in memory at once and what that changes."""
    lines = []
    for i, stage in enumerate(recipe.stages, 1):
        size = min(stage.micro_batch, stage.batch)
        effect = "batch norm's statistics stay: gradients are those of the whole batch"
        if recipe.live_batch_norm:
            effect = "batch norm sees the whole batch"
            if size < stage.batch:
                moves = -(-stage.batch // size)
                effect = (
                    f"batch norm sees {size} photos at a time, not {stage.batch}, "
                    f"and its moving statistics move {moves} times a batch"
                )
        lines.append(f"stage {i}: batches of {stage.batch} in micro-batches of {size}; {effect}")
    return lines


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one JSON line for each epoch; the whole file anew, so that a resumed run writes no epoch twice."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in history).encode())
