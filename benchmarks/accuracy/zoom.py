"""How much of a crop should a network see? One-shot top-1 and top-5 at several zooms, with McNemar's exact test.

    python benchmarks/accuracy/zoom.py CROPS --people lfw_people.csv --model msceleb

CROPS is a data set of crops with the splits gallery and probe. The CSV `identity,role` groups the probes (choose on
`dev`, read `test`); each probe searches the whole gallery. A zoom z of crops with a margin m shows a margin of (1 +
m) / z - 1.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import one_shot  # noqa: E402
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.network.runtime import Embedder  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.metrics import hits_at, mcnemar, nearest_people  # noqa: E402


@click.command()
@click.argument("crops", type=click.Path(path_type=Path, exists=True))
@click.option("--people", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="msceleb", show_default=True, help="One network.")
@click.option(
    "--zooms",
    default="1,1.04,1.09,1.14,1.19",
    show_default=True,
    help="The first is what the others are compared with.",
)
@click.option("--precision", default="auto", show_default=True)
def main(crops: Path, people: Path, model: str, zooms: str, precision: str) -> None:
    pixels, names, splits, role = one_shot.read(crops, people)
    gallery, probes = splits == "gallery", splits == "probe"
    opened, first = open_model(model), None
    for zoom in map(float, zooms.split(",")):
        parts = tuple(replace(part, zoom=zoom) for part in opened.spec.parts)
        x = Embedder(replace(opened, spec=replace(opened.spec, parts=parts)), Compute("cpu", precision))(pixels)
        hits = hits_at(nearest_people(x[gallery], names[gallery], x[probes], 5)[0], names[probes])
        first = hits[:, 0] if first is None else first
        for group in sorted(set(role)):
            of_group = role == group
            lost, gained, p = mcnemar(first[of_group], hits[of_group, 0])
            shares = " / ".join(f"{hits[of_group, k].mean():.4f}" for k in (0, 4))
            print(
                f"{model}, zoom {zoom:g}, {group}: top-1 / top-5 {shares} of {of_group.sum()}; "
                f"{lost} lost and {gained} gained, p {p:.2g}"
            )


if __name__ == "__main__":
    main()
