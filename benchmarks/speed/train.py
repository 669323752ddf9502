"""How fast is a finetuning step of all layers? Stage 2 of `quick`, beside plain Keras on the same network, in float32.

    python benchmarks/speed/train.py CROPS --json benchmarks/results/train.json

CROPS is a data set that `align` made. A step is one batch of 64: forward, backward and Adam. Ours adds center loss,
L2 and the moving average; Keras has none of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import Peer, alternate, tell  # noqa: E402
from benchmarks.speed.embed import crops_of  # noqa: E402

BATCH = 64  # of `quick`


@click.command()
@click.argument("crops", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", default="msceleb", show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(crops: Path, rounds: int, model: str, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        np.save(file := f"{scratch}/crops.npy", crops_of(crops, BATCH))
        peers = {f"facegallery {p}": Peer(sys.executable, "ours_train.py", [file, model, p]) for p in ("auto", "f32")}
        peers["Keras f32"] = Peer(sys.executable, "keras_train.py", [file, model])
        found = alternate(peers, rounds)
    tell(found, "facegallery auto", "crops", out)


if __name__ == "__main__":
    main()
