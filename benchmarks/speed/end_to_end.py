"""How fast do photos become vectors in a file? `embed` with one network, beside packages that people combine for it.

    python benchmarks/speed/end_to_end.py PHOTOS --torch-python ENV/bin/python --deepface-python ENV2/bin/python \\
        --json benchmarks/results/end_to_end.json

ENV is that of `benchmarks/speed/detect.py`, ENV2 that of `benchmarks/speed/cold.py`; mtcnn comes with this project.
All run in turns, on all cores of this machine, with their networks loaded. `--memory` measures the whole command's
peak memory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import ROOT, Peer, alternate, evenly, files_of, tell, whole_processes  # noqa: E402


def whole_command(files: list[str], model: str) -> dict[str, Any]:
    """Return seconds and peak memory in MB of `embed` as a process."""
    with tempfile.TemporaryDirectory() as scratch:
        (folder := Path(scratch) / "photos").mkdir()
        for i, file in enumerate(files):
            shutil.copyfile(file, folder / f"{i:06d}{Path(file).suffix}")
        command = [
            sys.executable,
            str(ROOT / "cli.py"),
            "embed",
            str(folder),
            "--model",
            model,
            "--out",
            f"{scratch}/vectors",
        ]
        return whole_processes({"embed": command}, 1, warm=0)["embed"]


def measure(
    files: list[str], model: str, rounds: int, torch_python: str | None, deepface_python: str | None, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return each program's answer for these photos; `facegallery` is ours. folder: DeepFace's weights."""
    peers = {"facegallery": Peer(sys.executable, "ours_end_to_end.py", [model, *files])}
    if torch_python:
        peers["mtcnn and facenet-pytorch, batched"] = Peer(
            torch_python, "mtcnn_facenet_pytorch.py", [sys.executable, *files]
        )
    if deepface_python:
        peers["deepface"] = Peer(deepface_python, "deepface_represent.py", [str(folder.resolve()), *files])
    return alternate(peers, rounds)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=384, show_default=True, help="How many, evenly over the folder.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--model", default="msceleb", show_default=True)
@click.option("--torch-python", help="Python of an environment with facenet-pytorch.")
@click.option("--deepface-python", help="Python of an environment with deepface.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("data/bench/deepface"),
    show_default=True,
    help="DeepFace's weights.",
)
@click.option(
    "--memory",
    default="",
    help="Then the whole command for so many photos each, such as 336,3360: seconds and peak memory.",
)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    photos: Path,
    n: int,
    rounds: int,
    model: str,
    torch_python: str | None,
    deepface_python: str | None,
    folder: Path,
    memory: str,
    out: Path | None,
) -> None:
    files = files_of(photos)
    tell(measure(evenly(files, n), model, rounds, torch_python, deepface_python, folder), "facegallery", "photos", out)
    for count in map(int, filter(None, memory.split(","))):
        done = whole_command(evenly(files, count), model)
        peak = f"{done['peak_mb']:.0f} MB at the peak of its largest process"
        print(f"embed, {count} photos as a process: {done['seconds']:.1f} s, {peak}")


if __name__ == "__main__":
    main()
