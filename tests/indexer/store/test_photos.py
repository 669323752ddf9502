"""Rows of photos: noted, replaced, checked, carried along, and gone with the people who are forgotten."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.resync import Moved, Resync
from facegallery.indexer.store.totals import PERSON_TABLES
from facegallery.indexer.store.unnamed import Place, Rejection
from facegallery.indexer.upkeep.transfer import backup, restore
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.indexer.forgetting import forgotten
from tests.indexer.store.test_totals import problems, sql

D = 16
ANN, BOB = "Ann-Kathrin", "Bob Meyer"


def face(image: str, name: str | None, number: int = 0, seed: int = 0):
    x = synthetic.vectors(1, 1, D, seed=seed)[0]
    return synthetic.row(image, name, x, image_sha256=hash_of(image), face=number, crop=synthetic.png(os.urandom(200)))


def hash_of(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()


def photo(image: str, **changed) -> PhotoRow:
    plain = PhotoRow(image, f"/album/{image}", hash_of(image), 10, 20, 64, 48, "2019-05-01T10:00:00", 1.5, -2.5, "ok")
    return replace(plain, **changed)


ROWS = [face(f"{ANN}/1.jpg", ANN, seed=1), face(f"{ANN}/2.jpg", ANN, seed=2), face("b/1.jpg", BOB, seed=3)]
TOGETHER = [face("c/both.jpg", ANN, 0, seed=4), face("c/both.jpg", BOB, 1, seed=5)]
PHOTOS = [
    *(photo(row.image) for row in ROWS),
    photo("c/both.jpg"),
    photo(f"{ANN}/empty.jpg", outcome="no_face"),
    photo("d/empty.jpg", outcome="no_face", taken=None, latitude=None, longitude=None),
    photo("broken.jpg", sha256=None, outcome="unreadable"),
]


@pytest.fixture
def index(tmp_path) -> Path:
    folder = tmp_path / "indexes" / "club"
    build(synthetic.write(tmp_path / "vectors", [*ROWS, *TOGETHER], synthetic.spec(D)), folder)
    with open_store(folder, write=True) as store:
        store.note_photos(PHOTOS)
    return folder


@pytest.fixture
def gallery(index):
    with open_store(index, write=True) as store:
        yield store


def paths(store) -> set[str]:
    return {one.path for one in store.photos()}


def test_photos_are_read_as_they_were_noted(gallery, index):
    assert list(gallery.photos()) == PHOTOS and problems(index) == ""
    assert set(gallery.photos_below("/album/c")) == {"/album/c/both.jpg"} and gallery.photos_below("/alb") == {}
    assert gallery.photos_of([hash_of("b/1.jpg"), "no"]) == {hash_of("b/1.jpg"): [photo("b/1.jpg")]}


def test_a_photo_replaces_what_was_noted_of_its_path(gallery):
    gallery.note_photos([photo("b/1.jpg", mtime_ns=99), photo("upload", path=None), photo("upload", path=None)])
    found = list(gallery.photos())
    assert len(found) == len(PHOTOS) + 1 and gallery.photos_at(["/album/b/1.jpg"])["/album/b/1.jpg"].mtime_ns == 99


@pytest.mark.parametrize("column", ["path = '/x'", "taken = '2020-01-01'", "latitude = 2", "outcome = 'ok'"])
def test_a_changed_photo_is_noticed(index, column):
    sql(index, f"UPDATE photos SET {column} WHERE image = 'd/empty.jpg'")
    assert "d/empty.jpg" in problems(index)


def test_a_deleted_photo_is_noticed(index):
    sql(index, "DELETE FROM photos WHERE image = 'd/empty.jpg'")
    assert "1 rows of the table photos were deleted" in problems(index)


def test_photos_come_back_with_a_backup(gallery, index, tmp_path):
    backup(gallery, tmp_path / "club.backup")
    restore(tmp_path / "club.backup", tmp_path / "indexes" / "again")
    with open_store(tmp_path / "indexes" / "again") as store:
        assert list(store.photos()) == PHOTOS and verify(store).problems == []


def test_undo_of_add_takes_its_photos_along(gallery):
    new = face("new/1.jpg", "Zoë", seed=9)
    gallery.add([new])
    gallery.note_photos([photo("new/1.jpg")])
    gallery.undo()
    assert list(gallery.photos()) == PHOTOS


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_photos_of_a_forgotten_person_are_gone_from_every_byte(gallery, index):
    gallery.resync(Resync(photos=[photo(f"{ANN}/1.jpg", mtime_ns=99)]))
    assert ANN.encode() in bytes_of(index)
    done = forgotten(gallery, ANN)
    assert done.found == 0 and verify(gallery).problems == []
    assert paths(gallery) == {"/album/b/1.jpg", "/album/c/both.jpg", "/album/d/empty.jpg", "/album/broken.jpg"}
    data = bytes_of(index)
    assert ANN.encode() not in data and all(hash_of(row.image).encode() not in data for row in ROWS[:2])


def test_photos_of_a_forgotten_person_are_not_noted_again(gallery):
    forgotten(gallery, ANN)
    left = paths(gallery)
    gallery.note_photos([*PHOTOS, photo(f"old/{ANN}.png", outcome="no_face")])
    assert paths(gallery) == left


def test_a_restored_backup_leaves_out_photos_of_who_was_forgotten_since(gallery, index, tmp_path):
    gallery.note_photos([])
    with gallery.writing():
        gallery.set_syncs({f"/album/{ANN}": {}, "/album": {"one_face": True}})
    backup(gallery, tmp_path / "club.backup")
    forgotten(gallery, ANN)
    assert gallery.syncs() == {"/album": {"one_face": True}}
    left = paths(gallery)
    restore(tmp_path / "club.backup", index, replace=True)
    with open_store(index) as store:
        assert paths(store) == left and store.syncs() == {"/album": {"one_face": True}}
        assert ANN.encode() not in bytes_of(index) and verify(store).problems == []


def test_a_gallery_of_version_7_has_no_photos_and_gets_them_at_its_next_change(index):
    sql(index, *(f"DROP TABLE {table}" for table in ("photos", *PERSON_TABLES)), "PRAGMA user_version=7")
    with open_store(index) as store:
        assert list(store.photos()) == [] and verify(store).problems == []
    with open_store(index, write=True) as store:
        store.note_photos(PHOTOS)
        assert list(store.photos()) == PHOTOS and verify(store).problems == []


# changed photos -------------------------------------------------------------


def state(store) -> tuple:
    """All that is true of faces, groups, words and photos."""
    enrolled = {(f["face_id"], name, f["image"]) for name, _ in store.list_people() for f in store.list_faces(name)}
    unnamed = {(one.face_id, one.place, one.image) for one in store.unnamed_faces()}
    return enrolled, unnamed, set(store.rejections()), set(store.photos())


def test_a_changed_photo_keeps_what_was_said_and_undo_brings_the_old_one_back(gallery, index):
    loose = face("c/both.jpg", None, 2, seed=6)
    gallery.add_unnamed([loose])
    with gallery.writing():
        gallery._set_groups({loose.face_id: Place(None, 3, "confirmed")})
        gallery.reject([Rejection(loose.face_id, None, BOB)])
    before = state(gallery)
    new = [replace(row, image_sha256="ab" * 32) for row in (*TOGETHER, loose)]
    places = [Place(ANN), Place(BOB), Place(None, 3, "confirmed")]
    olds = [*TOGETHER, loose]
    gallery.resync(
        Resync(
            drop=[row.face_id for row in olds],
            rows=list(zip(new, places, strict=True)),
            kept={old.face_id: one.face_id for old, one in zip(olds, new, strict=True)},
            photos=[photo("c/both.jpg", sha256="ab" * 32, mtime_ns=21)],
        )
    )
    after = state(gallery)
    assert {f for f, *_ in after[0]} >= {new[0].face_id, new[1].face_id} and verify(gallery).problems == []
    assert after[1] == {(new[2].face_id, Place(None, 3, "confirmed"), "c/both.jpg")}
    assert Rejection(new[2].face_id, None, BOB) in after[2]
    assert gallery.undo()[0].verb == "sync"
    assert state(gallery) == before and verify(gallery).problems == []


def test_a_moved_photo_and_one_that_is_gone_come_back_with_undo(gallery):
    before = state(gallery)
    moved = photo("e/1.jpg", sha256=hash_of("b/1.jpg"))
    gallery.resync(
        Resync(
            drop=[ROWS[0].face_id],
            moved=[Moved(moved.sha256, "b/1.jpg", "e/1.jpg")],
            paths=["/album/b/1.jpg", f"/album/{ANN}/1.jpg"],
            photos=[moved],
        )
    )
    assert gallery.find(face_id=ROWS[2].face_id)[0]["image"] == "e/1.jpg" and verify(gallery).problems == []
    assert "/album/e/1.jpg" in paths(gallery) and "/album/b/1.jpg" not in paths(gallery)
    gallery.undo()
    assert state(gallery) == before and verify(gallery).problems == []


def test_forget_takes_a_person_out_of_the_log_of_changed_photos(gallery, index):
    gallery.resync(Resync(drop=[ROWS[0].face_id], paths=[f"/album/{ANN}/1.jpg"]))
    done = forgotten(gallery, ANN)
    assert done.found == 0 and ANN.encode() not in bytes_of(index) and gallery.list_log() == []
