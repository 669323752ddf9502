"""Find which questions about unnamed faces settle most of them.

A question is about a root and all groups and single faces that look most like it. Where the root is a group, the answer
is a name: `who`. Where it is a person, the answer is yes, and one sheet holds several people: each with what looks like
them, so that one answer settles all, less what the user says is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegallery.indexer.grouping.chances import ANY, Likeness, known_of
from facegallery.indexer.grouping.linkage import MARGIN
from facegallery.indexer.grouping.neighbours import NEAREST, near_pairs

LEAST = 0.2  # score of two that are compared
ASKED = 0.2  # chance from which a node is in another's question
PEOPLE, OTHERS = 12, 10  # rows of a sheet, and of a row


@dataclass(frozen=True)
class Nodes:
    """People, groups and single faces. means: of their unit vectors, float32 (n, d). sizes: faces, int64 (n,).

    named: whether a node is a person, bool (n,). apart: pairs that the user said are not one person, int64 (m, 2).
    """

    means: np.ndarray
    sizes: np.ndarray
    named: np.ndarray
    apart: np.ndarray


@dataclass(frozen=True)
class Row:
    """A root and the nodes that may be the same person, likeliest first, with the chance of each."""

    root: int
    others: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()


@dataclass(frozen=True)
class Question:
    """What one answer settles: a row of a group, or rows of people. faces: how many unnamed ones, as expected."""

    rows: tuple[Row, ...]
    faces: float


def questions(nodes: Nodes, cut: float, likeness: Likeness = ANY, nearest: int = NEAREST) -> list[Question]:
    """Return the questions, the one that settles most faces first; each unnamed node is in one at most."""
    pairs, known = compared(nodes, cut, nearest)
    rows = _rows(nodes, pairs, likeness.chances(known))
    asked = [Question((row,), _faces(nodes, row)) for row in rows if not nodes.named[row.root]]
    people = sorted((row for row in rows if nodes.named[row.root] and row.others), key=lambda r: -_faces(nodes, r))
    for start in range(0, len(people), PEOPLE):
        sheet = tuple(people[start : start + PEOPLE])
        asked.append(Question(sheet, sum(_faces(nodes, row) for row in sheet)))
    return sorted(asked, key=lambda one: (-one.faces, one.rows[0].root))


def compared(nodes: Nodes, cut: float, nearest: int = NEAREST) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of an unnamed node and one before it, int64 (m, 2), and what is known of them, float64 (m, 4).

    Those that are apart are not among them; yet a node that looks most like one whom it is not is less likely another.
    """
    pairs, scores = _scored(nodes, nearest)
    rank = np.empty(len(nodes.sizes), np.int64)
    rank[_order(nodes)] = np.arange(len(rank))
    swap = rank[pairs[:, 0]] < rank[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    known = known_of(scores, cut, _gaps(pairs[:, 0], scores))
    asked = ~nodes.named[pairs[:, 0]] & ~_are_apart(nodes, pairs)
    return pairs[asked], known[asked]


def _order(nodes: Nodes) -> np.ndarray:
    """Return the nodes in the order in which they become roots: people, then the largest."""
    return np.lexsort((np.arange(len(nodes.sizes)), -nodes.sizes, ~nodes.named))


def _gaps(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return by how much each pair's score exceeds the best other one of its node, float (m,)."""
    order = np.lexsort((-scores, ids))
    ids, scores = ids[order], scores[order]
    first = np.diff(ids, prepend=-1) != 0
    best = scores[np.flatnonzero(first)[np.cumsum(first) - 1]]
    has_next = np.append(~first[1:], False) if len(first) else first
    next_best = np.where(has_next, np.roll(scores, -1), LEAST)
    found = np.empty(len(ids))
    found[order] = scores - np.where(first, next_best, best)
    return found


def _rows(nodes: Nodes, pairs: np.ndarray, chances: np.ndarray) -> list[Row]:
    """Return a row for each root: in order, each node is in the row of its likeliest root, or is one itself."""
    near = chances >= ASKED
    pairs, chances = pairs[near], chances[near]
    best = np.argsort(-chances, kind="stable")
    before: dict[int, list[tuple[int, float]]] = {}
    for (node, other), chance in zip(pairs[best].tolist(), chances[best].tolist(), strict=True):
        before.setdefault(node, []).append((other, chance))
    rows: dict[int, list[tuple[float, int]]] = {}
    for node in _order(nodes).tolist():
        root, chance = next(((o, chance) for o, chance in before.get(node, ()) if o in rows), (node, 1.0))
        if root == node:
            rows[node] = []
        else:
            rows[root].append((chance, node))
    found = []
    for root, joined in rows.items():
        others = sorted(joined, key=lambda one: -one[0] * nodes.sizes[one[1]])[:OTHERS]
        others.sort(key=lambda one: (-one[0], one[1]))
        found.append(Row(root, tuple(node for _, node in others), tuple(chance for chance, _ in others)))
    return found


def _faces(nodes: Nodes, row: Row) -> float:
    """Return how many unnamed faces a row settles, as expected."""
    own = 0 if nodes.named[row.root] else int(nodes.sizes[row.root])
    return own + float(nodes.sizes[list(row.others)] @ np.array(row.chances)) if row.others else float(own)


def _scored(nodes: Nodes, nearest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of nodes, int64 (m, 2), and their scores, as `group` has them, of LEAST or more."""
    pairs = near_pairs(nodes.means, LEAST, nearest)
    cosines = np.einsum("ij,ij->i", nodes.means[pairs[:, 0]], nodes.means[pairs[:, 1]])
    scores = cosines - MARGIN / np.sqrt(nodes.sizes[pairs].prod(axis=1, dtype=np.float64))
    near = scores >= LEAST
    return pairs[near], scores[near]


def _are_apart(nodes: Nodes, pairs: np.ndarray) -> np.ndarray:
    """Return which pairs the user said are not one person, bool (m,)."""
    keys = [np.sort(some, axis=1) @ np.array([len(nodes.sizes), 1]) for some in (pairs, nodes.apart)]
    return np.isin(*keys)
