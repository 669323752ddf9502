"""How many faces does an answer name, where the user answers `suggest`, or names group by group?

    python benchmarks/accuracy/suggestions.py SETS --lfw FOLDER --roles CSV --work WORK [--model sface]
        [--page docs/explanation/benchmarks.md]

SETS, FOLDER, CSV and WORK are those of `benchmarks/accuracy/grouping.py`. Two starts of each set: `none`, all faces are
unnamed; `third`, a third of the faces of each person with two or more is enrolled under their name. Unnamed faces are
grouped by `choose_cut`. Then a user who knows everybody answers in one of three ways:

random    names group after group in random order, then faces in no group in random order
largest   the same, the largest group first
suggest   answers `suggest`, which is asked again after each five answers, or ten where there are many faces

An answer is one command. Naming a group, or all that a question is about, is one, and so is a sheet of several people.
The user sees all faces that an answer is about and leaves wrong ones out (`--not`, in the same command): a face that is
not of the group's majority leaves the group and is asked about by itself later. So names are always right, and ways
differ in the answers that they take. A group whose person was named before takes an answer all the same.

Table: faces named after 5, 20 and 100 answers; answers until nine of ten faces, and people, are named, of those with
two faces or more; a person is named with half of their unnamed faces. Ratio: of these answers to `suggest`'s, and in
brackets the least and the most of DRAWS random halves of the people. `seen`: groups and single faces that the user
looked at until then. Chances are fitted to LFW's dev people and one half of the other sets' people, by SHA-256; figures
are of LFW's other people and of the other halves. Last table: how often a suggested pair is right, by its chance.

WORK keeps the vectors: a second run embeds nothing.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.grouping import PATH, Faces, of_album, of_folder, of_set, to_choose_by  # noqa: E402
from benchmarks.common.pages import put  # noqa: E402
from benchmarks.common.people_sets import read_sets  # noqa: E402
from facegallery.indexer.grouping.chances import Likeness, fit  # noqa: E402
from facegallery.indexer.grouping.questions import Nodes, Row, compared, questions  # noqa: E402
from facegallery.indexer.grouping.wrong_pairs import choose_cut  # noqa: E402

WAYS, STARTS = ("random", "largest", "suggest"), ("none", "third")
SHOWN, DRAWS, SHARE = 5, 5, 0.9
LARGE = 2000  # faces: of more, `suggest` is asked half as often, to save time
AFTER = (5, 20, 100)
BANDS = (0.2, 0.5, 0.7, 0.9, 1.0)
NEVER = 10**9


@dataclass
class Heap:
    """Faces, enrolled and unnamed, as the user's answers change them; people are numbers below `people`.

    vectors: float32 (n, d). who, groups: int64 (n,); each group has a number of `people` or more. named: bool (n,).
    """

    vectors: np.ndarray
    who: np.ndarray
    groups: np.ndarray
    named: np.ndarray
    cut: float
    people: int
    apart: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def begin(cls, faces: Faces, start: str) -> Heap:
        """Group the unnamed faces of a set."""
        names, who = np.unique(faces.people, return_inverse=True)
        named = enrolled(who) if start == "third" else np.zeros(len(who), bool)
        unnamed = np.flatnonzero(~named)
        chosen = choose_cut(faces.vectors[unnamed])
        cut, labels = chosen.cut, chosen.groups
        groups = np.full(len(who), -1)
        groups[unnamed] = len(names) + unnamed[labels]
        return cls(faces.vectors, who, groups, named, cut, len(names))

    def members(self) -> dict[int, np.ndarray]:
        """Return the faces of each person who is named, by their number, and of each group."""
        keys = np.where(self.named, self.who, self.groups)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        return {int(keys[rows[0]]): rows for rows in np.split(order, starts[1:])}

    def nodes(self, members: dict[int, np.ndarray]) -> Nodes:
        """Return people and groups as `questions` takes them."""
        sums = np.add.reduceat(self.vectors[np.concatenate(list(members.values()))], self._starts(members))
        sizes = np.array([len(rows) for rows in members.values()])
        at = {key: i for i, key in enumerate(members)}
        apart = [(at[a], at[b]) for a, b in self.apart if a in at and b in at]
        named = np.array(list(members)) < self.people
        return Nodes(sums / sizes[:, None].astype(np.float32), sizes, named, np.array(apart, np.int64).reshape(-1, 2))

    @staticmethod
    def _starts(members: dict[int, np.ndarray]) -> np.ndarray:
        return np.cumsum([0, *(len(rows) for rows in members.values())])[:-1]

    def majority(self, rows: np.ndarray) -> int:
        """Return the person of most of these faces."""
        return int(np.bincount(self.who[rows]).argmax())

    def name(self, rows: np.ndarray, person: int) -> np.ndarray:
        """Name those of a group's faces that are the person's, and return them; others leave the group."""
        right = self.who[rows] == person
        self.named[rows[right]] = True
        self.groups[rows[~right]] = self.people + len(self.who) + rows[~right]
        self.apart.update((int(group), person) for group in self.groups[rows[~right]])
        return rows[right]


def enrolled(who: np.ndarray) -> np.ndarray:
    """Return a third of the faces of each person with two or more, rounded up, bool (n,)."""
    found = np.zeros(len(who), bool)
    for person in np.flatnonzero(np.bincount(who) > 1):
        rows = np.flatnonzero(who == person)
        found[rows[: -(-len(rows) // 3)]] = True
    return found


@dataclass
class Story:
    """What a user's answers did: the answer that named each face, NEVER for none, int64 (n,), and what was seen."""

    named_by: np.ndarray
    seen: list[int]  # after each answer
    pairs: list[tuple[float, bool]] = field(default_factory=list)  # chance of a suggested pair, and whether it is right

    def is_told(self, counted: np.ndarray, who: np.ndarray) -> bool:
        """Return whether SHARE of the faces, and of the people, are named."""
        return all(until(times) < NEVER for times in (self.faces(counted), self.people(counted, who)))

    def faces(self, counted: np.ndarray) -> np.ndarray:
        """Return at which answer each of the faces that count, bool (n,), was named, in order."""
        return np.sort(self.named_by[counted])

    def people(self, counted: np.ndarray, who: np.ndarray) -> np.ndarray:
        """Return at which answer half of each person's faces were named, in order."""
        rows = np.flatnonzero(counted)
        order = rows[np.lexsort((self.named_by[rows], who[rows]))]
        _, first, counts = np.unique(who[order], return_index=True, return_counts=True)
        return np.sort(self.named_by[order[first + (counts + 1) // 2 - 1]])


def until(times: np.ndarray) -> int:
    """Return the answer by which SHARE is named, of the answers that named each, in order."""
    return int(times[int(np.ceil(SHARE * len(times))) - 1])


# ways to answer -------------------------------------------------------------


def group_by_group(heap: Heap, way: str, rng: np.random.Generator) -> Story:
    """Name group after group."""
    story = Story(np.full(len(heap.who), NEVER), [0])
    groups = [rows for key, rows in heap.members().items() if key >= heap.people]
    rng.shuffle(groups)  # type: ignore[arg-type]
    groups.sort(key=lambda rows: -len(rows) if way == "largest" else len(rows) == 1)
    for answer, rows in enumerate(groups, 1):  # grows by faces that leave their groups
        right = heap.name(rows, heap.majority(rows))
        story.named_by[right] = answer
        story.seen.append(answer)
        groups += [np.array([row]) for row in rows if not heap.named[row]]
    return story


def by_suggestions(heap: Heap, likeness: Likeness, counted: np.ndarray) -> Story:
    """Answer what `suggest` asks until SHARE of the faces that count, and of their people, are named."""
    story = Story(np.full(len(heap.who), NEVER), [0])
    while len(story.seen) <= AFTER[-1] or not story.is_told(counted, heap.who):
        if heap.named.all():
            break
        members = heap.members()
        nodes, keys, rows = heap.nodes(members), list(members), list(members.values())
        for asked in questions(nodes, heap.cut, likeness)[: SHOWN if len(heap.who) < LARGE else 2 * SHOWN]:
            story.seen.append(story.seen[-1])
            for row in asked.rows:
                _answer(heap, story, row, [(keys[node], rows[node]) for node in (row.root, *row.others)])
    return story


def _answer(heap: Heap, story: Story, asked: Row, nodes: list[tuple[int, np.ndarray]]) -> None:
    """Answer one row of a question; nodes: the key and the faces of its root and of its others."""
    (key, root), others = nodes[0], nodes[1:]
    person = key if key < heap.people else heap.majority(root)
    story.seen[-1] += len(nodes)
    for chance, (other, rows) in zip(asked.chances, others, strict=True):
        right = heap.majority(rows) == person
        story.pairs.append((chance, right))
        if not right:
            heap.apart.add((other, person))
    settled = [rows for node, rows in nodes if node >= heap.people and heap.majority(rows) == person]
    for rows in settled:
        story.named_by[heap.name(rows, person)] = len(story.seen) - 1


# figures --------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a way is worth: answers until SHARE of the faces, and of the people, are named; both in all; and more."""

    answers: tuple[int, int]
    counts: tuple[int, int]
    after: tuple[int, ...]
    seen: int
    pairs: list[tuple[float, bool]]


def outcomes(faces: Faces, start: str, likeness: Likeness, seed: int = 0) -> dict[str, Outcome]:
    """Return the outcome of each way."""
    begun, found = Heap.begin(faces, start), {}
    for way in WAYS:
        heap = deepcopy(begun)
        counted = (np.bincount(heap.who) > 1)[heap.who] & ~heap.named
        rng = np.random.default_rng(seed)
        story = by_suggestions(heap, likeness, counted) if way == "suggest" else group_by_group(heap, way, rng)
        both = story.faces(counted), story.people(counted, heap.who)
        answers = until(both[0]), until(both[1])
        after = tuple(int(np.searchsorted(both[0], n, side="right")) for n in AFTER)
        found[way] = Outcome(answers, (len(both[0]), len(both[1])), after, story.seen[answers[0]], story.pairs)
    return found


def ratios(found: dict[str, Outcome]) -> np.ndarray:
    """Return the answers of each other way for one of `suggest`: float (2 ways, faces and people)."""
    return np.array([found[way].answers for way in WAYS[:2]]) / found[WAYS[2]].answers


def rows_of(faces: Faces, start: str, likeness: Likeness, pairs: list[tuple[float, bool]]) -> Iterator[str]:
    """Yield the rows of a set; add the suggested pairs to `pairs`."""
    found, rng, names = outcomes(faces, start, likeness), np.random.default_rng(0), np.unique(faces.people)
    pairs += found["suggest"].pairs
    drawn = []
    for seed in range(DRAWS):
        half = np.isin(faces.people, rng.choice(names, (len(names) + 1) // 2, replace=False))
        drawn.append(ratios(outcomes(faces[half], start, likeness, seed)))
    least, most, whole = np.min(drawn, axis=0), np.max(drawn, axis=0), ratios(found)
    for i, way in enumerate(WAYS):
        one = found[way]
        beside = ["", ""]
        if way != "suggest":
            beside = [f"{whole[i, j]:.2f} ({least[i, j]:.2f} to {most[i, j]:.2f})" for j in (0, 1)]
        cells = [", ".join(map(str, one.after)), f"{one.answers[0]} | {one.answers[1]}", *beside, str(one.seen)]
        yield f"| {faces.name} | {start} | {one.counts[0]} / {one.counts[1]} | {way} | " + " | ".join(cells) + " |"


def by_chance(name: str, pairs: list[tuple[float, bool]]) -> str:
    """Return a row: how many suggested pairs of each band of chances are right, and the mean chance."""
    chances, right = (np.array(column) for column in zip(*pairs, strict=True))
    cells = []
    for low, high in zip(BANDS, BANDS[1:], strict=False):
        band = (chances >= low) & ((chances < high) | (high == BANDS[-1]))
        cells.append(f"{chances[band].mean():.2f}, {right[band].mean():.2f} of {band.sum()}" if band.any() else "")
    return f"| {name} | " + " | ".join(cells) + " |"


# chances --------------------------------------------------------------------


def fitted(sets: list[Faces]) -> Likeness:
    """Fit the chances to the nearest earlier node of each unnamed one."""
    cases = [_cases(faces, start) for faces in sets for start in STARTS]
    return fit(*(np.concatenate(column) for column in zip(*cases, strict=True)))


def _cases(faces: Faces, start: str) -> tuple[np.ndarray, np.ndarray]:
    heap = Heap.begin(faces, start)
    members = heap.members()
    pairs, known = compared(heap.nodes(members), heap.cut)
    order = np.lexsort((-known[:, 1], pairs[:, 0]))
    nearest = order[np.unique(pairs[order, 0], return_index=True)[1]]
    people = np.array([heap.majority(rows) for rows in members.values()])
    return known[nearest], people[pairs[nearest, 0]] == people[pairs[nearest, 1]]


def half_of(faces: Faces, half: int) -> Faces:
    """Return the faces of one half of the people, by SHA-256 of their names."""
    names, codes = np.unique(faces.people, return_inverse=True)
    odd = [int(hashlib.sha256(f"{faces.name} {name}".encode()).hexdigest(), 16) % 2 for name in names.tolist()]
    return faces[np.array(odd)[codes] == half]


def tables(chosen: list[Faces], measured: list[Faces]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each table."""
    likeness = fitted(chosen)
    click.echo(f"chances: {likeness}", err=True)
    ways = [
        "| set | enrolled | faces / people | way | faces after " + ", ".join(map(str, AFTER)) + " answers "
        "| answers to 90 % of faces | of people | ratio, faces | ratio, people | seen |",
        "|---" * 10 + "|",
    ]
    bands = [f"{low:g} to {high:g}" for low, high in zip(BANDS, BANDS[1:], strict=False)]
    chances = [f"| set | {' | '.join(bands)} |", "|---" * len(BANDS) + "|"]
    for faces in measured:
        pairs: list[tuple[float, bool]] = []
        for start in STARTS:
            for line in rows_of(faces, start, likeness, pairs):
                click.echo(line, err=True)
                ways.append(line)
        chances.append(by_chance(faces.name, pairs) if pairs else f"| {faces.name} |" + " |" * (len(BANDS) - 1))
    yield "suggestions", ways
    yield "chances", chances


@click.command(help=__doc__)
@click.argument("sets", type=PATH)
@click.option("--lfw", type=PATH, required=True, help="LFW's folder.")
@click.option("--roles", type=PATH, required=True, help="CSV identity,role.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the vectors.")
@click.option("--model", default="sface", show_default=True)
@click.option("--page", type=PATH, help="Renew the tables between `measured: suggestions` and `measured: chances`.")
def main(*, sets: Path, lfw: Path, roles: Path, work: Path, model: str, page: Path | None) -> None:
    every = of_folder("lfw", lfw, work, model)
    every = every[every.known]
    is_dev = to_choose_by(every.people, roles)
    album = of_album(sets, work, model)
    others = [*(of_set(people, work, model) for people in read_sets(sets)), album[album.known]]
    chosen = [every[is_dev], *(half_of(faces, 0) for faces in others)]
    measured = [every[~is_dev], *(half_of(faces, 1) for faces in others)]
    for name, text in tables(chosen, measured):
        click.echo("\n".join(["", *text]))
        if page:
            put(page, name, text)


if __name__ == "__main__":
    main()
