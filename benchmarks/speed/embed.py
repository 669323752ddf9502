"""How fast do crops become vectors? One network in int8, bfloat16 and float32, beside facenet-pytorch's code for it.

    python benchmarks/speed/embed.py CROPS --torch-python ENV/bin/python --json benchmarks/results/embed.json

CROPS is a data set that `align` made. Run `weights quantise MODEL CROPS` first. ENV is that of
`benchmarks/speed/detect.py`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import Peer, alternate, tell  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import to_rows  # noqa: E402
from facegallery.embedder.faces import align  # noqa: E402


def crops_of(folder: Path, n: int) -> np.ndarray:
    """Read the first crops of a data set, uint8 (n, 160, 160, 3)."""
    data = DataSet(folder)
    rows = (row for table in data.shards() for row in to_rows(table) if row.crop)
    return np.stack([align.plain(row.crop, data.spec.crop) for row, _ in zip(rows, range(n), strict=False) if row.crop])


def measure(crops: np.ndarray, model: str, rounds: int, torch_python: str | None) -> dict[str, dict[str, Any]]:
    """Return each program's answer for these crops; `facegallery auto` is ours with its defaults."""
    with tempfile.TemporaryDirectory() as scratch:
        np.save(file := f"{scratch}/crops.npy", crops)
        peers = {
            f"facegallery {p}": Peer(sys.executable, "ours_embed.py", [file, model, p]) for p in ("auto", "bf16", "f32")
        }
        if torch_python:
            peers |= {
                f"facenet-pytorch {p}": Peer(torch_python, "facenet_pytorch_embed.py", [file, p])
                for p in ("f32", "bf16")
            }
        return alternate(peers, rounds)


@click.command()
@click.argument("crops", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=256, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", default="msceleb", show_default=True)
@click.option("--torch-python", help="Python of an environment with facenet-pytorch.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(crops: Path, n: int, rounds: int, model: str, torch_python: str | None, out: Path | None) -> None:
    tell(measure(crops_of(crops, n), model, rounds, torch_python), "facegallery auto", "crops", out)


if __name__ == "__main__":
    main()
