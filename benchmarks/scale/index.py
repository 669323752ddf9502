"""How fast are the nearest faces found, at equal recall? Our search beside exact FAISS and other engines, in turns.

    python benchmarks/scale/index.py --n 1000000 --like casia --folder /tmp/bench --peers-python ENV/bin/python \\
        --json benchmarks/results/index.json

Faces are made up (`benchmarks/common/synthetic.py`); probes are other photos of people among them. ENV has hnswlib,
usearch, lancedb, pymilvus with milvus-lite, and qdrant-client; `--engines` names those that take part. The folder
keeps the galleries for the next run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import faiss
import numpy as np
from faiss.contrib.exhaustive_search import knn_ground_truth

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.rounds import Peer, alternate  # noqa: E402
from benchmarks.scale import gallery  # noqa: E402

PROBES, TRUE = 2000, 10


def made(where: Path, n: int, like: str) -> Path:
    """Make a folder of n faces in `where`, once.

    It holds xb.npy (n, d), truth.npz with xq and gt (its exact nearest rows), and the gallery `g` of the same faces.
    """
    folder = where / f"{like}-{n}"
    if (folder / "xb.npy").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    d = synthetic.profile(like).d
    xb = np.lib.format.open_memmap(folder / "_xb.npy", "w+", np.float32, (n, d))

    def blocks() -> Iterator[np.ndarray]:
        i = 0
        for x, _ in synthetic.blocks(n, like, d):
            xb[i : i + len(x)], i = x, i + len(x)
            yield x

    people = np.random.default_rng(5).choice(n // 2, PROBES, replace=n // 2 < PROBES)
    xq = synthetic.probes(people, like)
    np.savez(folder / "truth.npz", xq=xq, gt=knn_ground_truth(xq, blocks(), TRUE, faiss.METRIC_INNER_PRODUCT)[1])
    (folder / "g.json").write_text(json.dumps(galleries.make(folder / "g", n, d)))
    os.rename(folder / "_xb.npy", folder / "xb.npy")
    return folder


def behind(folder: Path, n: int) -> Path:
    """Copy the gallery of n faces, once, then add 1 % and remove 5 % without a rebuild."""
    copy = folder / "g-behind"
    if not copy.exists():
        shutil.copytree(folder / "g", folder / "_g-behind", symlinks=True)
        print(gallery.fall_behind(folder / "_g-behind", n, np.load(folder / "xb.npy", mmap_mode="r").shape[1]))
        os.rename(folder / "_g-behind", copy)
    return copy


def nearest(
    folder: Path,
    engine: str,
    python: str = sys.executable,
    recall: float = 0.99,
    queries: int = 1000,
    where: Path | None = None,
) -> Peer:
    """Start an engine over a folder of `made`; where: another gallery of that folder."""
    where = where or folder / ("g" if engine.startswith("facegallery") else "peers")
    return Peer(
        python,
        "nearest.py",
        [engine, *(str(folder / name) for name in ("truth.npz", "xb.npy")), str(where), str(recall), str(queries)],
    )


@click.command()
@click.option("--n", default=100_000, show_default=True)
@click.option(
    "--like",
    type=click.Choice(["casia", "msceleb", "duo"]),
    default="casia",
    show_default=True,
    help="512, 128 or 640 dimensions.",
)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--recall", default=0.99, show_default=True, help="Of the 5 nearest, to which each peer is tuned.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--queries", default=1000, show_default=True, help="In a batch.")
@click.option("--peers-python", help="Python of an environment with the other engines.")
@click.option("--engines", default="hnswlib,usearch", show_default=True)
@click.option(
    "--fallen-behind",
    is_flag=True,
    help="Also the whole search where 1 % were added and 5 % removed since the index was made.",
)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    n: int,
    like: str,
    folder: Path,
    recall: float,
    rounds: int,
    queries: int,
    peers_python: str | None,
    engines: str,
    *,
    fallen_behind: bool,
    out: Path | None,
) -> None:
    folder = made(folder, n, like)
    report = json.loads((folder / "g" / "index.faiss").resolve().with_name("report.json").read_text())
    ours = ["facegallery"] if report["kind"] == "exact" else ["facegallery", "facegallery_index"]
    peers = {engine: nearest(folder, engine, recall=recall, queries=queries) for engine in (*ours, "flat")}
    if fallen_behind:  # its recall is of faces some of which are removed
        peers["facegallery, 1 % more and 5 % fewer"] = nearest(
            folder, "facegallery", recall=recall, queries=queries, where=behind(folder, n)
        )
    if peers_python:
        peers |= {engine: nearest(folder, engine, peers_python, recall, queries) for engine in engines.split(",")}
    found = alternate(peers, rounds, ("single_ms", "batch_ms"))
    for name, a in found.items():
        times = [found["flat"][key] / a[key] for key in ("single_ms", "batch_ms")]
        print(
            f"{name}: {a['single_ms']:.2f} ms a query ({times[0]:.1f} x flat), "
            f"{1000 / a['batch_ms']:.0f}/s in batches of {queries} ({times[1]:.1f} x), recall {a['recall']:.4f}"
        )
    build = {"facegallery": json.loads((folder / "g.json").read_text())}
    build |= {
        name: {key: a[key] for key in ("build_s", "build_cpu_s")}
        for name, a in found.items()
        if not name.startswith("facegallery")
    }
    print("seconds to build, and seconds of all cores:", build)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps(
                {
                    "n": n,
                    "like": like,
                    "load": os.getloadavg(),
                    "report": report["reason"],
                    "build": build,
                    "answers": found,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
