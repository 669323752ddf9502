"""How do build time, query time and memory grow with the gallery, from 10,000 faces to 4 million?

    python benchmarks/scale/growth.py --folder /tmp/bench --json benchmarks/results/growth.json --plot growth.png

Our whole search runs beside exact FAISS. Faces are made up (`benchmarks/common/synthetic.py`) and have 128
dimensions, like those of `msceleb`; 4 million take 10 GB of disk. The folder keeps the galleries for the next run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.rounds import alternate  # noqa: E402
from benchmarks.scale.index import made, nearest  # noqa: E402

SIZES = (10_000, 100_000, 1_000_000, 4_000_000)
COLUMNS = {
    "build_s": "build, s",
    "single_ms": "one query, ms",
    "batch_ms": "of 1,000, ms a query",
    "anonymous_mb": "memory, MB",
}


def measured(folder: Path, n: int, like: str, rounds: int) -> dict[str, Any]:
    """Return seconds to build n faces from gallery.db, and the figures of `peers/nearest.py` for ours and FAISS."""
    folder = made(folder, n, like)
    found = alternate(
        {engine: nearest(folder, engine) for engine in ("facegallery", "flat")}, rounds, ("single_ms", "batch_ms")
    )
    found["facegallery"] |= json.loads((folder / "g.json").read_text())
    return {"n": n, **found}


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(COLUMNS), figsize=(4 * len(COLUMNS), 3.4), layout="constrained")
    for axis, (key, title) in zip(axes, COLUMNS.items(), strict=True):
        for name, style in (("facegallery", "o-"), ("flat", "s--")):
            if key != "build_s" or name == "facegallery":
                axis.loglog([row["n"] for row in rows], [row[name][key] for row in rows], style, label=name)
        axis.set(title=title, xlabel="faces")
        axis.grid(alpha=0.3, which="both")
    axes[1].legend()
    figure.savefig(out, dpi=110)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--like", type=click.Choice(["casia", "msceleb", "duo"]), default="msceleb", show_default=True)
@click.option("--most", default=SIZES[-1], show_default=True, help="Faces in the largest gallery.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(folder: Path, like: str, most: int, rounds: int, out: Path | None, picture: Path | None) -> None:
    rows = [measured(folder, n, like, rounds) for n in SIZES if n <= most]
    for row in rows:
        ours, flat = row["facegallery"], row["flat"]
        print(
            f"{row['n']}: "
            + ", ".join(f"{title} {ours[key]:.3g}" for key, title in COLUMNS.items())
            + f", recall {ours['recall']:.4f}"
        )
        print(f"    exact FAISS: one query {flat['single_ms']:.3g} ms, of 1,000 {flat['batch_ms']:.3g} ms a query")
    if out:
        out.write_text(json.dumps(rows, indent=1))
    if picture:
        plot(rows, picture)


if __name__ == "__main__":
    main()
