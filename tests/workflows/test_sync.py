"""A gallery that follows a folder: compared with one that was made of the folder as it is."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.unnamed import Arrangement, Place
from facegallery.indexer.upkeep.verify import verify
from facegallery.workflows import enrol, unnamed
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.same_faces import same_faces
from facegallery.workflows.session import GallerySession
from facegallery.workflows.sync import SyncOptions, sync
from tests import synthetic
from tests.command import ROOT, run_in_this_process
from tests.doses import doses

NOBODY = SyncOptions(names_from="nobody")


@pytest.fixture
def album(att, tmp_path) -> Path:
    """Three people, two photos each."""
    for who in ("s1", "s2", "s3"):
        (tmp_path / "album" / who).mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(att / who / f"{number}.pgm", tmp_path / "album" / who)
    return tmp_path / "album"


@pytest.fixture
def club(tmp_path):
    create_gallery(tmp_path / "indexes" / "club")
    with GallerySession(tmp_path / "indexes" / "club") as session:
        yield session


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def counts(done) -> tuple[int, ...]:
    return done.new, done.changed, done.moved, done.unchanged, done.gone


def brighter(path: Path) -> None:
    """Another file with the same faces, as an editor saves it."""
    with Image.open(path) as photo:
        edited = np.clip(np.asarray(photo, np.float32) * 1.08 + 4, 0, 255).astype(np.uint8)
    Image.fromarray(edited).save(path)


def faces(session) -> dict[str, tuple[str | None, str]]:
    """Person and photo of every face, by id."""
    with session.store() as store:
        assert verify(store).problems == []
        named = {f["face_id"]: (name, f["image"]) for name, _ in store.list_people() for f in store.list_faces(name)}
        return named | {one.face_id: (None, one.image) for one in store.unnamed_faces()}


def whole(session) -> tuple:
    """All that is true of faces, places, words and photos."""
    with session.store() as store:
        places = {one.face_id: one.place for one in store.unnamed_faces()}
        photos = {(row.path, row.image, row.sha256, row.outcome) for row in store.photos()}
        return faces(session), places, set(store.rejections()), photos


def test_what_is_unchanged_is_not_read(club, album, monkeypatch):
    assert counts(sync(club, album)) == (6, 0, 0, 0, 0) and len(faces(club)) == 6
    before = whole(club)
    monkeypatch.setattr("facegallery.workflows.inputs.PhotoItem.sha256", lambda self: pytest.fail("was read"))
    monkeypatch.setattr("facegallery.workflows.inputs.PhotoItem.submit", lambda *a, **k: pytest.fail("was decoded"))
    assert counts(sync(club, album)) == (0, 0, 0, 6, 0) and whole(club) == before


def test_photos_that_add_took_in_are_known(club, album):
    enrol.add(club, album)
    assert counts(sync(club, album)) == (0, 0, 0, 6, 0)


def test_a_touched_photo_is_unchanged(club, album):
    sync(club, album)
    before = whole(club)
    os.utime(album / "s1" / "1.pgm", (1e9, 1e9))
    assert counts(sync(club, album)) == (0, 0, 0, 6, 0) and whole(club) == before


def test_a_photo_without_a_face_is_looked_at_once(club, album, monkeypatch):
    Image.new("RGB", (300, 200), (9, 99, 9)).save(album / "green.png")
    (album / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    done = sync(club, album)
    assert done.failed == {"no_face": 1, "unreadable": 1}
    monkeypatch.setattr("facegallery.workflows.inputs.PhotoItem.submit", lambda *a, **k: pytest.fail("was decoded"))
    assert counts(sync(club, album)) == (0, 0, 0, 8, 0)


def test_a_moved_photo_keeps_its_face_and_gets_its_path(club, album):
    sync(club, album, NOBODY)
    before = whole(club)
    (album / "2019").mkdir()
    (album / "s1" / "1.pgm").rename(album / "2019" / "x.pgm")
    assert counts(sync(club, album)) == (0, 0, 1, 5, 0)
    after = faces(club)
    assert len(after) == 6 and {image for _, image in after.values()} >= {"2019/x.pgm"}
    assert "s1/1.pgm" not in {image for _, image in after.values()}
    assert counts(sync(club, album)) == (0, 0, 0, 6, 0)
    with club.store(write=True) as store:
        store.undo()  # the last sync, which did nothing
        store.undo()
    assert whole(club) == before


def test_a_photo_in_another_persons_folder_now_is_a_conflict(club, album):
    sync(club, album)
    (album / "s1" / "1.pgm").rename(album / "s2" / "9.pgm")
    done = sync(club, album)
    assert [(c.kept, c.refused) for c in done.conflicts] == [("s1", "s2")] and len(faces(club)) == 6


def test_faces_of_a_photo_that_is_gone_stay_unless_pruned(club, album):
    sync(club, album)
    before = whole(club)
    (album / "s1" / "1.pgm").unlink()
    assert counts(sync(club, album)) == (0, 0, 0, 5, 1) and whole(club) == before
    done = sync(club, album, SyncOptions(prune=True))
    assert (done.gone, done.pruned, len(faces(club))) == (1, 1, 5)
    assert sync(club, album).gone == 0
    with club.store(write=True) as store:
        store.undo()
        store.undo()
    assert whole(club) == before


def test_a_copy_adds_no_face_and_keeps_it_when_the_first_is_gone(club, album):
    sync(club, album, NOBODY)
    shutil.copy(album / "s1" / "1.pgm", album / "copy.pgm")
    assert counts(sync(club, album)) == (1, 0, 0, 6, 0) and len(faces(club)) == 6
    (album / "s1" / "1.pgm").unlink()
    assert sync(club, album, SyncOptions(prune=True)).pruned == 0 and len(faces(club)) == 6


def test_a_changed_photo_keeps_what_was_said(club, album):
    sync(club, album, NOBODY)
    ids = {image: face_id for face_id, (_, image) in faces(club).items()}
    with club.store(write=True) as store:
        unnamed.name(store, [ids["s1/1.pgm"]], "Ann Lee")
        unnamed.reject(store, [ids["s2/1.pgm"]], of="Ann Lee")
        store.arrange("confirm", Arrangement({ids["s2/1.pgm"]: Place(None, 7, "confirmed")}))
        store.arrange("ignore", Arrangement({ids["s3/1.pgm"]: Place(None, None, "ignored")}))
    before = whole(club)
    for who in ("s1", "s2", "s3"):
        brighter(album / who / "1.pgm")
    done = sync(club, album)
    assert counts(done) == (0, 3, 0, 3, 0) and done.kept == 3 and done.lost == ()
    now = {image: face_id for face_id, (_, image) in faces(club).items()}
    assert all(now[f"{who}/1.pgm"] != ids[f"{who}/1.pgm"] for who in ("s1", "s2", "s3"))
    with club.store() as store:
        assert store.places(now.values()) == {
            now[image]: {
                "s1/1.pgm": Place("Ann Lee"),
                "s2/1.pgm": Place(None, 7, "confirmed"),
                "s3/1.pgm": Place(None, None, "ignored"),
            }.get(image, Place())
            for image in now
        }
        assert [(one.face_id, one.identity) for one in store.rejections()][-1] == (now["s2/1.pgm"], "Ann Lee")
    with club.store(write=True) as store:
        assert store.undo(done.command)[0].verb == "sync"
    assert whole(club) == before


def test_a_person_all_of_whose_photos_changed_keeps_id_and_note(club, album):
    sync(club, album)
    with club.store(write=True) as store:
        store.set_person("s1", {"born": "1990"}, note="a friend")
        before = store.persons(["s1"])
    for number in (1, 2):
        brighter(album / "s1" / f"{number}.pgm")
    assert counts(sync(club, album))[1] == 2
    with club.store(write=True) as store:
        assert store.persons(["s1"]) == before and before["s1"].note == "a friend"
        assert store.undo()[0].verb == "sync"
        assert store.persons(["s1"]) == before and verify(store).problems == []


def test_another_photo_of_the_same_name_keeps_nothing_and_says_so(club, album, att):
    sync(club, album, NOBODY)
    (face_id,) = [one for one, (_, image) in faces(club).items() if image == "s1/1.pgm"]
    with club.store(write=True) as store:
        unnamed.name(store, [face_id], "Ann Lee")
    shutil.copy(att / "s9" / "1.pgm", album / "s1" / "1.pgm")
    done = sync(club, album)
    assert done.kept == 0 and done.lost == ("Ann Lee (s1/1.pgm)",) and "Ann Lee" in done.notes[-1]
    assert {name for name, _ in faces(club).values()} == {None} and len(faces(club)) == 6


def test_a_changed_photo_that_cannot_be_read_keeps_its_faces(club, album):
    sync(club, album)
    before = faces(club)
    (album / "s1" / "1.pgm").write_bytes(b"P5\n92 112\n255\n")
    done = sync(club, album)
    assert done.failed == {"unreadable": 1} and faces(club) == before and sync(club, album).changed == 1


def test_two_photos_that_changed_places_keep_their_faces(club, album):
    sync(club, album, NOBODY)
    before = {face_id: image for face_id, (_, image) in faces(club).items()}
    a, b, c = album / "s1" / "1.pgm", album / "s2" / "1.pgm", album / "c"
    a.rename(c), b.rename(a), c.rename(b)
    assert sync(club, album).changed == 2
    swapped = {"s1/1.pgm": "s2/1.pgm", "s2/1.pgm": "s1/1.pgm"}
    after = {face_id: image for face_id, (_, image) in faces(club).items()}
    assert after == {face_id: swapped.get(image, image) for face_id, image in before.items()}


def test_options_are_kept_for_the_folder(club, album):
    sync(club, album, SyncOptions(names_from="nobody", one_face=True))
    shutil.copy(album / "s1" / "1.pgm", album / "s1" / "3.pgm")
    with (album / "s1" / "3.pgm").open("ab") as file:
        file.write(b"\n")
    assert sync(club, album).unnamed == 1
    with club.store() as store:
        assert store.syncs() == {str(album): {"names_from": "nobody", "one_face": True}}
    with pytest.raises(InputError, match="identity"):
        sync(club, album, SyncOptions(identity="Ann"))


def test_a_folder_that_is_not_there_is_one_line(club, album):
    with pytest.raises(DataError, match="is not there"):
        sync(club, album / "nothing")
    with pytest.raises(DataError, match="is no folder"):
        sync(club, album / "s1" / "1.pgm")
    sync(club, album)
    shutil.rmtree(album)
    album.mkdir()
    with pytest.raises(DataError, match="found none"):
        sync(club, album, SyncOptions(prune=True))
    assert len(faces(club)) == 6


def test_some_paths_alone(club, album, att):
    sync(club, album)
    (album / "s4" / ".hidden").mkdir(parents=True)
    shutil.copy(att / "s4" / "1.pgm", album / "s4")
    shutil.copy(att / "s4" / "2.pgm", album / "s4" / ".hidden")
    shutil.copy(att / "s5" / "1.pgm", album / "s1" / "5.pgm")
    shutil.rmtree(album / "s3")
    paths = ["s4", "s4/.hidden/2.pgm", "s3", "s2/1.pgm", "nothing.jpg"]
    assert counts(sync(club, album, paths=paths)) == (1, 0, 0, 1, 2)
    assert {name for name, _ in faces(club).values()} == {"s1", "s2", "s3", "s4"}


@pytest.mark.parametrize("steps", doses(12, 150))
def test_after_anything_the_gallery_is_as_if_made_of_the_folder(club, album, att, tmp_path, steps):
    """Whatever happens to files, the faces that are left, and where they are, are those of the folder."""
    draw, options = random.Random(steps), SyncOptions(names_from="nobody", prune=True)
    sync(club, album, options)
    spare = iter([att / f"s{i}" / f"{n}.pgm" for i in range(10, 40) for n in range(1, 10)])
    for step in range(steps):
        for _ in range(draw.randint(1, 3)):
            files = sorted(path for path in album.rglob("*.pgm"))
            one, other = draw.choice(files), draw.choice(files)
            match draw.randrange(6):
                case 0:
                    shutil.copy(next(spare), album / f"new {step}.pgm")
                case 1:
                    one.rename(one.with_name(f"moved {step} {draw.random()}.pgm"))
                case 2 if len(files) > 3:
                    one.unlink()
                case 3:
                    shutil.copy(one, album / f"copy {step} {draw.random()}.pgm")
                case 4 if one != other:
                    os.replace(one, other)
                case _:
                    shutil.copy(next(spare), one)
        sync(club, album, options)
        with club.store() as store:
            found: dict[str, set[str]] = {}
            for row in store.photos():
                found.setdefault(row.sha256, set()).add(row.path)
            held = {one.columns["image_sha256"]: one.image for one in store.unnamed_faces()}
            assert verify(store).problems == [] and len(held) == store.unnamed
        there: dict[str, set[str]] = {}
        for path in album.rglob("*.pgm"):
            there.setdefault(hash_of(path), set()).add(str(path))
        assert found == there and held.keys() == there.keys()
        assert all(str(album / image) in there[sha256] for sha256, image in held.items())


def test_the_same_face_overlaps_and_agrees():
    xb = synthetic.unit(np.eye(4, 8, dtype=np.float32) + 0.01)
    boxes = [(0, 0, 10, 10), (50, 0, 60, 10), (0, 50, 10, 60), (50, 50, 60, 60)]
    before = [synthetic.row("a", None, x, box=box) for x, box in zip(xb, boxes, strict=True)]
    after = [synthetic.row("b", None, xb[i], box=tuple(2 * v for v in boxes[i])) for i in (3, 1, 0, 2)]
    assert same_faces(before, after, (100, 100), (200, 200)) == {0: 3, 1: 1, 2: 0, 3: 2}
    elsewhere = [synthetic.row("b", None, xb[i], box=boxes[3 - i]) for i in range(4)]
    assert same_faces(before, elsewhere, (100, 100), (100, 100)) == {}
    others = [synthetic.row("b", None, xb[(i + 1) % 4], box=boxes[i]) for i in range(4)]
    assert same_faces(before, others, (100, 100), (100, 100)) == {}


def test_the_command_says_counts(album, tmp_path):
    env = {"FACEGALLERY_INDEXES": str(tmp_path / "indexes")}
    create_gallery(tmp_path / "indexes" / "club")
    done = run_in_this_process("sync", "club", album, "--names-from", "nobody", **env)
    assert done.code == 0 and done.out.startswith("club: 6 new, 0 changed, 0 moved, 0 unchanged, 0 gone photos")
    wrong = run_in_this_process("sync", "club", album / "nothing", **env)
    assert wrong.code == 3 and "is not there" in wrong.error


@pytest.mark.parametrize("kills", doses(4, 40))
def test_a_sync_that_is_killed_is_finished_by_the_next(album, att, tmp_path, kills):
    """kill -9 at random moments: what is there is sound, no face is there twice, and in the end all is as it should."""
    env = os.environ | {"FACEGALLERY_INDEXES": str(tmp_path / "indexes")}
    create_gallery(tmp_path / "indexes" / "club")
    spare = iter([att / f"s{i}" / f"{n}.pgm" for i in range(4, 40) for n in range(1, 10)])
    draw, began = random.Random(kills), time.monotonic()
    command = [sys.executable, str(ROOT / "cli.py"), "sync", "club", str(album), "--names-from", "nobody", "--prune"]
    subprocess.run(command, env=env, check=True, capture_output=True)
    whole_run = time.monotonic() - began
    for kill in range(kills):
        files = sorted(album.rglob("*.pgm"))
        shutil.copy(next(spare), files[0])
        files[1].rename(album / f"moved {kill}.pgm")
        files[2].unlink()
        shutil.copy(next(spare), album / f"new {kill}.pgm")
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole_run * draw.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open_store(tmp_path / "indexes" / "club") as store:
            assert verify(store).problems == []
            hashes = [one.columns["image_sha256"] for one in store.unnamed_faces()]
            assert len(set(hashes)) == len(hashes)
    subprocess.run(command, env=env, check=True, capture_output=True)
    with open_store(tmp_path / "indexes" / "club") as store:
        held = {one.columns["image_sha256"] for one in store.unnamed_faces()}
        assert held == {hash_of(path) for path in album.rglob("*.pgm")} and verify(store).problems == []
