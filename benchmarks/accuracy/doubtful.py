"""How many wrong names does `doubtful` list first?

    python benchmarks/accuracy/doubtful.py VECTORS [--planted 100] [--seed 0] [--seeds 5]

VECTORS is a data set of people's photos, such as LFW's: those of people with two photos or more are enrolled. Faces
drawn at random are given the name of another person who is drawn. Says how many of the first faces that are listed are
planted, for several seeds, and what is listed without any planted: a set's own wrong names.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import vectors_of  # noqa: E402
from facegallery.indexer.doubtful import Enrolled, doubts, neighbours  # noqa: E402


def listed(faces: Enrolled) -> np.ndarray:
    """Return the rows of doubtful faces in order."""
    return np.array([doubt.row for doubt in doubts(neighbours(faces), faces.spread)], int)


def planted(faces: Enrolled, n: int, seed: int) -> tuple[Enrolled, np.ndarray]:
    """Give n faces to other people; return the faces, and the rows of those."""
    rng, owners = np.random.default_rng(seed), faces.owners.copy()
    rows = rng.choice(len(owners), n, replace=False)
    for row in rows:
        others = np.flatnonzero(faces.owners != faces.owners[row])
        owners[row] = faces.owners[rng.choice(others)]
    return Enrolled(faces.ids, owners, faces.vectors), rows


@click.command()
@click.argument("vectors", type=click.Path(path_type=Path))
@click.option("--planted", "n", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--seeds", default=5, show_default=True)
def main(vectors: Path, n: int, seed: int, seeds: int) -> None:
    """Plant wrong names and look for them."""
    data = DataSet(vectors)
    table = data.table(["image", "identity", "face", "vector"])
    table = table.filter(table["vector"].is_valid())
    people, images = np.array(table["identity"].to_pylist()), table["image"].to_pylist()
    photos = Counter(people.tolist())
    kept = np.flatnonzero([photos[name] > 1 for name in people])
    xb = vectors_of(table, data.spec.dimension)[kept]
    faces = Enrolled(kept, np.unique(people[kept], return_inverse=True)[1], xb)
    own = listed(faces)
    click.echo(
        f"{len(kept)} faces of {len(np.unique(faces.owners))} people; nothing planted: {len(own)} listed, first:"
    )
    for row in own[:40]:
        click.echo(f"  {images[kept[row]]}")
    for one in range(seed, seed + seeds):
        wrong, rows = planted(faces, n, one)
        found = listed(wrong)
        shares = ", ".join(f"{np.isin(found[:k], rows).sum()} of the first {k}" for k in (n // 2, n, 2 * n))
        click.echo(f"seed {one}, {n} planted: {shares}; listed {len(found)}")


if __name__ == "__main__":
    main()
