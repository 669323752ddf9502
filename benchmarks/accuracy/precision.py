"""What does a faster precision cost in accuracy? One-shot top-1 beside float32, with McNemar's exact test.

    python benchmarks/accuracy/precision.py CROPS --people lfw_people.csv --model msceleb

CROPS is a data set of crops with the splits gallery and probe. Run `weights quantise MODEL OTHER_CROPS` first. The CSV
`identity,role` groups the probes; each probe searches the whole gallery.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import one_shot  # noqa: E402
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.network.runtime import Embedder  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.metrics import mcnemar  # noqa: E402


@click.command()
@click.argument("crops", type=click.Path(path_type=Path, exists=True))
@click.option("--people", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="msceleb", show_default=True)
def main(crops: Path, people: Path, model: str) -> None:
    pixels, names, splits, role = one_shot.read(crops, people)
    found = {
        p: Embedder(open_model(model), Compute("cpu", p))(pixels).astype(np.float64) for p in ("f32", "bf16", "int8")
    }
    right, among = {}, {}
    for precision, x in found.items():
        nearest = np.argsort(-(x[splits == "probe"] @ x[splits == "gallery"].T), axis=1, kind="stable")[:, :5]
        same = names[splits == "gallery"][nearest] == names[splits == "probe"][:, None]
        right[precision], among[precision] = same[:, 0], same.any(axis=1)
        cosines = np.einsum("ij,ij->i", x, found["f32"])
        print(f"{model} {precision}: cosine to f32 {cosines.mean():.5f} in the mean, {cosines.min():.4f} at least")
        for group in sorted(set(role)):
            exact, fast = right["f32"][role == group], right[precision][role == group]
            lost, gained, p = mcnemar(exact, fast)
            top5 = f"top-5 {among[precision][role == group].mean():.4f}"
            print(
                f"  {group}: top-1 {fast.mean():.4f} of {len(fast)}, {lost} lost and {gained} gained, p {p:.2f}; {top5}"
            )


if __name__ == "__main__":
    main()
