"""How many copies of photos does `dedupe` find in a gallery, and does it take two photos of a person for one?

    python benchmarks/accuracy/gallery_duplicates.py PHOTOS [--csv roles.csv --role test] [--people 100]

PHOTOS has a folder for each person, such as LFW's. Up to three photos of each of so many people are taken, as they are
and saved again in two ways: with JPEG's quality 40, and at 60 % of the size with quality 85. A gallery gets all of
them without names.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import facegallery as fg  # noqa: E402

PHOTOS, SMALL = 3, 0.6  # of a person; of the side of a small copy


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--csv", "table", type=click.Path(path_type=Path, exists=True), help="A CSV `identity,role`.")
@click.option("--role", default="test", show_default=True, help="With --csv: whose photos.")
@click.option("--people", default=100, show_default=True, help="People, drawn by a fixed seed.")
def main(photos: Path, table: Path | None, role: str, people: int) -> None:
    """Print how many copies are found, and how many sets hold different photos."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = sum(_save(photo, folder, f"{n}") for n, photo in enumerate(_chosen(photos, table, role, people)))
        with fg.open(folder / "index" / "album", create=True) as gallery:
            gallery.add(folder / "photos", names_from="nobody", one_face=True)
            found = gallery.dedupe()
    sets = [Counter(photo.image.split("~")[0] for photo in one.photos) for one in found]
    copies = sum(max(one.values()) - 1 for one in sets)
    mixed = sum(len(one) > 1 for one in sets)
    print(
        f"{made} photos, {2 * made} copies: {copies} found ({copies / (2 * made):.1%}); "
        f"{mixed} of {len(sets)} sets hold different photos"
    )


def _chosen(photos: Path, table: Path | None, role: str, people: int) -> list[Path]:
    names = sorted(path.name for path in photos.iterdir() if path.is_dir())
    if table is not None:
        with open(table, newline="", encoding="utf-8") as file:
            wanted = {row["identity"] for row in csv.DictReader(file) if row["role"] == role}
        names = [name for name in names if name in wanted]
    several = [name for name in names if sum(1 for _ in (photos / name).iterdir()) > 1]
    random.Random(0).shuffle(several)
    return [photo for name in several[:people] for photo in sorted((photos / name).iterdir())[:PHOTOS]]


def _save(photo: Path, folder: Path, name: str) -> int:
    """Save a photo and its copies under names with the number of the photo; return 1."""
    (folder / "photos").mkdir(exist_ok=True)
    image = Image.open(photo).convert("RGB")
    image.save(folder / "photos" / f"{name}~as-it-is.png")
    image.save(folder / "photos" / f"{name}~40.jpg", quality=40)
    small = (round(SMALL * image.width), round(SMALL * image.height))
    image.resize(small, Image.Resampling.LANCZOS).save(folder / "photos" / f"{name}~small.jpg", quality=85)
    return 1


if __name__ == "__main__":
    main()
