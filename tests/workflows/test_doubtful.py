"""`doubtful` as a user runs it: what it lists, in words and with both people, and what it draws."""

import json

import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery.embedder import draw
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.build import build
from tests import synthetic

PEOPLE, PHOTOS, D = 20, 4, 64
ROW = draw.TILE + draw.CAPTION + draw.GAP


def rows(**changes) -> list:
    xb = synthetic.vectors(PEOPLE, PHOTOS, d=D)
    return [
        synthetic.row(f"p{i // PHOTOS}/{i % PHOTOS}.jpg", f"person {i // PHOTOS}", x, **changes)
        for i, x in enumerate(xb)
    ]


@pytest.fixture
def club(own_indexes, tmp_path):
    """A gallery in which face 9 has another person's name, and face 30 is blurred."""
    made = rows(confidence=0.93, sharpness=90.0)
    made[9].identity = "person 11"
    made[30].confidence, made[30].sharpness = 0.6, 1.0
    made[30].landmarks = [112.0 - v for v in range(10)]
    build(synthetic.write(tmp_path / "v", made, synthetic.spec(D)), own_indexes / "club")
    return made


def test_a_wrong_name_comes_first_and_low_quality_last(run, club):
    done = run("doubtful", "club", "--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["total"] == len(found["faces"]) and found["compared"] == len(club)
    first, last = found["faces"][0], found["faces"][-1]
    assert (first["face_id"], first["why"], first["identity"], first["looks_like"]) == (
        club[9].face_id,
        "nearer",
        "person 11",
        "person 2",
    )
    best = max(float(club[9].vector @ club[i].vector) for i in (8, 10, 11))
    assert first["score"] == pytest.approx(best, abs=1e-4) and first["other_image"].startswith("p2/")
    assert first["own"] == pytest.approx(max(float(club[9].vector @ club[i].vector) for i in range(44, 48)), abs=1e-4)
    assert f"nearer to person 2 ({best:.2f})" in first["reason"]
    assert (last["face_id"], last["why"]) == (club[30].face_id, "poor") and 0 <= last["quality"] < 0.2


def test_text_limit_and_pictures(run, club, tmp_path):
    done = run("doubtful", "club", "--limit", 1, "--pictures", tmp_path / "sheet.png")
    (line,) = done.out.splitlines()
    assert line.startswith(club[9].face_id) and "p2/1.jpg (person 11): nearer to person 2" in line
    assert "doubtful faces are shown: --limit shows more" in done.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * (draw.TILE + draw.GAP) + draw.GAP, ROW + draw.GAP)
    assert run("doubtful", "club", "--limit", 0).code == 2 and run("doubtful", "nobody").code != 0


def test_python_and_its_table(club):
    with fg.open("club") as gallery:
        found, steps = gallery.doubtful(), []
        gallery.doubtful(1, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (len(club), len(club))
    table = found.to_arrow()
    assert table.num_rows == len(found) and table["face_id"][0].as_py() == found[0].face_id
    with pytest.raises(GalleryError, match="was closed"):
        gallery.doubtful()


def test_a_sound_gallery_and_an_empty_one(run, own_indexes, tmp_path):
    build(synthetic.write(tmp_path / "v", rows(), synthetic.spec(D)), own_indexes / "sound")
    done = run("doubtful", "sound", "--pictures", tmp_path / "none.png")
    assert done.out == f"none of {PEOPLE * PHOTOS} faces is doubtful\n" and not (tmp_path / "none.png").exists()
    with fg.open(own_indexes / "empty", create=True, model="sface") as gallery:
        assert len(gallery.doubtful()) == 0


def test_a_corrected_face_is_no_longer_doubtful(run, club):
    assert run("split", "club", club[9].face_id, "--to", "person 2").code == 0
    with fg.open("club") as gallery:
        assert [face.why for face in gallery.doubtful()] == ["poor"]
    assert np.isfinite([face.quality for face in gallery_faces()]).all()


def gallery_faces():
    with fg.open("club") as gallery:
        return gallery.doubtful()
