"""For whom does a calibration hold? Fit thresholds on a gallery, and ask strangers of many kinds.

    python benchmarks/accuracy/strangers.py SETS --work WORK --lfw FOLDER --one-shot CSV --roles CSV
        [--model msceleb --model sface ...] [--fpir 0.01] [--out FILE]
        [--page docs/explanation/how-sure.md]

SETS, WORK and LFW's arguments are those of `people.py`, whose vectors are used where WORK has them.

The first table enrols the first half of LFW's people, by the SHA-256 of their names, with one photo each. Its strangers
are LFW's other people, the people of each set, and relatives: one member of each family of the set `kin` is enrolled
too, and the others are asked. `own` is fitted on the enrolled people; `given` on them and on photos of half of these
strangers, as `calibrate --probes` does; `alone` on these photos only. The other half is asked, then the halves change
places. The second table enrols half of each set, and asks the other half.

Figures are the share of strangers' photos with a face that reach the threshold, with 95 % intervals over people (of
`kin`, over families). `promised` is the interval that `calibrate` prints; a share is bold where its own interval lies
above that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.people import KINDS, PATH, Share, first_half  # noqa: E402
from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import SetVectors, lfw_set, read_sets, vectors  # noqa: E402
from facegallery.indexer.calibrate import Calibration, Enrolled, OwnScores, fit, leave_own_out  # noqa: E402
from facegallery.indexer.metrics import nearest_people, share_intervals  # noqa: E402

FAMILIES = "kin"  # the set whose kinds are families
NOBODY = np.empty(0)


@dataclass(frozen=True)
class Faces:
    """Unit vectors float32 (n, d), and str (n,) of each: the person, and those who count as one in an interval."""

    vectors: np.ndarray
    people: np.ndarray
    groups: np.ndarray  # the people, or families

    def __len__(self) -> int:
        return len(self.people)

    def where(self, chosen: np.ndarray) -> Faces:
        """Return some of the faces."""
        return Faces(self.vectors[chosen], self.people[chosen], self.groups[chosen])

    def __add__(self, other: Faces) -> Faces:
        pairs = ((self.vectors, other.vectors), (self.people, other.people), (self.groups, other.groups))
        return Faces(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Line:
    """What came of a rate, for one kind of strangers."""

    model: str
    strangers: str
    people: int  # or families
    photos: int
    enrolled: int
    own: Share
    promised: tuple[float, float]  # the interval that `calibrate` prints: in the long run, 95 %
    given: Share | None = None  # fitted on strangers of the same kind as well
    alone: Share | None = None  # and on these only


def of_set(found: SetVectors, splits: Sequence[str] = ("gallery", "probe", "stranger"), kind: str = "") -> Faces:
    """Return the photos with a face of some splits, and of a kind unless that is empty."""
    people = found.people
    rows = found.found & np.isin(people.splits, splits)
    rows = np.flatnonzero(rows & (people.kinds == kind) if kind else rows)
    groups = people.kinds if people.name == FAMILIES else people.people
    names = np.char.add(f"{people.name}/", people.people[rows])
    return Faces(found.vectors[rows], names, np.char.add(f"{people.name}/", groups[rows]))


def halves(names: np.ndarray) -> np.ndarray:
    """Return whether each name is of the first half, bool (n,)."""
    return np.isin(names, list(first_half(names)))


# thresholds -----------------------------------------------------------------


def best_scores(gallery: Faces, asked: Faces) -> np.ndarray:
    """Return each face's score with the enrolled person nearest to it, float32 (n,)."""
    return nearest_people(gallery.vectors, gallery.people, asked.vectors, 1)[1][:, 0]


def calibrated(gallery: Faces, own: OwnScores, strangers: np.ndarray, fpir: float) -> Calibration:
    """Fit a threshold as `calibrate` does."""
    return fit(own, strangers, fpir, Enrolled(len(np.unique(gallery.people)), len(gallery), ""))


def measured(gallery: Faces, asked: dict[str, Faces], fpir: float, model: str) -> Iterator[Line]:
    """Yield what comes of the rate for each kind of strangers."""
    own = leave_own_out(gallery.vectors, gallery.people, np.arange(len(gallery)))
    nobody = OwnScores(NOBODY, NOBODY, NOBODY)
    fitted = calibrated(gallery, own, NOBODY, fpir)
    for name, faces in asked.items():
        scores, first = best_scores(gallery, faces), halves(faces.groups)
        reached = np.empty((3, len(faces)))
        reached[0] = scores >= fitted.threshold
        for half in (first, ~first):
            for i, samples in ((1, own), (2, nobody)):
                reached[i, half] = scores[half] >= calibrated(gallery, samples, scores[~half], fpir).threshold
        shares = [
            Share(float(row.mean()), *map(float, ends))
            for row, ends in zip(reached, share_intervals(reached.T, faces.groups), strict=True)
        ]
        people = len(np.unique(faces.groups))
        counts = (people, len(faces), len(gallery))
        yield Line(model, name, *counts, shares[0], fitted.interval(), *shares[1:])


def of_lfw(sets: dict[str, SetVectors], lfw: SetVectors, fpir: float, model: str) -> Iterator[Line]:
    """Enrol half of LFW's people; ask all others, then relatives of people who are enrolled with them."""
    everybody = of_set(lfw)
    chosen = first_half(of_set(lfw, ["gallery"]).people)
    gallery = of_set(lfw, ["gallery"])
    gallery = gallery.where(np.isin(gallery.people, list(chosen)))
    asked = {"lfw": everybody.where(~np.isin(everybody.people, list(chosen)))}
    for name, found in sets.items():
        asked[name] = of_set(found)
        kinds = sorted(set(found.people.kinds))
        if 1 < len(kinds) <= KINDS:
            asked |= {f"{name}, {kind}": of_set(found, kind=kind) for kind in kinds}
    yield from measured(gallery, asked, fpir, model)
    if FAMILIES in sets:
        enrolled, relatives = members(of_set(sets[FAMILIES], ["gallery"]), of_set(sets[FAMILIES]))
        yield from measured(gallery + enrolled, {"relatives of enrolled people": relatives}, fpir, model)


def members(gallery: Faces, everybody: Faces) -> tuple[Faces, Faces]:
    """Return one face of a member of each family, and all faces of the other members."""
    first = np.unique(gallery.groups, return_index=True)[1]
    enrolled = gallery.where(first)
    others = ~np.isin(everybody.people, enrolled.people) & np.isin(everybody.groups, enrolled.groups)
    return enrolled, everybody.where(others)


def of_itself(name: str, found: SetVectors, fpir: float, model: str) -> Line:
    """Enrol half of a set, families whole; ask the other half."""
    gallery, everybody = of_set(found, ["gallery"]), of_set(found)
    chosen = first_half(gallery.groups)
    gallery = gallery.where(np.isin(gallery.groups, list(chosen)))
    asked = everybody.where(~np.isin(everybody.groups, list(chosen)))
    fitted = calibrated(gallery, leave_own_out(gallery.vectors, gallery.people, np.arange(len(gallery))), NOBODY, fpir)
    reached = best_scores(gallery, asked) >= fitted.threshold
    ends = share_intervals(reached[:, None].astype(float), asked.groups)[0]
    share = Share(float(reached.mean()), *map(float, ends))
    people = len(np.unique(asked.groups))
    return Line(model, name, people, len(asked), len(gallery), share, fitted.interval())


# tables ---------------------------------------------------------------------


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the first table, in Markdown."""
    yield "| strangers | people / photos | model | promised | own | given | alone |"
    yield "|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(line.strangers for line in lines):
        for line in (line for line in lines if line.strangers == name):
            yield (
                f"| {name} | {line.people} / {line.photos} | `{line.model}` | {promise(line)} | {own(line)} "
                f"| {line.given or ''} | {line.alone or ''} |"
            )


def own_table(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the second table."""
    yield "| half of | enrolled | strangers: people / photos | model | promised | own |"
    yield "|---|---|---|---|---|---|"
    for line in sorted(lines, key=lambda line: line.strangers):
        counts = f"{line.enrolled} | {line.people} / {line.photos}"
        yield f"| {line.strangers} | {counts} | `{line.model}` | {promise(line)} | {own(line)} |"


def promise(line: Line) -> str:
    """Return the calibration's interval."""
    return f"{line.promised[0]:.3f} to {line.promised[1]:.3f}"


def own(line: Line) -> str:
    """Return the share that came, bold where its interval lies above the calibration's."""
    mark = "**" if line.own.low > line.promised[1] else ""
    return f"{mark}{line.own}{mark}"


@click.command(help=__doc__)
@click.argument("sets", type=PATH)
@click.option("--set", "names", multiple=True, help="A set to ask; all that SETS has unless given.")
@click.option("--lfw", type=PATH, required=True, help="LFW's folder.")
@click.option("--one-shot", type=PATH, required=True, help="CSV identity,split,image.")
@click.option("--roles", type=PATH, required=True, help="CSV identity,role.")
@click.option("--model", "models", multiple=True, default=("msceleb", "sface"), show_default=True)
@click.option("--fpir", default=0.01, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the vectors.")
@click.option("--out", type=click.Path(path_type=Path), help="Write all figures as JSON.")
@click.option("--page", "page_file", type=PATH, help="Renew the tables between `measured: strangers` of this page.")
def main(
    *,
    sets: Path,
    names: tuple[str, ...],
    lfw: Path,
    one_shot: Path,
    roles: Path,
    models: tuple[str, ...],
    fpir: float,
    work: Path,
    out: Path | None,
    page_file: Path | None,
) -> None:
    people, of_others, of_own = lfw_set(lfw, one_shot, roles, work), list[Line](), list[Line]()
    for model in models:
        found = {each.name: vectors(model, each, work) for each in read_sets(sets, list(names))}
        of_others += of_lfw(found, vectors(model, people, work), fpir, model)
        of_own += [of_itself(name, made, fpir, model) for name, made in found.items()]
    tables = ["Half of LFW's people enrolled:", "", *table(of_others), "", "Half of a set enrolled:", ""]
    text = [*tables, *own_table(of_own)]
    click.echo("\n".join(text))
    if page_file:
        put(page_file, "strangers", text)
    if out:
        lines = {"fpir": fpir, "lfw": list(map(asdict, of_others)), "own": list(map(asdict, of_own))}
        out.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
