"""How fast are faces found and cropped? Photos on disk to 160 px crops in memory, beside the packages that people use.

    python benchmarks/speed/detect.py PHOTOS --n 512 --torch-python ENV/bin/python --json benchmarks/results/detect.json

ENV has torch, torchvision and facenet-pytorch (installed with --no-deps: it pins old ones). All run in turns, on all
cores of this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import Peer, alternate, evenly, files_of, tell  # noqa: E402


def measure(files: list[str], rounds: int, torch_python: str | None) -> dict[str, dict[str, Any]]:
    """Return each program's answer for these photos; `facegallery` is ours."""
    peers = {
        "facegallery": Peer(sys.executable, "ours_detect.py", files),
        "mtcnn, batched": Peer(sys.executable, "mtcnn_detect.py", files),
    }
    if torch_python:
        peers["facenet-pytorch, batched"] = Peer(torch_python, "facenet_pytorch_detect.py", files)
    return alternate(peers, rounds)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=512, show_default=True, help="How many, evenly over the folder.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--torch-python", help="Python of an environment with facenet-pytorch.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(photos: Path, n: int, rounds: int, torch_python: str | None, out: Path | None) -> None:
    tell(measure(evenly(files_of(photos), n), rounds, torch_python), "facegallery", "photos", out)


if __name__ == "__main__":
    main()
