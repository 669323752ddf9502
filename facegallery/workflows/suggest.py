"""Suggest which questions about unnamed faces to answer next."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from facegallery import results
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.grouping import kept
from facegallery.indexer.grouping.questions import Nodes, Question, Row, questions
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of


def suggest(where: Where, limit: int = 5) -> list[results.Suggestion]:
    """Return the questions that settle most unnamed faces, best first.

    Raises GalleryError where nothing was grouped by the gallery's model yet.
    """
    with session_of(where) as session, session.store() as store, store.reading():
        if (cut := kept.read(store)) is None:
            raise GalleryError(
                f"expected groups in {store.folder.name}, there are none: run `group {store.folder.name}`"
            )
        known = _Known.read(store)
        return [known.suggestion(one) for one in questions(known.nodes, cut.cut)[:limit]]


@dataclass
class _Known:
    """People, groups and single faces of a gallery, as nodes; `labels` says what each is."""

    index: str
    nodes: Nodes
    labels: list[str | int]  # a name, the number of a group, or the id of a face

    @classmethod
    def read(cls, store: Store) -> _Known:
        people, people_means, people_sizes = _people(store)
        members: dict[str | int, list[int]] = defaultdict(list)
        faces = list(store.unnamed_faces())
        nothing = np.empty((0, store.spec.dimension), np.float32)
        vectors = np.concatenate([nothing, *(xb for _, xb in store.unnamed_vectors())])
        for row, face in enumerate(faces):
            if face.place.state != "ignored":
                members[face.face_id if face.place.number is None else face.place.number].append(row)
        labels = [*people, *members]
        own = [vectors[rows].mean(axis=0) for rows in members.values()]
        nodes = Nodes(
            np.concatenate([people_means, np.reshape(own, (-1, vectors.shape[1])).astype(np.float32)]),
            np.concatenate([people_sizes, np.array([len(rows) for rows in members.values()], np.int64)]),
            np.arange(len(labels)) < len(people),
            _apart(store, {faces[row].face_id: label for label, rows in members.items() for row in rows}, labels),
        )
        return cls(store.folder.name, nodes, labels)

    def suggestion(self, asked: Question) -> results.Suggestion:
        """Return a question in words, and the command that answers it."""
        likely = tuple(one for row in asked.rows for one in self._likely(row))
        named = self.nodes.named[asked.rows[0].root]
        typed = [_typed(one) for one in likely] + ["NAME"] * (not named)
        chances = [one.chance for one in likely if one.chance is not None]
        return results.Suggestion(
            kind="who" if not named else "same person" if len(asked.rows) == 1 else "same people",
            question=self._question(asked.rows),
            command=" ".join(["name", self.index, *typed]),
            faces=round(asked.faces),
            chance=round(sum(chances) / len(chances), 3) if chances else None,
            likely=likely,
        )

    def _likely(self, row: Row) -> list[results.Likely]:
        """Return what a row asks about: each of its unnamed nodes, and who it may be."""
        person = str(self.labels[row.root]) if self.nodes.named[row.root] else None
        others = [self._one(node, person, chance) for node, chance in zip(row.others, row.chances, strict=True)]
        return others if person is not None else [self._one(row.root, None, None), *others]

    def _one(self, node: int, person: str | None, chance: float | None) -> results.Likely:
        label = self.labels[node]
        number, face_id = (label, None) if isinstance(label, int) else (None, label)
        return results.Likely(number, face_id, person, None if chance is None else round(chance, 3))

    def _question(self, rows: tuple[Row, ...]) -> str:
        first = rows[0]
        if not self.nodes.named[first.root]:
            return f"Who is in {self._words((first.root, *first.others))}?"
        if len(rows) == 1:
            return f"Is {self.labels[first.root]} in {self._words(first.others)}?"
        return f"Is {'; '.join(f'{self.labels[row.root]} in {self._words(row.others)}' for row in rows)}?"

    def _words(self, nodes: tuple[int, ...]) -> str:
        numbers = [str(label) for node in nodes if isinstance(label := self.labels[node], int)]
        faces = len(nodes) - len(numbers)
        several = [f"group{'s' * (len(numbers) > 1)} {', '.join(numbers)}"] if numbers else []
        several += [f"{faces} single face{'s' * (faces > 1)}"] if faces else []
        return " and ".join(several)


def _typed(one: results.Likely) -> str:
    """Return what names one that is asked about on the command line."""
    what = str(one.number or one.face_id)
    return what if one.person is None else f"{what}={shlex.quote(one.person)}"


def _people(store: Store) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the people's names, the means of their vectors, float32 (p, d), and their numbers of faces, int64 (p,)."""
    _, owners = store.owners()
    ids, codes, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    sums, start = np.zeros((len(ids), store.spec.dimension), np.float32), 0
    for _, xb in store.vectors():
        np.add.at(sums, codes[start : start + len(xb)], xb)
        start += len(xb)
    names: dict[int, str] = dict(store.execute("SELECT id, name FROM people"))
    return [names[int(id)] for id in ids], sums / np.maximum(sizes, 1)[:, None].astype(np.float32), sizes


def _apart(store: Store, label_of: dict[str, str | int], labels: list[str | int]) -> np.ndarray:
    """Return the pairs of nodes that the user said are not one person, int64 (m, 2)."""
    place = {label: i for i, label in enumerate(labels)}
    pairs = []
    for said in store.rejections():
        other = said.identity if said.identity is not None else said.number
        mine = label_of.get(said.face_id)
        if mine in place and other in place and place[mine] != place[other]:
            pairs.append((place[mine], place[other]))
    return np.array(pairs, np.int64).reshape(-1, 2)
