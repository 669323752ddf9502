import numpy as np
import pytest

from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.suspects import MOST_WORK, Spread, look, spread_of, verdict
from tests import synthetic

PEOPLE, PHOTOS, D = 12, 4, 64


def rows(seed=0):
    """PHOTOS faces of each person, alike (about 0.7), of people who are not (about 0)."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((PEOPLE, D))
    faces = middles[:, None] + 0.65 * rng.standard_normal((PEOPLE, PHOTOS, D))
    faces = (faces / np.linalg.norm(faces, axis=2, keepdims=True)).astype(np.float32)
    return [synthetic.row(f"p{p}/{i}.jpg", f"person {p}", faces[p, i]) for p in range(PEOPLE) for i in range(PHOTOS)]


def built(tmp_path, made):
    return build(synthetic.write(tmp_path / "v", made, synthetic.spec(D)), tmp_path / "i" / "club")


def naive(made):
    """(own, other) of each face, one by one."""
    found = {}
    for a in made:
        scores = [(b.identity == a.identity, float(a.vector @ b.vector)) for b in made if b is not a]
        found[a.face_id] = (
            max((s for same, s in scores if same), default=-np.inf),
            max(s for same, s in scores if not same),
        )
    return found


def test_sound_people_are_not_suspected(tmp_path):
    assert built(tmp_path, rows()).suspects == []


def test_a_face_in_another_persons_folder_is_told_with_scores(tmp_path):
    made = rows()
    made[1].identity, made[1].image = "person 5", "p5/wrong.jpg"
    report = built(tmp_path, made)
    (suspect,) = report.suspects
    assert (suspect.face_id, suspect.image, suspect.identity, suspect.why, suspect.other) == (
        made[1].face_id,
        "p5/wrong.jpg",
        "person 5",
        "nearer",
        "person 0",
    )
    assert (suspect.own, suspect.score) == pytest.approx(naive(made)[made[1].face_id], abs=1e-6)
    (line,) = [note for note in report.notes if "somebody else's" in note]
    assert made[1].face_id in line and "'person 0'" in line and "`remove club --face ID`" in line and "\n" not in line
    assert build(tmp_path / "v", tmp_path / "i" / "club").suspects == []  # nothing was done


def test_a_stranger_in_a_persons_folder_is_told(tmp_path):
    made = rows()
    stranger = np.random.default_rng(9).standard_normal(D)
    made[6].vector = (stranger / np.linalg.norm(stranger)).astype(np.float32)
    report = built(tmp_path, made)
    assert [s.face_id for s in report.suspects] == [made[6].face_id] and report.suspects[0].why in ("unlike", "nearer")


def test_one_photo_under_two_names_is_told_once(tmp_path):
    made = [row for row in rows() if row.image.endswith("/0.jpg")]
    x = made[3].vector + 0.01
    copy = synthetic.row("copy.webp", "somebody", (x / np.linalg.norm(x)).astype(np.float32))
    (suspect,) = built(tmp_path, [*made, copy]).suspects
    assert suspect.why == "same" and {suspect.identity, suspect.other} == {"person 3", "somebody"}


def test_only_what_was_added_is_looked_at(tmp_path):
    made, other = rows(), rows()
    made[1].identity = "person 5"
    built(tmp_path, made)
    other[2].image_sha256, other[2].identity, other[2].image = "ff", "person 7", "new.jpg"
    with open_store(tmp_path / "i" / "club", write=True) as gallery:
        done = gallery.add([other[2]])
        assert [s.image for s in look(gallery, done.face_ids).suspects] == ["new.jpg"]
        assert {s.image for s in look(gallery).suspects} >= {"new.jpg", made[1].image}
        gallery.remove(face_id=done.face_ids[0])
        assert {s.image for s in look(gallery).suspects} == {made[1].image}


def test_too_much_work_is_not_begun_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("facegallery.indexer.suspects.MOST_WORK", 10)
    report = built(tmp_path, rows())
    assert report.suspects == [] and any("too long" in note for note in report.notes) and MOST_WORK > 10


def test_a_few_wrong_faces_do_not_move_the_spread():
    made = rows()
    xb, owners = np.stack([row.vector for row in made]), np.arange(len(made)) // PHOTOS
    before = spread_of(xb, owners)
    owners[:2] = 5
    after = spread_of(xb, owners)
    assert after == pytest.approx(before, abs=0.01) or abs(after.width - before.width) < 0.01
    assert spread_of(xb[:3], np.zeros(3)) == Spread(0, 0, 0)


@pytest.mark.parametrize(
    ("own", "other", "pairs", "why"),
    [
        (0.7, 0.3, 99, None),
        (0.1, 0.6, 99, "nearer"),
        (0.1, 0.15, 99, "unlike"),
        (0.1, 0.15, 9, None),
        (0.5, 0.9, 99, None),
        (-np.inf, 0.9, 99, None),
        (-np.inf, 0.97, 99, "same"),
        (0.9, 0.97, 99, "same"),
    ],
)
def test_verdicts(own, other, pairs, why):
    assert verdict(own, other, Spread(0.0, 0.13, pairs)) == why


def test_photos_with_a_face_as_large_are_told(tmp_path):
    made = rows()
    made[0].photo_faces, made[0].largest_other = 2, 0.9
    made[1].photo_faces, made[1].largest_other = 2, 0.5
    report = built(tmp_path, made)
    assert report.unsure == ["p0/0.jpg"] and any("'p0/0.jpg'" in note for note in report.notes)
