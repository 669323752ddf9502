"""How long does one question take from the shell? `search` of a photo, beside `DeepFace.find` with its cache warm.

    python benchmarks/speed/cold.py PHOTO --deepface-python ENV/bin/python --json benchmarks/results/cold.json

Both run as whole processes and search 10,000 made-up faces of 512 dimensions (`benchmarks/common/synthetic.py`). ENV
has deepface, flask, tf-keras, tensorflow-cpu and mtcnn. The folder keeps the faces for the next run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.rounds import PEERS, ROOT, whole_processes  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

DEEPFACE = str(PEERS / "deepface_find.py")


def measure(
    photo: Path, n: int, model: str, folder: Path, rounds: int, deepface_python: str | None
) -> dict[str, dict[str, Any]]:
    """Return seconds and peak memory of each program; `facegallery` is ours."""
    folder, photo = folder.resolve(), photo.resolve()
    name = f"cold-{model}-{n}"
    if not (folder / name / "index.faiss").exists():
        galleries.make(folder / name, n, synthetic.profile(model).d, open_model(model).spec)
    os.environ["FACEGALLERY_INDEXES"] = str(folder)
    commands = {"facegallery": [sys.executable, str(ROOT / "cli.py"), "search", name, str(photo)]}
    if deepface_python:
        where = folder / f"deepface-{n}"
        if not (where / "db").exists():
            where.mkdir(parents=True, exist_ok=True)
            np.save(where / "xb.npy", synthetic.faces(n, "casia")[0])
            subprocess.run(
                [deepface_python, DEEPFACE, "prepare", str(where), str(where / "xb.npy"), str(photo)], check=True
            )
        commands["deepface"] = [deepface_python, DEEPFACE, str(photo), str(where)]
    return whole_processes(commands, rounds)


@click.command()
@click.argument("photo", type=click.Path(path_type=Path, exists=True))
@click.option("--n", default=10_000, show_default=True, help="Faces that are asked.")
@click.option(
    "--model",
    type=click.Choice(["casia", "msceleb", "duo"]),
    default="casia",
    show_default=True,
    help="512, 128 or 640 dimensions.",
)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("data/bench"), show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--deepface-python", help="Python of an environment with deepface.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    photo: Path, n: int, model: str, folder: Path, rounds: int, deepface_python: str | None, out: Path | None
) -> None:
    found = measure(photo, n, model, folder, rounds, deepface_python)
    for who, answer in found.items():
        times = answer["seconds"] / found["facegallery"]["seconds"]
        print(f"{who}: {answer['seconds']:.2f} s, {answer['peak_mb']:.0f} MB; facegallery is {times:.1f} x as fast")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"n": n, "model": model, "load": os.getloadavg(), "answers": found}, indent=1))


if __name__ == "__main__":
    main()
