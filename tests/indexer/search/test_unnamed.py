import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.unnamed import Arrangement, Place, Unnamed
from tests import synthetic
from tests.faults import sql

HEAP = [
    synthetic.row(f"heap/{i // 2}.jpg", None, x, face=i % 2, image_sha256=f"sha {i // 2}")
    for i, x in enumerate(synthetic.vectors(12, 4, seed=3))
]
ROWS = synthetic.rows(5, 3)


@pytest.fixture(params=[False, True], ids=["plain", "centred"])
def index(request, tmp_path):
    """Five people; of 48 unnamed faces most are in groups 1 to 7, some in none, and every ninth is ignored."""
    from facegallery.indexer.build import BuildOptions

    folder = tmp_path / "indexes" / "club"
    build(synthetic.write(tmp_path / "vectors", ROWS), folder, BuildOptions(centre=request.param))
    places = {row.face_id: place(i) for i, row in enumerate(HEAP)}
    with open_store(folder, write=True) as gallery:
        gallery.add_unnamed(HEAP)
        gallery.arrange("group", Arrangement(places))
    return folder


def place(i: int) -> Place:
    return Place(None, None, "ignored") if i % 9 == 8 else Place(None, i // 4 % 8 or None)


def naive(heap: list[Row], q: np.ndarray, k: int, mean: np.ndarray | None) -> list[tuple]:
    """(group, faces, photos, score, face_id) of the k best, by loops."""

    def centred(x: np.ndarray) -> np.ndarray:
        moved = x.astype(np.float64) - (0 if mean is None else mean)
        return moved / np.linalg.norm(moved)

    found: dict[object, list[tuple[float, Row]]] = {}
    for i, row in enumerate(heap):
        if place(i).state != "ignored":
            score = float(centred(q) @ centred(row.vector))
            found.setdefault(place(i).number or row.face_id, []).append((score, row))
    lines = []
    for key, some in found.items():
        score, best = max(some, key=lambda one: one[0])
        photos = {row.image for _, row in some}
        lines.append((key if isinstance(key, int) else None, len(some), len(photos), score, best.face_id))
    return sorted(lines, key=lambda line: -line[3])[:k]


@pytest.mark.parametrize("block", [1, 5, 4096])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_nearest_groups_and_loose_faces_are_those_of_plain_loops(index, monkeypatch, block, k):
    whole = Unnamed.unnamed_vectors
    monkeypatch.setattr(Unnamed, "unnamed_vectors", lambda self: whole(self, block=block))
    xq = np.concatenate([synthetic.vectors(6, 1, seed=8), np.stack([HEAP[9].vector])])
    with Searcher(index) as searcher:
        found = searcher.near_unnamed(xq, k)
        mean = searcher.store.mean
        named = {hit.identity for hits in searcher.search(xq, 10) for hit in hits}
    assert named == {row.identity for row in ROWS}, "unnamed faces are never among the answers"
    for q, near in zip(xq, found, strict=True):
        expected = naive(HEAP, q, k, mean)
        assert [(one.group, one.faces, one.photos, one.face_id) for one in near] == [
            (*line[:3], line[4]) for line in expected
        ]
        assert [one.score for one in near] == pytest.approx([line[3] for line in expected], abs=1e-6)


def test_a_least_score_leaves_out_what_is_below(index):
    xq = np.stack([HEAP[9].vector])
    with Searcher(index) as searcher:
        every = searcher.near_unnamed(xq, 100)[0]
        least = every[2].score
        assert searcher.near_unnamed(xq, 100, least)[0] == every[:3]
        assert searcher.near_unnamed(xq, 100, 1.1) == [()]
        assert searcher.near_unnamed(xq[:0], 3) == []


def test_a_changed_vector_or_face_is_found(index):
    xq = np.stack([HEAP[9].vector])
    sql(index, "UPDATE unnamed SET image = 'x.jpg' WHERE id = 10")
    with Searcher(index) as searcher, pytest.raises(Damaged, match=r"x\.jpg"):
        searcher.near_unnamed(xq, 3)
    sql(index, "UPDATE unnamed_vectors SET vector = zeroblob(64) WHERE id = 3")
    with Searcher(index) as searcher, pytest.raises(Damaged):
        searcher.near_unnamed(xq, 3)
