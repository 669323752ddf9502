import shutil
from pathlib import Path

import pytest

import workflows
from embedder.compute import Compute
from embedder.pipeline import Options


def quietly(*_: object) -> None:
    pass


@pytest.fixture
def photos(att, tmp_path) -> Path:
    """Three photos of each of four people, in folders of their own."""
    for person in range(1, 5):
        for number in range(1, 4):
            (folder := tmp_path / "photos" / f"s{person}").mkdir(parents=True, exist_ok=True)
            shutil.copy(att / f"s{person}" / f"{number}.pgm", folder)
    embedder = workflows.make_embedder("msceleb", Compute(), "plain", quietly)
    workflows.embed(tmp_path / "photos", tmp_path / "vectors", embedder, Options(), None, quietly)
    workflows.build_index(tmp_path / "vectors", "people", None, False, False)
    return tmp_path / "photos"


def answers(sources, **settings):
    found = workflows.search("people", sources, workflows.Question(k=4), say=quietly, **settings)
    return [[(hit["identity"], hit["score"]) for hit in probe["faces"][0]["hits"]] for probe in found["probes"]]


def test_a_photo_is_answered_the_same_alone_and_among_many(photos, monkeypatch):
    """Few photos and many are embedded by other networks: one after the other in one search, and each alone."""
    alone = answers([photos / "s2" / "1.pgm"])
    assert alone[0][0] == ("s2", pytest.approx(1, abs=1e-6)) and len(alone[0]) == 4
    monkeypatch.setattr(workflows, "FEW", 1)
    among = answers([photos / "s2" / "1.pgm", photos, photos / "s2" / "1.pgm"])
    assert len(among) == 14 and [among[0], among[4], among[13]] == alone * 3
