import math
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import InputError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived.derive import compact
from facegallery.indexer.opening import open_store
from facegallery.indexer.search import candidates, templates
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.search.templates import exact_score
from tests import synthetic

GRID = 2.0**20  # products of vectors on this grid are summed by float64 without a rounding
# the 24-cell: unit vectors whose products are exact, so that ties are everywhere
CELL = [
    *(sign * row for row in np.eye(4) for sign in (1, -1)),
    *(np.array(signs) / 2 for signs in product((1, -1), repeat=4)),
]
SCORES = ("mean", "template")


def on_grid(x: np.ndarray) -> np.ndarray:
    return (np.round(x.astype(np.float64) * GRID) / GRID).astype(np.float32)


QUERIES = on_grid(synthetic.vectors(15, 1, seed=3))


def world() -> list[Row]:
    """25 people with one to six photos each, alternately at two places."""
    rng, rows = np.random.default_rng(1), []
    for i, x in enumerate(on_grid(synthetic.vectors(25, 6, seed=1))):
        if i % 6 <= (i // 6) % 6:
            rows.append(synthetic.row(f"{i}.jpg", f"person {i // 6}", x, extra={"place": "AB"[rng.integers(2)]}))
    return rows


ROWS = world()


def naive(
    rows: Sequence[Row], q: np.ndarray, k: int, score: str, mean: np.ndarray | None = None
) -> list[tuple[str, float, str]]:
    """(identity, score, face_id of the best face) of the k best people, by plain loops; ties by that face_id."""

    def vector(x: np.ndarray) -> list[float]:
        if mean is None:
            return [float(v) for v in x]
        moved = x.astype(np.float64) - mean
        return [float(v) for v in (moved / np.sqrt(np.sum(moved * moved))).astype(np.float32)]

    def dot(a: Sequence[float], b: Sequence[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    q, found = vector(q), []
    for person in {row.identity for row in rows}:
        mine = [(vector(row.vector), row.face_id) for row in rows if row.identity == person]
        best = min((-np.float32(dot(x, q)), face_id) for x, face_id in mine)[1]
        total = [math.fsum(column) for column in zip(*(x for x, _ in mine), strict=True)]
        length = len(mine) if score == "mean" else math.sqrt(dot(total, total))
        found.append((-np.float32(dot(total, q) / length if length else 0), best, person))
    return [(person, -float(value), best) for value, best, person in sorted(found)[:k]]


def plain(hits: Sequence) -> list[tuple[str, float, str]]:
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [(hit.identity, hit.score, hit.face_id) for hit in hits]


def made(folder: Path, rows: Sequence[Row], d: int = synthetic.D, **options) -> Path:
    build(
        synthetic.write(
            folder / "vectors", rows, synthetic.spec(d), extra=sorted({c for row in rows for c in row.extra})
        ),
        folder / "club",
        BuildOptions(**options),
    )
    return folder / "club"


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("people"), ROWS)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("k", [1, 4, 24, 25, 26, 1000])
def test_people_are_ranked_as_plain_loops_rank_them(index, score, k):
    with Searcher(index) as searcher:
        found = searcher.search(QUERIES, k, score=score)
        assert [plain(hits) for hits in found] == [naive(ROWS, q, k, score) for q in QUERIES]
        assert found == [searcher.search(q[None], k, score=score)[0] for q in QUERIES], "however they are batched"
    images = {row.face_id: row.image for row in ROWS}
    assert all(hit.image == images[hit.face_id] and type(hit.score) is float for hits in found for hit in hits)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 50), (7, 10**6, 10**6)])
def test_blocks_change_no_answer(index, monkeypatch, score, sizes):
    for name, value in zip(("PEOPLE", "GATHER", "BLOCK_SCORES"), sizes, strict=True):
        monkeypatch.setattr(templates, name, value)
    with Searcher(index) as searcher:
        assert [plain(hits) for hits in searcher.search(QUERIES, 5, score=score)] == [
            naive(ROWS, q, 5, score) for q in QUERIES
        ]


@pytest.mark.parametrize("score", SCORES)
def test_only_the_faces_that_a_filter_keeps_count(index, score):
    with Searcher(index) as searcher:
        for where, kept in [
            (["place=A"], [r for r in ROWS if r.extra["place"] == "A"]),
            (
                ["place=B", "identity!=person 11"],
                [r for r in ROWS if r.extra["place"] == "B" and r.identity != "person 11"],
            ),
            (["identity=person 3", "identity=person 5"], [r for r in ROWS if r.identity in ("person 3", "person 5")]),
            (["place=C"], []),
        ]:
            for k in (1, 5, 99):
                found = searcher.search(QUERIES, k, score=score, where=where)
                assert [plain(hits) for hits in found] == [naive(kept, q, k, score) for q in QUERIES]


@pytest.mark.parametrize("score", SCORES)
def test_what_came_and_went_since_the_index_was_built_counts(tmp_path, score):
    first, later = ROWS[:50], ROWS[50:]
    folder = made(tmp_path, first)
    with open_store(folder, write=True) as gallery, Searcher(folder) as searcher:
        assert [plain(hits) for hits in searcher.search(QUERIES, 5, score=score)] == [
            naive(first, q, 5, score) for q in QUERIES
        ]
        gallery.add(later)
        gallery.remove("person 4")
        gallery.merge("person 5", "person 6")
        gallery.split([first[0].face_id], "somebody new")
        gallery.rename("person 7", "Zoë")
        names = {"person 5": "person 6", "person 7": "Zoë"}
        now = [
            synthetic.row(
                row.image, "somebody new" if row is first[0] else names.get(row.identity, row.identity), row.vector
            )
            for row in ROWS
            if row.identity != "person 4"
        ]
        for _ in range(2):
            assert [plain(hits) for hits in searcher.search(QUERIES, 5, score=score)] == [
                naive(now, q, 5, score) for q in QUERIES
            ]
            compact(gallery)


@pytest.mark.parametrize("score", SCORES)
def test_centred_galleries_count_centred_faces(tmp_path, score):
    rows = [synthetic.row(row.image, row.identity, synthetic.unit(row.vector + 0.5)) for row in ROWS]
    queries = synthetic.unit(QUERIES + 0.5)
    mean = np.stack([row.vector for row in rows]).astype(np.float64).mean(axis=0)
    with Searcher(made(tmp_path, rows, centre=True)) as searcher:
        found = searcher.search(queries, 5, score=score)
    want = [naive(rows, q, 5, score, mean) for q in queries]
    assert [[(h.identity, h.face_id) for h in hits] for hits in found] == [
        [(name, face) for name, _, face in line] for line in want
    ]
    np.testing.assert_allclose(
        [[h.score for h in hits] for hits in found], [[s for _, s, _ in line] for line in want], atol=1e-6
    )


cells = st.integers(0, len(CELL) - 1).map(lambda i: CELL[i].astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(cells, st.integers(0, 8)), min_size=1, max_size=50),
    st.lists(cells, min_size=1, max_size=3),
    st.integers(1, 9),
)
def test_ties_are_settled_by_the_best_faces_id(gallery, queries, k):
    rows = [synthetic.row(f"{i}.jpg", f"p{person}", x) for i, (x, person) in enumerate(gallery)]
    with tempfile.TemporaryDirectory() as folder, Searcher(made(Path(folder), rows, 4)) as searcher:
        for score in SCORES:
            found = searcher.search(np.stack(queries), k, score=score)
            assert [plain(hits) for hits in found] == [naive(rows, q, k, score) for q in queries]


@pytest.mark.parametrize("score", SCORES)
def test_scores_closer_than_float32_sums_can_tell(tmp_path, score):
    rng, d = np.random.default_rng(2), 512
    heart = synthetic.vectors(1, 1, d)
    xb = on_grid(synthetic.unit(heart + 2e-6 * rng.normal(size=(200, d))))
    rows = [synthetic.row(f"{i}.jpg", f"p{i // 2}", x) for i, x in enumerate(xb)]
    queries = np.concatenate([on_grid(heart), xb[:9]])
    with Searcher(made(tmp_path, rows, d)) as searcher:
        assert [plain(hits) for hits in searcher.search(queries, 5, score=score)] == [
            naive(rows, q, 5, score) for q in queries
        ]


def test_faces_that_cancel_out_have_no_template(tmp_path):
    x, y = np.eye(synthetic.D, dtype=np.float32)[:2]
    rows = [
        synthetic.row("a.jpg", "both ways", x),
        synthetic.row("b.jpg", "both ways", -x),
        synthetic.row("c.jpg", "against", -y),
    ]
    with Searcher(made(tmp_path, rows)) as searcher:
        for score in SCORES:
            assert plain(searcher.search(y[None], 9, score=score)[0]) == naive(rows, y, 9, score)
            assert [hit.score for hit in searcher.search(x[None], 9, score=score)[0]] == [0, 0]


def test_a_score_by_hand():
    xb, q = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32), np.array([0.8, 0.6], np.float32)
    assert exact_score(q, xb, "mean") == pytest.approx((0.8 + 0.6 + 0.96) / 3, abs=1e-7)
    assert exact_score(q, xb, "template") == pytest.approx((1.6 * 0.8 + 1.8 * 0.6) / math.hypot(1.6, 1.8), abs=1e-7)
    assert exact_score(q, xb[:1], "mean") == exact_score(q, xb[:1], "template") == np.float32(0.8)


def test_a_template_is_at_least_a_mean(index):
    with Searcher(index) as searcher:
        mean, template = (
            {h.identity: h.score for h in searcher.search(QUERIES[:1], 99, score=score)[0]} for score in SCORES
        )
    assert all(abs(template[name]) >= abs(mean[name]) - 1e-6 for name in mean) and mean.keys() == template.keys()


def test_other_scores_are_refused(index):
    with Searcher(index) as searcher:
        for options in (
            {"score": "median"},
            {"score": ""},
            {"score": "mean", "faces": True},
            {"score": "template", "faces": True},
        ):
            with pytest.raises(InputError, match="best, mean, template"):
                searcher.search(QUERIES, 1, **options)


def test_rows_are_read_at_any_positions(tmp_path):
    folder = made(tmp_path, ROWS[:40])
    with open_store(folder, write=True) as gallery:
        gallery.add(ROWS[40:])
    with Searcher(folder) as searcher:
        rng = np.random.default_rng(5)
        for n in (0, 1, 3, 30):
            at = rng.integers(len(ROWS), size=n)
            assert (searcher.candidates.rows(at) == np.stack([row.vector for row in ROWS])[at]).all()
        assert candidates.GATHER == templates.GATHER
