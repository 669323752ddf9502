"""Does the quality of a face say whether its person will be found?

    python benchmarks/accuracy/quality.py LFW SETS --one-shot CSV --roles CSV --work WORK [--fit]
        [--out benchmarks/results/quality.json] [--page docs/explanation/benchmarks.md]

LFW is its folder of people, SETS a folder with CSVs `image,identity,split,kind`; the other CSVs are those of
`benchmarks/accuracy/people.py`. One person's first photo is enrolled, all others are probes. One probe and one
stranger in five, by SHA-256, are asked degraded, too: blurred, shrunk, saved as a small JPEG, darkened or turned, in
one of three strengths (`benchmarks/common/degraded.py`). LFW's people with one photo are the strangers.

Two sides: `dev` has LFW's development people, with all of their photos, and the people of SETS and strangers whose
SHA-256 is even; `test` has LFW's test people and the other halves. The rule, for `--fit`, looks at dev alone: of the
measures, that which raises the area under the ROC curve of found against missed probes most joins a logistic regression
with weights that are not negative, until the gain is below 0.002; five folds of people. Once with the length of the
network's vector, once without.

A probe is found where its person comes first and scores above FPIR 0.01's threshold, that of all strangers of the side.
The threshold stays; then the worst probes by quality are refused, and FNIR is that of the others. Probes without a face
are left out: nothing has to refuse them. `best possible` refuses the probes that are missed. WORK keeps the vectors.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.degraded import WAYS, degrade, number_of, way_of  # noqa: E402
from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import PeopleSet, read_sets  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import Row, to_rows  # noqa: E402
from facegallery.embedder.faces import quality  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.evaluation.discard import SHARES, Asked, Discard, discards  # noqa: E402
from facegallery.indexer.metrics import threshold_at  # noqa: E402
from facegallery.workflows.photos import ANYWHERE, EmbedOptions, embed, load_embedder  # noqa: E402

PATH = click.Path(path_type=Path)
FPIR, EACH, FOLDS, GAIN = 0.01, 5, 5, 0.002
RIDGE, STEPS = 1.0, 40
Label = tuple[str, str, str, str]  # side, person, split and image


@dataclass
class Photo:
    """A photo, what its row says, and on which side it is. way: how it is degraded, '' where it is not."""

    side: str
    part: str
    person: str
    split: str
    way: str
    row: Row


# photos ---------------------------------------------------------------------


def embedded(source: Path, out: Path, level: int | None = None) -> dict[str, Row]:
    """Embed photos, or read what an earlier run made of them; the row of each photo's face."""
    options = EmbedOptions(keep_crops=False, level=level)
    embed(source, out, load_embedder(open_model("sface"), ANYWHERE), options)
    rows = (row for table in DataSet(out).shards() for row in to_rows(table))
    return {row.image: row for row in rows if row.face <= 0}


def with_degraded(part: str, root: Path, rows: dict[str, Row], asked: Sequence[str], work: Path) -> dict[str, Row]:
    """Return the rows of the degraded photos among those that are asked, by the name of the photo."""
    folder = work / "degraded" / part
    chosen = {image: f"{number_of(image):012x}.png" for image in asked if number_of(image) % EACH == 0}
    for image, name in chosen.items():
        box, path = rows[image].box, folder / name
        if box is None or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = ImageOps.exif_transpose(Image.open(root / image)).convert("RGB")
        degrade(photo, image, min(box[2] - box[0], box[3] - box[1])).save(path, compress_level=1)
    found = embedded(folder, work / "vectors" / f"degraded-{part}")
    return {image: found[name] for image, name in chosen.items() if name in found}


def photos_of(
    part: str, root: Path, labels: list[tuple[str, str, str, str]], rows: dict[str, Row], work: Path
) -> list[Photo]:
    """Return the photos of a set, with the degraded ones."""
    labels = [one for one in labels if one[3] in rows]
    degraded = with_degraded(part, root, rows, [one[3] for one in labels if one[2] != "gallery"], work)
    found = []
    for side, person, split, image in labels:
        found.append(Photo(side, part, f"{part}/{person}", split, "", rows[image]))
        if split != "gallery" and image in degraded:
            found.append(Photo(side, part, f"{part}/{person}", split, way_of(image)[0], degraded[image]))
    return found


def side_of(name: str) -> str:
    """Return the side of a person by their name."""
    return "dev" if number_of(name) % 2 == 0 else "test"


def lfw_photos(lfw: Path, one_shot: Path, roles: Path, work: Path) -> list[Photo]:
    """Return LFW's photos: all of the development people, one probe of each other, and strangers."""
    with open(roles, encoding="utf-8", newline="") as lines:
        role = {row["identity"]: row["role"] for row in csv.DictReader(lines)}
    with open(one_shot, encoding="utf-8", newline="") as lines:
        labels = [(role[r["identity"]], r["identity"], r["split"], r["image"]) for r in csv.DictReader(lines)]
    asked = {image for *_, image in labels}
    for folder in sorted(path for path in lfw.iterdir() if path.is_dir()):
        images = [f"{folder.name}/{file.name}" for file in sorted(folder.iterdir())]
        if role.get(folder.name) == "dev":
            labels += [("dev", folder.name, "probe", image) for image in images if image not in asked]
        elif folder.name not in role and len(images) == 1:
            labels.append((side_of(folder.name), folder.name, "stranger", images[0]))
    return photos_of("lfw", lfw, labels, embedded(lfw, work / "vectors" / "lfw"), work)


def set_photos(people: PeopleSet, work: Path) -> list[Photo]:
    """Return the photos of a set."""
    columns = zip(people.people, people.splits, people.images, strict=True)
    labels = [(side_of(f"{people.name}/{name}"), str(name), str(split), str(image)) for name, split, image in columns]
    rows = embedded(people.file, work / "vectors" / people.name)
    return photos_of(people.name, people.file.parent, labels, rows, work)


# answers --------------------------------------------------------------------


@dataclass
class Answers:
    """The probes of one side that have a face, and what became of each. scores: -inf where another comes first."""

    probes: list[Photo]
    scores: np.ndarray
    strangers: np.ndarray
    threshold: float
    faceless: int
    seen: list[quality.Seen] = field(default_factory=list)

    @property
    def found(self) -> np.ndarray:
        """Whether each probe is found, bool (n,)."""
        return self.scores >= self.threshold

    def of(self, keep: np.ndarray) -> Answers:
        """Return some of the probes, at the same threshold."""
        probes, seen = (
            [one for one, kept in zip(all_, keep, strict=True) if kept] for all_ in (self.probes, self.seen)
        )
        return Answers(probes, self.scores[keep], self.strangers, self.threshold, 0, seen)

    def table(self, score: np.ndarray) -> list[Discard]:
        """Return FNIR when the worst by a score are refused."""
        people = np.unique([photo.person for photo in self.probes], return_inverse=True)[1]
        nobody = np.empty(0)
        return discards(Asked(self.scores, people, score), Asked(nobody, nobody, nobody), self.threshold)


def answers_of(photos: list[Photo], side: str) -> Answers:
    """Ask one side's probes and strangers."""
    mine = [photo for photo in photos if photo.side == side]
    faced = [photo for photo in mine if photo.row.vector is not None]
    enrolled = [photo for photo in faced if photo.split == "gallery"]
    names = {photo.person for photo in enrolled}
    probes = [photo for photo in faced if photo.split == "probe" and photo.person in names]
    strangers = [photo for photo in faced if photo.split == "stranger"]
    xb, owners = _vectors(enrolled), np.array([photo.person for photo in enrolled])
    scores = _vectors(probes) @ xb.T
    right = owners[scores.argmax(axis=1)] == [photo.person for photo in probes]
    others = (_vectors(strangers) @ xb.T).max(axis=1)
    faceless = sum(photo.split == "probe" for photo in mine) - sum(photo.split == "probe" for photo in faced)
    best = np.where(right, scores.max(axis=1), -np.inf).astype(np.float32)
    seen = [quality.seen_in(photo.row) for photo in probes]
    return Answers(probes, best, others, threshold_at(others, FPIR), faceless, seen)


def _vectors(photos: list[Photo]) -> np.ndarray:
    return np.array([photo.row.vector for photo in photos], np.float32)


# the fit --------------------------------------------------------------------


def fitted(measures: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the weights, none below 0, and the constant of a logistic regression; measures float (n, m)."""
    kept = list(range(measures.shape[1]))
    while True:
        weights = _newton(np.c_[measures[:, kept], np.ones(len(found))], found.astype(float))
        if not kept or weights[:-1].min() >= 0:
            break
        kept.pop(int(weights[:-1].argmin()))
    every = np.zeros(measures.shape[1] + 1)
    every[[*kept, -1]] = weights
    return every


def _newton(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights, ridge = np.zeros(x.shape[1]), RIDGE * np.r_[np.ones(x.shape[1] - 1), 0]
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (y - p) - ridge * weights
        weights = weights + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-9), slope)
    return weights


def foretold(measures: np.ndarray, found: np.ndarray, people: Sequence[str]) -> np.ndarray:
    """Return the chance of each probe by a fit to the other folds of people."""
    fold, chance = np.array([number_of(f"fold {one}") % FOLDS for one in people]), np.zeros(len(found))
    for k in range(FOLDS):
        weights = fitted(measures[fold != k], found[fold != k])
        chance[fold == k] = 1 / (1 + np.exp(-np.c_[measures[fold == k], np.ones((fold == k).sum())] @ weights))
    return chance


def area(score: np.ndarray, found: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a found probe has a higher score than a missed one."""
    ranks = np.argsort(np.argsort(score, kind="stable"))
    return float((ranks[found].mean() - (found.sum() - 1) / 2) / (~found).sum())


def chosen(answers: Answers, pool: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Choose measures by the rule; return them and the weights of all dev probes."""
    columns = {name: np.array([quality.MEASURES[name](seen) for seen in answers.seen]) for name in pool}
    people, names, best = [photo.person for photo in answers.probes], list[str](), 0.5

    def area_with(name: str) -> float:
        measures = np.stack([columns[one] for one in [*names, name]], 1)
        return area(foretold(measures, answers.found, people), answers.found)

    while len(names) < len(pool):
        tried = {name: area_with(name) for name in pool if name not in names}
        name = max(tried, key=lambda one: tried[one])
        if tried[name] - best < GAIN:
            break
        names, best = [*names, name], tried[name]
        click.echo(f"  + {name}: area {best:.4f}")
    return names, fitted(np.stack([columns[one] for one in names], 1), answers.found)


# what is shown --------------------------------------------------------------


def report(answers: Answers) -> dict:
    """Return the tables of one side."""
    score = np.array([quality.score_of(seen) for seen in answers.seen])
    without = np.array([quality.score_of(seen, length=False) for seen in answers.seen])
    parts = {
        "all": np.ones(len(score), bool),
        "LFW": np.array([photo.part == "lfw" and not photo.way for photo in answers.probes]),
        "LFW, with the degraded": np.array([photo.part == "lfw" for photo in answers.probes]),
        "the other sets, with the degraded": np.array([photo.part != "lfw" for photo in answers.probes]),
        "degraded alone": np.array([bool(photo.way) for photo in answers.probes]),
    }
    tables = {}
    for name, keep in parts.items():
        some = answers.of(keep)
        by = {"quality": score[keep], "without the length": without[keep], "best possible": some.found.astype(float)}
        tables[name] = {
            "probes": int(keep.sum()),
            "missed": int((~some.found).sum()),
            **{way: [[one.share, one.fnir, *one.interval] for one in some.table(values)] for way, values in by.items()},
        }
    edges = [0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.01]
    bands = [(low, high, (score >= low) & (score < high)) for low, high in zip(edges, edges[1:], strict=False)]
    meaning = [[low, min(high, 1), int(m.sum()), float(answers.found[m].mean())] for low, high, m in bands if m.any()]
    ways = {way: float(np.median(score[[p.way == way for p in answers.probes]])) for way in ("", *WAYS)}
    return {"parts": tables, "meaning": meaning, "median quality": ways, "faceless": answers.faceless}


def page(found: dict) -> str:
    """Return the tables for the docs."""
    lines = ["| probes | number | FNIR of all | worst 1 % refused | 2 % | 5 % | 10 % | 20 % | 5 %, best possible |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, part in found["parts"].items():
        shares = {round(row[0], 2): row for row in part["quality"]}
        best = {round(row[0], 2): row[1] for row in part["best possible"]}
        cells = [f"{shares[share][1]:.3f}" for share in SHARES]
        cells[3] += f" ({shares[0.05][2]:.3f} to {shares[0.05][3]:.3f})"
        lines.append(f"| {name} | {part['probes']:,} | {' | '.join(cells)} | {best[0.05]:.3f} |")
    lines += ["", "| quality | probes | found |", "|---|---|---|"]
    lines += [f"| {low:g} to {high:g} | {n:,} | {share:.3f} |" for low, high, n, share in found["meaning"]]
    return "\n".join(lines)


@click.command()
@click.argument("lfw", type=PATH)
@click.argument("sets", type=PATH)
@click.option("--one-shot", type=PATH, required=True)
@click.option("--roles", type=PATH, required=True)
@click.option("--work", type=PATH, required=True)
@click.option("--fit", is_flag=True, help="Choose measures and weights on dev; print them, and change nothing.")
@click.option("--out", type=PATH, help="Write the figures of the test side as JSON.")
@click.option("--page", "docs", type=PATH, help="Write the table into this page.")
def main(
    *,
    lfw: Path,
    sets: Path,
    one_shot: Path,
    roles: Path,
    work: Path,
    fit: bool,
    out: Path | None,
    docs: Path | None,
) -> None:
    """Measure quality."""
    photos = lfw_photos(lfw, one_shot, roles, work)
    photos += [photo for people in read_sets(sets) for photo in set_photos(people, work)]
    if fit:
        dev = answers_of(photos, "dev")
        click.echo(f"dev: {len(dev.probes)} probes, FNIR {1 - dev.found.mean():.4f}")
        for pool in (list(quality.MEASURES), [name for name in quality.MEASURES if name != "length"]):
            names, weights = chosen(dev, pool)
            click.echo(json.dumps({n: round(float(w), 3) for n, w in zip([*names, "constant"], weights, strict=True)}))
    found = report(answers_of(photos, "test"))
    text = page(found)
    click.echo(text)
    click.echo(json.dumps({key: found[key] for key in ("median quality", "faceless")}))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if docs is not None:
        put(docs, "quality", text.splitlines())


if __name__ == "__main__":
    main()
