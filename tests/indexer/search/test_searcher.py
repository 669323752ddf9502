import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.errors import DataError, GalleryError, InputError
from facegallery.embedder.spec import CropRule
from facegallery.indexer import build as builder
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.search.candidates import Candidates
from facegallery.indexer.search.searcher import Hit, Searcher
from tests import synthetic
from tests.conftest import ROOT


def make(folder: Path, rows, d: int = synthetic.D, **options) -> Path:
    data = synthetic.write(folder / "vectors", rows, synthetic.spec(d))
    build(data, folder / "indexes" / "i", BuildOptions(**options))
    return folder / "indexes" / "i"


def plain(hits: list[Hit]) -> list[tuple[str, float, str]]:
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [(hit.identity, hit.score, hit.face_id) for hit in hits]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """30 people with 4 photos each, that no test changes."""
    return make(tmp_path_factory.mktemp("index"), synthetic.rows(30, 4))


@pytest.fixture
def copy(index, tmp_path) -> Path:
    return Path(shutil.copytree(index, tmp_path / "i", symlinks=True))


QUERIES = synthetic.vectors(40, 1, seed=3)


# right answers --------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 29, 30, 31, 1000])
@pytest.mark.parametrize("faces", [False, True])
def test_answers_are_those_of_plain_numpy(index, k, faces):
    rows = synthetic.rows(30, 4)
    with Searcher(index) as searcher:
        found = searcher.search(QUERIES, k, faces=faces)
    assert [plain(hits) for hits in found] == [synthetic.nearest(rows, q, k, faces) for q in QUERIES]
    assert {len(hits) for hits in found} == {min(k, 120 if faces else 30)}
    images = {row.face_id: row.image for row in rows}
    assert all(hit.image == images[hit.face_id] and type(hit.score) is float for hits in found for hit in hits)


# the 24-cell: unit vectors whose products are exact, so that ties are everywhere
CELL = [
    *(sign * row for row in np.eye(4) for sign in (1, -1)),
    *(np.array(signs) / 2 for signs in product((1, -1), repeat=4)),
]
cells = st.integers(0, len(CELL) - 1).map(lambda i: CELL[i].astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(cells, st.integers(0, 6)), min_size=1, max_size=60),
    st.lists(cells, min_size=1, max_size=4),
    st.integers(1, 8),
    st.booleans(),
)
def test_ties_are_settled_by_face_id(gallery, queries, k, faces):
    rows = [synthetic.row(f"{i}.jpg", f"p{person}", x) for i, (x, person) in enumerate(gallery)]
    with tempfile.TemporaryDirectory() as folder, Searcher(make(Path(folder), rows, 4)) as searcher:
        found = searcher.search(np.stack(queries), k, faces=faces)
    assert [plain(hits) for hits in found] == [synthetic.nearest(rows, q, k, faces) for q in queries]


def test_ties_far_beyond_the_first_candidates(tmp_path):
    x = synthetic.vectors(1, 1)[0]
    rows = [synthetic.row(f"{i}.jpg", f"p{i}", x) for i in range(700)]
    with Searcher(make(tmp_path, rows)) as searcher:
        assert plain(searcher.search(x[None], 3)[0]) == synthetic.nearest(rows, x, 3)


def test_one_person_with_most_of_the_photos_leaves_room_for_the_others(tmp_path):
    xb = synthetic.vectors(1, 600)
    rows = [synthetic.row(f"a{i}.jpg", "everywhere", x) for i, x in enumerate(xb)]
    rows += [synthetic.row(f"b{i}.jpg", f"p{i}", x) for i, x in enumerate(synthetic.vectors(40, 1, seed=9))]
    with Searcher(make(tmp_path, rows)) as searcher:
        found = searcher.search(xb[:5], 4)
    assert [plain(hits) for hits in found] == [synthetic.nearest(rows, q, 4) for q in xb[:5]]
    assert all(len({hit.identity for hit in hits}) == 4 for hits in found)


@pytest.mark.parametrize("centre", [False, True])
def test_scores_closer_than_float32_sums_can_tell(tmp_path, centre):
    rng, d = np.random.default_rng(2), 512
    heart = synthetic.vectors(1, 1, d)
    xb = synthetic.unit(heart + 1e-6 * rng.normal(size=(300, d)))
    rows = [synthetic.row(f"{i}.jpg", f"p{i // 2}", x) for i, x in enumerate(xb)]
    rows += [synthetic.row(f"far{i}.jpg", f"far{i}", x) for i, x in enumerate(synthetic.vectors(20, 1, d, seed=4))]
    queries = np.concatenate([heart, xb[:24], synthetic.vectors(15, 1, d, seed=5)])
    with Searcher(make(tmp_path, rows, d, centre=centre)) as searcher:
        together = searcher.search(queries, 5)
        assert together == [searcher.search(q[None], 5)[0] for q in queries]
        assert together == searcher.search(queries[::-1], 5)[::-1]
    if not centre:
        assert [plain(hits) for hits in together] == [synthetic.nearest(rows, q, 5) for q in queries]


def test_centring_moves_both_sides(tmp_path):
    rows = synthetic.rows(30, 3)
    for row in rows:
        row.vector = synthetic.unit(row.vector + 0.5)  # a common direction, as faces have
    queries = synthetic.unit(QUERIES + 0.5)
    with Searcher(make(tmp_path, rows, centre=True)) as searcher:
        found = searcher.search(queries, 5)
    want = [synthetic.nearest(rows, q, 5, centre=True) for q in queries]
    assert [[hit.face_id for hit in hits] for hits in found] == [[line[2] for line in lines] for lines in want]
    np.testing.assert_allclose(
        [[h.score for h in hits] for hits in found], [[line[1] for line in lines] for lines in want], atol=2e-7
    )
    assert want != [synthetic.nearest(rows, q, 5) for q in queries]


# bad questions --------------------------------------------------------------


def test_questions_that_cannot_be_answered(index):
    with Searcher(index) as searcher:
        for k in (0, -3):
            with pytest.raises(InputError, match="k of at least 1"):
                searcher.search(QUERIES, k)
        for bad, words in [
            (QUERIES[:, :5], r"\(n, 16\), received \(40, 5\)"),
            (QUERIES[0], r"received \(16,\)"),
            (QUERIES * 2, "length 1, received 2"),
            (np.where(np.arange(40)[:, None] == 7, np.nan, QUERIES), "received nan in query 7"),
        ]:
            with pytest.raises(DataError, match=words):
                searcher.search(bad, 5)
        assert searcher.search(np.zeros((0, 16), np.float32), 5) == []


def test_another_contract_is_refused_by_the_field_that_differs(index):
    with Searcher(index) as searcher:
        searcher.check_spec(synthetic.spec(runtime="OpenVINO"))
        with pytest.raises(GalleryError, match="margin: 0.25 and 32px"):
            searcher.check_spec(synthetic.spec(crop=CropRule(margin="32px")))
        with pytest.raises(GalleryError, match="dimension 0: 16 and 8"):
            searcher.check_spec(synthetic.spec(8))
        assert searcher.warnings == []


def test_lesser_differences_are_noted_once(tmp_path):
    mine = synthetic.spec(runtime="TensorFlow", precision="fp32", detector={"min_face": 20})
    build(synthetic.write(tmp_path / "v", synthetic.rows(2, 1), mine), tmp_path / "i")
    with Searcher(tmp_path / "i") as searcher:
        for _ in range(2):
            searcher.check_spec(replace(mine, runtime="OpenVINO", detector={"min_face": 40}))
        assert len(searcher.warnings) == 2
        assert "{'min_face': 20}" in searcher.warnings[0] and "{'min_face': 40}" in searcher.warnings[0]
        assert searcher.warnings[1].startswith("runtime: ")


# damage and change ----------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda built: (built / "index.faiss").unlink(),
        lambda built: os.truncate(built / "index.faiss", 1000),
        lambda built: os.truncate(built / "index.faiss", 0),
        lambda built: flip(built / "index.faiss"),
        lambda built: (built / "report.json").unlink(),
        lambda built: (built / "report.json").write_text("[1"),
        lambda built: (built / "report.json").write_text("[1]"),
        shutil.rmtree,
        lambda built: (built / "report.json").write_text(
            (built / "report.json").read_text().replace('"n": 120', '"n": 121')
        ),
    ],
)
def test_a_damaged_index_is_made_again_in_memory(index, copy, damage, caplog):
    with Searcher(index) as searcher:
        want = searcher.search(QUERIES, 5)
    assert caplog.records == []
    damage(copy / "built-1")
    with Searcher(copy) as searcher:
        assert searcher.search(QUERIES, 5) == want == searcher.search(QUERIES, 5)
    assert [
        (r.levelno, "built-1 is missing or damaged" in r.getMessage(), "\n" in r.getMessage()) for r in caplog.records
    ] == [(logging.WARNING, True, False)]


@pytest.mark.parametrize(("set_up", "lines"), [("", 0), ("import logging; logging.basicConfig(); ", 1)])
def test_the_warning_is_one_line_for_who_asked_for_logs(copy, set_up, lines):
    shutil.rmtree(copy / "built-1")
    code = f"{set_up}from facegallery.indexer.search.searcher import Searcher; Searcher({str(copy)!r}).close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "" and len(done.stderr.splitlines()) == lines and ("`verify`" in done.stderr) == bool(lines)


def test_the_index_of_another_gallery_ranks_nothing(copy, tmp_path, caplog):
    other = make(tmp_path / "other", synthetic.rows(30, 4, seed=7))
    shutil.rmtree(copy / "built-1")
    shutil.copytree(other / "built-1", copy / "built-1")
    with Searcher(copy) as searcher:
        found = searcher.search(QUERIES, 5)
    assert [plain(hits) for hits in found] == [synthetic.nearest(synthetic.rows(30, 4), q, 5) for q in QUERIES]
    assert len(caplog.records) == 1


def test_an_open_searcher_sees_a_replacement_at_once(copy, tmp_path):
    new = synthetic.rows(9, 2, seed=8)
    data = synthetic.write(tmp_path / "new", new)
    with Searcher(copy) as searcher:
        before = searcher.search(QUERIES, 3)
        build(data, copy, BuildOptions(replace=True))
        after = searcher.search(QUERIES, 3)
    assert [plain(hits) for hits in before] == [synthetic.nearest(synthetic.rows(30, 4), q, 3) for q in QUERIES]
    assert [plain(hits) for hits in after] == [synthetic.nearest(new, q, 3) for q in QUERIES]


def test_files_that_go_between_the_snapshot_and_the_reading(copy, tmp_path, monkeypatch, caplog):
    new = synthetic.rows(9, 2, seed=8)
    data, reads, read = synthetic.write(tmp_path / "new", new), [], Candidates._load_built

    def just_replaced(self, generation):
        reads.append(generation)
        if len(reads) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(Candidates, "_load_built", read)
                build(data, copy, BuildOptions(replace=True))
        return read(self, generation)

    monkeypatch.setattr(Candidates, "_load_built", just_replaced)
    with Searcher(copy) as searcher:
        found = searcher.search(QUERIES, 3)
    assert reads == [1, 2] and caplog.records == []
    assert [plain(hits) for hits in found] == [synthetic.nearest(new, q, 3) for q in QUERIES]


def test_the_old_index_answers_until_the_new_one_is_committed(copy, tmp_path, monkeypatch):
    data, derive, during = synthetic.write(tmp_path / "new", synthetic.rows(9, 2, seed=8)), builder.derive, []

    def watched(gallery):
        derive(gallery)
        with Searcher(copy) as searcher:
            during.extend(searcher.search(QUERIES, 3))

    monkeypatch.setattr(builder, "derive", watched)
    build(data, copy, BuildOptions(replace=True))
    assert [plain(hits) for hits in during] == [synthetic.nearest(synthetic.rows(30, 4), q, 3) for q in QUERIES]


def test_a_replacement_of_another_contract_ends_an_open_searcher(copy, tmp_path):
    other = synthetic.write(tmp_path / "new", synthetic.rows(9, 2), synthetic.spec(crop=CropRule(margin="32px")))
    with Searcher(copy) as searcher:
        build(other, copy, BuildOptions(replace=True))
        with pytest.raises(GalleryError, match="replaced"):
            searcher.search(QUERIES, 3)


def test_a_crop_of_a_hit(tmp_path):
    rows = synthetic.rows(2, 1)
    rows[0].crop = synthetic.png(b"png")
    with Searcher(make(tmp_path, rows)) as searcher:
        assert searcher.crop(rows[0].face_id) == rows[0].crop and searcher.crop(rows[1].face_id) is None


# imports --------------------------------------------------------------------


def test_the_index_loads_no_network_and_faiss_only_when_it_is_used():
    heavy = "{'tensorflow', 'openvino', 'keras', 'faiss'}"
    code = f"import sys, facegallery.indexer.search.searcher; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
