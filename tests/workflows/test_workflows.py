import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.upkeep.info import info
from facegallery.workflows.calibrate import CalibrationOptions, calibrate
from facegallery.workflows.evaluate import evaluate
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.photos import embed, make_embedder
from facegallery.workflows.probes import Question
from facegallery.workflows.search import Judge, search, search_to_parquet
from facegallery.workflows.upkeep import build_index
from tests import synthetic


@pytest.fixture
def photos(att, tmp_path) -> Path:
    """Three photos of each of four people, in folders of their own."""
    for person in range(1, 5):
        for number in range(1, 4):
            (folder := tmp_path / "photos" / f"s{person}").mkdir(parents=True, exist_ok=True)
            shutil.copy(att / f"s{person}" / f"{number}.pgm", folder)
    embed(tmp_path / "photos", tmp_path / "vectors", make_embedder("msceleb"))
    build_index(tmp_path / "vectors", "people")
    return tmp_path / "photos"


def answers(sources, **settings):
    found = search("people", sources, Question(k=4), **settings)
    return [
        [(hit["identity"], hit["score"]) for hit in probe["faces"][0]["hits"]] for probe in found.result()["probes"]
    ]


def test_a_photo_is_answered_the_same_alone_and_among_many(photos, monkeypatch):
    """Few photos and many are embedded by other networks: one after the other in one search, and each alone."""
    alone = answers([photos / "s2" / "1.pgm"])
    assert alone[0][0] == ("s2", pytest.approx(1, abs=1e-6)) and len(alone[0]) == 4
    monkeypatch.setattr("facegallery.workflows.networks.FEW", 1)
    among = answers([photos / "s2" / "1.pgm", photos, photos / "s2" / "1.pgm"])
    assert len(among) == 14 and [among[0], among[4], among[13]] == alone * 3


# what is said of an answer ---------------------------------------------------


@pytest.fixture
def club(tmp_path, monkeypatch) -> Path:
    """Ten people with three photos each; Ann has nine that are nearly one."""
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path))
    near = synthetic.unit(
        synthetic.vectors(1, 1, seed=3) + 0.01 * np.random.default_rng(0).normal(size=(9, synthetic.D))
    )
    ann = [synthetic.row(f"ann {i}.jpg", "Ann", x, extra={"year": str(i)}) for i, x in enumerate(near)]
    build(synthetic.write(tmp_path / "vectors", ann + synthetic.rows(10, 3), extra=["year"]), tmp_path / "club")
    return tmp_path / "club"


def margin_of(rows, q: np.ndarray) -> float | None:
    """From the best person to the best other person, by plain loops."""
    people = synthetic.nearest(rows, q, len(rows))
    return people[0][1] - people[1][1] if len(people) > 1 else None


def enrolled(folder: Path) -> list:
    with open_store(folder) as gallery:
        return gallery.table_rows([id for (id,) in gallery.execute("SELECT id FROM faces")])


@pytest.mark.parametrize(
    "question",
    [
        {"k": 1},
        {"k": 5},
        {"k": 1, "faces": True},
        {"k": 2, "faces": True},
        {"k": 5, "faces": True},
        {"k": 9, "faces": True},
        {"k": 99, "faces": True},
        {"k": 5, "min_score": 0.99},
        {"k": 3, "faces": True, "min_score": 0.99},
        {"k": 3, "min_score": 2.0},
    ],
)
def test_the_margin_is_to_the_best_other_person(club, question):
    rows, xq = enrolled(club), np.concatenate([synthetic.vectors(1, 1, seed=3), synthetic.vectors(12, 2, seed=8)])
    with Searcher(club) as searcher:
        answers = Judge(searcher, Question(**question)).answers(xq)
        plain = searcher.answer(xq, Question(**question))
    assert [answer.margin for answer in answers] == [margin_of(rows, q) for q in xq]
    assert [list(answer.hits) for answer in answers] == plain


@pytest.mark.parametrize("faces", [True, False])
def test_the_margin_is_among_the_faces_that_a_filter_keeps(club, faces):
    (q,) = synthetic.vectors(1, 1, seed=3)
    with Searcher(club) as searcher:
        (answer,) = Judge(searcher, Question(2, faces, where=("identity=Ann", "identity=person 4"))).answers(q[None])
        (alone,) = Judge(searcher, Question(2, faces, where=("year>=0",))).answers(q[None])
    assert answer.margin == margin_of([row for row in enrolled(club) if row.identity in ("Ann", "person 4")], q)
    assert alone.margin is None and alone.hits


@pytest.mark.parametrize("score", ["mean", "template"])
def test_the_margin_by_all_faces(club, score):
    with Searcher(club) as searcher:
        xq = synthetic.vectors(12, 2, seed=8)
        answers = Judge(searcher, Question(1, score=score)).answers(xq)
        two = searcher.search(xq, 2, score=score)
    assert [a.margin for a in answers] == [hits[0].score - hits[1].score for hits in two]


def test_a_photo_without_a_face_is_neither_known_nor_unknown(club, tmp_path):
    calibrate("club", CalibrationOptions(0.1))
    probes = [
        synthetic.row("face.jpg", "Ann", synthetic.vectors(1, 1, seed=3)[0]),
        synthetic.row("wall.jpg", None, None, outcome="no_face"),
    ]
    synthetic.write(tmp_path / "probes", probes)
    search_to_parquet("club", [tmp_path / "probes"], tmp_path / "hits.parquet", Question(1))
    lines = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [(line["image"], line["known"]) for line in lines] == [("face.jpg", True), ("wall.jpg", None)]
    assert lines[1]["chance"] is lines[1]["margin"] is lines[1]["weak"] is None


def test_a_weak_calibration_is_marked_in_every_answer(club, tmp_path):
    calibrate("club", CalibrationOptions(0.01))
    synthetic.write(tmp_path / "probes", [synthetic.row("face.jpg", "Ann", synthetic.vectors(1, 1, seed=3)[0])])
    (probe,) = search("club", [tmp_path / "probes"], Question(1)).result()["probes"]
    (face,) = probe["faces"]
    assert face["chance"] == face["chance_limit"] == 1 / 12, "eleven people, however many photos they have"
    assert face["weak"] == "only 11 people are enrolled, too few for a rate of 0.01" and face["stale"] is None
    search_to_parquet("club", [tmp_path / "probes"], tmp_path / "hits.parquet", Question(1))
    (line,) = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert (line["chance"], line["chance_limit"], line["weak"], line["stale"]) == (1 / 12, 1 / 12, face["weak"], None)


@pytest.mark.parametrize("change", ["two people more", "many photos more", "photos exchanged"])
def test_a_stale_calibration_is_marked_in_every_answer(club, tmp_path, change):
    calibrate("club", CalibrationOptions(0.01))
    more = {"two people more": ("New 1", "New 2"), "many photos more": ["Ann"] * 8, "photos exchanged": ["Ann"] * 3}[
        change
    ]
    with open_store(club, write=True) as gallery:
        for i in range(3 * (change == "photos exchanged")):
            gallery.remove(image=f"ann {i}.jpg")
        gallery.add(
            [
                synthetic.row(f"new {i}.jpg", name, x)
                for i, (name, x) in enumerate(zip(more, synthetic.vectors(len(more), 1, seed=6), strict=True))
            ]
        )
        assert info(gallery)["calibration_stale"]
    synthetic.write(tmp_path / "probes", [synthetic.row("face.jpg", "Ann", synthetic.vectors(1, 1, seed=3)[0])])
    (probe,) = search("club", [tmp_path / "probes"], Question(1)).result()["probes"]
    assert probe["faces"][0]["stale"].startswith("it was made at ")


def test_an_evaluation_says_where_it_takes_one_face_of_several(club, tmp_path, caplog):
    caplog.set_level("INFO", "facegallery")
    xb = synthetic.vectors(10, 2, seed=8)
    rows = [
        synthetic.row(f"{i // 2}.jpg", f"person {i // 2}" if i % 2 == 0 else None, x, face=i % 2)
        for i, x in enumerate(xb)
    ]
    synthetic.write(tmp_path / "probes", rows)
    evaluate("club", tmp_path / "probes")
    assert caplog.messages == ["10 photos have several faces: of each, the largest, most central one is taken"]
    search("club", [tmp_path / "probes"], Question(1), ReadOptions(one_face=True))
    assert caplog.messages[-1] == caplog.messages[0] and len(caplog.messages) == 3
