"""Faces that a CSV or Picasa places reach galleries and data sets, those that no detector finds included."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import align as crops
from facegallery.embedder.faces.drawn import BY_HAND
from facegallery.workflows import enrol, photos
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.probes import open_store
from tests import drawn

NAMES = {"s1": "Ann", "s5": "Bob", "s7": "Cem"}
GHOST = (20, 300, 100, 390)  # where a collage is grey


def write(path, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "identity", "x0", "y0", "x1", "y1"), *lines])
    return path


@pytest.fixture
def album(att, tmp_path):
    """Two collages, one of them turned by its EXIF, and a CSV that places their faces in the upright pictures."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, turn in ((1, 1), (2, 6)):
        (folder / f"{number}.jpg").write_bytes(drawn.saved(drawn.collage(att, number), turn))
    lines = [(f"{n}.jpg", NAMES[one], *box) for n in (1, 2) for one, box in drawn.boxes().items()]
    write(folder / "faces.csv", lines)
    return folder


def enrolled(name):
    with open_store(name) as store:
        return {
            (person, face["image"]): face["box"]
            for person, _ in store.list_people()
            for face in store.list_faces(person)
        }


def is_in(box, place):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return place[0] < x < place[2] and place[1] < y < place[3]


def test_each_line_of_a_csv_enrols_its_face(album, own_indexes, caplog):
    create_gallery("g")
    caplog.set_level("INFO", "facegallery")
    done = enrol.add("g", album / "faces.csv")
    assert done.added == 6 and done.people == 3 and done.unnamed == 0 and done.left_out == {}
    assert done.understood.people == 3 and "6 drawn faces of 2 photos got their names" in caplog.messages
    faces = enrolled("g")
    assert set(faces) == {(name, f"{n}.jpg") for name in NAMES.values() for n in (1, 2)}
    for one, name in NAMES.items():
        assert all(is_in(faces[name, f"{n}.jpg"], drawn.boxes()[one]) for n in (1, 2))
    again = enrol.add("g", album / "faces.csv")
    assert again.added == 0 and again.again == 6 and not again.conflicts


def test_a_line_that_is_added_later_names_its_face(album, own_indexes):
    create_gallery("g")
    boxes = drawn.boxes()
    write(album / "faces.csv", [("1.jpg", "Ann", *boxes["s1"]), ("1.jpg", "", *boxes["s5"])])
    done = enrol.add("g", album / "faces.csv")
    assert done.added == 1 and done.unnamed == 2  # Bob's line names nobody, Cem has none
    write(album / "faces.csv", [("1.jpg", NAMES[one], *box) for one, box in boxes.items()])
    done = enrol.add("g", album / "faces.csv")
    assert done.added == 2 and done.again == 1 and set(enrolled("g")) == {(name, "1.jpg") for name in NAMES.values()}


def test_a_bad_box_costs_only_itself(album, own_indexes, caplog):
    create_gallery("g")
    caplog.set_level("INFO", "facegallery")
    box = drawn.boxes()["s1"]
    lines = [("1.jpg", "Ann", *box), ("1.jpg", "Far", 800, 300, 900, 380), ("1.jpg", "Odd", 1, "x", 9, 9)]
    lines += [("1.jpg", "Dot", 20, 350, 28, 360), ("1.jpg", "Ghost", *GHOST), ("1.jpg", "All", 0, 0, 830, 390)]
    done = enrol.add("g", write(album / "faces.csv", lines))
    assert done.added == 1 and done.left_out == {"box_no_face": 1, "box_of_others": 1, "box_too_small": 1}
    text = "\n".join(caplog.messages)
    assert "1 box of faces.csv not read, such as 'line 4': y0 is 'x', no number" in text
    assert (
        "1 drawn face not read, such as '1.jpg': a box (800, 300, 900, 380) that does not lie in the photo of" in text
    )
    assert "1 drawn face not among the faces that were found, such as '1.jpg'" in text


def test_a_model_that_sees_boxes_gets_what_the_box_holds(album, tmp_path):
    write(album / "faces.csv", [("1.jpg", "Ghost", *GHOST), ("1.jpg", "Ann", *drawn.boxes()["s1"])])
    summary = photos.align(album / "faces.csv", tmp_path / "crops", photos.AlignOptions())
    rows = {row["identity"]: row for row in DataSet(tmp_path / "crops").table(None).to_pylist() if row["identity"]}
    assert set(rows) == {"Ghost", "Ann"} and rows["Ann"]["face"] < BY_HAND <= rows["Ghost"]["face"]
    assert rows["Ghost"]["box"] == list(GHOST) and rows["Ghost"]["landmarks"] is None
    assert "1 drawn face not found, cut out by the box, such as '1.jpg'" in summary.notes
    rule = photos.AlignOptions().rule
    pixels = np.asarray(Image.open(album / "1.jpg").convert("RGB"))
    assert np.array_equal(crops.from_png(rows["Ghost"]["crop"]), crops.cut(pixels, GHOST, rule))
    # lines in another order and more of them: the face keeps its id
    lines = [("1.jpg", "Other", 120, 300, 200, 390), ("1.jpg", "Ghost", *GHOST)]
    write(album / "faces.csv", lines)
    again = photos.align(album / "faces.csv", tmp_path / "crops", photos.AlignOptions())
    found = {row["identity"]: row["face_id"] for row in DataSet(tmp_path / "crops").table(None).to_pylist()}
    assert again.written == 1 and found["Ghost"] == rows["Ghost"]["face_id"] != found["Other"]
    assert photos.align(album / "faces.csv", tmp_path / "crops", photos.AlignOptions()).written == 0


def test_data_sets_follow_the_boxes(album, tmp_path):
    embedder, options = photos.make_embedder("sface"), photos.EmbedOptions(keep_crops=False)

    def embed():
        summary = photos.embed(album / "faces.csv", tmp_path / "v", embedder, options)
        rows = DataSet(tmp_path / "v").table(["image", "identity"]).to_pylist()
        return summary.written, sorted((row["image"], row["identity"]) for row in rows)

    every = sorted((f"{n}.jpg", name) for n in (1, 2) for name in NAMES.values())
    assert embed() == (2, every) and embed() == (0, every)
    text = (album / "faces.csv").read_text()
    (album / "faces.csv").write_text(text.replace("2.jpg,Ann", "2.jpg,Eve"))
    assert embed() == (1, sorted((n, "Eve" if (n, name) == ("2.jpg", "Ann") else name) for n, name in every))


def test_a_face_that_was_missed_is_found_around_its_box(att, tmp_path, own_indexes, caplog):
    """A photo of twelve people whose faces are too small for most of them to be found."""
    canvas, lines = Image.new("RGB", (2400, 1800), (120, 120, 120)), []
    for i in range(1, 13):
        with Image.open(att / f"s{i}" / "1.pgm") as photo:
            x, y = 60 + 580 * (i % 4), 90 + 400 * (i // 4)
            canvas.paste(photo.convert("RGB").resize((23, 28), Image.Resampling.LANCZOS), (x, y))
            lines.append(("crowd.png", f"s{i}", x, y, x + 23, y + 28))
    canvas.save(tmp_path / "crowd.png")
    create_gallery("g")
    caplog.set_level("INFO", "facegallery")
    done = enrol.add("g", write(tmp_path / "faces.csv", lines))
    assert done.added + done.left_out.get("box_no_face", 0) == 12 and done.added > 6
    assert any("found only around the box" in line for line in caplog.messages)
    for (name, _), box in enrolled("g").items():
        (place,) = [line[2:] for line in lines if line[1] == name]
        assert is_in(box, place)
    assert enrol.add("g", tmp_path / "faces.csv").added == 0


def test_nobody_is_named_without_names(album, own_indexes):
    create_gallery("g")
    done = enrol.add("g", album / "faces.csv", enrol.AddOptions(names_from="nobody"))
    assert done.added == 0 and done.unnamed == 6


def test_names_of_regions_count_before_those_of_a_csv(album, own_indexes):
    create_gallery("g")
    place = drawn.stored(drawn.boxes()["s1"], 1)
    (album / "1.jpg.xmp").write_bytes(drawn.packet(drawn.digikam({"Zoe": place})))
    done = enrol.add("g", album / "faces.csv", enrol.AddOptions(names_from="both"))
    assert set(enrolled("g")) == {("Zoe", "1.jpg"), *((name, "2.jpg") for name in NAMES.values())}
    assert done.unnamed == 2


def test_faces_of_picasa_are_enrolled(album, own_indexes):
    create_gallery("g")
    ids = {one: f"{i:x}" * 16 for i, one in enumerate(NAMES, 1)}
    text = "[Contacts2]\n" + "".join(f"{ids[one]}={name};;\n" for one, name in NAMES.items())
    for number, turn in ((1, 1), (2, 6)):
        shares = {one: drawn.stored(box, turn) for one, box in drawn.boxes().items()}
        faces = [f"rect64({''.join(f'{round(s * 65535):04x}' for s in box)}),{ids[one]}" for one, box in shares.items()]
        text += f"[{number}.jpg]\nfaces={';'.join(faces)}\n"
    (album / ".picasa.ini").write_text(text)
    done = enrol.add("g", album, enrol.AddOptions(names_from="regions"))
    assert done.added == 6
    for (name, _), box in enrolled("g").items():
        assert any(NAMES[one] == name and is_in(box, place) for one, place in drawn.boxes().items())


def test_what_excludes_boxes(album, own_indexes, run):
    create_gallery("g")
    with pytest.raises(InputError, match="--identity or a CSV with boxes"):
        enrol.add("g", album / "faces.csv", enrol.AddOptions("Ann"))
    assert run("add", "g", album / "faces.csv", "--identity", "Ann").code == 2
    from facegallery.remote.uploads import to_enrol

    with pytest.raises(InputError, match="local gallery"):
        to_enrol(album / "faces.csv", None, None)


def test_layouts_of_other_libraries(att, tmp_path, run):
    """face_recognition's one photo a person, deepface's folders: `Ann.jpg` and `Ann/1.jpg`."""
    flat, folders = tmp_path / "flat", tmp_path / "folders"
    for one, name in NAMES.items():
        (folders / name).mkdir(parents=True)
        flat.mkdir(exist_ok=True)
        with Image.open(att / one / "1.pgm") as photo:
            photo.resize(drawn.FACE).save(flat / f"{name}.jpg")
            photo.resize(drawn.FACE).save(folders / name / "img1.jpg")
    for i, source in enumerate(([flat, "--identity-level", "file"], [folders])):
        done = run("add", f"g{i}", *source, "--create", "--json")
        assert done.code == 0 and json.loads(done.out)["added"] == 3, done.err
        assert {name for name, _ in enrolled(f"g{i}")} == set(NAMES.values())
