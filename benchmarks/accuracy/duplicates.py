"""How many copies of photos does `dedupe` find, and does it take two photos for one picture?

    python benchmarks/accuracy/duplicates.py FOLDER ... [--photos 150] [--same benchmarks/results/duplicates-same.json]
        [--sheet pairs.png] [--page docs/howto/duplicates.md]

Each FOLDER holds photos in folders, such as LFW's. Its folders are shared out in two halves: thresholds are chosen by
the first table, on one half, and the second table is of the other half, at the thresholds of the program. `--photos` of
each half are saved again in other ways; a copy counts as found where it is the same picture as its photo. Pairs of all
photos of a half that the program takes for one picture are false, unless the file `--same`, pairs that somebody has
looked at, has them; `--sheet` draws the others. Drawn pages of text, which hash alike, must not be one picture either.

A burst is imitated by a photo moved by up to 5 % of its sides, turned by up to 3 degrees and enlarged by up to 4 %;
against it stand photos of one folder with following numbers, different ones of one person in LFW.
"""

from __future__ import annotations

import io
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.pages import put  # noqa: E402
from facegallery.embedder.photos.decoder import Decoder  # noqa: E402
from facegallery.embedder.photos.likeness import Look, blocks, hashes, likeness, look, near, scene_likeness  # noqa: E402
from facegallery.workflows.dedupe import MOST_BITS, MOST_COLOUR, NUMBERED, ONE_PICTURE, ONE_SCENE  # noqa: E402

BITS, LEAST = (6, 8, 10, 12, 14), (0.60, 0.70, 0.75, 0.80, 0.85, 0.90)
SUFFIXES = (".jpg", ".jpeg", ".png", ".pgm")
MANY = 100_000
WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all"
)


@dataclass(frozen=True)
class Half:
    """The photos of a half of a folder, the look of each, and how alike copies are: form -> (bits, likeness)."""

    folder: Path
    files: list[Path]
    looks: list[Look]
    copies: dict[str, list[tuple[int, float]]]
    moved: np.ndarray  # likeness of the scenes of imitated bursts

    @property
    def thumbnails(self) -> np.ndarray:
        return np.stack([one.thumbnail for one in self.looks])

    def pairs(self) -> list[tuple[int, int, int, float]]:
        """Return (i, j, bits, likeness) of the pairs that any of the thresholds takes for one picture."""
        thumbnails, found = self.thumbnails, list[tuple[int, int, int, float]]()
        hashed = hashes(thumbnails)
        for rows in blocks(len(hashed)):
            i, j = near(hashed, rows, np.arange(len(hashed)), max(BITS))
            scores = likeness(thumbnails, (i, j))
            bits = np.bitwise_count(hashed[i] ^ hashed[j])
            kept = (scores >= min(LEAST)) & _of_one_colour(self.looks, i, j)
            found += zip(i[kept].tolist(), j[kept].tolist(), bits[kept].tolist(), scores[kept].tolist(), strict=True)
        return found

    def name(self, at: int) -> str:
        return f"{self.folder.name}/{self.files[at].relative_to(self.folder).as_posix()}"


def _of_one_colour(looks: Sequence[Look], i: np.ndarray, j: np.ndarray) -> np.ndarray:
    colour = np.array([one.colour for one in looks])
    return np.abs(colour[i] - colour[j]).max(axis=1, initial=0) <= MOST_COLOUR


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def forms(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, the file) of copies of an upright RGB photo."""
    width, height = image.size
    for quality in (40, 60, 80, 95):
        yield f"JPEG, quality {quality}", saved(image, quality=quality)
    for kind in ("PNG", "WebP"):
        yield kind, saved(image, kind)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "turned by EXIF", saved(image.transpose(Image.Transpose.ROTATE_90), quality=90, exif=exif.tobytes())
    for scale in (0.25, 0.5, 0.9):
        size = max(1, round(scale * width)), max(1, round(scale * height))
        yield f"sides x {scale}", saved(image.resize(size, Image.Resampling.LANCZOS), quality=90)
    for share in (0.02, 0.05):
        x, y = width * share / 2, height * share / 2
        box = round(x), round(y), round(width - x), round(height - y)
        yield f"cut by {share:.0%}", saved(image.crop(box), quality=90)
    for factor in (0.85, 1.15):
        yield f"brightness {factor - 1:+.0%}", saved(image.point([min(255, round(factor * v)) for v in range(256)] * 3))


def moved(image: Image.Image, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    """Return the middle of a photo, and the same as the next photo of a burst may show it."""
    width, height = image.size

    def middle(picture: Image.Image, share: float) -> Image.Image:
        x, y = width * (1 - share) / 2, height * (1 - share) / 2
        return picture.crop((round(x), round(y), round(width - x), round(height - y)))

    shift = rng.uniform(-0.05, 0.05) * width, rng.uniform(-0.05, 0.05) * height
    turned = image.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC, translate=shift)
    return middle(image, 0.8), middle(turned, 0.8 * rng.uniform(0.96, 1.04))


def halves(folder: Path, photos: int, rng: random.Random) -> Iterator[Half]:
    """Yield the half to choose by and the half to report, no folder of photos in both."""
    by_folder = defaultdict[Path, list[Path]](list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            by_folder[file.parent].append(file)
    parts = list(by_folder.values())
    rng.shuffle(parts)
    for part in (parts[::2], parts[1::2]):
        files = [file for files in part for file in files]
        with Decoder() as decoder:
            read = [
                (file, look(photo.pixels))
                for file, photo in zip(files, decoder.stream(Path("/"), map(str, files)), strict=True)
                if photo.pixels is not None
            ]
            files, looks = [file for file, _ in read], [one for _, one in read]
            chosen = sorted(rng.sample(range(len(files)), min(photos, len(files))))
            yield Half(folder, files, looks, *_measured(decoder, [(files[at], looks[at]) for at in chosen], rng))


def _measured(
    decoder: Decoder, photos: Sequence[tuple[Path, Look]], rng: random.Random
) -> tuple[dict[str, list[tuple[int, float]]], np.ndarray]:
    """Return what `Half` has of copies of these photos and of imitated bursts."""
    copies, bursts = defaultdict[str, list[tuple[int, float]]](list), list[np.ndarray]()
    for file, original in photos:
        pixels = decoder.submit(Path("/"), str(file)).result().pixels
        assert pixels is not None
        image = Image.fromarray(pixels)
        bursts += [look(np.asarray(one)).thumbnail for one in moved(image, rng)]
        for form, data in forms(image):
            copy = decoder.submit_bytes(form, data).result().pixels
            assert copy is not None
            seen = [original, look(copy)]
            thumbnails, first = np.stack([one.thumbnail for one in seen]), np.array([0])
            score = float(likeness(thumbnails, (first, first + 1))[0])
            same_colour = bool(_of_one_colour(seen, first, first + 1)[0])
            a, b = hashes(thumbnails)
            copies[form].append((int(np.bitwise_count(a ^ b)), score if same_colour else 0.0))
    first = np.arange(0, len(bursts), 2)
    return dict(copies), scene_likeness(np.stack(bursts), (first, first + 1))


def pages_of_text(n: int, rng: random.Random) -> np.ndarray:
    """Return thumbnails of drawn pages of text in one layout, uint8 (n, s, s)."""
    font = ImageFont.load_default(22)
    drawn = []
    for _ in range(n):
        page = Image.new("RGB", (1240, 1754), (250, 250, 250))
        pen, y = ImageDraw.Draw(page), 120
        for _ in range(6):
            for _ in range(rng.choice((6, 7, 7, 7))):
                pen.text((130, y), " ".join(rng.choices(WORDS.split(), k=20)), fill=(20, 20, 20), font=font)
                y += 32
            y += 30
        drawn.append(look(np.asarray(page)).thumbnail)
    return np.stack(drawn)


def following(half: Half) -> np.ndarray:
    """Return the likeness of the scenes of photos of one folder whose numbers follow each other."""
    at = {(match[1], int(match[2])): n for n, file in enumerate(half.files) if (match := NUMBERED.fullmatch(str(file)))}
    pairs = [(n, at[prefix, number + 1]) for (prefix, number), n in at.items() if (prefix, number + 1) in at]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return scene_likeness(half.thumbnails, (first, second))


def choice(tried: Sequence[Half], same: set[frozenset[str]]) -> Iterator[str]:
    """Yield a table: thresholds by the copies that they miss and the false pairs that they take."""
    copies = np.array([pair for half in tried for pairs in half.copies.values() for pair in pairs])
    false = np.array([(b, s) for half in tried for i, j, b, s in half.pairs() if not is_same(half, i, j, same)])
    false = false.reshape(-1, 2)
    yield "| bits at most | " + " | ".join(f"likeness {least:.2f}" for least in LEAST) + " |"
    yield "|---" * (1 + len(LEAST)) + "|"
    for bits in BITS:
        cells = []
        for least in LEAST:
            missed, taken = (1 - ok(copies, bits, least).mean()), ok(false, bits, least).sum()
            cells.append(f"{missed:.1%}, {taken}")
        yield f"| {bits} | " + " | ".join(cells) + " |"


def ok(pairs: np.ndarray, bits: float, least: float) -> np.ndarray:
    """Return whether pairs (bits, likeness), (m, 2), are one picture: bool (m,)."""
    return (pairs[:, 0] <= bits) & (pairs[:, 1] >= least)


def is_same(half: Half, i: int, j: int, same: set[frozenset[str]]) -> bool:
    return frozenset((half.name(i), half.name(j))) in same


def found_table(held: Sequence[Half]) -> Iterator[str]:
    """Yield a table: copies found, by form and folder."""
    yield "| copy | " + " | ".join(f"{half.folder.name}, found" for half in held) + " |"
    yield "|---" * (1 + len(held)) + "|"
    for form in held[0].copies:
        cells = []
        for half in held:
            found = ok(np.array(half.copies[form]), MOST_BITS, ONE_PICTURE)
            cells.append(f"{found.sum()} of {len(found)}")
        yield f"| {form} | " + " | ".join(cells) + " |"
    cells = [f"{(half.moved >= ONE_SCENE).sum()} of {len(half.moved)}" for half in held]
    yield "| moved, as in a burst | " + " | ".join(cells) + " |"


def false_table(halves: Sequence[Half], same: set[frozenset[str]], rng: random.Random) -> Iterator[str]:
    """Yield a table of what was taken for one picture, or one scene, and is not."""
    yield "| not copies | pairs | taken for one |"
    yield "|---|---|---|"
    for half in halves:
        n = len(half.files)
        taken = [(i, j) for i, j, b, s in half.pairs() if b <= MOST_BITS and s >= ONE_PICTURE]
        true = sum(is_same(half, i, j, same) for i, j in taken)
        beside = f" (beside {true} that are one picture)" if true else ""
        what = f"{half.folder.name}: {n:,} photos with each other"
        yield f"| {what} | {n * (n - 1) // 2:,} | {len(taken) - true}{beside} |"
    pages = pages_of_text(60, rng)
    i, j = np.triu_indices(len(pages), 1)
    hashed = hashes(pages)
    pairs = np.stack([np.bitwise_count(hashed[i] ^ hashed[j]), likeness(pages, (i, j))], axis=1)
    yield f"| drawn pages of text | {len(pairs):,} | {ok(pairs, MOST_BITS, ONE_PICTURE).sum()} |"
    for half in halves:
        if len(scores := following(half)):
            what = f"{half.folder.name}: photos with following numbers, as a burst"
            yield f"| {what} | {len(scores):,} | {(scores >= ONE_SCENE).sum()} |"


def draw(halves: Sequence[Half], same: set[frozenset[str]], sheet: Path) -> None:
    """Draw the pairs that nobody has looked at, most alike first, and list them."""
    todo = [(s, b, half, i, j) for half in halves for i, j, b, s in half.pairs() if not is_same(half, i, j, same)]
    todo.sort(key=lambda one: -one[0])
    side, columns = 150, 5
    drawn = Image.new("RGB", (columns * 2 * side, (len(todo) + columns - 1) // columns * (side + 14) + 1), "white")
    pen = ImageDraw.Draw(drawn)
    for n, (score, bits, half, i, j) in enumerate(todo):
        x, y = n % columns * 2 * side, n // columns * (side + 14)
        pen.text((x, y), f"{n}: {score:.4f} {bits}", fill="black")
        for k, at in enumerate((i, j)):
            with Image.open(half.files[at]) as image:
                drawn.paste(image.convert("RGB").resize((side - 4, side - 4)), (x + k * side, y + 12))
        click.echo(f"{n}\t{score:.4f}\t{bits}\t{half.name(i)}\t{half.name(j)}", err=True)
    drawn.save(sheet)


def seconds_for_many() -> float:
    """Measure how long near pairs among MANY random hashes take, in seconds of a processor."""
    hashed = np.random.default_rng(0).integers(0, 2**64, MANY, np.uint64)
    began, every = time.process_time(), np.arange(MANY)
    for rows in blocks(MANY):
        near(hashed, rows, every[rows[0] :], MOST_BITS)
    return time.process_time() - began


@click.command(help=__doc__)
@click.argument("folders", type=click.Path(path_type=Path, exists=True, file_okay=False), nargs=-1, required=True)
@click.option("--photos", default=150, show_default=True, help="Photos of each half that are copied.")
@click.option("--same", "same_file", type=click.Path(path_type=Path, exists=True), help="JSON: pairs of one picture.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Draw the other pairs here.")
@click.option(
    "--page", type=click.Path(path_type=Path, exists=True), help="Renew the tables `measured: ...` of a page."
)
def main(
    *, folders: tuple[Path, ...], photos: int, same_file: Path | None, sheet: Path | None, page: Path | None
) -> None:
    rng = random.Random(0)
    tried, held = zip(*(tuple(halves(folder, photos, rng)) for folder in folders), strict=True)
    same = set(map(frozenset, json.loads(same_file.read_text()))) if same_file else set()
    if sheet:
        draw([*tried, *held], same, sheet)
    chosen, found = list(choice(tried, same)), list(found_table(held))
    false = list(false_table(held, same, rng))
    click.echo("\n".join(["copies missed, false pairs, on the half to choose by", "", *chosen, "", *found, "", *false]))
    click.echo(f"\n{MANY:,} hashes with each other: {seconds_for_many():.1f} s of a processor")
    if page:
        for name, text in (("choice", chosen), ("found", found), ("false", false)):
            put(page, name, text)


if __name__ == "__main__":
    main()
