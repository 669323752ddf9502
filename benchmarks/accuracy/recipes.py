"""What does a recipe win? Train it on people of LFW, and compare the model with the one it starts from on other people.

    python benchmarks/accuracy/recipes.py CROPS --one-shot lfw_one_shot.csv --people lfw_people.csv \\
        --pairs lfw_pairs.txt --folder WORK

CROPS comes from `embed LFW --out CROPS`, or for networks that see boxes from `align LFW --border 20 --out CROPS`: every
photo of LFW under its person. The settings, all in float32:

closed     train on the gallery's photos; ask about the probes of the `test` people among the whole gallery
open       split all people into three folds by hash of the name: train on two, ask about the probes of the `test`
           people in the third among the whole gallery; DIR at FPIR, with the `test` people of the third as those who
           are enrolled and its people with one photo as strangers, one threshold over the three
strangers  train on the `dev` people's photos and on the gallery photos of the first 700 `test` people, who are
           enrolled; DIR at FPIR, with the probes of the other `test` people and everyone with one photo as strangers
halves     LFW's ten folds: train on the people who are in none of the five tested folds, for each half

The result is compared with `source`, the model that training starts from, and with `plain`, that model without zoom
and weights. Each network of a model of several is also measured alone. WORK keeps models and vectors; the same
command again resumes. The figures are printed and written to WORK/accuracy.json.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import sys
import time
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.network.quiet import import_tensorflow  # noqa: E402

import_tensorflow()
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import Entry, Row, to_rows, to_table  # noqa: E402
from facegallery.embedder.dataset.writer import DataSetWriter  # noqa: E402
from facegallery.embedder.faces import picture  # noqa: E402
from facegallery.embedder.faces.picture import FacePicture  # noqa: E402
from facegallery.embedder.network.runtime import Embedder, unit  # noqa: E402
from facegallery.embedder.weights.store import open_model, open_spec  # noqa: E402
from facegallery.indexer.evaluation import openset, verification  # noqa: E402
from facegallery.indexer.evaluation.openset import OpenSet  # noqa: E402
from facegallery.indexer.metrics import compare, hits_at, nearest_people, wilson  # noqa: E402
from facegallery.trainer.overrides import parse  # noqa: E402
from facegallery.trainer.recipe import Recipe  # noqa: E402
from facegallery.trainer.recipe import read as read_recipe  # noqa: E402
from facegallery.trainer.train import train  # noqa: E402

PATH = click.Path(path_type=Path, exists=True)
FOLDS, ENROLLED = 3, 700
Json = dict[str, Any]
Systems = dict[str, np.ndarray]  # by name: the model, and each of its networks where there are several


class Bench:
    """Hold the photos, their people, and the models that were trained on some of them."""

    def __init__(
        self,
        crops: Path,
        one_shot: Path,
        people: Path,
        recipe: Recipe,
        source: str,
        after: Path | None,
        work: Path,
    ):
        self.data, self.recipe, self.source, self.work = DataSet(crops), recipe, source, work
        self.after = after
        rows = [row for table in self.data.shards() for row in to_rows(table) if row.identity]
        self.rows = [row for row in rows if row.crop]
        self.faceless: dict[str, np.ndarray | None] = {Path(row.image).stem: None for row in rows if not row.crop}
        self.names = np.array([row.identity for row in self.rows])
        place = {row.image: i for i, row in enumerate(self.rows)}
        shots = list(csv.DictReader(one_shot.open()))
        self.gallery, self.probes = (
            np.array([place[s["image"]] for s in shots if s["split"] == split]) for split in ("gallery", "probe")
        )
        role = {line["identity"]: line["role"] for line in csv.DictReader(people.open())}
        self.roles, self.test = (
            np.array([role.get(name, "single") for name in self.names]),
            [n for n, r in role.items() if r == "test"],
        )
        self.fold = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % FOLDS for name in self.names])
        self.seconds: dict[str, float] = {}

    def of(self, indices: np.ndarray) -> np.ndarray:
        """Return bool (n,): whether each row is among these indices."""
        return np.isin(np.arange(len(self.rows)), indices)

    def vectors(self, title: str, wanted: np.ndarray, reference: str | None = None) -> Systems:
        """Embed the photos of `wanted`, bool (n,), by the model of `title`; return each system's float32 (n, d).

        Rows of photos that were never wanted are zeros.
        """
        spec = open_model(reference or str(self.work / title)).spec
        if title == "plain":
            spec = replace(spec, parts=tuple(replace(part, zoom=1.0, weight=1.0) for part in spec.parts))
        path = self.work / f"{title}.npy"
        embed = Embedder(open_spec(spec), Compute("cpu", "f32"))
        whole = np.load(path) if path.exists() else np.zeros((len(self.rows), spec.dimension), np.float32)
        missing = np.flatnonzero(wanted & ~whole.any(axis=1))
        for i in range(0, len(missing), 256):
            some = missing[i : i + 256]
            whole[some] = embed([self._picture(self.rows[k]) for k in some], self.data.spec.crop)
        np.save(path, whole)
        begun = open_model(self.source).spec
        if len(spec.parts) == 1:
            return {begun.model_name: whole}
        splits = np.split(whole, np.cumsum([part.dimension for part in spec.parts])[:-1], axis=1)
        return {part.name: unit(x) for part, x in zip(begun.parts, splits, strict=True)} | {begun.model_name: whole}

    def _picture(self, row: Row) -> FacePicture:
        return picture.read(row.crop or b"", row.box, row.landmarks, self.data.spec.crop, row.image)

    def before(self, wanted: np.ndarray) -> dict[str, Systems]:
        """Embed by the model that training starts from, and by that model without zoom and weights."""
        return {kind: self.vectors(kind, wanted, self.source) for kind in ("source", "plain")}

    def trained(self, title: str, chosen: np.ndarray, wanted: np.ndarray) -> Systems:
        """Embed by a model that is trained on the chosen photos, bool (n,)."""
        if not (self.work / title / "record.json").exists():
            rows = [replace(self.rows[i], split="train") for i in np.flatnonzero(chosen)]
            crops = subset(self.data, rows, self.work / f"{title}-crops")
            began = time.monotonic()
            source = str(self.after / title) if self.after else self.source
            train(crops, self.recipe, source, self.work / title)
            self.seconds[title] = round(time.monotonic() - began)
        return self.vectors(title, wanted)

    # settings ---------------------------------------------------------------

    def closed(self) -> Json:
        wanted = self.of(np.concatenate([self.gallery, self.probes]))
        after = self.trained("closed", self.of(self.gallery), wanted)
        return self._compared(self.before(wanted), {name: self._hits(x) for name, x in after.items()})

    def open(self) -> Json:
        wanted = self.of(np.concatenate([self.gallery, self.probes, np.flatnonzero(self.roles == "single")]))
        hits: Systems = {}
        scored: dict[str, list[OpenSet]] = {}
        for fold in range(FOLDS):
            mine = self.fold[self.probes] == fold
            for name, x in self.trained(f"open-{fold}", self.fold != fold, wanted).items():
                hits.setdefault(name, np.zeros((len(self.probes), 5), bool))[mine] = self._hits(x)[mine]
                scored.setdefault(name, []).append(self._in_fold(x, fold))
        before = self.before(wanted)
        result = self._compared(before, hits)
        for name, folds in scored.items():
            for kind, old in before.items():
                first = joined([self._in_fold(old[name], fold) for fold in range(FOLDS)])
                result[name].setdefault("open set", {})[kind] = [
                    asdict(d) for d in openset.compare(first, joined(folds))
                ]
        return result

    def _in_fold(self, x: np.ndarray, fold: int) -> OpenSet:
        """Ask about a fold's `test` people, and its people with one photo, among those `test` people."""
        gallery, probes = (
            of[(self.fold[of] == fold) & (self.roles[of] == "test")] for of in (self.gallery, self.probes)
        )
        return self._scored(x, gallery, probes, np.flatnonzero((self.fold == fold) & (self.roles == "single")))

    def _scored(self, x: np.ndarray, gallery: np.ndarray, probes: np.ndarray, strangers: np.ndarray) -> OpenSet:
        (first, scores), (_, highest) = (
            nearest_people(x[gallery], self.names[gallery], x[q], 1) for q in (probes, strangers)
        )
        genuine = np.where(first[:, 0] == self.names[probes], scores[:, 0], -np.inf).astype(np.float32)
        return OpenSet(genuine, self.names[probes], highest[:, 0], self.names[strangers])

    def strangers(self) -> Json:
        enrolled = set(self.test[:ENROLLED])
        gallery, probes = (np.array([i for i in of if self.names[i] in enrolled]) for of in (self.gallery, self.probes))
        others = np.array([i for i in self.probes if self.roles[i] == "test" and self.names[i] not in enrolled])
        strangers = np.concatenate([others, np.flatnonzero(self.roles == "single")])
        wanted = self.of(np.concatenate([gallery, probes, strangers]))

        def scored(x: np.ndarray) -> OpenSet:
            return self._scored(x, gallery, probes, strangers)

        after, before = self.trained("strangers", self.of(gallery) | (self.roles == "dev"), wanted), self.before(wanted)
        result: Json = {"enrolled": len(gallery), "strangers": len(strangers)}
        for name, x in after.items():
            result[name] = {
                kind: [asdict(d) for d in openset.compare(scored(old[name]), scored(x))] for kind, old in before.items()
            }
        return result

    def halves(self, pairs: verification.Pairs) -> Json:
        stems = np.array([Path(row.image).stem for row in self.rows])

        def scores(x: np.ndarray) -> np.ndarray:
            return pairs.scores(self.faceless | dict(zip(stems.tolist(), x, strict=True)))

        tested = np.isin(stems, [*pairs.first, *pairs.second])
        after: Systems = {}
        for half in range(2):
            mine = pairs.folds // 5 == half
            photos = {
                stem for of in (pairs.first, pairs.second) for stem, is_mine in zip(of, mine, strict=True) if is_mine
            }
            asked = np.isin(stems, list(photos))
            others = ~np.isin(self.names, self.names[asked])
            for name, x in self.trained(f"halves-{half}", others, asked).items():
                after.setdefault(name, np.empty(len(pairs.same)))[mine] = scores(x)[mine]
        result: Json = {}
        for kind, old in self.before(tested).items():
            for name, new in after.items():
                one, other = (verification.verify_folds(s, pairs.same, pairs.folds) for s in (scores(old[name]), new))
                accuracies = {"before": [one.accuracy, one.std], "after": [other.accuracy, other.std]}
                result.setdefault(name, {})[kind] = accuracies | {
                    "paired": asdict(verification.compare_folds(one, other))
                }
        return result

    def _hits(self, x: np.ndarray) -> np.ndarray:
        """Return hits, bool (probes, 5)."""
        nearest, _ = nearest_people(x[self.gallery], self.names[self.gallery], x[self.probes], 5)
        return hits_at(nearest, self.names[self.probes])

    def _compared(self, before: dict[str, Systems], after: Systems) -> Json:
        """Compare `after` (hits) by system, group of people, k, and the system it is compared with."""
        result: Json = {}
        for name, new in after.items():
            olds = {kind: self._hits(old[name]) for kind, old in before.items()}
            for group, (top, k) in product(("test", "dev"), (("top1", 0), ("top5", 4))):
                mine = self.roles[self.probes] == group
                b, owners = new[mine, k], self.names[self.probes][mine]
                figures = {"after": float(b.mean()), "interval": wilson(int(b.sum()), len(b)), "probes": len(b)}
                for kind, old in olds.items():
                    figures[kind] = {
                        "before": float(old[mine, k].mean()),
                        "paired": asdict(compare(old[mine, k], b, owners)),
                    }
                result.setdefault(name, {}).setdefault(group, {})[top] = figures
        return result


def joined(folds: list[OpenSet]) -> OpenSet:
    """Return the answers of several folds as one."""
    genuine, strangers = (np.concatenate([getattr(f, field) for f in folds]) for field in ("genuine", "strangers"))
    people, others = (np.concatenate([getattr(f, field) for f in folds]) for field in ("people", "stranger_people"))
    return OpenSet(genuine, people, strangers, others)


def subset(data: DataSet, rows: list[Row], folder: Path) -> Path:
    """Write some rows of a data set as a data set of their own."""
    writer = DataSetWriter(folder, data.spec, {}, [Entry(row.image, 0, 0) for row in rows])
    by_image = {row.image: row for row in rows}
    for shard, entries in writer.pending():
        writer.write(shard, to_table([by_image[e.path] for e in entries], data.spec), 0.0, {})
    return folder


@click.command()
@click.argument("crops", type=PATH)
@click.option("--one-shot", type=PATH, required=True, help="CSV identity,split,image.")
@click.option("--people", type=PATH, required=True, help="CSV identity,role of those who have two photos.")
@click.option("--pairs", type=PATH, required=True, help="LFW's pairs.txt.")
@click.option("--recipe", default="distil", show_default=True)
@click.option("--from", "source", default="msceleb", show_default=True)
@click.option(
    "--after", type=PATH, help="WORK of another recipe with the same --from: training continues from its models."
)
@click.option("--epochs", help="Of each stage, such as 1,0, instead of the recipe's.")
@click.option("--set", "changes", multiple=True, help="KEY=VALUE of the recipe, as for `train`.")
@click.option("--settings", default="closed,open,strangers,halves", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
def main(
    crops: Path,
    one_shot: Path,
    people: Path,
    pairs: Path,
    recipe: str,
    source: str,
    after: Path | None,
    epochs: str | None,
    changes: tuple[str, ...],
    settings: str,
    folder: Path,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = tuple(map(int, epochs.split(","))) if epochs else None
    plan = read_recipe(recipe).with_overrides(parse(changes)).with_epochs(numbers)
    bench = Bench(crops, one_shot, people, plan, source, after, folder)
    result: Json = {
        "command": " ".join(sys.argv),
        "recipe": recipe,
        "from": source,
        "epochs": numbers,
        "set": changes,
        "seed": 0,
        "seconds": bench.seconds,
    }
    for setting in settings.split(","):
        result[setting] = (
            bench.halves(verification.read_pairs(pairs)) if setting == "halves" else getattr(bench, setting)()
        )
        click.echo(f"{setting}: {json.dumps(result[setting])}")
        (folder / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
