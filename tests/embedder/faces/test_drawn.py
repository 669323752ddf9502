"""Drawn faces find the detected ones, each one at most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegallery.embedder.faces import drawn as module
from facegallery.embedder.faces.boxes import overlap
from facegallery.embedder.faces.closer import look_closer
from facegallery.embedder.faces.detectors import make
from facegallery.embedder.faces.drawn import BY_HAND, Closer, DrawnFaces, assign, match, number_of
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.regions import Drawn, DrawnFace
from tests import drawn as collages

LEFT, RIGHT, FAR = (10, 10, 50, 60), (100, 10, 140, 60), (300, 300, 340, 350)


def names_of(drawn, boxes):
    return {number: drawn[i].name for number, i in match(drawn, boxes).drawn.items()}


def around(box, by):
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def test_a_larger_and_a_smaller_box_are_the_same_face():
    assert names_of([DrawnFace("Ann", around(LEFT, 8)), DrawnFace("Bob", around(RIGHT, -8))], [RIGHT, LEFT]) == {
        0: "Bob",
        1: "Ann",
    }


def test_the_closest_pair_comes_first_and_nobody_twice():
    drawn = [DrawnFace("Wide", (0, 0, 60, 70)), DrawnFace("Ann", LEFT)]
    assert names_of(drawn, [LEFT]) == {0: "Ann"}
    assert names_of(drawn[:1], [LEFT, around(LEFT, 2)]) == {1: "Wide"}


def test_faces_apart_and_a_box_around_a_group_name_nobody():
    assert names_of([DrawnFace("Ann", FAR), DrawnFace("All", (0, 0, 400, 400))], [LEFT, RIGHT]) == {}
    assert names_of([DrawnFace("All", (0, 0, 160, 70))], [LEFT]) == {0: "All"}  # a loose box around the only face
    assert names_of([DrawnFace("All", (0, 0, 160, 70))], [LEFT, RIGHT]) == {}
    assert names_of([], [LEFT]) == names_of([DrawnFace("Ann", LEFT)], []) == {}
    assert names_of([DrawnFace("Ann", (5, 5, 5, 5))], [(5, 5, 5, 5)]) == {}


def test_the_reading_that_names_more_faces_counts():
    drawn = [DrawnFace("Ann", FAR, LEFT), DrawnFace("Bob", (200, 200, 210, 210), RIGHT)]
    assert names_of(drawn, [LEFT, RIGHT]) == {0: "Ann", 1: "Bob"}
    swapped = [DrawnFace("Ann", LEFT, RIGHT), DrawnFace("Bob", RIGHT, LEFT)]
    assert names_of(swapped, [LEFT, RIGHT]) == {0: "Ann", 1: "Bob"}


def test_what_was_lost_is_one_line_each():
    counts = DrawnFaces()
    counts.add(Photo("n.jpg", "ok"))
    assert counts.notes == []
    counts.add(
        Photo(
            "a.jpg",
            "ok",
            drawn=Drawn((DrawnFace("Ann", LEFT), DrawnFace("Bob", RIGHT)), 1, "why"),
            named=1,
            drawn_outcomes={"box_found": 1, "box_no_face": 1},
        )
    )
    named, lost, refused = counts.notes
    assert (
        named == "1 drawn faces of 1 photos got their names" and lost.startswith("1 drawn face not") and "a.jpg" in lost
    )
    assert refused.endswith("'a.jpg': why") and counts.lost == {"box_no_face": 1}


def test_every_outcome_that_is_no_name_has_a_line():
    counts, faces = DrawnFaces(), tuple(DrawnFace("", LEFT) for _ in module.OUTCOMES)
    counts.add(Photo("a.jpg", "ok", drawn=Drawn(faces), drawn_outcomes=dict.fromkeys(module.OUTCOMES, 1)))
    assert len(counts.notes) == len(module.OUTCOMES) and all("1 drawn face" in line for line in counts.notes[1:])
    assert counts.lost == dict.fromkeys(module.LOST, 1)


def nothing(photos):
    return [[] for _ in photos]


PIXELS = np.zeros((400, 400, 3), np.uint8)


@pytest.mark.parametrize("cuts, outcome", [(True, "box_cut"), (False, "box_no_face")])
def test_a_face_that_nobody_finds_is_cut_where_a_model_sees_boxes(cuts, outcome):
    done = assign([DrawnFace("Ann", FAR)], [DetectedFace(LEFT, (), 0.9)], PIXELS, Closer(nothing, 20, cuts))
    assert done.outcomes == {outcome: 1} and done.drawn == {}
    assert [(face.box, i) for face, i in done.more] == ([(FAR, 0)] if cuts else [])


def test_boxes_that_are_no_face_of_their_own_are_not_looked_for():
    drawn = [DrawnFace("Ann", LEFT), DrawnFace("All", (0, 0, 390, 390)), DrawnFace("Dot", (300, 300, 312, 330))]
    done = assign(drawn, [DetectedFace(LEFT, (), 0.9)], PIXELS, Closer(nothing, 20, cuts=True))
    assert done.outcomes == {"box_found": 1, "box_of_others": 1, "box_too_small": 1}
    assert done.drawn == {0: 0} and done.more == []


def test_a_box_whose_place_is_in_doubt_is_never_cut():
    drawn = [DrawnFace("Ann", FAR, (10, 300, 50, 350))]
    assert assign(drawn, [], PIXELS, Closer(nothing, 20, cuts=True)).outcomes == {"box_no_face": 1}
    settled = [*drawn, DrawnFace("Bob", (200, 200, 210, 210), LEFT)]
    done = assign(settled, [DetectedFace(LEFT, (), 0.9)], PIXELS, Closer(nothing, 20, cuts=True))
    assert done.outcomes == {"box_found": 1, "box_cut": 1} and done.more[0][0].box == (10, 300, 50, 350)


@given(st.lists(st.tuples(*[st.integers(0, 5000)] * 4), max_size=30, unique=True))
def test_numbers_of_boxes_are_their_own_and_hold(boxes):
    taken: set[int] = set()
    for box in boxes:
        taken.add(number_of(box, taken))
    assert len(taken) == len(boxes) and all(BY_HAND <= number < 1 << 15 for number in taken)
    assert all(number_of(box, set()) == number_of(tuple(side + 0.4 for side in box), set()) for box in boxes[:1])


def test_a_closer_look_finds_faces_that_are_too_small_for_the_whole_photo(att):
    """People's photos, shrunk until the detector misses them; where they were pasted is the oracle."""
    detector = make({})
    canvas, places = Image.new("RGB", (2400, 1800), (120, 120, 120)), []
    for i in range(1, 13):
        with Image.open(att / f"s{i}" / "1.pgm") as photo:
            small = photo.convert("RGB").resize((23, 28), Image.Resampling.LANCZOS)
        x, y = 60 + 580 * (i % 4), 90 + 400 * (i // 4)
        canvas.paste(small, (x, y))
        places.append((float(x), float(y), float(x + 23), float(y + 28)))
    pixels = np.asarray(canvas)
    found = [face.box for face in detector([pixels])[0]]
    missed = [place for place in places if all(overlap(place, box) < 0.1 for box in found)]
    assert len(missed) > 8
    seen = look_closer(pixels, missed, found, detector)
    assert sum(face is not None for face in seen) > len(missed) / 2
    for place, face in zip(missed, seen, strict=True):
        assert face is None or (overlap(place, face.box) > 0.3 and len(face.landmarks) == 10)
        for x, y in [] if face is None else zip(face.landmarks[::2], face.landmarks[1::2], strict=True):
            assert place[0] <= x <= place[2] and place[1] <= y <= place[3]


def test_a_closer_look_takes_no_face_twice(att):
    pixels, detector = np.asarray(collages.collage(att, 1)), make({})
    box = collages.boxes()["s1"]
    known = [face.box for face in detector([pixels])[0]]
    assert look_closer(pixels, [box], known, detector) == [None]
    first, second = look_closer(pixels, [box, box], [], detector)
    assert first is not None and second is None
