"""How many drawn faces that a detector misses does a closer look at the box find?

    python benchmarks/accuracy/drawn_boxes.py LFW --roles CSV [--boxes CSV]... [--role dev] [--people N] [--settings]

LFW's photos, one a person, are shrunk so that a face has FACE pixels and laid out on pictures of 1,600 x 1,200 pixels;
the drawn boxes are where the detector sees the faces in the photos as they are, moved and resized by up to a fifth. Of
a CSV `image,x0,y0,x1,y1`, all boxes of at least 20 pixels count. The rule by which the settings were chosen on the role
`dev` and the CSVs together: the most faces found closer; of settings within 1 % of it, the fewest pixels looked at.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from facegallery.embedder.faces import closer, drawn
from facegallery.embedder.faces.detectors import make
from facegallery.embedder.photos.regions import DrawnFace

FACES = (16, 22, 30)  # pixels
WIDTH, HEIGHT, CELL = 1600, 1200, 200
Page = tuple[np.ndarray, list[DrawnFace]]


def pages_of_lfw(folder: Path, people: list[str], detector, rng: np.random.Generator) -> Iterator[Page]:
    """Yield pictures with shrunk photos, and where somebody would draw their faces."""
    cells = [(x, y) for y in range(0, HEIGHT, CELL) for x in range(0, WIDTH, CELL)]
    for start in range(0, len(people), len(cells)):
        canvas, faces = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120)), []
        for name, (x, y) in zip(people[start:], cells, strict=False):
            with Image.open(folder / name / f"{name}_0001.jpg") as photo:
                image = photo.convert("RGB")
            found = detector([np.asarray(image)])[0]
            if not found:
                continue
            box = np.array(max(found, key=lambda face: face.confidence).box)
            factor = rng.choice(FACES) / max(box[2] - box[0], box[3] - box[1])
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            size = min(size[0], CELL), min(size[1], CELL)
            canvas.paste(image.resize(size, Image.Resampling.LANCZOS), (x, y))
            side = (box[2:] - box[:2]) * factor
            moved = box * factor + (x, y, x, y) + np.tile(side, 2) * rng.uniform(-0.2, 0.2, 4)
            faces.append(DrawnFace(name, tuple(map(float, np.clip(moved, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))))))
        yield np.asarray(canvas), faces


def pages_of_csv(path: Path) -> Iterator[Page]:
    """Yield the photos of a CSV and their boxes."""
    by_image: dict[str, list[DrawnFace]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            box = tuple(float(line[side]) for side in ("x0", "y0", "x1", "y1"))
            if min(box[2] - box[0], box[3] - box[1]) >= 20:
                by_image.setdefault(line["image"], []).append(DrawnFace("", box))
    for image, faces in by_image.items():
        with Image.open(path.parent / image) as photo:
            yield np.asarray(ImageOps.exif_transpose(photo).convert("RGB")), faces


def count(pages: list[Page], detector) -> tuple[Counter[str], int]:
    """Return the outcomes of all drawn faces, and how many pixels were looked at again."""
    total, pixels = Counter[str](), 0

    def counting(views):
        nonlocal pixels
        pixels += sum(view.shape[0] * view.shape[1] for view in views)
        return detector(views)

    for picture, faces in pages:
        found = detector([picture])[0]
        total += drawn.assign(faces, found, picture, drawn.Closer(counting, 10, cuts=False)).outcomes
    return total, pixels


def main() -> None:
    """Measure the settings in the code, or with --settings all that were tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lfw", type=Path)
    parser.add_argument("--roles", type=Path, required=True)
    parser.add_argument("--role", default="test")
    parser.add_argument("--people", type=int, default=480)
    parser.add_argument("--boxes", type=Path, action="append", default=[])
    parser.add_argument("--settings", action="store_true")
    given = parser.parse_args()
    with given.roles.open(newline="") as file:
        people = [line["identity"] for line in csv.DictReader(file) if line["role"] == given.role][: given.people]
    detector = make({})
    pages = list(pages_of_lfw(given.lfw, people, detector, np.random.default_rng(0)))
    pages += [page for path in given.boxes for page in pages_of_csv(path)]
    here = [(closer.AROUND, closer.SIDE)]
    for around, side in itertools.product((0.5, 1.0, 2.0), (80, 112, 160, 224)) if given.settings else here:
        closer.AROUND, closer.SIDE = around, side
        outcomes, pixels = count(pages, detector)
        print(f"around {around} side {side}: {dict(outcomes)}, {pixels / 1e6:.1f} M pixels", flush=True)


if __name__ == "__main__":
    main()
