"""How many faces does `sync` know again in photos that were edited, and how often would it take another person for one?

    python benchmarks/accuracy/changed_photos.py PHOTOS --photos 200

PHOTOS is a folder of people. Each photo's first face is looked for in edits of it: saved again at JPEG quality 50, half
as large, brighter, in grey, with a border of 4 % cut off. Other people's: pairs of first faces of two people, whatever
their boxes. The cut of `facegallery.workflows.same_faces` is the lowest multiple of 0.05 at which at most one pair in
10,000 agrees, by each of sface, msceleb and casia, on people who are not reported: LFW's 280 for choosing gave 0.45,
0.65 and 0.60.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import facegallery as fg  # noqa: E402
from facegallery.embedder.dataset.row import Row  # noqa: E402
from facegallery.results import Face  # noqa: E402
from facegallery.workflows.same_faces import AGREES, same_faces  # noqa: E402

SHARE = 1e-4  # of pairs of two people that may agree
Edit = Callable[[Image.Image], Image.Image]


def saved_again(photo: Image.Image) -> Image.Image:
    """Save a photo as a JPEG of quality 50 and open it."""
    sink = BytesIO()
    photo.save(sink, "JPEG", quality=50)
    return Image.open(BytesIO(sink.getvalue())).convert("RGB")


def cut(photo: Image.Image) -> Image.Image:
    """Cut 4 % off each side."""
    x, y = round(photo.width * 0.04), round(photo.height * 0.04)
    return photo.crop((x, y, photo.width - x, photo.height - y))


EDITS: dict[str, Edit] = {
    "saved again": saved_again,
    "half as large": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
    "brighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.4),
    "grey": lambda photo: photo.convert("L").convert("RGB"),
    "cut": cut,
}


def first_faces(photos: list[Image.Image], model: str) -> list[Face | None]:
    """Return the largest, most central face of each photo."""
    return [photo.faces[0] if photo.faces else None for photo in fg.embed(photos, model=model, one_face=True).photos]


def row(face: Face) -> Row:
    """Return a face as `sync` compares it."""
    return Row(face.image, "ok", box=face.box, vector=face.vector)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--photos", "n", default=200, show_default=True, help="Photos at most, one a person, drawn by a seed.")
@click.option("--model", default="sface", show_default=True, help="A model's name or folder.")
def main(folder: Path, n: int, model: str) -> None:
    """Print the share of edits in which a face is known again, and of other people's faces that agree."""
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    chosen = random.Random(0).sample(people, min(n, len(people)))
    photos = [Image.open(min(path.iterdir())).convert("RGB") for path in chosen]
    found = first_faces(photos, model)
    before = [(photo, face) for photo, face in zip(photos, found, strict=True) if face is not None]
    for name, edit in EDITS.items():
        edited = [edit(photo) for photo, _ in before]
        again = 0
        for (photo, face), after, other in zip(before, edited, first_faces(edited, model), strict=True):
            again += other is not None and bool(same_faces([row(face)], [row(other)], photo.size, after.size))
        print(f"{name}: {again} of {len(before)} known again")
    xb = np.array([face.vector for _, face in before])
    scores = (xb @ xb.T)[np.triu_indices(len(xb), 1)]
    for cut_at in np.arange(0.3, 0.75, 0.05):
        print(f"{cut_at:.2f}: {int((scores >= cut_at).sum())} of {len(scores)} pairs of two people agree")
    fits = [cut_at for cut_at in np.arange(0.05, 1, 0.05) if (scores >= cut_at).mean() <= SHARE]
    print(f"lowest cut with at most {SHARE:g} of the pairs: {fits[0]:.2f}; in use: {AGREES}")


if __name__ == "__main__":
    main()
