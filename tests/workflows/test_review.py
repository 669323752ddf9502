"""What `add --review` warns of and refuses, on photos and on made-up vectors; by default, all is enrolled as before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.align import to_png
from facegallery.embedder.faces.picture import ARCFACE
from facegallery.indexer.build import build
from facegallery.workflows.enrol import AddOptions, add
from facegallery.workflows.review import alone
from tests import synthetic

PEOPLE, PHOTOS, D = 24, 4, 64
POINTS = ARCFACE.ravel().tolist()


def faces(seed: int, photos: int, split: str) -> list:
    xb = synthetic.vectors(PEOPLE, 2 * PHOTOS, d=D).reshape(PEOPLE, 2 * PHOTOS, D)
    xb = xb[:, :photos] if split == "old" else xb[:, PHOTOS : PHOTOS + photos]
    rng = np.random.default_rng(seed)
    seen = {"confidence": 0.93, "sharpness": 80.0, "vector_length": 12.0, "box": [0, 0, 112, 112]}
    return [
        synthetic.row(f"{split}/{p}/{i}.jpg", f"person {p}", x, landmarks=POINTS, crop=crop(rng), **seen)
        for p, some in enumerate(xb)
        for i, x in enumerate(some)
    ]


def crop(rng: np.random.Generator) -> bytes:
    """A picture of its own."""
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return to_png(np.asarray(small.resize((160, 160))), (0, 0, 112, 112))


@pytest.fixture
def club(tmp_path) -> Path:
    """24 people with four faces each."""
    rows = faces(1, PHOTOS, "old")
    build(synthetic.write(tmp_path / "old", rows, synthetic.spec(D)), tmp_path / "indexes" / "club")
    return tmp_path / "indexes" / "club"


@pytest.fixture
def offered(tmp_path) -> dict:
    """Two sound faces of each person, five that hurt, and why each does."""
    rows, old = faces(2, 2, "new"), faces(1, PHOTOS, "old")
    rows[0].identity, rows[0].image = "person 7", "new/7/wrong.jpg"
    rows[3] = replace(rows[3], vector=old[PHOTOS].vector, crop=old[PHOTOS].crop)
    rows[8].landmarks = [v for x, y in ARCFACE for v in (112 - y, x)]
    rows[13].vector_length, rows[13].sharpness = 3.0, 4.0
    rows[20].photo_faces, rows[20].largest_other = 2, 0.95
    synthetic.write(tmp_path / "new", rows, synthetic.spec(D))
    whys = {0: "nearer", 3: "copy", 8: "turned", 13: "poor", 20: "several"}
    return {"folder": tmp_path / "new", "whys": {rows[i].face_id: why for i, why in whys.items()}, "rows": rows}


def test_strict_leaves_out_what_hurts_and_enrols_the_others(club, offered):
    done = add(club, offered["folder"], AddOptions(review="strict"))
    assert {face.face_id: face.why for face in done.reviewed} == offered["whys"]
    assert all(face.refused for face in done.reviewed)
    assert done.added == len(offered["rows"]) - 5 and sum(done.left_out.values()) == 5
    assert not {face.face_id for face in done.reviewed} & set(done.face_ids)
    (wrong,) = (face for face in done.reviewed if face.why == "nearer")
    assert wrong.identity == "person 7" and "'person 0'" in wrong.reason
    assert "refused, turned photos" in done.left_out and any("refused, such as" in line for line in done.notes)
    assert add(club, offered["folder"], AddOptions(review="strict")).added == 0  # refused again, the others known


def test_standard_warns_and_enrols_all(club, offered):
    done = add(club, offered["folder"])
    found = {face.face_id: face.why for face in done.reviewed}
    assert done.added == len(offered["rows"]) and not done.left_out and not any(face.refused for face in done.reviewed)
    assert found == {id: why for id, why in offered["whys"].items() if why != "nearer"}
    assert [one.why for one in done.suspects] == ["nearer"] and len(done.unsure) == 1
    for words in ("turned photos, enrolled", "of low quality, enrolled", "copies of enrolled photos, enrolled"):
        assert any(words in line for line in done.notes)
    again = add(club, offered["folder"])
    assert (again.again, again.reviewed) == (len(offered["rows"]), ())


def test_off_says_nothing_and_enrols_the_same(club, offered):
    done = add(club, offered["folder"], AddOptions(review="off"))
    assert done.added == len(offered["rows"])
    assert not (done.reviewed or done.suspects or [line for line in done.notes if "warning" in line])
    with pytest.raises(InputError, match="off, standard, strict, received 'mild'"):
        add(club, offered["folder"], AddOptions(review="mild"))


def test_strict_begins_a_gallery_and_refuses_the_second_of_two_copies(tmp_path):
    rows = faces(1, PHOTOS, "old")
    second = replace(rows[0], image="old/0/again.jpg", image_sha256="another")
    rows[40].identity = "person 3"
    build(synthetic.write(tmp_path / "one", rows[-PHOTOS:], synthetic.spec(D)), tmp_path / "i" / "club")
    synthetic.write(tmp_path / "all", [*rows[:-PHOTOS], second], synthetic.spec(D))
    done = add(tmp_path / "i" / "club", tmp_path / "all", AddOptions(review="strict"))
    assert {(face.face_id, face.why) for face in done.reviewed} == {
        (second.face_id, "copy"),
        (rows[40].face_id, "nearer"),
    }
    assert done.people == PEOPLE


def test_faces_that_are_not_known_well_are_not_doubted():
    assert alone(synthetic.row("a.jpg", "A", np.ones(4))) is None


def test_photos(att, tmp_path):
    """Photos of AT&T: a copy saved again, a turned one and one of another person, each in a person's folder."""
    old, new = tmp_path / "old", tmp_path / "new"
    for person in (f"s{i}" for i in range(1, 9)):
        for n in range(1, 5):
            _save(att / person / f"{n}.pgm", old / person / f"{n}.png")
        _save(att / person / "6.pgm", new / person / "6.png")
    _save(att / "s2" / "7.pgm", new / "s1" / "wrong.png")
    _save(att / "s3" / "1.pgm", new / "s3" / "copy.jpg")
    _save(att / "s4" / "8.pgm", new / "s4" / "turned.png", turned=80)
    with fg.open(tmp_path / "club", create=True, model="sface") as gallery:
        assert gallery.add(old, review="strict").added == 32
        done = gallery.add(new, review="strict")
    found = {Path(face.image).name: face.why for face in done.reviewed}
    assert found.pop("turned.png", "turned") in ("turned", "poor")  # where the detector finds it
    assert found == {"wrong.png": "nearer", "copy.jpg": "copy"}
    assert done.added == 8


def _save(source: Path, to: Path, turned: int = 0) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).convert("RGB").rotate(turned, expand=bool(turned)).save(to)
