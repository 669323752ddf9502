"""Does the gate find the better of two networks from a few people? Ask it about changes whose effect many people show.

    python benchmarks/accuracy/gate.py CROPS --one-shot lfw_one_shot.csv --people lfw_people.csv --folder WORK

CROPS and WORK are those of `benchmarks/accuracy/recipes.py --from duo` with the setting `open`. From the people of
each fold, on whom its models were not trained, some are drawn repeatedly, each with two photos. For each change of
each network this prints DIR at FPIR 0.01 and top-1 among all people of a fold (every probe is also a stranger to the
gallery without its person), and the share of draws in which each measure says "better"; equal draws count half.
`kept` is the gate's decision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.recipes import FOLDS, PATH, Bench  # noqa: E402
from facegallery.embedder.network.runtime import unit  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.evaluation.openset import OpenSet, dir_at  # noqa: E402
from facegallery.indexer.metrics import threshold_at  # noqa: E402
from facegallery.trainer.gate import hits, is_kept, judge  # noqa: E402

FPIR, FAR, NOISE = 0.01, 0.001, 0.02
MEASURES = ("top-1", f"TAR at FAR {FAR}", "soft TAR", "kept")


def changes(work: Path, source: str, fold: int, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, before, after) of each network: unit vectors (n, d) of the rows (n,)."""
    parts, noise = open_model(source).spec.parts, np.random.default_rng(fold)
    models = {"plain": source, "source": source, f"open-{fold}": str(work / f"open-{fold}")}
    for part, *vectors in zip(
        parts, *(networks(np.load(work / f"{t}.npy")[rows], model) for t, model in models.items()), strict=True
    ):
        came, begun, learned = vectors
        if part.zoom != 1:
            yield f"{part.name}, its zoom", came, begun
        yield f"{part.name}, trained", begun, learned
        yield (
            f"{part.name}, a little noise",
            begun,
            unit(begun + noise.normal(0, NOISE, begun.shape).astype(np.float32)),
        )


def networks(vectors: np.ndarray, model: str) -> list[np.ndarray]:
    """Split the vectors of a model into the unit vectors (n, d) of each network."""
    ends = np.cumsum([part.dimension for part in open_model(model).spec.parts])[:-1]
    return [unit(x) for x in np.split(vectors, ends, axis=1)]


def everybody(vectors: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return DIR and top-1 of people's second photos (rows n to 2 n, in the order of the first n) among their first."""
    scores = np.split(vectors, 2)[1] @ np.split(vectors, 2)[0].T
    genuine = scores.diagonal().copy()
    np.fill_diagonal(scores, -np.inf)
    people, others = np.split(labels, 2)[0], scores.max(axis=1)
    first = genuine > others
    return dir_at(OpenSet(np.where(first, genuine, -np.inf), people, others, people), FPIR), float(first.mean())


def better(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return 1, 0.5 or 0 for each of MEASURES."""
    old, new = judge(before, labels), judge(after, labels)
    pairs = [(old.top1, new.top1), (tar(before, labels), tar(after, labels)), (old.tar, new.tar)]
    return [(b > a) + 0.5 * (b == a) for a, b in pairs] + [float(is_kept(new, old.tar, hits(before, labels)))]


def tar(vectors: np.ndarray, labels: np.ndarray) -> float:
    first, second = np.triu_indices(len(labels), 1)
    scores, same = (vectors @ vectors.T)[first, second], labels[first] == labels[second]
    return float((scores[same] >= threshold_at(scores[~same], FAR)).mean())


@click.command()
@click.argument("crops", type=PATH)
@click.option("--one-shot", type=PATH, required=True, help="CSV identity,split,image.")
@click.option("--people", type=PATH, required=True, help="CSV identity,role of those who have two photos.")
@click.option("--from", "source", default="duo", show_default=True, help="As accuracy.py had it.")
@click.option("--drawn", default=28, show_default=True, help="People a draw.")
@click.option("--draws", default=100, show_default=True, help="Of each fold.")
@click.option("--folder", type=PATH, required=True)
def main(crops: Path, one_shot: Path, people: Path, source: str, drawn: int, draws: int, folder: Path) -> None:
    bench = Bench(crops, one_shot, people, "distil", source, None, None, folder)
    gallery, probes = (of[np.argsort(bench.names[of])] for of in (bench.gallery, bench.probes))
    found: dict[str, list[np.ndarray]] = {}
    told: dict[str, list[list[float]]] = {}
    for fold in range(FOLDS):
        rows = np.concatenate([of[bench.fold[of] == fold] for of in (gallery, probes)])
        labels, n = bench.names[rows], len(rows) // 2
        for name, before, after in changes(folder, source, fold, rows):
            found.setdefault(name, []).append(np.array([everybody(before, labels), everybody(after, labels)]))
            rng = np.random.default_rng(fold)
            for _ in range(draws):
                some = rng.choice(n, drawn, replace=False)
                both = np.concatenate([some, some + n])
                told.setdefault(name, []).append(better(before[both], after[both], labels[both]))
    click.echo(f"| change | DIR at FPIR {FPIR}; top-1 | {' | '.join(MEASURES)} |")
    for name, truth in found.items():
        (dir_before, top_before), (dir_after, top_after) = np.mean(truth, axis=0)
        shares = " | ".join(f"{share:.2f}" for share in np.mean(told[name], axis=0))
        click.echo(f"| {name} | {dir_before:.3f} to {dir_after:.3f}; {top_before:.4f} to {top_after:.4f} | {shares} |")


if __name__ == "__main__":
    main()
