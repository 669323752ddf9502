"""What does a recipe win? Trains it on people of LFW and measures the model beside the one it starts from, on people apart.

    python benchmarks/accuracy.py CROPS --one-shot lfw_one_shot.csv --people lfw_people.csv --pairs lfw_pairs.txt --folder WORK

CROPS: `align LFW --border 20 --out CROPS`, every photo of LFW under its person. The settings, each in float32:

closed     trained on the gallery's photos; the probes of the `test` people among the whole gallery
open       three folds of all people, by hash of the name: trained on two, probes of the third's `test` people among the whole gallery
strangers  trained on the `dev` people's photos and the gallery photos of the first 700 `test` people, who are enrolled; DIR at FPIR with the
           probes of the other `test` people and everyone with one photo as strangers
halves     LFW's ten folds: trained on the people who are in none of the five tested folds, each half in turn

WORK keeps models and vectors: the same command again goes on. The figures are printed, and written to WORK/accuracy.json.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from embedder.quiet import import_tensorflow  # noqa: E402

import_tensorflow()
from embedder import align  # noqa: E402
from embedder.compute import Compute  # noqa: E402
from embedder.runtime import Embedder  # noqa: E402
from embedder.table import DataSet, Entry, Row, Writer, to_rows, to_table  # noqa: E402
from embedder.weights import open_model  # noqa: E402
from indexer import openset, verification  # noqa: E402
from indexer.metrics import compare, hits_at, nearest_people, wilson  # noqa: E402
from indexer.openset import OpenSet  # noqa: E402
from trainer.recipe import read as read_recipe  # noqa: E402
from trainer.train import train  # noqa: E402

PATH = click.Path(path_type=Path, exists=True)
FOLDS, ENROLLED = 3, 700
Json = dict[str, Any]


class Bench:
    """The photos, whose they are, and the models that were trained on some of them."""

    def __init__(self, crops: Path, one_shot: Path, people: Path, recipe: str, source: str, epochs: tuple[int, ...] | None, work: Path):
        self.data, self.recipe, self.source, self.epochs, self.work = DataSet(crops), read_recipe(recipe), source, epochs, work
        self.rows = [row for table in self.data.shards() for row in to_rows(table) if row.crop and row.identity]
        self.names = np.array([row.identity for row in self.rows])
        place = {row.image: i for i, row in enumerate(self.rows)}
        shots = list(csv.DictReader(one_shot.open()))
        self.gallery, self.probes = (np.array([place[s["image"]] for s in shots if s["split"] == split]) for split in ("gallery", "probe"))
        role = {line["identity"]: line["role"] for line in csv.DictReader(people.open())}
        self.roles, self.test = np.array([role.get(name, "single") for name in self.names]), [n for n, r in role.items() if r == "test"]
        self.fold = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % FOLDS for name in self.names])
        self.seconds: dict[str, float] = {}

    def of(self, indices: np.ndarray) -> np.ndarray:
        """bool (n,)."""
        return np.isin(np.arange(len(self.rows)), indices)

    def vectors(self, title: str, trained_on: np.ndarray | None, wanted: np.ndarray) -> np.ndarray:
        """float32 (n, d), zeros but for the photos wanted, bool (n,): by the source, or by a model trained on the photos trained_on."""
        path = self.work / f"{title}.npy"
        if not path.exists():
            reference = self.source if trained_on is None else str(self._trained(title, trained_on))
            embed = Embedder(open_model(reference), Compute("cpu", "f32"))
            found = np.zeros((len(self.rows), embed.spec.dimension), np.float32)
            places = np.flatnonzero(wanted)
            for i in range(0, len(places), 256):
                some = places[i : i + 256]
                found[some] = embed(np.stack([align.plain(self.rows[k].crop or b"", self.data.spec.crop) for k in some]))
            np.save(path, found)
        return np.load(path)

    def _trained(self, title: str, chosen: np.ndarray) -> Path:
        rows = [replace(self.rows[i], split="train") for i in np.flatnonzero(chosen)]
        crops = subset(self.data, rows, self.work / f"{title}-crops")
        began = time.monotonic()
        train(crops, self.recipe, self.source, self.work / title, epochs=self.epochs, say=lambda line: click.echo(line, err=True))
        self.seconds[title] = round(time.monotonic() - began)
        return self.work / title

    # settings ---------------------------------------------------------------

    def closed(self) -> Json:
        wanted = self.of(np.concatenate([self.gallery, self.probes]))
        before = self._hits(self.vectors("source-closed", None, wanted))
        after = self._hits(self.vectors("closed", self.of(self.gallery), wanted))
        return self._compared(before, after)

    def open(self) -> Json:
        wanted = self.of(np.concatenate([self.gallery, self.probes]))
        before = self._hits(self.vectors("source-closed", None, wanted))
        after = np.zeros_like(before)
        for fold in range(FOLDS):
            mine = self.fold[self.probes] == fold
            after[mine] = self._hits(self.vectors(f"open-{fold}", self.fold != fold, wanted))[mine]
        return self._compared(before, after)

    def strangers(self) -> Json:
        enrolled = set(self.test[:ENROLLED])
        gallery, probes = (np.array([i for i in of if self.names[i] in enrolled]) for of in (self.gallery, self.probes))
        others = np.array([i for i in self.probes if self.roles[i] == "test" and self.names[i] not in enrolled])
        strangers = np.concatenate([others, np.flatnonzero(self.roles == "single")])
        wanted = self.of(np.concatenate([gallery, probes, strangers]))
        trained_on = self.of(gallery) | (self.roles == "dev")
        systems = []
        for x in (self.vectors("source-strangers", None, wanted), self.vectors("strangers", trained_on, wanted)):
            (first, scores), (_, highest) = (nearest_people(x[gallery], self.names[gallery], x[q], 1) for q in (probes, strangers))
            genuine = np.where(first[:, 0] == self.names[probes], scores[:, 0], -np.inf).astype(np.float32)
            systems.append(OpenSet(genuine, self.names[probes], highest[:, 0], self.names[strangers]))
        return {"enrolled": len(gallery), "strangers": len(strangers), "rates": [asdict(d) for d in openset.compare(*systems)]}

    def halves(self, pairs: verification.Pairs) -> Json:
        stems = np.array([Path(row.image).stem for row in self.rows])
        tested = np.isin(stems, [*pairs.first, *pairs.second])
        before = self.vectors("source-halves", None, tested)
        after = np.empty(len(pairs.same))
        for half in range(2):
            mine = pairs.folds // 5 == half
            photos = {stem for of in (pairs.first, pairs.second) for stem, is_mine in zip(of, mine, strict=True) if is_mine}
            people = set(self.names[np.isin(stems, list(photos))])
            x = self.vectors(f"halves-{half}", ~np.isin(self.names, list(people)), tested)
            after[mine] = pairs.scores(dict(zip(stems, x, strict=True)))[mine]
        one, other = (
            verification.verify_folds(s, pairs.same, pairs.folds) for s in (pairs.scores(dict(zip(stems, before, strict=True))), after)
        )
        accuracies = {"before": [one.accuracy, one.std], "after": [other.accuracy, other.std]}
        return accuracies | {"paired": asdict(verification.compare_folds(one, other))}

    def _hits(self, x: np.ndarray) -> np.ndarray:
        """bool (probes, 5)."""
        nearest, _ = nearest_people(x[self.gallery], self.names[self.gallery], x[self.probes], 5)
        return hits_at(nearest, self.names[self.probes])

    def _compared(self, before: np.ndarray, after: np.ndarray) -> Json:
        result: Json = {}
        for group in ("test", "dev"):
            mine = self.roles[self.probes] == group
            owners = self.names[self.probes][mine]
            result[group] = {"probes": int(mine.sum())}
            for name, k in (("top1", 0), ("top5", 4)):
                a, b = before[mine, k], after[mine, k]
                interval = wilson(int(b.sum()), len(b))
                shares = {"before": float(a.mean()), "after": float(b.mean()), "interval": interval}
                result[group][name] = shares | {"paired": asdict(compare(a, b, owners))}
        return result


def subset(data: DataSet, rows: list[Row], folder: Path) -> Path:
    """Some rows of a data set as one of their own."""
    writer = Writer(folder, data.spec, {}, [Entry(row.image, 0, 0) for row in rows])
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
@click.option("--epochs", help="Of each stage, such as 1,0, in the place of the recipe's.")
@click.option("--settings", default="closed,open,strangers,halves", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
def main(
    crops: Path, one_shot: Path, people: Path, pairs: Path, recipe: str, source: str, epochs: str | None, settings: str, folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = tuple(map(int, epochs.split(","))) if epochs else None
    bench = Bench(crops, one_shot, people, recipe, source, numbers, folder)
    result: Json = {"command": " ".join(sys.argv), "recipe": recipe, "from": source, "epochs": numbers, "seed": 0, "seconds": bench.seconds}
    for setting in settings.split(","):
        result[setting] = bench.halves(verification.read_pairs(pairs)) if setting == "halves" else getattr(bench, setting)()
        click.echo(f"{setting}: {json.dumps(result[setting])}")
        (folder / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
