"""Names go from photo programs into a gallery, and from a gallery into sidecars, in all eight orientations."""

import json
import os
import shutil
import time

import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import InputError
from facegallery.embedder.photos.decoder import Decoder
from facegallery.workflows import enrol, photos
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.sidecars import export_sidecars
from tests import drawn

NAMES = {"s1": "Ann Lee", "s5": "Bob <B> & Co", "s7": "李雷"}
REGIONS = enrol.AddOptions(names_from="regions")


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def who(box):
    """The person of a collage in whose place a box lies."""
    x, y = centre(box)
    (name,) = [name for name, (x0, y0, x1, y1) in drawn.boxes().items() if x0 < x < x1 and y0 < y < y1]
    return name


def regions(orientation, people=("s1", "s5", "s7")):
    boxes = drawn.boxes()
    found = {
        NAMES[one].replace("&", "&amp;").replace("<", "&lt;"): drawn.stored(boxes[one], orientation) for one in people
    }
    return drawn.packet(drawn.digikam(found, drawn.stored_size(orientation)))


@pytest.fixture(scope="module")
def album(att, tmp_path_factory):
    """A collage in each orientation, half of them with a sidecar, half with the regions in the photo."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "2019").mkdir()
    for orientation in range(1, 9):
        inside = orientation % 2 == 0
        xmp = regions(orientation) if inside else None
        path = folder / "2019" / f"{orientation}.jpg"
        path.write_bytes(drawn.saved(drawn.collage(att, orientation), orientation, xmp=xmp))
        if not inside:
            name = path.with_suffix(".xmp") if orientation > 4 else path.with_name(f"{path.name}.xmp")
            name.write_bytes(regions(orientation))
    return folder


@pytest.fixture(scope="module")
def root(album, tmp_path_factory):
    """Indexes with a gallery of that album."""
    folder = tmp_path_factory.mktemp("indexes")
    before = os.environ.get("FACEGALLERY_INDEXES")
    os.environ["FACEGALLERY_INDEXES"] = str(folder)
    try:
        create_gallery("album")
        enrol.add("album", album, REGIONS)
    finally:
        os.environ.pop("FACEGALLERY_INDEXES") if before is None else os.environ.update(FACEGALLERY_INDEXES=before)
    return folder


@pytest.fixture
def gallery(root, own_indexes):
    """A copy of it."""
    shutil.copytree(root, own_indexes)
    return "album"


def faces_of(name):
    from facegallery.workflows.probes import open_store

    with open_store(name) as store:
        return {
            person: {face["image"]: face["box"] for face in store.list_faces(person)}
            for person, _ in store.list_people()
        }


def test_names_round_trip_in_all_orientations(album, gallery, tmp_path):
    enrolled = faces_of(gallery)
    assert set(enrolled) == set(NAMES.values())
    for one, name in NAMES.items():
        assert set(enrolled[name]) == {f"2019/{orientation}.jpg" for orientation in range(1, 9)}
        assert all(who(box) == one for box in enrolled[name].values())
    done = export_sidecars(gallery, tmp_path / "out")
    assert (done.written, done.faces, done.left_out, done.notes) == (8, 24, 0, [])
    bare = tmp_path / "bare"
    with Decoder(1) as decoder:
        for orientation in range(1, 9):
            (bare / "2019").mkdir(parents=True, exist_ok=True)
            image = f"2019/{orientation}.jpg"
            shutil.copy(album / image, bare / image)
            shutil.copy(tmp_path / "out" / f"{image}.xmp", bare / f"{image}.xmp")
            found = decoder.submit(bare, image, drawn=True).result().drawn
            assert {face.name: who(face.box) for face in found.faces} == {name: one for one, name in NAMES.items()}
            for face in found.faces:
                assert face.box == pytest.approx(enrolled[face.name][image], abs=0.01)


def test_the_same_again_adds_nothing(album, gallery):
    done = enrol.add(gallery, album, REGIONS)
    assert done.added == 0 and done.again == 24 and not done.conflicts


def test_data_sets_follow_sidecars(album, att, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "vectors"
    (folder / "Cem").mkdir(parents=True)
    for name in ("1.jpg", "1.jpg.xmp"):
        shutil.copy(album / "2019" / name, folder / "Cem" / name)
    (folder / "Cem" / "plain.jpg").write_bytes(drawn.saved(drawn.collage(att, 9), 1))
    embedder = photos.make_embedder("sface")

    def embed(names_from, to=out):
        summary = photos.embed(folder, to, embedder, photos.EmbedOptions(keep_crops=False, names_from=names_from))
        rows = DataSet(to).table(["image", "identity", "face", "largest_other"]).to_pylist()
        return summary, {(row["image"], row["face"]): row["identity"] for row in rows}

    summary, rows = embed("regions")
    assert sorted(name for name in rows.values() if name) == sorted(NAMES.values()) and len(rows) == 4
    assert rows["Cem/plain.jpg", 0] is None and "3 drawn faces of 1 photos got their names" in summary.notes
    assert summary.written == 2 and summary.unsure == [] and embed("regions")[0].written == 0
    sidecar = folder / "Cem" / "1.jpg.xmp"
    time.sleep(0.01)
    sidecar.write_bytes(sidecar.read_bytes().replace(b"Ann Lee", b"Eve Lee"))  # as many bytes
    summary, rows = embed("regions")
    assert summary.written == 1 and "Eve Lee" in rows.values() and "Ann Lee" not in rows.values()
    _, rows = embed("both", tmp_path / "both")
    assert rows["Cem/plain.jpg", 0] == "Cem" and sorted(rows.values())[:1] == ["Bob <B> & Co"]
    assert list(rows.values()).count("Cem") == 1
    sidecar.write_bytes(regions(1, ["s5"]))
    summary, rows = embed("regions")
    assert [name for name in rows.values() if name] == ["Bob <B> & Co"] and len(rows) == 4
    _, rows = embed("folders", tmp_path / "folders")
    assert set(rows.values()) == {"Cem"} and len(rows) == 2


def test_a_drawn_face_that_is_not_found_is_told(album, att, tmp_path, own_indexes, caplog):
    nowhere = drawn.packet(
        drawn.digikam({"Ghost": (0.01, 0.9, 0.05, 0.99), "Ann": drawn.stored(drawn.boxes()["s1"], 1)})
    )
    (tmp_path / "a.jpg").write_bytes(drawn.saved(drawn.collage(att, 1), 1, xmp=nowhere))
    create_gallery("g")
    with caplog.at_level("INFO", "facegallery"):
        done = enrol.add("g", [tmp_path / "a.jpg"], REGIONS)
    assert (done.added, done.unnamed, done.left_out) == (1, 2, {"box_no_face": 1})
    assert "1 drawn face not among the faces that were found, such as 'a.jpg'" in caplog.messages


@pytest.mark.parametrize(
    "options, why",
    [
        ({"identity": "Ann"}, "--identity or --names-from"),
        ({"level": 1}, "--identity-level with names from folders"),
        ({"names_from": "files"}, "names from folders, regions, both"),
    ],
)
def test_options_that_exclude_regions(album, gallery, options, why):
    with pytest.raises(InputError, match=why):
        enrol.add(gallery, album, enrol.AddOptions(**{"names_from": "regions"} | options))
    if "level" in options:
        with pytest.raises(InputError, match=why):
            photos.EmbedOptions(names_from="regions", level=1).listed(album)
    with pytest.raises(InputError, match="received crops"):
        photos._check_for_crops(photos.EmbedOptions(names_from="both"))


def test_photos_are_never_changed_and_sidecars_of_others_stay(album, gallery, tmp_path):
    copy = tmp_path / "photos"
    shutil.copytree(album, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    done = export_sidecars(gallery, copy, copy)
    foreign = [path for path in before if path.name.endswith(".jpg.xmp")]
    assert len(foreign) == 2 and (done.written, done.left_out) == (6, 2)
    assert "2 sidecars of other programs kept" in done.notes[0]
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(copy.rglob("*.jpg.xmp"))) == 8
    again = export_sidecars(gallery, copy, copy)
    assert (again.written, again.left_out) == (6, 2)


def test_photos_that_are_gone_or_changed_get_no_sidecar(album, gallery, att, tmp_path):
    copy = tmp_path / "photos"
    shutil.copytree(album, copy)
    (copy / "2019" / "1.jpg").unlink()
    (copy / "2019" / "2.jpg").write_bytes(drawn.saved(drawn.collage(att, 9), 1))
    (copy / "2019" / "3.jpg").write_bytes(b"no photo")
    done = export_sidecars(gallery, tmp_path / "out", copy)
    assert (done.written, done.left_out) == (5, 3) and len(done.notes) == 2
    assert not (tmp_path / "out" / "2019" / "1.jpg.xmp").exists()
    with pytest.raises(InputError, match="--photos"):
        export_sidecars(gallery, tmp_path / "out", copy / "2019" / "4.jpg")


def test_a_receipt_names_the_sidecars(album, gallery, tmp_path):
    from facegallery.indexer.store import outputs
    from facegallery.workflows.probes import gallery_folder

    export_sidecars(gallery, tmp_path / "out")
    assert ("export", str(tmp_path / "out")) in {(one.kind, one.path) for one in outputs.read(gallery_folder(gallery))}


def test_the_commands(album, gallery, run, tmp_path):
    done = run("export", gallery, "--out", tmp_path / "out", "--xmp", "--json")
    assert done.code == 0 and json.loads(done.out)["written"] == 8
    assert "8 sidecars with 24 faces" in run("export", gallery, "--out", tmp_path / "out", "--xmp").out
    for wrong in (("--xmp", "--crops"), ("--photos", album)):
        assert run("export", gallery, "--out", tmp_path / "out", *wrong).code == 2
    again = run("add", gallery, album, "--names-from", "regions")
    assert again.code == 0 and "24 known already" in again.out and "24 drawn faces of 8 photos" in again.err
    assert run("add", gallery, album, "--names-from", "regions", "--identity", "Ann").code == 2
    assert run("embed", album, "--names-from", "faces", "--out", tmp_path / "v").code == 2
