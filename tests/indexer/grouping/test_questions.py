"""Questions against a plain reading of the rule, and chances against made-up people whose labels are known."""

from itertools import pairwise

import numpy as np
import pytest

from facegallery.indexer.grouping.chances import GAP, Likeness, fit, known_of
from facegallery.indexer.grouping.linkage import MARGIN
from facegallery.indexer.grouping.questions import ASKED, LEAST, OTHERS, PEOPLE, Nodes, compared, questions

CUT = 0.5
LIKENESS = Likeness(-8.0, 16.0, 0.0, 10.0)
NONE = np.empty((0, 2), np.int64)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def crowd(people: int, nodes: int, named: int, seed: int) -> tuple[Nodes, np.ndarray]:
    """Nodes of made-up people, of which the first of each of `named` people is named, and the person of each node."""
    rng = np.random.default_rng(seed)
    who = np.tile(np.arange(people), nodes)
    means = unit(rng.normal(size=(people, 24))[who] + 0.7 * rng.normal(size=(len(who), 24)))
    first = np.arange(len(who)) < named
    return Nodes(means, rng.integers(1, 9, len(who)), first, NONE), who


def plain(nodes: Nodes) -> dict[tuple[int, int], float]:
    """The chance of each unnamed node and one before it, by loops."""
    n, place = len(nodes.sizes), {}
    order = sorted(range(n), key=lambda i: (not nodes.named[i], -nodes.sizes[i], i))
    place = {node: i for i, node in enumerate(order)}
    apart = {frozenset(pair) for pair in nodes.apart.tolist()}
    found = {}
    for node in range(n):
        scores = {
            other: float(nodes.means[node] @ nodes.means[other])
            - MARGIN / np.sqrt(nodes.sizes[node] * nodes.sizes[other])
            for other in range(n)
            if place[other] < place[node]
        }
        scores = {other: score for other, score in scores.items() if score >= LEAST}
        for other, score in scores.items():
            rest = max([s for o, s in scores.items() if o != other], default=LEAST)
            gap = np.clip(score - rest, -GAP, GAP)
            logit = LIKENESS.base + LIKENESS.score * score + LIKENESS.cut * CUT + LIKENESS.gap * gap
            if not nodes.named[node] and frozenset((node, other)) not in apart:
                found[node, other] = 1 / (1 + np.exp(-logit))
    return found


def with_apart(nodes: Nodes, pairs: list[tuple[int, int]]) -> Nodes:
    return Nodes(nodes.means, nodes.sizes, nodes.named, np.array(pairs, np.int64).reshape(-1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_chances_are_those_of_all_pairs(seed):
    nodes, _ = crowd(8, 4, 5, seed)
    nodes = with_apart(nodes, [(9, 1), (0, 16), (20, 21)])
    pairs, known = compared(nodes, CUT, nearest=len(nodes.sizes))
    chances = LIKENESS.chances(known)
    expected = plain(nodes)
    assert {tuple(pair) for pair in pairs.tolist()} == set(expected) and len(pairs) == len(expected) > 20
    for pair, chance in zip(pairs.tolist(), chances, strict=True):
        assert chance == pytest.approx(expected[tuple(pair)], rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_each_node_is_asked_about_with_its_likeliest_root(seed):
    nodes, _ = crowd(20, 4, 15, seed)
    chances, asked = plain(nodes), questions(nodes, CUT, LIKENESS, nearest=len(nodes.sizes))
    rows = [row for one in asked for row in one.rows]
    roots = {row.root for row in rows} | set(range(15))
    seen = [node for row in rows for node in (row.root, *row.others) if not nodes.named[node]]
    assert sorted(seen) == list(range(15, 80))
    for row in rows:
        assert len(row.others) == len(row.chances) and not nodes.named[list(row.others)].any()
        for node, chance in zip(row.others, row.chances, strict=True):
            best = max(chances.get((node, root), 0.0) for root in roots)
            assert chance == pytest.approx(best, rel=1e-4) and chance >= ASKED
        if not nodes.named[row.root]:
            assert all(chances.get((row.root, root), 0.0) < ASKED for root in roots)


def test_the_question_that_settles_most_faces_comes_first():
    nodes, _ = crowd(20, 4, 15, 1)
    asked = questions(nodes, CUT, LIKENESS)
    for one in asked:
        own = sum(nodes.sizes[row.root] for row in one.rows if not nodes.named[row.root])
        others = sum(nodes.sizes[n] * c for row in one.rows for n, c in zip(row.others, row.chances, strict=True))
        assert one.faces == pytest.approx(own + others)
    assert all(a.faces >= b.faces for a, b in pairwise(asked))


def test_one_sheet_holds_several_people_and_a_question_for_a_name_one_group():
    nodes, _ = crowd(40, 3, 30, 2)
    asked = questions(nodes, CUT, LIKENESS)
    sheets = [one.rows for one in asked if nodes.named[one.rows[0].root]]
    assert max(map(len, sheets)) == PEOPLE < sum(map(len, sheets))
    assert all(nodes.named[row.root] and row.others for rows in sheets for row in rows)
    assert all(len(one.rows) == 1 for one in asked if not nodes.named[one.rows[0].root])


def test_a_row_has_the_most_that_can_be_seen_and_others_come_later():
    means = unit(np.ones((OTHERS + 6, 8)) + 0.01 * np.random.default_rng(0).normal(size=(OTHERS + 6, 8)))
    sizes = np.arange(1, OTHERS + 7)
    named = np.arange(OTHERS + 6) == 0
    likeness = Likeness(-2.0, 10.0, 0.0, 0.0)
    (one,) = questions(Nodes(means, sizes, named, NONE), CUT, likeness)
    (row,) = one.rows
    assert row.root == 0 and sorted(row.others) == list(range(6, OTHERS + 6))


def test_what_the_user_said_is_not_asked_again():
    x = unit(np.array([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0.95, 0.3, 0, 0]]))
    nodes = Nodes(x, np.array([5, 5, 3]), np.array([True, True, False]), NONE)
    (before,) = questions(nodes, CUT, LIKENESS)
    assert before.rows[0].root == 0 and before.rows[0].others == (2,)
    (after,) = questions(with_apart(nodes, [(2, 0)]), CUT, LIKENESS)
    (row,) = after.rows
    assert (row.root, row.others) == (1, (2,))
    alone = Nodes(x[1:], nodes.sizes[1:], nodes.named[1:], NONE)
    assert row.chances[0] < questions(alone, CUT, LIKENESS)[0].rows[0].chances[0]  # it looks more like another
    (who,) = questions(with_apart(nodes, [(2, 0), (1, 2)]), CUT, LIKENESS)
    assert (who.rows[0].root, who.rows[0].others, who.faces) == (2, (), 3.0)


def test_nothing_to_ask():
    nothing = Nodes(np.empty((0, 8), np.float32), np.empty(0, np.int64), np.empty(0, bool), NONE)
    assert questions(nothing, CUT) == []
    people = Nodes(unit(np.eye(3, 8)), np.array([1, 2, 3]), np.ones(3, bool), NONE)
    assert questions(people, CUT) == []


def test_fitted_chances_are_true():
    known, same = [], []
    for seed in range(30):
        nodes, who = crowd(30, 4, 20, seed)
        pairs, of_pairs = compared(nodes, CUT)
        known.append(of_pairs)
        same.append(who[pairs[:, 0]] == who[pairs[:, 1]])
    fitted = fit(np.concatenate(known[:20]), np.concatenate(same[:20]))
    chances, truth = fitted.chances(np.concatenate(known[20:])), np.concatenate(same[20:])
    for low, high in pairwise((0.0, 0.2, 0.5, 0.8, 1.0)):
        band = (chances >= low) & (chances <= high)
        assert band.sum() > 30
        assert abs(chances[band].mean() - truth[band].mean()) < 0.1


def test_a_fit_finds_the_weights_of_what_it_is_given():
    rng = np.random.default_rng(0)
    known = known_of(rng.uniform(0.2, 0.8, 40_000), 0.4, rng.uniform(-GAP, GAP, 40_000))
    true = Likeness(-6.0, 12.0, 0.0, 8.0)
    found = fit(known, rng.random(40_000) < true.chances(known))
    assert found.score == pytest.approx(12, abs=0.6) and found.gap == pytest.approx(8, abs=0.6)
    assert found.base + 0.4 * found.cut == pytest.approx(-6, abs=0.3)  # one cut: the two cannot be told apart
