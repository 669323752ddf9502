"""How much of a face's surroundings should a network see? One table: every set of photos at several crops and zooms.

    python benchmarks/accuracy/zoom.py SETS --lfw FOLDER --one-shot CSV --roles CSV --work WORK [--model msceleb]
        [--crop box:1 --crop box:1.14 --crop close:1.14 ...] [--page docs/explanation/benchmarks.md]

The sets and the figures are those of `people.py`. A crop `KIND:ZOOM` shows the middle 1 / ZOOM of the box with its
margin: `box` of what the photo's edge leaves of it, `close` of the whole, which the edge then cuts. The first is what
the others are compared with. Choose by the mean of LFW's `dev` people and the other sets, among those that are on none
of them significantly worse than the first; read LFW's `test` people.

WORK keeps windows and vectors: the same command again resumes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.people import Line, beside, called, lines_of  # noqa: E402
from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import LFW, PeopleSet, SetVectors, in_order, lfw_set, read_sets, read_vectors  # noqa: E402
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.spec import WINDOW, CropRule, FaceSpec  # noqa: E402
from facegallery.embedder.weights.store import Model, open_model  # noqa: E402
from facegallery.workflows.photos import AlignOptions, align, embed, load_embedder  # noqa: E402

CROPS = ("box:1", "close:1.14", "box:1.14")
PATH = click.Path(path_type=Path, exists=True)


def seeing(model: Model, crop: str) -> Model:
    """Return a model of one network that sees `KIND:ZOOM`."""
    kind, _, zoom = crop.partition(":")
    return replace(model, spec=FaceSpec.of(replace(model.spec.parts[0], crop=kind, zoom=float(zoom))))


def vectors(model: Model, people: PeopleSet, work: Path) -> SetVectors:
    """Embed the windows of a set, which are cut where an earlier model did not."""
    windows = work / "windows" / people.name
    align(people.file, windows, AlignOptions(rule=CropRule(window=WINDOW)))
    out = work / "vectors" / model.spec.fingerprint / people.name
    embed(windows, out, load_embedder(model, Compute("cpu", "f32")))
    x = in_order(read_vectors(out), people)
    return SetVectors(people, x, x.any(axis=1))


def table(lines: list[Line], crops: list[str]) -> Iterator[str]:
    """Yield a Markdown table of top-1: sets by crops, then the mean of the sets to choose by."""
    yield "| set | probes | " + " | ".join(f"`{crop}`" for crop in crops) + " |"
    yield "|---" * (2 + len(crops)) + "|"
    places = list(dict.fromkeys((line.set, line.kind) for line in lines))
    for place in places:
        at = {line.model: line for line in lines if (line.set, line.kind) == place}
        cells = [cell(at[crop]) for crop in crops]
        yield f"| {called(at[crops[0]])} | {at[crops[0]].probes} | " + " | ".join(cells) + " |"
    chosen = {crop: [line.top1.value for line in lines if line.model == crop and to_choose_by(line)] for crop in crops}
    yield "| mean, without LFW's `test` | | " + " | ".join(f"{np.mean(chosen[crop]):.4f}" for crop in crops) + " |"


def cell(line: Line) -> str:
    """Return the top-1 of a line, and the difference to the first crop."""
    return f"{line.top1.value:.4f}" + (f"; {beside(line.against)}" if line.against else "")


def to_choose_by(line: Line) -> bool:
    """Whether a line is a whole set's, or that of LFW's `dev` people."""
    return line.kind == ("dev" if line.set == LFW else "all")


@click.command(help=__doc__)
@click.argument("sets", type=PATH)
@click.option("--lfw", type=PATH, required=True, help="LFW's folder.")
@click.option("--one-shot", type=PATH, required=True, help="CSV identity,split,image.")
@click.option("--roles", type=PATH, required=True, help="CSV identity,role.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of windows and vectors.")
@click.option("--model", default="msceleb", show_default=True, help="One network.")
@click.option("--crop", "crops", multiple=True, default=CROPS, show_default=True, metavar="KIND:ZOOM")
@click.option("--page", "page_file", type=PATH, help="Renew the table between `measured: zoom` of this page.")
def main(
    *,
    sets: Path,
    lfw: Path,
    one_shot: Path,
    roles: Path,
    work: Path,
    model: str,
    crops: tuple[str, ...],
    page_file: Path | None,
) -> None:
    opened, lines = open_model(model), list[Line]()
    for people in [*read_sets(sets), lfw_set(lfw, one_shot, roles, work)]:
        first = None
        for crop in crops:
            found = vectors(seeing(opened, crop), people, work)
            lines += lines_of(crop, found, first)
            first = first or found
            click.echo(f"{people.name} at {crop}: top-1 {lines[-1].top1}", err=True)
    text = list(table(lines, list(crops)))
    click.echo("\n".join(text))
    if page_file:
        put(page_file, "zoom", text)


if __name__ == "__main__":
    main()
