"""Which detector finds the faces of many kinds of photos, and whose people are found again by them?

    python benchmarks/accuracy/detectors.py SET.csv ... --boxes wider/boxes.csv

Each SET is a CSV `image,identity,split,kind` beside the photos that it names, with the splits gallery and probe: photos
without a face, of all and of the kind `profile`, and top-1 of SFace, aligned straight from the photo by the points of
its largest, most central face. A photo without a face is a miss. `--boxes` is a CSV `image,x0,y0,x1,y1` of all faces of
photos beside it, such as WIDER FACE's: faces found that overlap none of them by 0.3 are false.

Figures: docs/explanation/benchmarks.md, Detectors. On WIDER's five crowds: mtcnn 229 faces, 6 of them false; yunet
135, 7; both 225, 4. CFP's profile photos without a face: mtcnn 29 of 400, yunet 3, both 2.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.faces import picture  # noqa: E402
from facegallery.embedder.faces.align import order_faces  # noqa: E402
from facegallery.embedder.faces.both import overlapping  # noqa: E402
from facegallery.embedder.faces.detectors import make  # noqa: E402
from facegallery.embedder.faces.mtcnn import DetectedFace, Detector  # noqa: E402
from facegallery.embedder.faces.names import DETECTORS  # noqa: E402
from facegallery.embedder.network.engines import Engine, OpenvinoEngine, in_batches  # noqa: E402
from facegallery.embedder.network.preprocess import unit  # noqa: E402
from facegallery.embedder.network.sface_network import build  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.metrics import mcnemar  # noqa: E402

TOGETHER, BATCH = 32, 8
CPU = Compute("cpu", "f32")
PATH = click.Path(path_type=Path, exists=True, dir_okay=False)


def read(photo: Path) -> np.ndarray:
    """Read a photo upright: uint8 RGB (h, w, 3)."""
    with Image.open(photo) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def found(detector: Detector, files: Sequence[Path]) -> Iterator[tuple[np.ndarray, list[DetectedFace]]]:
    """Yield each photo and its faces, first the largest, most central one."""
    for i in range(0, len(files), TOGETHER):
        photos = [read(file) for file in files[i : i + TOGETHER]]
        for photo, faces in zip(photos, detector(photos), strict=True):
            yield photo, order_faces(faces, photo.shape[1], photo.shape[0])


def aligned(photo: np.ndarray, face: DetectedFace) -> np.ndarray:
    """Align a face straight from the photo, shrunk first where it is large: uint8 (112, 112, 3)."""
    points = np.reshape(face.landmarks, (5, 2))
    scale = 1 / abs(picture.similarity(points)[0])  # pixels of the photo for one of the aligned face
    half = scale * picture.TEMPLATE_SIDE
    x0, y0 = np.floor(points.mean(axis=0) - half).astype(int).tolist()
    side = int(2 * half) + 1
    rows, columns = (
        np.clip(np.arange(start, start + side), 0, n - 1) for start, n in zip((y0, x0), photo.shape[:2], strict=True)
    )
    window, points = photo[np.ix_(rows, columns)], points - (x0, y0)
    if scale > 1.5:
        small = max(1, round(side / scale))
        window = np.asarray(Image.fromarray(window).resize((small, small), Image.Resampling.BILINEAR))
        points = (points + 0.5) * small / side - 0.5
    return picture.warped(window, points)


def hits(lines: Sequence[dict[str, str]], vectors: dict[int, np.ndarray]) -> np.ndarray:
    """Return whether the nearest gallery photo of each probe shows the same person: bool (probes,)."""
    gallery = [i for i in vectors if lines[i]["split"] == "gallery"]
    together = np.stack([vectors[i] for i in gallery])
    probes = [i for i, line in enumerate(lines) if line["split"] == "probe"]
    nearest = {i: gallery[int((together @ vectors[i]).argmax())] for i in probes if i in vectors}
    return np.array([i in nearest and lines[nearest[i]]["identity"] == lines[i]["identity"] for i in probes])


def on_set(detector: Detector, network: Engine, table: Path) -> tuple[np.ndarray, str]:
    """Return the hits of a set's probes, and how many photos have no face, as text."""
    with open(table) as file:
        lines = list(csv.DictReader(file))
    faces, numbers = [], []
    for i, (photo, ordered) in enumerate(found(detector, [table.parent / line["image"] for line in lines])):
        if ordered:
            numbers.append(i)
            faces.append(aligned(photo, ordered[0]))
    vectors = unit(in_batches(network, (np.stack(faces).astype(np.float32),), BATCH))
    none = [line.get("kind") for i, line in enumerate(lines) if i not in set(numbers)]
    sides = [line.get("kind") for line in lines].count("profile")
    text = f"no face {len(none)} of {len(lines)}" + (f", profile {none.count('profile')} of {sides}" if sides else "")
    return hits(lines, dict(zip(numbers, vectors, strict=True))), text


def on_boxes(detector: Detector, table: Path) -> str:
    """Return how many faces are found, are false, and are missed, as text."""
    boxes: dict[str, list[DetectedFace]] = {}
    with open(table) as file:
        for line in csv.DictReader(file):
            box = tuple(float(line[side]) for side in ("x0", "y0", "x1", "y1"))
            boxes.setdefault(line["image"], []).append(DetectedFace(box, (), 1.0))  # type: ignore[arg-type]
    n = false = seen = 0
    for (_, faces), true in zip(
        found(detector, [table.parent / Path(name).name for name in boxes]), boxes.values(), strict=True
    ):
        same = overlapping(faces, true)
        n, false, seen = n + len(faces), false + int((~same.any(axis=1)).sum()), seen + int(same.any(axis=0).sum())
    return f"{n} faces, {false} false; {seen} of {sum(map(len, boxes.values()))} found"


@click.command()
@click.argument("sets", nargs=-1, type=PATH)
@click.option("--boxes", type=PATH, help="CSV of all faces of some photos.")
@click.option("--detectors", default=",".join(DETECTORS), show_default=True, help="The first is the baseline.")
def main(sets: tuple[Path, ...], boxes: Path | None, detectors: str) -> None:
    """Compare detectors on sets of photos."""
    arrays = open_model("sface").arrays(0)
    network = OpenvinoEngine(lambda: build(arrays, BATCH))
    first: dict[Path, np.ndarray] = {}
    for name in detectors.split(","):
        detector = make({"algorithm": name}, CPU).load()
        if boxes:
            print(f"{name:8} {boxes.parent.name}: {on_boxes(detector, boxes)}", flush=True)
        shares = []
        for table in sets:
            right, none = on_set(detector, network, table)
            lost, gained, p = mcnemar(first.setdefault(table, right), right)
            shares.append(right.mean())
            print(f"{name:8} {table.stem}: top-1 {right.mean():.4f}; {none}; -{lost} +{gained}, p {p:.2g}", flush=True)
        if shares:
            print(f"{name:8} mean: top-1 {np.mean(shares):.4f}", flush=True)


if __name__ == "__main__":
    main()
