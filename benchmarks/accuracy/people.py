"""How well do models answer about many kinds of people? One table: every set of photos by every model.

    python benchmarks/accuracy/people.py SETS --work WORK [--lfw FOLDER --one-shot CSV --roles CSV]
        [--model sface --model 'sface+msceleb:0.7' --model sface@mirror ...] [--baseline msceleb] [--out FILE]
        [--page docs/explanation/people.md]

SETS is a folder of CSVs `image,identity,split,kind`, one photo a person in the split gallery. FOLDER holds LFW's
photos, the CSVs are `identity,split,image` and `identity,role`: every probe searches the gallery of all people, and
the figures are of each role apart. A probe without a face is a miss, as is one whose person's photo in the gallery has
none.

DIR at FPIR 0.01: the first half of the people, by the SHA-256 of their names, is enrolled; the others' probes, and
LFW's people with one photo, are strangers. Kinds of probes (`frontal` and `profile`) share one threshold. Intervals are
95 %, over people; p is McNemar's of top-1 beside the baseline, and takes probes as independent.

WORK keeps the vectors. After a change of a model the same command embeds by that model alone; --page renews the tables
of the documentation.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import (  # noqa: E402
    LFW,
    PeopleSet,
    SetVectors,
    lfw_set,
    networks,
    read_sets,
    vectors,
)
from facegallery.indexer.evaluation.openset import OpenSet, rates  # noqa: E402
from facegallery.indexer.metrics import Paired, compare, hits_at, nearest_people, share_intervals  # noqa: E402

FPIR, TOP = 0.01, 5
KINDS = 6  # a set with more kinds is not reported by kind: they are families
MODELS = ("msceleb", "casia", "duo", "sface", "sface+msceleb:0.7")
PATH = click.Path(path_type=Path, exists=True)


@dataclass(frozen=True)
class Share:
    """A share of probes, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Line:
    """The figures of one model on one set, or on the probes of one kind."""

    set: str
    kind: str  # 'all', or the kind of the probes
    model: str
    people: int  # whose probes these are
    gallery: int
    probes: int
    no_face: float  # share of the probes
    top1: Share
    top5: Share
    dir: Share
    strangers: int  # photos
    threshold: float
    against: Paired | None  # the baseline on the same probes: top-1


def lines_of(model: str, found: SetVectors, baseline: SetVectors | None, seed: int = 0) -> Iterator[Line]:
    """Yield the figures of a model on a set: of all probes and of each kind, of LFW each role."""
    hits, probes, people = hits_of(found), found.of("probe"), found.people
    first = hits_of(baseline)[:, 0] if baseline else None
    for kind, chosen in groups(people, probes):
        names, at_top = people.people[probes[chosen]], hits[chosen][:, [0, TOP - 1]].astype(float)
        shares = [Share(float(at_top[:, j].mean()), *share_intervals(at_top, names, seed)[j]) for j in (0, 1)]
        opened = open_set(found, kind)
        rate = rates(opened, (FPIR,), seed)[0]
        yield Line(
            set=people.name,
            kind=kind,
            model=model,
            people=len(np.unique(names)),
            gallery=len(found.of("gallery")),
            probes=len(names),
            no_face=float((~found.found[probes[chosen]]).mean()),
            top1=shares[0],
            top5=shares[1],
            dir=Share(rate.dir, *rate.interval),
            strangers=len(opened.strangers),
            threshold=rate.threshold,
            against=None if first is None else compare(first[chosen], hits[chosen, 0], names, seed),
        )


def groups(people: PeopleSet, probes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return (kind, which of the probes (m,) are of it, bool (m,)): all, then each kind; of LFW the roles alone."""
    kinds = people.kinds[probes]
    several = sorted(set(kinds)) if 1 < len(set(kinds)) <= KINDS else []
    apart = [(str(kind), kinds == kind) for kind in several]
    return apart if people.name == LFW else [("all", np.ones(len(probes), bool)), *apart]


def hits_of(found: SetVectors) -> np.ndarray:
    """Return whether the true person is among the first 1 to 5 answers to each probe, bool (m, 5)."""
    gallery, probes = found.of("gallery"), found.of("probe")
    ranked, _ = answers(found, gallery, probes, TOP)
    hits = hits_at(ranked, found.people.people[probes])
    hits = np.pad(hits, ((0, 0), (0, TOP - hits.shape[1])), "edge")  # fewer people than answers
    return hits & found.found[probes, None]


def answers(found: SetVectors, gallery: np.ndarray, probes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest people of the gallery rows that have a face, and their scores, to each of the probes."""
    gallery = gallery[found.found[gallery]]
    return nearest_people(found.vectors[gallery], found.people.people[gallery], found.vectors[probes], k)


def open_set(found: SetVectors, kind: str) -> OpenSet:
    """Enrol the first half of the people; ask their probes of a kind, and the others and the strangers as strangers."""
    people, probes = found.people, found.of("probe")
    asked = np.ones(len(probes), bool) if kind == "all" else people.kinds[probes] == kind
    crowd = probes[asked] if people.name == LFW else probes  # LFW's roles are people, other kinds are photos
    enrolled = first_half(people.people[crowd])
    own = np.isin(people.people[probes], list(enrolled))
    gallery = found.of("gallery")
    gallery = gallery[np.isin(people.people[gallery], list(enrolled))]
    genuine, others = probes[own & asked], np.concatenate([np.setdiff1d(crowd, probes[own]), found.of("stranger")])
    ranked, scores = answers(found, gallery, genuine, 1)
    right = (ranked[:, 0] == people.people[genuine]) & found.found[genuine]
    strangers = np.where(found.found[others], answers(found, gallery, others, 1)[1][:, 0], -np.inf)
    return OpenSet(np.where(right, scores[:, 0], -np.inf), people.people[genuine], strangers, people.people[others])


def first_half(names: np.ndarray) -> set[str]:
    """Return the half of the people whose names have the lowest SHA-256."""
    order = sorted(set(names.tolist()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(order[: len(order) // 2])


# tables ---------------------------------------------------------------------


def overview(lines: list[Line], models: list[str], figure: str) -> Iterator[str]:
    """Yield a Markdown table of one figure, `top1`, `top5` or `dir`: sets by models, the best of each set bold."""
    yield "| set | people / probes | no face | " + " | ".join(f"`{model}`" for model in models) + " |"
    yield "|---" * (3 + len(models)) + "|"
    for place in dict.fromkeys((line.set, line.kind) for line in lines):
        at = {line.model: line for line in lines if (line.set, line.kind) == place}
        first, values = at[models[0]], [getattr(at[model], figure).value for model in models]
        cells = [f"**{value:.4f}**" if value == max(values) else f"{value:.4f}" for value in values]
        counts = f"{first.people} / {first.probes} | {first.no_face:.1%}"
        yield f"| {called(first)} | {counts} | " + " | ".join(cells) + " |"


def page(lines: list[Line], models: list[str], baseline: str) -> Iterator[str]:
    """Yield all tables, in Markdown."""
    figures = (("top1", "Top-1"), ("top5", "Top-5"), ("dir", f"DIR at FPIR {FPIR:g}"))
    for figure, title in figures:
        yield from (f"{title}:", "", *overview(lines, models, figure), "")
    yield from (f"All figures, with 95 % intervals; top-1 beside `{baseline}`'s, with McNemar's p:", "", *table(lines))


def table(lines: list[Line]) -> Iterator[str]:
    """Yield a Markdown table of all figures, the models of a set together."""
    yield "| set | model | top-1 | top-5 | DIR at FPIR 0.01 | strangers | no face | beside the baseline |"
    yield "|---|---|---|---|---|---|---|---|"
    places = list(dict.fromkeys((line.set, line.kind) for line in lines))
    for line in sorted(lines, key=lambda line: places.index((line.set, line.kind))):
        few = " (too few)" if line.strangers * FPIR < 1 else ""
        yield (
            f"| {called(line)} | `{line.model}` | {line.top1} | {line.top5} | {line.dir} | {line.strangers}{few} "
            f"| {line.no_face:.1%} | {beside(line.against)} |"
        )


def called(line: Line) -> str:
    """Return the name of a line's set, with the kind where it is one of several."""
    return line.set if line.kind == "all" else f"{line.set}, {line.kind}"


def beside(paired: Paired | None) -> str:
    """Return the difference of top-1 and McNemar's p."""
    if paired is None:
        return ""
    return f"{paired.difference:+.4f} ({paired.interval[0]:+.3f} to {paired.interval[1]:+.3f}), p = {paired.p:.2g}"


@click.command(help=__doc__)
@click.argument("sets", type=PATH)
@click.option("--set", "names", multiple=True, help="A set to measure; all that SETS has unless given.")
@click.option("--lfw", type=PATH, help="LFW's folder.")
@click.option("--one-shot", type=PATH, help="CSV identity,split,image.")
@click.option("--roles", type=PATH, help="CSV identity,role.")
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True, metavar="MODEL[@VIEWS]")
@click.option("--baseline", help="The model that the others are compared with; the first unless given.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the vectors.")
@click.option("--out", type=click.Path(path_type=Path), help="Write all figures as JSON.")
@click.option("--page", "page_file", type=PATH, help="Renew the tables between `measured: people` of this page.")
def main(
    *,
    sets: Path,
    names: tuple[str, ...],
    lfw: Path | None,
    one_shot: Path | None,
    roles: Path | None,
    models: tuple[str, ...],
    baseline: str | None,
    work: Path,
    out: Path | None,
    page_file: Path | None,
) -> None:
    every = read_sets(sets, list(names))
    if lfw and one_shot and roles:
        every.append(lfw_set(lfw, one_shot, roles, work))
    baseline, lines = baseline or models[0], list[Line]()
    for people in every:
        against = vectors(baseline, people, work)
        for model in models:
            found = against if model == baseline else vectors(model, people, work)
            lines += lines_of(model, found, None if model == baseline else against)
            click.echo(f"{people.name} by {model}: top-1 {lines[-1].top1}", err=True)
    text = list(page(lines, list(models), baseline))
    click.echo("\n".join(text))
    if page_file:
        put(page_file, "people", text)
    if out:
        made = {model: [network.spec.parts[0].name for _, network in networks(model)] for model in models}
        out.write_text(
            json.dumps({"baseline": baseline, "networks": made, "lines": list(map(asdict, lines))}, indent=1)
        )


if __name__ == "__main__":
    main()
