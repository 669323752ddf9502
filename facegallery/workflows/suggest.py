"""Suggest which questions about unnamed faces to answer next."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from facegallery import results
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.grouping import kept
from facegallery.indexer.grouping.questions import Nodes, Question, questions
from facegallery.indexer.store.store import Store
from facegallery.workflows.session import Where, session_of

SHOWN = 6  # single faces in a command


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
    is_face: list[bool] = field(default_factory=list)

    @classmethod
    def read(cls, store: Store) -> _Known:
        people, people_means, people_sizes = _people(store)
        members: dict[str | int, list[int]] = defaultdict(list)
        faces, blocks = [], [np.empty((0, store.spec.dimension), np.float32)]
        ignored = set()
        for face in store.unnamed_faces():
            faces.append(face.face_id)
            if face.place.state == "ignored":
                ignored.add(len(faces) - 1)
        blocks += [xb for _, xb in store.unnamed_vectors()]
        vectors = np.concatenate(blocks)
        for row, face in enumerate(store.unnamed_faces()):
            if row not in ignored:
                members[face.face_id if face.place.number is None else face.place.number].append(row)
        labels = [*people, *members]
        own = [vectors[rows].mean(axis=0) for rows in members.values()]
        nodes = Nodes(
            np.concatenate([people_means, np.reshape(own, (-1, vectors.shape[1])).astype(np.float32)]),
            np.concatenate([people_sizes, np.array([len(rows) for rows in members.values()], np.int64)]),
            np.arange(len(labels)) < len(people),
            _apart(store, {faces[row]: label for label, rows in members.items() for row in rows}, labels),
        )
        return cls(store.folder.name, nodes, labels, [isinstance(label, str) for label in labels])

    def suggestion(self, asked: Question) -> results.Suggestion:
        """Return a question in words, and the command that answers it."""
        named = bool(self.nodes.named[asked.root])
        nodes = asked.others if named else (asked.root, *asked.others)
        numbers = tuple(label for node in nodes if isinstance(label := self.labels[node], int))
        face_ids = tuple(label for node in nodes if isinstance(label := self.labels[node], str))
        what = _words(numbers, len(face_ids))
        typed = " ".join([*map(str, numbers), *face_ids[:SHOWN]])
        scores = asked.scores if named else (1.0, *asked.scores)
        return results.Suggestion(
            kind="same person" if named else "who",
            question=f"Is {self.labels[asked.root]} in {what}?" if named else f"Who is in {what}?",
            command=f"name {self.index} {typed} {_quoted(self.labels[asked.root]) if named else 'NAME'}",
            faces=int(self.nodes.sizes[list(nodes)].sum()),
            score=round(min(scores), 3) if named or asked.others else None,
            groups=numbers,
            people=(str(self.labels[asked.root]),) if named else (),
            face_ids=face_ids,
        )


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


def _words(numbers: tuple[int, ...], faces: int) -> str:
    several = [f"group{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"] if numbers else []
    several += [f"{faces} single face{'s' * (faces > 1)}"] if faces else []
    return " and ".join(several)


def _quoted(label: str | int) -> str:
    text = str(label)
    return text if text.isalnum() else f'"{text}"'
