"""Drawn faces find the detected ones, each one at most."""

from facegallery.embedder.faces.drawn import DrawnFaces, names_of
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.regions import Drawn, DrawnFace

LEFT, RIGHT, FAR = (10, 10, 50, 60), (100, 10, 140, 60), (300, 300, 340, 350)


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
        Photo("a.jpg", "ok", drawn=Drawn((DrawnFace("Ann", LEFT), DrawnFace("Bob", RIGHT)), 1, "why"), named=1, lost=1)
    )
    named, lost, refused = counts.notes
    assert (
        named == "1 drawn faces of 1 photos got their names" and lost.startswith("1 drawn face not") and "a.jpg" in lost
    )
    assert refused.endswith("'a.jpg': why")
