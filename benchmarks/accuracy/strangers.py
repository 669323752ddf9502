"""For whom does a calibration hold? Fit thresholds on a gallery, and ask strangers of many kinds.

    python benchmarks/accuracy/strangers.py SETS --work WORK --lfw FOLDER --one-shot CSV --roles CSV
        [--model msceleb --model sface ...] [--fpir 0.01] [--out FILE]
        [--same same.csv] [--page docs/explanation/how-sure.md]

SETS, WORK and LFW's arguments are those of `people.py`, whose vectors are used where WORK has them.

The first table enrols the first half of LFW's people, by the SHA-256 of their names, with one photo each. Its strangers
are LFW's other people, the people of each set, and relatives: one member of each family of the set `kin` is enrolled
too, and the others are asked. `own` is fitted on the enrolled people; `given` on them and on photos of half of these
strangers, as `calibrate --probes` does; `alone` on these photos only. The other half is asked, then the halves change
places. The second table enrols half of each set, and asks the other half. The third compares the scores of relatives
with the enrolled member of their family and with one enrolled member of another.

Sets of well-known people share some with LFW. The CSV `set,identity` of --same names those, and they are left out: they
are no strangers. The highest scores are worth a look before a rate is believed.

Figures are the share of strangers' photos with a face that reach the threshold, with 95 % intervals over people (of
`kin`, over families). `promised` is the interval that `calibrate` prints; a share is bold where its own interval lies
above that.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class Relatives:
    """How much nearer an enrolled relative is than an enrolled stranger of the same kind of photos."""

    model: str
    families: int
    photos: int
    enrolled: int  # one of each family, and LFW's
    nearest: Share  # of the photos: those nearest to the relative, of all who are enrolled
    relative: Share  # those that reach the threshold with the relative
    other: Share  # of photos and enrolled people of other families: the pairs that reach it


def without(found: SetVectors, same: Sequence[tuple[str, str]]) -> SetVectors:
    """Return a set without the faces of people who are in LFW, pairs of a set and a person."""
    theirs = [person for name, person in same if name == found.people.name]
    return replace(found, found=found.found & ~np.isin(found.people.people, theirs))


def of_set(found: SetVectors, splits: Sequence[str] = ("gallery", "probe", "stranger"), kind: str = "") -> Faces:
    """Return the photos with a face of some splits, and of a kind unless that is empty."""
    people = found.people
    chosen = found.found & np.isin(people.splits, splits) & ((people.kinds == kind) | (kind == ""))
    rows = np.flatnonzero(chosen)
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
    own = own_scores(gallery)
    nobody = OwnScores(NOBODY, NOBODY, NOBODY)
    fitted = calibrated(gallery, own, NOBODY, fpir)
    for name, faces in asked.items():
        scores, first = best_scores(gallery, faces), halves(faces.groups)
        reached = np.empty((3, len(faces)))
        reached[0] = scores >= fitted.threshold
        for half in (first, ~first):
            for i, samples in ((1, own), (2, nobody)):
                reached[i, half] = scores[half] >= calibrated(gallery, samples, scores[~half], fpir).threshold
        shares = shares_of(reached, faces.groups)
        people = len(np.unique(faces.groups))
        counts = (people, len(faces), len(gallery))
        yield Line(model, name, *counts, shares[0], fitted.interval(), *shares[1:])


def of_lfw(sets: dict[str, SetVectors], lfw: SetVectors, fpir: float, model: str) -> Iterator[Line | Relatives]:
    """Enrol half of LFW's people; ask all others, then relatives of people who are enrolled with them."""
    everybody, gallery = of_set(lfw), of_set(lfw, ["gallery"])
    chosen = list(first_half(gallery.people))
    gallery = gallery.where(np.isin(gallery.people, chosen))
    asked = {"lfw": everybody.where(~np.isin(everybody.people, chosen))}
    for name, found in sets.items():
        asked[name] = of_set(found)
        kinds = sorted(set(found.people.kinds))
        if 1 < len(kinds) <= KINDS:
            asked |= {f"{name}, {kind}": of_set(found, kind=kind) for kind in kinds}
    yield from measured(gallery, asked, fpir, model)
    if FAMILIES in sets:
        enrolled, relatives = members(of_set(sets[FAMILIES], ["gallery"]), of_set(sets[FAMILIES]))
        yield from measured(gallery + enrolled, {"relatives of enrolled people": relatives}, fpir, model)
        yield of_relatives(gallery, enrolled, relatives, fpir, model)


def of_relatives(gallery: Faces, enrolled: Faces, relatives: Faces, fpir: float, model: str) -> Relatives:
    """Compare the scores of relatives with the enrolled member of their family and with those of other families."""
    both = gallery + enrolled
    threshold = calibrated(both, own_scores(both), NOBODY, fpir).threshold
    everybody = relatives.vectors @ both.vectors.T
    scores = everybody[:, len(gallery) :]
    related = relatives.groups[:, None] == enrolled.groups
    reached = scores >= threshold
    columns = [
        scores[related] >= everybody.max(axis=1),
        reached[related],
        (reached & ~related).sum(axis=1) / (~related).sum(axis=1),
    ]
    shares = shares_of(np.array(columns, float), relatives.groups)
    return Relatives(model, len(enrolled), len(relatives), len(both), *shares)


def own_scores(gallery: Faces) -> OwnScores:
    """Return each enrolled face's score with the other people."""
    return leave_own_out(gallery.vectors, gallery.people, np.arange(len(gallery)))


def shares_of(hits: np.ndarray, groups: np.ndarray) -> list[Share]:
    """Return the share of each row of hits (m, n), with intervals over the groups (n,)."""
    ends = share_intervals(hits.T, groups)
    return [Share(float(row.mean()), float(low), float(high)) for row, (low, high) in zip(hits, ends, strict=True)]


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
    fitted = calibrated(gallery, own_scores(gallery), NOBODY, fpir)
    reached = best_scores(gallery, asked) >= fitted.threshold
    (share,) = shares_of(reached[None].astype(float), asked.groups)
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


def relatives_table(lines: Sequence[Relatives]) -> Iterator[str]:
    """Yield the third table."""
    yield "| model | families / photos | enrolled | nearest to the relative | reached with them | with another |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        counts = f"{line.families} / {line.photos} | {line.enrolled}"
        other = f"{line.other.value:.5f} ({line.other.low:.5f} to {line.other.high:.5f})"
        yield f"| `{line.model}` | {counts} | {line.nearest} | {line.relative} | {other} |"


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
@click.option("--same", type=PATH, help="CSV set,identity of people who are in LFW, too.")
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
    same: Path | None,
    out: Path | None,
    page_file: Path | None,
) -> None:
    listed = [(line["set"], line["identity"]) for line in csv.DictReader(same.open())] if same else []
    people, of_own = lfw_set(lfw, one_shot, roles, work), list[Line]()
    of_others, of_families = list[Line](), list[Relatives]()
    for model in models:
        found = {each.name: without(vectors(model, each, work), listed) for each in read_sets(sets, list(names))}
        for line in of_lfw(found, vectors(model, people, work), fpir, model):
            if isinstance(line, Relatives):
                of_families.append(line)
            else:
                of_others.append(line)
        of_own += [of_itself(name, made, fpir, model) for name, made in found.items()]
    tables = ["Half of LFW's people enrolled:", "", *table(of_others), "", "Half of a set enrolled:", ""]
    tables += [*own_table(of_own), "", "Relatives of enrolled people:", ""]
    text = [*tables, *relatives_table(of_families)]
    click.echo("\n".join(text))
    if page_file:
        put(page_file, "strangers", text)
    if out:
        lines = {
            "fpir": fpir,
            "lfw": list(map(asdict, of_others)),
            "own": list(map(asdict, of_own)),
            "relatives": list(map(asdict, of_families)),
        }
        out.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
