"""What does `reembed` cost? Vectors from stored faces beside vectors from the photos, for each pair of models.

    python benchmarks/accuracy/reembed.py PHOTOS --work FOLDER --models sface,msceleb,casia

PHOTOS is a folder or CSV with the splits gallery and probe. A gallery of each model is given every other model by
`reembed`; its vectors are compared with those of the same photos, by cosine and by the probes' top-1.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import facegallery as fg  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import Row, to_rows  # noqa: E402
from facegallery.indexer.build import BuildOptions, build  # noqa: E402
from facegallery.indexer.metrics import hits_at, nearest_people  # noqa: E402
from facegallery.indexer.opening import open_store  # noqa: E402
from facegallery.workflows.reembed import reembed  # noqa: E402


def rows_of(folder: Path) -> list[Row]:
    """Return the rows that have a vector."""
    return [row for table in DataSet(folder).shards() for row in to_rows(table) if row.vector is not None]


def top1(gallery: dict[str, np.ndarray], names: dict[str, str], probes: list[Row]) -> float:
    """Return the share of probes whose nearest face is of their person. gallery: vectors by face_id."""
    ids = sorted(gallery)
    enrolled = np.stack([gallery[id] for id in ids]), np.array([names[id] for id in ids])
    asked = np.stack([np.asarray(row.vector, np.float32) for row in probes])
    truth = np.array([row.identity for row in probes])
    return float(hits_at(nearest_people(*enrolled, asked, 1)[0], truth)[:, 0].mean())


def stored_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Return the vectors of a gallery by face_id."""
    with open_store(folder, write=False) as store:
        ids = dict(store.execute("SELECT id, face_id FROM faces"))
        return {ids[int(id)]: x for block, xb in store.vectors() for id, x in zip(block, xb, strict=True)}


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Data sets and galleries; kept.")
@click.option("--models", default="sface,msceleb,casia", show_default=True)
def main(photos: Path, work: Path, models: str) -> None:
    names = models.split(",")
    os.environ["FACEGALLERY_INDEXES"] = str(work / "indexes")
    for name in names:
        fg.embed(photos, model=name, out=work / name)
    vectors = {name: rows_of(work / name) for name in names}
    print("| stored by | `reembed` to | cosine, mean | least | top-1 anew | top-1 by `reembed` |")
    print("|---|---|---|---|---|---|")
    for before, after in itertools.permutations(names, 2):
        index = f"{before}-{after}"
        build(work / before, work / "indexes" / index, BuildOptions(replace=True))
        reembed(index, after)
        found = stored_vectors(work / "indexes" / index)
        anew = {r.face_id: np.asarray(r.vector, np.float32) for r in vectors[after] if r.face_id in found}
        people = {row.face_id: row.identity or "" for row in vectors[after]}
        probes = [row for row in vectors[after] if row.split == "probe"]
        cosines = np.array([found[id] @ anew[id] for id in anew])
        scores = " | ".join(f"{top1(of, people, probes):.4f}" for of in (anew, found))
        print(f"| `{before}` | `{after}` | {cosines.mean():.4f} | {cosines.min():.4f} | {scores} |", flush=True)


if __name__ == "__main__":
    main()
