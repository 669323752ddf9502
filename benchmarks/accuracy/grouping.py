"""How well are faces without a name grouped by person, and is the stated share of wrong pairs true?

    python benchmarks/accuracy/grouping.py SETS --lfw FOLDER --roles CSV --work WORK [--model sface]
        [--page docs/explanation/benchmarks.md]

SETS is a folder of CSVs `image,identity,split,kind`, and of `album.csv`, `image,identity,x0,y0,x1,y1`, whose photos
show several people. FOLDER holds LFW's photos; CSV is `identity,role`. The settings of each way to group are those with
the best BCubed F on LFW's dev people: those with the role `dev`, and of the people without a role one in six by
SHA-256. Other packages are those of the environment (scikit-learn, igraph, leidenalg); what is missing is left out.

First table: LFW's other people, and all other sets with the same settings. BCubed (Bagga, Baldwin 1998) and pairwise
precision, recall and F. Intervals are 95 %, by bootstrap over people; those of other ways are of the difference in
BCubed F to ours. `apart`: two faces of one photo are never one person; faces whose person is not known take part and
are not counted.

Second table: of random sets of LFW's other people, how often the true share of wrong pairs lies in the stated
interval, with medians, at the usual cut or at one that is chosen for 1 wrong pair in 200. The tail comes from LFW's dev
people and the sets, without the set that is measured; `labelled` is that of LFW's dev people, as of the people whom a
gallery knows, halfway to that of all.

WORK keeps the vectors: a second run embeds nothing.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import PeopleSet, read_sets, vectors  # noqa: E402
from benchmarks.peers.groupings import PEERS, Settings, grid  # noqa: E402
from facegallery.embedder.dataset.dataset import DataSet  # noqa: E402
from facegallery.embedder.dataset.row import vectors_of  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.grouping.linkage import Start, cut_for, group  # noqa: E402
from facegallery.indexer.grouping.wrong_pairs import (  # noqa: E402
    Tail,
    cases,
    choose_cut,
    halfway,
    pair_error,
    pairs_within,
    tail_of,
    wrong_within,
)
from facegallery.workflows.photos import ANYWHERE, EmbedOptions, embed, load_embedder  # noqa: E402

OURS, CUTS = "facegallery", grid(0.28, 0.48, 0.01)
RESAMPLES, SPLITS, MANY = 2000, 100, (100, 3500)  # numbers of people of the random sets
CHOSEN = 5  # of so many sets, one has a cut chosen for an error
BANDS = (100, 330, 1100, 3501)
OVERLAP = 0.3  # of a face with a labelled box
PATH = click.Path(path_type=Path, exists=True)
Grouping = Callable[..., np.ndarray]


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of a set: unit vectors, float32 (n, d), the person of each, '' for unknown, and its photo, str (n,)."""

    name: str
    vectors: np.ndarray
    people: np.ndarray
    photos: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Faces:
        return Faces(self.name, self.vectors[rows], self.people[rows], self.photos[rows])

    @property
    def known(self) -> np.ndarray:
        """Which faces have a known person, bool (n,)."""
        return self.people != ""

    @property
    def apart(self) -> np.ndarray:
        """The pairs of faces of one photo, int64 (m, 2)."""
        order = np.argsort(self.photos, kind="stable")
        ends = np.flatnonzero(self.photos[order][1:] != self.photos[order][:-1]) + 1
        pairs = [np.stack(np.triu_indices(len(part), 1), axis=1) for part in np.split(order, ends)]
        return np.concatenate([part[found] for part, found in zip(np.split(order, ends), pairs, strict=True)])


@dataclass(frozen=True)
class Figures:
    """What a way to group is worth on a set."""

    bcubed: tuple[float, float, float]  # precision, recall, F
    pairwise: tuple[float, float, float]
    groups: int
    seconds: float
    shares: np.ndarray  # float (people, 3): sums of precision and recall, and faces of each person


# figures --------------------------------------------------------------------


def measure(run: Grouping, given: Settings, faces: Faces, **options: np.ndarray) -> Figures:
    """Return the figures of a way to group; faces of unknown people are not counted."""
    begin = time.perf_counter()
    labels = run(faces.vectors, *given, **options)
    seconds, known = time.perf_counter() - begin, faces.known
    people = faces.people
    labels, people = labels[known], people[known]
    (groups, sizes), (codes, photos), (both, common) = map(counted, (labels, people, pair_labels(labels, people)))
    precision, recall = common[both] / sizes[groups], common[both] / photos[codes]
    sums = [np.bincount(codes, values) for values in (precision, recall, np.ones(len(codes)))]
    right, found, true = (int((n * (n - 1) // 2).sum()) for n in (common, sizes, photos))
    pairwise = with_f(right / max(1, found), right / max(1, true))
    return Figures(with_f(precision.mean(), recall.mean()), pairwise, len(sizes), seconds, np.stack(sums, axis=1))


def counted(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each label, and how often it occurs."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return codes, counts


def pair_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return one label for each pair of labels, int64 (n,)."""
    a, b = counted(first)[0].astype(np.int64), counted(second)[0]
    return a * (b.max() + 1) + b


def with_f(precision: float, recall: float) -> tuple[float, float, float]:
    """Return precision, recall and their harmonic mean."""
    return float(precision), float(recall), float(2 * precision * recall / max(precision + recall, 1e-12))


def resampled(shares: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return BCubed F of people drawn at random, float (RESAMPLES,); the same people for the same seed."""
    rng, n = np.random.default_rng(seed), len(shares)
    drawn = np.stack([rng.multinomial(n, np.full(n, 1 / n)) @ shares for _ in range(RESAMPLES)])
    precision, recall = (drawn[:, j] / drawn[:, 2] for j in (0, 1))
    return 2 * precision * recall / (precision + recall)


# sets -----------------------------------------------------------------------


def of_folder(name: str, source: Path, work: Path, model: str) -> Faces:
    """Embed all faces of a folder of photos; the first of a photo is the person's of the folder."""
    out = work / "all-faces" / model / name
    embed(source, out, load_embedder(open_model(model), ANYWHERE), EmbedOptions(all_faces=True, keep_crops=False))
    data = DataSet(out)
    table = data.table(["image", "identity", "face", "vector"])
    table = table.filter(table["vector"].is_valid())
    people = [
        name or "" if face == 0 else ""
        for name, face in zip(table["identity"].to_pylist(), table["face"].to_pylist(), strict=True)
    ]
    x = vectors_of(table, data.spec.dimension)
    return Faces(name, x, np.array(people), np.array(table["image"].to_pylist()))


def of_album(sets: Path, work: Path, model: str) -> Faces:
    """Embed all faces of an album's photos; people are those of the labelled boxes that the faces overlap most."""
    found = of_folder("album", sets / "album", work, model)
    data = DataSet(work / "all-faces" / model / "album")
    table = data.table(["box", "vector"])
    boxes = np.array(table.filter(table["vector"].is_valid())["box"].to_pylist())
    people = np.full(len(boxes), "", dtype="U64")
    with open(sets / "album.csv", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            rows = np.flatnonzero(found.photos == Path(row["image"]).name)
            shared = overlaps(boxes[rows], np.array([float(row[side]) for side in ("x0", "y0", "x1", "y1")]))
            if len(rows) and shared.max() > OVERLAP:
                people[rows[shared.argmax()]] = row["identity"]
    return Faces("album", found.vectors, people, found.photos)


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes, float (n, 4), with one, (n,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.clip(sides, 0, None).prod(axis=1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - common)


def of_set(people: PeopleSet, work: Path, model: str) -> Faces:
    """Embed the main faces of a set."""
    found = vectors(model, people, work)
    rows = np.flatnonzero(found.found)
    return Faces(people.name, found.vectors[rows], people.people[rows], people.images[rows])


def to_choose_by(names: np.ndarray, roles: Path) -> np.ndarray:
    """Return whether people are those that settings are chosen by, bool (n,)."""
    with open(roles, encoding="utf-8", newline="") as lines:
        role = {row["identity"]: row["role"] for row in csv.DictReader(lines)}
    sixth = {name for name in set(names.tolist()) if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 6 == 0}
    return np.array([role.get(name, "dev" if name in sixth else "") == "dev" for name in names.tolist()])


# tables ---------------------------------------------------------------------


def ours(x: np.ndarray, cut: float, apart: np.ndarray | None = None) -> np.ndarray:
    """Group by facegallery, at the cut for so many faces."""
    cut = cut_for(len(x), cut)
    return group(x, cut) if apart is None else group(x, cut, Start(apart=apart))


def best(run: Grouping, settings: tuple[Settings, ...], dev: Faces) -> Settings:
    """Return the settings with the best BCubed F."""
    values = [measure(run, given, dev).bcubed[2] for given in settings]
    return settings[int(np.argmax(values))]


def methods(dev: Faces) -> Iterator[tuple[str, Grouping, Settings]]:
    """Yield each way to group and its settings."""
    yield OURS, ours, best(ours, CUTS, dev)
    for peer in PEERS:
        if peer.missing:
            click.echo(f"{peer.name} is left out: {', '.join(peer.missing)} is not installed", err=True)
        else:
            yield peer.name, peer.run, best(peer.run, peer.settings, dev)


def accuracy(dev: Faces, sets: list[Faces], apart: list[Faces]) -> Iterator[str]:
    """Yield the first table: of all ways to group, and of ours with photos' faces apart."""
    yield (
        "| set | faces / people | grouped by | settings | BCubed precision, recall, F | interval, or difference of F "
        "| pairwise precision, recall, F | groups | s |"
    )
    yield "|---" * 9 + "|"
    chosen = list(methods(dev))
    for faces in sets:
        first = np.zeros(RESAMPLES)
        for name, run, given in chosen[:1] if faces in apart else chosen:
            found = measure(run, given, faces)
            draws = resampled(found.shares)
            yield line(faces, name, given, found, interval(draws - first, signed=name != OURS))
            first = draws if name == OURS else first
        if faces in apart:
            found = measure(ours, chosen[0][2], faces, apart=faces.apart)
            beside = interval(resampled(found.shares) - first, signed=True)
            yield line(faces, f"{OURS}, apart", chosen[0][2], found, beside)


def line(faces: Faces, name: str, given: Settings, found: Figures, beside: str) -> str:
    """Return a row of the first table, and say it."""
    settings = ", ".join(f"{value:g}" for value in given)
    shares = " | ".join(", ".join(f"{value:.4f}" for value in three) for three in (found.bcubed, found.pairwise))
    bcubed, pairwise = shares.split(" | ")
    people = len(found.shares)
    text = (
        f"| {faces.name} | {len(faces.people)} / {people} | {name} | {settings} | {bcubed} | {beside} | {pairwise} "
        f"| {found.groups} | {found.seconds:.1f} |"
    )
    click.echo(text, err=True)
    return text


def interval(draws: np.ndarray, *, signed: bool = False) -> str:
    """Return the 95 % interval of draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


@dataclass(frozen=True)
class Case:
    """A set of people: the cut, what is stated of it by both tails, and the truth."""

    people: int
    cut: float
    true: float
    stated: tuple[float, float, float]  # share, low, high
    labelled: tuple[float, float, float]


def case(faces: Faces, tail: Tail, labelled: Tail, *, choose: bool = False) -> Case:
    """State the error at the usual cut, or at one that is chosen for 1 wrong pair in 200."""
    x, cut = faces.vectors, cut_for(len(faces.people))
    if choose:
        chosen = choose_cut(x, tail=tail)
    cut, groups = (chosen.cut, chosen.groups) if choose else (cut, group(x, cut))
    true = wrong_within(groups, faces.people) / max(1, pairs_within(groups))
    said = [pair_error(x, groups, cut, one) for one in (tail, labelled)]
    stated, by_labels = ((one.share, one.low, one.high) for one in said)
    return Case(len(np.unique(faces.people)), cut, true, stated, by_labels)


def certainty(dev: Faces, test: Faces, sets: list[Faces]) -> Iterator[str]:
    """Yield the second table."""
    known = {faces.name: cases(faces.vectors, faces.people) for faces in [dev, *sets]}
    everyone = tail_of(list(known.values()))
    labelled = halfway(tail_of([known[dev.name]]), everyone)
    click.echo(f"tail of all: {everyone}; of {dev.name}: {labelled}", err=True)
    yield (
        "| people | sets | cut | true share of wrong pairs | stated | at most | in the interval | labelled: stated "
        "| at most | in the interval |"
    )
    yield "|---" * 10 + "|"
    rng, names = np.random.default_rng(0), np.unique(test.people)
    draws = [rng.choice(names, n, replace=False) for n in np.geomspace(*MANY, SPLITS).astype(int)]
    parts = [test[np.isin(test.people, drawn)] for drawn in draws]
    found = [case(part, everyone, labelled) for part in parts]
    for low, high in zip(BANDS, BANDS[1:], strict=False):
        yield row(f"{test.name}, {low} to {high - 1}", [one for one in found if low <= one.people < high])
    yield row(f"{test.name}, all", found)
    yield row(f"{test.name}, cut for 1 in 200", [case(one, everyone, labelled, choose=True) for one in parts[::CHOSEN]])
    for faces in sets:
        others = tail_of([found for name, found in known.items() if name != faces.name])
        yield row(f"{faces.name}, {len(np.unique(faces.people))}", [case(faces, others, labelled)])
        yield row(f"{faces.name}, cut for 1 in 200", [case(faces, others, labelled, choose=True)])


def row(name: str, found: list[Case]) -> str:
    """Return a row of the second table: medians, and how many intervals hold the truth."""
    cut, true = np.median([one.cut for one in found]), np.median([one.true for one in found])
    cells = [f"{cut:.2f}", f"{true:.4f}"]
    for said in ([one.stated for one in found], [one.labelled for one in found]):
        share, _, high = np.median(said, axis=0)
        held = sum(low <= one.true <= top for one, (_, low, top) in zip(found, said, strict=True))
        cells += [f"{share:.4f}", f"{high:.4f}", f"{held} of {len(found)}"]
    return f"| {name} | {len(found)} | " + " | ".join(cells) + " |"


@click.command(help=__doc__)
@click.argument("sets", type=PATH)
@click.option("--lfw", type=PATH, required=True, help="LFW's folder.")
@click.option("--roles", type=PATH, required=True, help="CSV identity,role.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the vectors.")
@click.option("--model", default="sface", show_default=True)
@click.option("--table", "asked", type=click.Choice(["accuracy", "certainty", "both"]), default="both")
@click.option("--page", type=PATH, help="Renew the tables between `measured: grouping` and `measured: wrong pairs`.")
def main(*, sets: Path, lfw: Path, roles: Path, work: Path, model: str, asked: str, page: Path | None) -> None:
    every = of_folder("lfw", lfw, work, model)
    album = of_album(sets, work, model)
    main_faces = every[every.known]
    is_dev = to_choose_by(main_faces.people, roles)
    dev, test = (Faces(name, *_columns(main_faces[rows])) for name, rows in (("lfw, dev", is_dev), ("lfw", ~is_dev)))
    others = [of_set(people, work, model) for people in read_sets(sets)]
    others.append(album[album.known])
    album = Faces("album, all faces", album.vectors, album.people, album.photos)
    texts: dict[str, list[str]] = {}
    if asked != "certainty":
        in_photos = Faces("lfw, all faces", every.vectors, every.people.copy(), every.photos)
        in_photos.people[np.flatnonzero(every.known)[is_dev]] = ""
        texts["grouping"] = list(accuracy(dev, [test, *others, in_photos, album], [in_photos, album]))
    if asked != "accuracy":
        texts["wrong pairs"] = list(certainty(dev, test, others))
    for name, text in texts.items():
        click.echo("\n".join(["", *text]))
        if page:
            put(page, name, text)


def _columns(faces: Faces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return faces.vectors, faces.people, faces.photos


if __name__ == "__main__":
    main()
