"""Find which faces are worth a question: each group with what looks like the same person, by a lower score.

A question is about a root, a person or a group that looks like no larger one, and about all groups and single faces
that look most like it. One answer then settles them together, where naming group by group takes an answer for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegallery.indexer.grouping.linkage import MARGIN
from facegallery.indexer.grouping.neighbours import NEAREST, near_pairs

BELOW = 0.1  # of the cut: so near, two may be one person


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
class Question:
    """A root and the nodes that may be the same person. scores: of each. faces: how many unnamed ones it settles."""

    root: int
    others: tuple[int, ...]
    scores: tuple[float, ...]
    faces: float


def questions(nodes: Nodes, cut: float, nearest: int = NEAREST) -> list[Question]:
    """Return the questions, the one that settles most faces first; each unnamed node is in one.

    A node that is less likely its root's person counts for fewer faces: for none at `cut` less BELOW, whole at `cut`.
    """
    pairs, scores = _scored(nodes, cut - BELOW, nearest)
    parents, parent_scores = _parents(nodes, pairs, scores)
    children: dict[int, list[int]] = {}
    for node in np.flatnonzero(parents >= 0):
        root = int(parents[node])
        if parents[root] < 0:
            children.setdefault(root, []).append(int(node))
    found = []
    for root in np.flatnonzero((parents < 0) | (parents[parents] >= 0)).tolist():
        others = sorted(children.get(root, []), key=lambda node: -parent_scores[node])
        if nodes.named[root] and not others:
            continue
        own = 0 if nodes.named[root] else int(nodes.sizes[root])
        likely = np.clip((parent_scores[others] - cut + BELOW) / BELOW, 0, 1) if others else np.empty(0)
        settled = own + float((nodes.sizes[others] * likely).sum()) if others else float(own)
        found.append(Question(root, tuple(others), tuple(map(float, parent_scores[others])), settled))
    return sorted(found, key=lambda one: (-one.faces, one.root))


def _scored(nodes: Nodes, least: float, nearest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of nodes, int64 (m, 2), and their scores, as `group` has them, of `least` or more."""
    pairs = near_pairs(nodes.means, least, nearest)
    keys = np.sort(pairs, axis=1) @ np.array([len(nodes.sizes), 1])
    pairs = pairs[~np.isin(keys, np.sort(nodes.apart, axis=1) @ np.array([len(nodes.sizes), 1]))]
    cosines = np.einsum("ij,ij->i", nodes.means[pairs[:, 0]], nodes.means[pairs[:, 1]])
    scores = cosines - MARGIN / np.sqrt(nodes.sizes[pairs].prod(axis=1, dtype=np.float64))
    near = scores >= least
    return pairs[near], scores[near]


def _parents(nodes: Nodes, pairs: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the node that each unnamed one looks most like, a person or a larger one, or -1; and their score."""
    n = len(nodes.sizes)
    rank = np.empty(n, np.int64)
    rank[np.lexsort((np.arange(n), -nodes.sizes, ~nodes.named))] = np.arange(n)  # people first, then the largest
    both = np.concatenate([pairs, pairs[:, ::-1]])
    doubled = np.concatenate([scores, scores])
    upward = ~nodes.named[both[:, 0]] & (rank[both[:, 1]] < rank[both[:, 0]])
    both, doubled = both[upward], doubled[upward]
    order = np.lexsort((rank[both[:, 1]], -doubled, both[:, 0]))
    first = order[np.unique(both[order, 0], return_index=True)[1]]
    parents, best = np.full(n, -1), np.zeros(n)
    parents[both[first, 0]], best[both[first, 0]] = both[first, 1], doubled[first]
    return parents, best
