"""What a training run leaves to read: its arguments, the record, the metrics, the curves. Nothing here names people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from facegallery.embedder.errors import DataError
from facegallery.embedder.files import write_atomic
from facegallery.embedder.machine import cores
from facegallery.embedder.process import ROOT
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.text import printable
from facegallery.trainer.batches import Data
from facegallery.trainer.recipe import Recipe
from facegallery.trainer.teacher import sha256s

GIT_SECONDS = 30
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "safetensors")


def arguments(recipe: Recipe, source: FaceSpec, data: Data, seed: int, precision: str) -> dict[str, Any]:
    """What decides a run's result; a run goes on only with the same."""
    return {
        "from": [part.sha256 for part in source.parts],
        "training data": data.train.digest,
        "validation data": data.validation.digest if data.validation else None,
        "margin": data.spec.crop.margin,
        "border": data.spec.crop.border,
        "seed": seed,
        "precision": precision,
        "recipe": json.loads(json.dumps(asdict(recipe))),
    } | ({"teacher": sha256s(recipe.teacher)} if recipe.teacher else {})


def check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raises DataError that names the first argument in which a run in `out` differs."""
    old, new = {"precision": "f32"} | _flat(before), _flat(now)  # before it was recorded it was always f32
    for key in [*new, *(k for k in old if k not in new)]:
        if old.get(key) != new.get(key):
            raise DataError(
                f"expected the run that {out} was begun with, {key} was {_short(old.get(key))} and is now {_short(new.get(key))}: "
                "choose another --out, or give what was given before"
            )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """{'a': [{'b': 1}]} -> {'a 1 b': 1}."""
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
    """Versions, machine and git revision."""
    return {"versions": _versions(), "machine": _machine(), "git": _git()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    return {"system": platform.platform(), "processor": platform.machine(), "cores": cores()}


def _git() -> str | None:
    """The commit of this code, with '+' where files were changed; None outside a repository."""
    if not (ROOT / ".git").exists():  # installed: a repository around it, such as the user's, is another one
        return None
    try:
        commit = _git_says(ROOT, "rev-parse", "HEAD")
        return commit + ("+" if _git_says(ROOT, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git_says(folder: Path, *command: str) -> str:
    """Raises what `subprocess.run` does. No program that a configuration names is started, and no variable leads to another repository."""
    line = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *command]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        line, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, env=variables, timeout=GIT_SECONDS
    )
    return done.stdout.strip()


def micro_batches(recipe: Recipe) -> list[str]:
    """For each stage, what is in memory at once and what that changes."""
    lines = []
    for i, stage in enumerate(recipe.stages, 1):
        size = min(stage.micro_batch, stage.batch)
        effect = "batch norm's statistics stay: gradients are those of the whole batch"
        if recipe.live_batch_norm:
            effect = "batch norm sees the whole batch"
            if size < stage.batch:
                moves = -(-stage.batch // size)
                effect = f"batch norm sees {size} photos at a time, not {stage.batch}, and its moving statistics move {moves} times a batch"
        lines.append(f"stage {i}: batches of {stage.batch} in micro-batches of {size}; {effect}")
    return lines


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON line an epoch; the whole file anew, so that a resumed run leaves no epoch twice."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in history).encode())


def draw_curves(path: Path, history: list[dict[str, Any]]) -> None:
    """PNG: loss, and accuracy with validation top-1, over all epochs; a panel a network."""
    import io

    from matplotlib.figure import Figure

    names = list(dict.fromkeys(line["network"] for line in history))
    figure = Figure(figsize=(9, 3.2 * max(1, len(names))), layout="constrained")
    for row, name in enumerate(names):
        lines = [line for line in history if line["network"] == name]
        _panel(figure.add_subplot(len(names), 2, 2 * row + 1), lines, ("loss", "cross_entropy"), name)
        _panel(
            figure.add_subplot(len(names), 2, 2 * row + 2),
            lines,
            ("accuracy", "validation_top1", "validation_tar"),
            name,
        )
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100)
    write_atomic(path, sink.getvalue())


def _panel(axes: Any, lines: list[dict[str, Any]], keys: tuple[str, ...], title: str) -> None:
    epochs = range(1, len(lines) + 1)
    for key in (k for k in keys if all(k in line for line in lines)):
        axes.plot(epochs, [line[key] for line in lines], marker=".", label=key.replace("_", " "))
    for before, line in zip(lines, lines[1:], strict=False):
        if before["stage"] != line["stage"]:
            axes.axvline(lines.index(line) + 0.5, color="grey", linestyle=":")
    axes.set_title(printable(title), parse_math=False)
    axes.set_xlabel("epoch, all stages")
    axes.grid(alpha=0.3)
    axes.legend()
