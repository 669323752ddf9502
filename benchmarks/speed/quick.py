"""How fast is each part? A table in minutes: `make bench`.

    python benchmarks/speed/quick.py [PHOTOS] --torch-python ENV/bin/python --deepface-python ENV2/bin/python

PHOTOS is a folder of yours, or AT&T's photos. `mtcnn` always takes part, the other packages where their Python is
given. The benchmarks beside this one say what those environments need, and measure more.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import galleries, synthetic  # noqa: E402
from benchmarks.common.rounds import evenly, files_of, listing_of  # noqa: E402
from benchmarks.scale import gallery  # noqa: E402
from benchmarks.speed import cold, detect, embed, end_to_end  # noqa: E402
from facegallery import demo  # noqa: E402
from facegallery.embedder.pipeline import Options, PhotoStage, process_photos  # noqa: E402
from facegallery.embedder.spec import FaceSpec  # noqa: E402
from facegallery.embedder.weights.folder import data_root  # noqa: E402
from facegallery.workflows.photos import make_detector  # noqa: E402

ROUNDS, PHOTOS, FACES, ASKED = 3, 128, 50_000, 10_000
Line = tuple[str, str, str, str]  # what, whose, figure, times ours


def aligned(files: list[str], folder: Path) -> Path:
    """Make a data set of the crops of these photos."""
    stage = PhotoStage(FaceSpec(), make_detector({}), None, Options())
    process_photos(listing_of(files), folder, stage, "align", lambda done, total: None)
    return folder


def per_second(what: str, found: Mapping[str, dict[str, Any]], ours: str, counted: str) -> Iterator[Line]:
    for who, answer in found.items():
        yield (
            what,
            who,
            f"{answer[counted] / answer['seconds']:.1f} {counted}/s",
            f"{answer['seconds'] / found[ours]['seconds']:.1f}",
        )


def of_cold(found: Mapping[str, dict[str, Any]]) -> Iterator[Line]:
    for who, answer in found.items():
        times = answer["seconds"] / found["facegallery"]["seconds"]
        yield f"one photo, whole process, {ASKED:,} faces", who, f"{answer['seconds']:.2f} s", f"{times:.1f}"


def of_gallery(folder: Path) -> Iterator[Line]:
    """Time a query beside exact FAISS, and adding faces beside plain inserts of the same rows."""
    galleries.make(folder, FACES, 512)
    asked = gallery.queries(folder, synthetic.probes(np.arange(1000, 1256), "casia", 512), 7)
    added = gallery.add_and_raw(folder, FACES, 512, 3)
    for what, ours, theirs, who in (
        (f"a query, {FACES:,} faces", asked["single_ms"], asked["single_flat_ms"], "faiss.IndexFlatIP"),
        ("256 queries at once", asked["batch_ms"], asked["batch_flat_ms"], "faiss.IndexFlatIP"),
        ("add 1,000 faces", added["add_1000_ms"], added["same_rows_plain_ms"], "plain inserts"),
    ):
        yield what, "facegallery", f"{ours:.2f} ms", "1.0"
        yield what, who, f"{theirs:.2f} ms", f"{theirs / ours:.1f}"


def show(lines: Iterator[Line]) -> None:
    for what, who, figure, times in lines:
        click.echo(f"{what:42} {who:36} {figure:>18} {times:>8}")


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--torch-python", help="See benchmarks/speed/detect.py.")
@click.option("--deepface-python", help="See benchmarks/speed/cold.py.")
def main(photos: Path | None, torch_python: str | None, deepface_python: str | None) -> None:
    files = evenly(files_of(photos or demo.fetch_att(data_root() / "att")), PHOTOS)
    show(iter([("", "", "median of 3", "x facegallery")]))
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        show(per_second("photos to crops", detect.measure(files, ROUNDS, torch_python), "facegallery", "photos"))
        crops = embed.crops_of(aligned(files, where / "crops"), PHOTOS)
        show(
            per_second(
                "crops to vectors", embed.measure(crops, "msceleb", ROUNDS, torch_python), "facegallery auto", "crops"
            )
        )
        measured = end_to_end.measure(
            files, "msceleb", ROUNDS, torch_python, deepface_python, where / f"deepface-{ASKED}"
        )
        show(per_second("photos to Parquet", measured, "facegallery", "photos"))
        show(of_cold(cold.measure(Path(files[0]), ASKED, "casia", where, ROUNDS, deepface_python)))
        show(of_gallery(where / "faces"))


if __name__ == "__main__":
    main()
