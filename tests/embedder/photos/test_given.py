"""Boxes of a CSV: which columns are boxes, which lines are refused, and that each costs only itself."""

from pathlib import Path

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from facegallery.embedder.dataset.row import GivenFace
from facegallery.embedder.errors import DataError
from facegallery.embedder.photos.given import drawn_of
from facegallery.embedder.photos.listing import list_photos

HEAD = "image,identity,x0,y0,x1,y1"


def listed(folder: Path, *lines: str):
    path = folder / "faces.csv"
    path.write_text("\n".join(lines) + "\n")
    return list_photos(path)


def places(listing) -> dict[str, list[tuple]]:
    return {entry.path: [(face.identity, face.box) for face in entry.given] for entry in listing.entries}


@pytest.mark.parametrize("head", [HEAD, "image,identity,Left,TOP,right,bottom", "image;identity;X0;Y0;X1;Y1"])
def test_each_line_is_a_face_of_its_photo(tmp_path, head):
    cut = ";" if ";" in head else ","
    rows = ["a.jpg,Ann,1,2,30,40", "b.jpg,,5.5,6,70,80", "a.jpg,Bob,100,2,130.25,40"]
    listing = listed(tmp_path, head, *(row.replace(",", cut) for row in rows))
    assert places(listing) == {
        "a.jpg": [("Ann", (1, 2, 30, 40)), ("Bob", (100, 2, 130.25, 40))],
        "b.jpg": [(None, (5.5, 6, 70, 80))],
    }
    assert listing.extra == [] and listing.notes == [] and all(entry.identity is None for entry in listing.entries)
    assert listing.understood().people == 2
    assert [face.identity for entry in listing.nameless().entries for face in entry.given] == [None] * 3


@pytest.mark.parametrize(
    "cells, why",
    [
        ("1,2,x,40", "x1 is 'x', no number"),
        ("1,2,nan,40", "no number"),
        ("1,2,1e999,40", "no number"),
        ("1,,30,40", "y0 is empty"),
        ("30,2,1,40", "without width or height"),
        ("1,2,30,2", "without width or height"),
    ],
)
def test_a_bad_box_costs_only_itself(tmp_path, cells, why):
    listing = listed(tmp_path, HEAD, "a.jpg,Ann,1,2,30,40", f"a.jpg,Bob,{cells}", f"b.jpg,Cem,{cells}")
    assert places(listing) == {"a.jpg": [("Ann", (1, 2, 30, 40))], "b.jpg": []}
    (note,) = listing.notes
    assert note.startswith("warning: 2 boxes of faces.csv not read, such as 'line 3': ") and why in note
    assert listing.entries[1].identity is None  # whose the photo's faces are is not guessed


def test_lines_without_a_box_are_ordinary_ones(tmp_path):
    listing = listed(tmp_path, HEAD, "a.jpg,Ann,,,,", "b.jpg,Bob,,,,", "b.jpg,Cem,1,2,30,40")
    assert places(listing) == {"a.jpg": [], "b.jpg": [("Cem", (1, 2, 30, 40))]}
    assert listing.entries[0].identity == "Ann" and listing.entries[1].identity is None
    assert listing.notes == ["1 line of faces.csv without a box for photos with boxes not used, such as 'b.jpg'"]


def test_other_columns_go_with_their_face(tmp_path):
    rows = ["a.jpg,Ann,1,2,30,40,1999,x", "a.jpg,Bob,100,2,130,40,1999,y"]
    (entry,) = listed(tmp_path, HEAD + ",year,hair", *rows).entries
    assert entry.extra == (("year", "1999"),)
    assert [dict(face.extra) for face in entry.given] == [{"year": "1999", "hair": c} for c in "xy"]


def test_two_kinds_of_boxes_are_refused_and_half_a_box_is_said(tmp_path):
    with pytest.raises(DataError, match=r"x0, y0, x1, y1 and left, top, right, bottom: take out"):
        listed(tmp_path, HEAD + ",left,top,right,bottom", "a.jpg,Ann,1,2,3,4,1,2,3,4")
    listing = listed(tmp_path, "image,identity,left,right", "a.jpg,Ann,1,2")
    assert listing.extra == ["left", "right"] and listing.entries[0].identity == "Ann"
    assert listing.notes == [
        "column left of faces.csv kept as one of your own: a box needs x0, y0, x1, y1, or left, top, right, bottom"
    ]


def test_two_splits_of_a_photo_are_said(tmp_path):
    listing = listed(tmp_path, HEAD + ",split", "a.jpg,Ann,1,2,30,40,probe", "a.jpg,Bob,50,2,80,40,gallery")
    assert listing.entries[0].split == "probe" and listing.notes == [
        "1 photo of faces.csv in two splits, such as 'a.jpg': the first counts"
    ]


sides = st.floats(-50, 450)


@examples(st.lists(st.tuples(sides, sides, sides, sides), max_size=8))
def test_boxes_in_the_photo_stay_and_others_are_counted(boxes):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    boxes = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    drawn = drawn_of([GivenFace(box, str(i)) for i, box in enumerate(boxes)], 400, 300)
    inside = [b for b in boxes if b[0] >= -4 and b[1] >= -3 and b[2] <= 404 and b[3] <= 303]
    inside = [b for b in inside if min(b[2], 400) > max(b[0], 0) and min(b[3], 300) > max(b[1], 0)]
    assert len(drawn.faces) == len(inside) and drawn.refused == len(boxes) - len(inside)
    assert bool(drawn.why) == bool(drawn.refused)
    for face, box in zip(drawn.faces, inside, strict=True):
        assert face.box == (max(box[0], 0), max(box[1], 0), min(box[2], 400), min(box[3], 300))


def test_boxes_of_a_smaller_copy_grow_with_the_photo(tmp_path):
    head = HEAD + ",Box_Width,box_height"
    lines = ["a.jpg,Ann,10,20,30,40,400,300", "a.jpg,Bob,10,20,30,40,300,400", "a.jpg,Cem,10,20,30,40,,"]
    listing = listed(tmp_path, head, *lines, "a.jpg,Dan,10,20,30,40,0,300", "a.jpg,Eve,10,20,30,40,400,")
    assert len(listing.notes) == 1 and "2 boxes" in listing.notes[0] and listing.extra == []
    drawn = drawn_of(listing.entries[0].given, 4000, 3000)
    assert [(face.name, face.box) for face in drawn.faces] == [("Ann", (100, 200, 300, 400)), ("Cem", (10, 20, 30, 40))]
    assert drawn.refused == 1 and drawn.why == "a box in a picture of 300 x 400 pixels, the photo has 4000 x 3000"
