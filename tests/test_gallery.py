"""A gallery in a folder, as a Python program uses it: AT&T's photos and the real model."""

import dataclasses
import hashlib
import inspect
import logging
import shutil
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery.embedder.dataset.row import face_id as id_of
from facegallery.embedder.errors import DataError, GalleryError, InputError, ModelError
from facegallery.indexer.search.searcher import Searcher
from facegallery.interface import GalleryInterface
from facegallery.workflows import networks

PEOPLE = 6


@pytest.fixture(scope="module")
def photos(att, tmp_path_factory) -> Path:
    """Three photos of each of six people, in folders of their own."""
    folder = tmp_path_factory.mktemp("photos")
    for person in range(1, PEOPLE + 1):
        (folder / f"s{person}").mkdir()
        for number in range(1, 4):
            shutil.copy(att / f"s{person}" / f"{number}.pgm", folder / f"s{person}")
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> Path:
    """A calibrated gallery of them, which nobody changes."""
    folder = tmp_path_factory.mktemp("indexes") / "people"
    with fg.open(folder, create=True) as gallery:
        gallery.add(photos)
        gallery.calibrate(fpir=0.1)
    return folder


@pytest.fixture(scope="module")
def shared(made):
    """The same, open for tests that only read."""
    with fg.open(made) as gallery:
        yield gallery


@pytest.fixture
def gallery(made, own_indexes):
    """A copy of it, called `people` in the test's own root, open for changes."""
    shutil.copytree(made, own_indexes / "people", symlinks=True)
    with fg.open("people") as found:
        yield found


@pytest.fixture(scope="module")
def probe(att) -> Path:
    """A photo of s2 that is not enrolled."""
    return att / "s2" / "7.pgm"


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# opening --------------------------------------------------------------------


def test_ten_lines(photos, probe, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path / "roots"))
    with fg.open("people", create=True, model="sface") as gallery:
        gallery.add(photos)
        gallery.calibrate(fpir=0.1)
        (face,) = gallery.search(probe, k=3)
        assert face.known is True and face.hits[0].identity == "s2" and face.hits[0].score > 0.8
        assert len(face.hits) == 3 and face.box is not None
        gallery.rename("s1", "Ann Lee")
        (undone,) = gallery.undo()
        assert undone.verb == "rename" and "s1" in [person.identity for person in gallery.people()]
        receipt = gallery.forget("s1")
        assert receipt.found == 0 and len(receipt.face_ids) == 3 and Path(str(receipt.receipt)).is_file()
    assert (tmp_path / "roots" / "people" / "gallery.db").is_file()
    faces = fg.embed(rgb(probe))
    assert faces[0].vector is not None and faces[0].vector.shape == (128,) and len(faces[0].landmarks) == 5


def test_an_empty_gallery_answers_with_nobody_until_somebody_is_added(photos, probe, tmp_path):
    with fg.open(tmp_path / "new", create=True) as gallery:
        (face,) = gallery.search(probe)
        assert face.hits == () and face.known is None and len(gallery.people()) == 0
        info = gallery.info()
        assert (info.faces, info.people, info.model, info.dimensions) == (0, 0, "sface", 128)
        assert gallery.verify().problems == []
        with pytest.raises(DataError):
            gallery.calibrate()
        assert gallery.add(photos / "s2" / "1.pgm", identity="Bo").added == 1
        assert gallery.search(probe)[0].hits[0].identity == "Bo"
    with fg.open(tmp_path / "new", create=True) as gallery:  # one that is there is opened
        assert [person.identity for person in gallery.people()] == ["Bo"]


def test_a_gallery_made_from_python_holds_what_build_index_makes(photos, made, tmp_path):
    from facegallery.workflows.photos import embed, make_embedder
    from facegallery.workflows.upkeep import build_index

    embed(photos, tmp_path / "vectors", make_embedder("sface"))
    build_index(tmp_path / "vectors", "built")
    with fg.open("built") as built, fg.open(made) as added:
        assert built.spec == added.spec and built.people() == _without_ids(added.people(), built.people())
        for identity in ("s1", f"s{PEOPLE}"):
            mine, theirs = ({f.face_id: f.box for f in g.faces(identity)} for g in (added, built))
            assert mine == theirs


def _without_ids(people, like):
    """People with the ids of others: the oldest face depends on the order of photos, a person's id is drawn."""
    ids = ({"face_id": b.face_id, "person_id": b.person_id} for b in like)
    return fg.results.People(tuple(dataclasses.replace(a, **own) for a, own in zip(people, ids, strict=True)))


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("nobody",), {}, GalleryError),
        (("../people",), {}, GalleryError),
        (("",), {"create": True}, InputError),
        (("-x",), {"create": True}, InputError),
        (("new",), {"create": True, "model": "nothing"}, ModelError),
        (("new",), {"create": True, "model": "nowhere/at/all"}, ModelError),
    ],
)
def test_what_cannot_be_opened_is_refused_and_nothing_is_left(own_indexes, arguments, options, error):
    with pytest.raises(error):
        fg.open(*arguments, **options)
    assert not list(own_indexes.glob("*/gallery.db"))


def test_a_gallery_stays_open_where_the_working_folder_changes(made, probe, tmp_path, monkeypatch):
    monkeypatch.chdir(made.parent.parent)
    monkeypatch.setenv("FACEGALLERY_INDEXES", made.parent.name)
    with fg.open("people") as gallery:
        monkeypatch.chdir(tmp_path)
        assert gallery.search(probe)[0].hits[0].identity == "s2" and gallery.folder == made


def test_a_gallery_of_another_model_is_not_taken_for_the_one_that_is_wanted(made):
    with pytest.raises(GalleryError, match="sface"):
        fg.open(made, create=True, model="casia")
    fg.open(made, create=True, model="sface").close()


def test_a_closed_gallery_refuses_every_call_with_one_error(made, probe):
    gallery = fg.open(made)
    gallery.close()
    gallery.close()
    calls = [
        lambda: gallery.search(probe),
        lambda: gallery.search_vectors(np.zeros((1, 128))),
        gallery.people,
        gallery.info,
        lambda: gallery.rename("s1", "x"),
        lambda: gallery.add(probe, identity="x"),
        lambda: gallery.spec,
        lambda: gallery.__enter__().people(),
    ]
    for call in calls:
        with pytest.raises(GalleryError, match="closed"):
            call()
    assert "closed" in repr(gallery) and gallery.name == "people"


# photos ---------------------------------------------------------------------


def test_every_kind_of_photo_gives_the_same_face(shared, probe, tmp_path):
    Image.open(probe).convert("RGB").save(tmp_path / "p.png")
    pil = Image.open(tmp_path / "p.png")
    kinds = [
        probe,
        str(probe),
        probe.read_bytes(),
        bytearray(probe.read_bytes()),
        (tmp_path / "p.png").read_bytes(),
        rgb(probe),
        rgb(probe).astype(np.uint8)[:, ::1],
        pil,
        Image.open(probe),
    ]
    answers = [shared.search(kind, k=2)[0] for kind in kinds]
    assert len({(face.box, face.confidence, face.hits) for face in answers}) == 1
    together = shared.search(kinds, k=2)
    assert [face.hits for face in together] == [face.hits for face in answers]
    assert [face.face_id for face in together] == [face.face_id for face in answers]
    pil.close()


def test_the_id_of_a_face_is_that_of_the_bytes_or_of_the_pixels(shared, probe, tmp_path):
    Image.open(probe).convert("RGB").save(tmp_path / "p.png")

    def face_id(photo):
        return shared.search(photo, k=1)[0].face_id

    assert face_id(probe) == face_id(probe.read_bytes()) != face_id(tmp_path / "p.png")
    of_pixels = face_id(rgb(probe))
    assert of_pixels == face_id(Image.open(probe).convert("RGB")) == face_id(rgb(tmp_path / "p.png"))
    assert of_pixels not in (face_id(probe), face_id(tmp_path / "p.png"))
    height, width = rgb(probe).shape[:2]
    text = b"facegallery pixels 1\0" + struct.pack("<QQ", height, width) + rgb(probe).tobytes()
    assert of_pixels == id_of(hashlib.sha256(text).hexdigest(), 0)
    other = rgb(probe).copy()
    other[0, 0, 0] ^= 1
    assert face_id(other) != of_pixels
    assert face_id(np.ascontiguousarray(rgb(probe)[:, ::-1])) != of_pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_as_its_exif_says(shared, probe, tmp_path, orientation):
    """As the decoder turns the file."""
    upright = Image.open(probe).convert("RGB")
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "p.png", exif=exif)
    expected = shared.search(upright, k=1)[0]
    with Image.open(tmp_path / "p.png") as turned:
        assert shared.search(turned, k=1)[0] == expected
    from_file = shared.search(tmp_path / "p.png", k=1)[0]
    assert (from_file.box, from_file.hits) == (expected.box, expected.hits)


def test_pil_images_of_other_modes_are_read_as_their_files_are(shared, probe, tmp_path):
    for mode in ("L", "RGBA", "P", "I;16", "LA", "1"):
        image = Image.open(probe).convert("L")
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(tmp_path / f"{mode[0]}.png")
        with Image.open(tmp_path / f"{mode[0]}.png") as opened:
            given, read = shared.search(opened), shared.search(tmp_path / f"{mode[0]}.png")
        assert [(f.box, f.hits) for f in given] == [(f.box, f.hits) for f in read], mode


def test_photos_without_a_face_are_told_apart(shared, probe, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    wall = np.full((120, 90, 3), 128, np.uint8)
    asked = [
        wall,
        wall[:10, :10],
        np.empty((0, 5, 3), np.uint8),
        np.broadcast_to(np.uint8(7), (20_000, 20_000, 3)),
        b"no photo",
        b"",
        tmp_path / "broken.jpg",
        probe,
    ]
    found = shared.search(asked)
    assert [photo.outcome for photo in found.photos] == [
        "no_face",
        "too_small",
        "unreadable",
        "too_large",
        "unreadable",
        "unreadable",
        "unreadable",
        "ok",
    ]
    assert all(photo.why for photo in found.photos[:-1]) and len(found) == 1 and len(found.photos) == 8


@pytest.mark.parametrize(
    "photo",
    [
        None,
        7,
        object(),
        [None],
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((2, 5, 5, 3), np.uint8),
        {"a": 1}.items(),
    ],
)
def test_what_is_no_photo_is_refused_before_anything_is_done(shared, photo, monkeypatch):
    monkeypatch.setattr(networks.Networks, "rows", None)
    with pytest.raises(InputError, match="expected"):
        shared.search(photo)


def test_a_path_where_nothing_is(shared, tmp_path):
    for photo in (tmp_path / "nowhere.jpg", [tmp_path / "nowhere.jpg"], str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match="nowhere"):
            shared.search(photo)


def test_folders_csvs_data_sets_and_photos_together(shared, photos, probe, tmp_path):
    shutil.copy(probe, tmp_path)
    (tmp_path / "list.csv").write_text("image,identity\n7.pgm,Two\n")
    assert fg.embed(photos / "s1", out=tmp_path / "vectors").outcomes == {"ok": 3}
    found = shared.search([probe, photos / "s3", tmp_path / "list.csv", rgb(probe), tmp_path / "vectors"], k=1)
    names = [face.hits[0].identity for face in found]
    assert names == ["s2", *["s3"] * 3, "s2", "s2", *["s1"] * 3]
    assert found.photos[4].identity == "Two"
    generator = (photo for photo in (probe, rgb(probe)))
    assert [face.hits[0].identity for face in shared.search(generator, k=1)] == ["s2", "s2"]


def test_two_photos_of_one_name_are_kept_apart(shared, photos):
    found = shared.search([photos / "s1" / "1.pgm", photos / "s2" / "1.pgm", photos / "s1" / "1.pgm"], k=1)
    assert [(photo.image, photo.faces[0].hits[0].identity) for photo in found.photos] == [
        ("s1/1.pgm", "s1"),
        ("s2/1.pgm", "s2"),
        ("s1/1.pgm", "s1"),
    ]
    together = shared.search([photos / "s1" / "2.pgm", photos / "s1" / "1.pgm"], k=1)
    assert [photo.image for photo in together.photos] == ["2.pgm", "1.pgm"]


# answers --------------------------------------------------------------------


def test_answers_are_those_of_the_searcher(shared, made, probe):
    vectors = fg.embed([probe, probe.with_name("8.pgm")]).vectors
    with Searcher(made) as searcher:
        plain = searcher.search(vectors, k=3)
    found = shared.search_vectors(vectors, k=3)
    assert [list(answer.hits) for answer in found] == plain
    assert [list(face.hits) for face in shared.search([probe, probe.with_name("8.pgm")], k=3)] == plain
    as_lists = shared.search_vectors(vectors.tolist(), k=3)
    assert as_lists == found and all(answer.known for answer in found)


def test_questions(shared, probe):
    faces = shared.search(probe, k=4, faces=True)[0].hits
    assert len({hit.face_id for hit in faces}) == 4 and faces[0].score >= faces[1].score
    assert [len(shared.search(probe, k=9, score=score)[0].hits) for score in ("best", "mean", "template")] == [6] * 3
    assert shared.search(probe, k=9, score="mean")[0].known is None
    assert len(shared.search(probe, k=9, min_score=0.8)[0].hits) == 1
    assert [h.identity for h in shared.search(probe, where="identity=s3")[0].hits] == ["s3"]
    assert shared.search(probe, where=["identity=s3", "identity=s4"])[0].hits
    for options in ({"k": 0}, {"score": "worst"}, {"where": "?"}, {"faces": True, "score": "mean"}):
        with pytest.raises(InputError):
            shared.search(probe, **options)
    for vectors in (np.zeros((1, 128)), np.ones((1, 5)), np.ones(128), [[1.0]]):
        with pytest.raises(DataError):
            shared.search_vectors(vectors)


def test_results_are_tables_too(shared, photos, probe, tmp_path):
    found = shared.search([probe, b"no photo"], k=2)
    table = found.to_arrow()
    assert table.num_rows == 3 and table.column("image").to_pylist()[:2] == ["7.pgm"] * 2
    rows = table.to_pylist()
    assert [row["hit_identity"] for row in rows] == [found[0].hits[0].identity, found[0].hits[1].identity, None]
    assert [row["rank"] for row in rows] == [1, 2, None] and rows[2]["outcome"] == "unreadable"
    assert rows[0]["score"] == found[0].hits[0].score and rows[0]["box"] == list(found[0].box or ())
    assert shared.people().to_arrow().to_pylist()[1] == {
        "identity": "s2",
        "faces": 3,
        "face_id": shared.people()[1].face_id,
        "person_id": shared.person("s2").person_id,
        "note": "",
        "metadata": "{}",
    }
    faces = shared.faces("s2").to_arrow()
    assert faces.column_names == ["identity", "face_id", "image", "split", "box"] and faces.num_rows == 3
    empty = fg.results.SearchResult(()).to_arrow()
    assert empty.num_rows == 0 and empty.schema == table.schema


def test_people_faces_and_thumbnails(shared):
    assert [(p.identity, p.faces) for p in shared.people()] == [(f"s{i}", 3) for i in range(1, PEOPLE + 1)]
    assert [p.identity for p in shared.people(containing="S3")] == ["s3"]
    faces = shared.faces("s3")
    assert faces.identity == "s3" and len(faces) == 3 and faces[0].columns == {}
    png = shared.thumbnail(faces[0].face_id)
    assert png.startswith(b"\x89PNG") and shared.people(containing="s3")[0].face_id == faces[0].face_id
    for call in (lambda: shared.faces("nobody"), lambda: shared.thumbnail("0" * 32)):
        with pytest.raises(GalleryError):
            call()


def test_compare_says_how_alike_two_photos_are_by_the_gallery(shared, photos, probe):
    same, other = shared.compare(probe, photos / "s2" / "1.pgm"), shared.compare(rgb(probe), photos / "s5" / "1.pgm")
    assert same.score > 0.7 > other.score and same.same and other.same is False
    assert same.threshold == shared.info().threshold and same.faces[0].image == str(probe)
    assert same.score == pytest.approx(fg.compare(probe, photos / "s2" / "1.pgm").score, abs=1e-6)
    with pytest.raises(InputError):
        shared.compare(photos, probe)
    with pytest.raises(InputError):
        shared.compare([probe], probe)
    with pytest.raises(DataError, match="no_face"):
        shared.compare(np.zeros((99, 99, 3), np.uint8), probe)


# changes --------------------------------------------------------------------


def test_add_keeps_columns_and_does_not_embed_twice(gallery, att, monkeypatch):
    done = gallery.add(rgb(att / "s9" / "1.pgm"), identity="Ann Lee", metadata={"year": 1999, "none": None})
    assert (done.added, done.again, done.faces, done.people) == (1, 0, 19, 7) and done.command
    assert gallery.faces("Ann Lee")[0].columns == {"year": "1999"} and gallery.info().column_kinds == {"year": "number"}
    assert gallery.faces("Ann Lee").to_arrow().column("year").to_pylist() == ["1999"]
    (face,) = gallery.search(att / "s9" / "2.pgm", where="year>=1990")
    assert [hit.identity for hit in face.hits] == ["Ann Lee"]
    assert gallery.search(att / "s9" / "2.pgm", where=("year>=1990", "year<1995"))[0].hits == ()
    monkeypatch.setattr(networks.Networks, "rows", None)  # nothing is detected or embedded again
    again = gallery.add([rgb(att / "s9" / "1.pgm")], identity="Ann Lee")
    assert (again.added, again.again, again.command) == (0, 1, None)
    clash = gallery.add(rgb(att / "s9" / "1.pgm"), identity="Bob")
    assert clash.conflicts[0].kept == "Ann Lee" and clash.notes


def test_add_takes_folders_vectors_and_lists(gallery, att, tmp_path):
    for i in (1, 2):
        (tmp_path / "more" / f"s{10 + i}").mkdir(parents=True)
        shutil.copy(att / f"s{10 + i}" / "1.pgm", tmp_path / "more" / f"s{10 + i}")
    fg.embed(tmp_path / "more", out=tmp_path / "vectors")
    seen: list[tuple[int, int]] = []
    done = gallery.add(
        [tmp_path / "more" / "s11", att / "s12" / "2.pgm", (att / "s12" / "3.pgm").read_bytes()],
        identity="Cy",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (done.added, done.left_out) == (3, {}) and seen == [(3, 3)] and len(gallery.faces("Cy")) == 3
    of_vectors = gallery.add(tmp_path / "vectors")
    assert (of_vectors.added, len(of_vectors.conflicts)) == (1, 1)
    assert gallery.add(tmp_path / "more").again == 1
    gallery.undo(of_vectors.command)
    assert gallery.undo(done.command)[0].faces == 3, "one command, however many photos it took"
    with pytest.raises(InputError, match="identity"):
        gallery.add([att / "s12" / "2.pgm"])
    with pytest.raises(InputError):
        gallery.add([att / "s12" / "2.pgm"], identity="x", metadata=tmp_path / "x.csv")
    with pytest.raises(InputError):
        gallery.add(tmp_path / "vectors", metadata={"a": 1})


def test_add_with_a_csv_of_columns(gallery, att, tmp_path):
    (tmp_path / "more" / "Dee").mkdir(parents=True)
    shutil.copy(att / "s14" / "1.pgm", tmp_path / "more" / "Dee")
    (tmp_path / "m.csv").write_text("image,year\nDee/1.pgm,2001\n")
    assert gallery.add(str(tmp_path / "more"), metadata=str(tmp_path / "m.csv")).added == 1
    assert gallery.faces("Dee")[0].columns == {"year": "2001"}


def test_vectors_made_elsewhere(gallery, att):
    vectors = fg.embed([att / "s15" / "1.pgm", att / "s16" / "1.pgm"]).vectors
    done = gallery.add_vectors(vectors, identity=["Eve", "Fay"], metadata=[{"year": 1}, {}])
    assert done.added == 2 and gallery.faces("Eve")[0].columns == {"year": "1"}
    assert gallery.add_vectors(vectors, identity=["Eve", "Fay"]).again == 2
    assert [a.hits[0].identity for a in gallery.search_vectors(vectors, k=1)] == ["Eve", "Fay"]
    for bad in (np.zeros((1, 128)), np.ones((1, 3))):
        with pytest.raises(DataError):
            gallery.add_vectors(bad, identity="x")
    with pytest.raises(InputError):
        gallery.add_vectors(vectors, identity=["one"])


def test_corrections_and_their_undoing(gallery, own_indexes):
    ids = [face.face_id for face in gallery.faces("s1")]
    moved = gallery.split(ids[:1], to="Gus")
    assert (moved.faces, moved.people) == (1, ("s1", "Gus")) and len(gallery.faces("Gus")) == 1
    assert gallery.split(ids[1], to="Gus").faces == 1, "one id is one face, not its letters"
    assert gallery.merge("Gus", "s2").faces == 2 and len(gallery.faces("s2")) == 5
    removed = gallery.remove(face_id=ids[2])
    assert removed.faces == 1 and [p.identity for p in gallery.people()][0] == "s2"
    with pytest.raises(GalleryError):
        gallery.undo(moved.command)
    assert gallery.undo(removed.command) == [removed] and gallery.log(limit=1)[0].verb == "merge"
    assert gallery.remove(identity="s3").faces == 3
    for given in ({}, {"identity": "s2", "face_id": ids[0]}):
        with pytest.raises(InputError):
            gallery.remove(**given)
    for call in (
        lambda: gallery.rename("s9", "x"),
        lambda: gallery.rename("s2", "s4"),
        lambda: gallery.merge("x", "y"),
    ):
        with pytest.raises(GalleryError):
            call()


def test_changes_of_other_programs_are_seen(gallery, probe, own_indexes):
    assert gallery.search(probe)[0].hits[0].identity == "s2"
    with fg.open(own_indexes / "people") as other:
        other.rename("s2", "Two")
        assert gallery.search(probe)[0].hits[0].identity == "Two"
        assert gallery.compact().generation > 1
        assert other.search(probe)[0].hits[0].identity == "Two"
        other.remove(identity="Two")
    assert gallery.search(probe)[0].hits[0].identity != "Two"


def test_a_file_that_was_replaced_is_opened_again(gallery, made, probe, own_indexes):
    gallery.remove(identity="s2")
    assert gallery.search(probe)[0].hits[0].identity != "s2"
    shutil.rmtree(own_indexes / "people")
    shutil.copytree(made, own_indexes / "people", symlinks=True)
    assert gallery.search(probe)[0].hits[0].identity == "s2" and gallery.rename("s2", "Two").faces == 3


def test_another_model_and_back(gallery, photos, probe, own_indexes):
    with fg.open("people") as other:
        assert other.search(probe)[0].hits[0].identity == "s2"
        done = gallery.reembed("casia", switch=False)
        assert not done.switched and gallery.info().model == "sface" and gallery.info().other_model == "casia"
        assert gallery.reembed("casia").switched and gallery.info().model == "casia"
        (face,) = gallery.search(probe)
        assert face.hits[0].identity == "s2" and face.known is None, "the calibration is of the old model"
        assert other.search(probe)[0].hits == face.hits, "another program takes the new model up by itself"
        assert other.add(photos / "s2" / "1.pgm", identity="s2").again == 1
        assert other.add(rgb(probe), identity="s2").added == 1 and other.verify().problems == []
    with pytest.raises(GalleryError):
        gallery.reembed("casia")


def test_forget_leaves_nothing_and_lets_go_what_it_has_open(gallery, probe, own_indexes, tmp_path):
    gallery.search(probe)
    fg.embed(probe.parent, out=tmp_path / "vectors")
    receipt = gallery.forget("s2", also=[tmp_path / "vectors"], receipt=tmp_path / "r.json")
    assert receipt.found == 0 and not receipt.pending and receipt.receipt == str(tmp_path / "r.json")
    assert gallery.search(probe)[0].hits[0].identity != "s2"
    assert gallery.add(probe.parent.parent / "s2" / "1.pgm", identity="s2").forgotten == 1
    assert gallery.add(probe.parent.parent / "s2" / "1.pgm", identity="s2", readmit=True).added == 1
    with pytest.raises(GalleryError):
        gallery.forget("s2x")


def test_looking_after(gallery, att, tmp_path):
    probes = tmp_path / "probes"
    for i in (1, 2, 30):
        (probes / f"s{i}").mkdir(parents=True)
        shutil.copy(att / f"s{i}" / "9.pgm", probes / f"s{i}")
    measured = gallery.evaluate(probes, report=tmp_path / "report")
    assert measured.top1 == measured.top5 == 1 and len(measured.evaluation.strangers) == 1
    assert (tmp_path / "report" / "index.html").is_file()
    fitted = gallery.calibrate(fpir=0.2, probes=[probes])
    assert fitted.held_out == 1 and fitted.genuine == 2 and fitted.threshold == gallery.info().threshold
    assert gallery.backup(tmp_path / "b").faces == 18 and gallery.export(tmp_path / "e", crops=True).without_crop == 0
    done = gallery.compact(keep_undo=0, progress=lambda done, total: None)
    assert done.faces == 18 and gallery.log() == []
    with pytest.raises(GalleryError):
        gallery.undo()


# loaded once, by several threads, without a word ------------------------------


def test_the_second_search_makes_nothing_anew(made, probe, monkeypatch):
    made_now = []
    for name in ("make_detector", "load_embedder", "Decoder"):
        real = getattr(networks, name)
        note = lambda *a, real=real, name=name, **k: made_now.append(name) or real(*a, **k)  # noqa: E731
        monkeypatch.setattr(networks, name, note)
    with fg.open(made) as gallery:
        for _ in range(3):
            gallery.search([probe, probe.read_bytes()])
        gallery.compare(probe, probe)
    assert sorted(made_now) == ["Decoder", "load_embedder", "make_detector"]


def test_threads_share_a_gallery(gallery, att):
    expected = {i: gallery.search(att / f"s{i}" / "8.pgm", k=1)[0].hits[0].identity for i in range(1, PEOPLE + 1)}
    barrier = threading.Barrier(4)

    def work(thread: int) -> list[tuple[int, str]]:
        barrier.wait()
        found = []
        for i in range(1, PEOPLE + 1):
            photo = rgb(att / f"s{i}" / "8.pgm") if thread % 2 else att / f"s{i}" / "8.pgm"
            found.append((i, gallery.search(photo, k=1)[0].hits[0].identity))
            if thread == 0:
                gallery.undo(gallery.rename("s6", "Six").command)
            assert len(gallery.people()) == PEOPLE
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert [name for i, name in found if i != 6] == [expected[i] for i in range(1, 6)]
            assert dict(found)[6] in (expected[6], "Six")


def test_nothing_is_printed_and_lines_are_logged(made, photos, probe, capfd, caplog, tmp_path):
    with fg.open(tmp_path / "quiet", create=True) as gallery:
        gallery.add(photos / "s1", identity="Ann")
        gallery.search([probe, b"no photo"])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    with caplog.at_level(logging.INFO, "facegallery"), fg.open(made) as gallery:
        gallery.search([probe, b"no photo"])
    assert any("unreadable" in line for line in caplog.messages)
    assert all(record.name.startswith("facegallery.") for record in caplog.records)


# the interface --------------------------------------------------------------


def test_a_gallery_has_the_methods_of_the_interface():
    wanted = {n: m for n, m in inspect.getmembers(GalleryInterface, inspect.isfunction) if not n.startswith("_")}
    assert len(wanted) >= 16
    for name, method in wanted.items():
        mine, theirs = (inspect.signature(f).parameters for f in (getattr(fg.Gallery, name), method))
        for parameter in theirs:
            same = mine[parameter].kind, mine[parameter].default, mine[parameter].annotation
            assert same == (theirs[parameter].kind, theirs[parameter].default, theirs[parameter].annotation), (
                name,
                parameter,
            )
        assert inspect.signature(getattr(fg.Gallery, name)).return_annotation == (
            inspect.signature(method).return_annotation
        )
        own = [p for n, p in mine.items() if n not in theirs]
        assert all(p.kind is p.KEYWORD_ONLY for p in own), name
    for name, method in inspect.getmembers(fg.Gallery, inspect.isfunction):
        if not name.startswith("_"):
            positional = [p for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert len(positional) <= 3 and method.__doc__, name
