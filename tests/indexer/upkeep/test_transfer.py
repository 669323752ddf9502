import functools
import json
import math
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw
import faiss
import numpy as np
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.dataset.writer import WriterOptions
from facegallery.embedder.errors import DataError, FaceGalleryError, GalleryError, InputError
from facegallery.indexer.build import build
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.migrations import MIGRATIONS
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import transfer
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.transfer import backup, export, restore
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.conftest import ROOT
from tests.faults import killed_fork
from tests.indexer.conftest import copied

PEOPLE, PHOTOS = 12, 2
QUERIES = synthetic.vectors(20, 1, seed=3)


def faces(people: int = PEOPLE, seed: int = 0) -> list[Row]:
    """Each with all columns, the last two of them in one photo."""
    rng, rows = np.random.default_rng(seed), synthetic.rows(people, PHOTOS, f"set{seed}", seed=seed)
    for i, row in enumerate(rows):
        row.crop, row.extra, row.split, row.identity = (
            synthetic.png(rng.bytes(300)),
            {"place": f"Łódź {i}"},
            "gallery",
            f"{row.identity} of {seed}",
        )
        row.landmarks, row.confidence, row.sharpness = (
            rng.normal(size=10).astype(np.float32).tolist(),
            0.5 + i / 256,
            float(i),
        )
    last, other = rows[-2:]
    rows[-1] = replace(other, image=last.image, image_sha256=last.image_sha256, face=1)
    return rows


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished index that no test changes."""
    folder = tmp_path_factory.mktemp("original")
    build(synthetic.write(folder / "vectors", faces(), extra=["place"]), folder / "club")
    return folder / "club"


@pytest.fixture
def index(original, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(original.parent / "_forgotten", tmp_path / "_forgotten")
    return copied(original, tmp_path / "club")


def changed(folder: Path, *verbs: Callable[[Store], object]) -> None:
    with open_store(folder, write=True) as gallery:
        for verb in verbs:
            verb(gallery)


def saved(folder: Path, path: Path) -> Path:
    with open_store(folder) as gallery:
        backup(gallery, path)
    return path


def held(folder: Path) -> list[tuple]:
    """Every row, but for ids, by face_id."""
    with open_store(folder) as gallery:
        ids = [id for (id,) in gallery.execute("SELECT id FROM faces")]
        return sorted(map(plain, gallery.table_rows(ids)))


def plain(row: Row, crop: bool = True) -> tuple:
    return (
        row.face_id,
        row.image,
        row.image_sha256,
        row.identity,
        row.split,
        row.face,
        list(row.box or []),
        list(row.landmarks or []),
        row.confidence,
        row.sharpness,
        row.crop if crop else None,
        np.asarray(row.vector, np.float32).tobytes(),
        row.extra,
    )


def picture(folder: Path) -> list:
    """Rows, log and answers."""
    with open_store(folder) as gallery, Searcher(folder) as searcher:
        log = [(line.verb, line.detail) for line in gallery.lines()]
        trash = [
            (fingerprint, plain(row)) for line in gallery.lines() for fingerprint, row in gallery.removed_by(line.id)
        ]
        return [
            held(folder),
            log,
            trash,
            gallery.columns,
            searcher.search(QUERIES, 4),
            searcher.search(QUERIES, 4, faces=True),
        ]


def sound(folder: Path) -> bool:
    with open_store(folder) as gallery:
        return verify(gallery).problems == []


# backups --------------------------------------------------------------------


def test_a_backup_is_one_private_file_with_everything(index, tmp_path):
    changed(index, lambda g: g.remove("person 3 of 0"), lambda g: g.rename("person 4 of 0", "Zoë"))
    old = os.umask(0)
    try:
        with open_store(index) as gallery:
            done = backup(gallery, tmp_path / "new" / "folder" / "b")
    finally:
        os.umask(old)
    assert (done.folder, done.faces, done.people) == (str(tmp_path / "new" / "folder" / "b"), 22, 11)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["b"]
    assert stat.S_IMODE((tmp_path / "new" / "folder" / "b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o700
    assert restore(tmp_path / "new" / "folder" / "b", tmp_path / "other").faces == 22
    assert picture(tmp_path / "other") == picture(index) and sound(tmp_path / "other")


def test_a_backup_overwrites_nothing(index, tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError, match="/b .*nothing is overwritten"):
        saved(index, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine"


def test_a_file_that_appears_during_a_backup_stays(index, tmp_path, monkeypatch):
    def meanwhile(folder: Path) -> Path:
        (tmp_path / "b").write_text("mine")
        return folder

    monkeypatch.setattr(transfer, "make_folder", meanwhile)  # after the first look
    with pytest.raises(InputError, match="nothing is overwritten"):
        saved(index, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine" and [p.name for p in tmp_path.glob("*_tmp*")] == []


def test_neither_is_a_link_that_leads_nowhere_followed(index, tmp_path):
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="nothing is overwritten"):
        saved(index, tmp_path / "b")
    assert not (tmp_path / "elsewhere").exists()


def test_a_backup_on_a_full_disk_leaves_nothing(index, tmp_path):
    (folder := tmp_path / "full").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(index) as gallery:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(FaceGalleryError) as caught:
                backup(gallery, folder / "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 6 and list(folder.iterdir()) == []


def test_backups_while_another_adds_are_each_of_one_moment(index, tmp_path):
    more, done, stop = faces(100, seed=1), [], threading.Event()

    def add() -> None:
        with open_store(index, write=True) as gallery:
            for i in range(0, 200, 4):
                if not stop.is_set():
                    gallery.add(more[i : i + 4])

    thread = threading.Thread(target=add)
    thread.start()
    with open_store(index) as gallery:
        for i in range(8):
            done.append(backup(gallery, tmp_path / f"b{i}"))
    stop.set()
    thread.join()
    sizes = []
    for i, saved_one in enumerate(done):
        restored = restore(Path(saved_one.folder), tmp_path / f"restored{i}")
        assert (saved_one.faces, saved_one.people) == (restored.faces, restored.people), (
            "what was said is what was saved"
        )
        now, n = held(tmp_path / f"restored{i}"), 0
        n = len(now) - 2 * PEOPLE
        assert n % 4 == 0 and now == sorted(map(plain, faces() + more[:n])) and sound(tmp_path / f"restored{i}")
        sizes.append(n)
    assert sizes == sorted(sizes) and len(set(sizes)) > 1


def test_what_a_killed_backup_left_goes_with_the_next(index, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_tmp-999999999.12345-b").write_bytes(b"half")
    saved(index, tmp_path / "out" / "b")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


# restoring ------------------------------------------------------------------


def test_an_index_is_what_it_was(index, tmp_path):
    changed(index, lambda g: g.remove("person 3 of 0"), lambda g: g.rename("person 4 of 0", "Zoë"))
    before, path = picture(index), saved(index, tmp_path / "b")
    changed(
        index,
        lambda g: g.add(faces(5, seed=1)),
        lambda g: g.merge("Zoë", "person 5 of 0"),
        derive.compact,
        lambda g: g.remove("person 6 of 0"),
    )
    with Searcher(index) as searcher:
        searcher.search(QUERIES, 4)
        done = restore(path, index, replace=True)
        assert (done.faces, done.people, done.forgotten) == (22, 11, 0)
        assert [searcher.search(QUERIES, 4), searcher.search(QUERIES, 4, faces=True)] == before[-2:], (
            "it sees it at once"
        )
    assert picture(index) == before and sound(index)
    assert {path.name for path in index.iterdir()} - {"gallery.db-wal", "gallery.db-shm"} == {
        "gallery.db",
        "index.faiss",
        f"built-{faiss_of(index)}",
    }


def faiss_of(folder: Path) -> int:
    """The generation, where plain FAISS opens its index and finds everybody."""
    with open_store(folder) as gallery:
        assert faiss.read_index(str(folder / "index.faiss")).ntotal == gallery.faces
        return gallery.generation


def test_undo_goes_on_after_a_restore(index, tmp_path):
    first = held(index)
    changed(index, lambda g: g.remove("person 3 of 0"), lambda g: g.rename("person 4 of 0", "Zoë"))
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: g.undo(), lambda g: g.undo())
    for folder in (index, tmp_path / "other"):
        restore(path, folder, replace=folder is index)
        with open_store(folder, write=True) as gallery:
            assert [gallery.undo()[0].verb for _ in range(2)] == ["rename", "remove"]
            with pytest.raises(GalleryError, match="nothing to undo"):
                gallery.undo()
        assert held(folder) == first and sound(folder)


def test_ids_are_never_used_twice_across_a_restore(index, tmp_path):
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: g.add(faces(5, seed=1)))
    restore(path, index, replace=True)
    changed(index, lambda g: g.add(faces(1, seed=2)))
    with open_store(index) as gallery:
        assert gallery.owners()[0].tolist() == [*range(1, 25), 35, 36]


def test_the_forgotten_stay_forgotten(index, tmp_path):
    changed(index, lambda g: g.remove(face_id=faces()[6].face_id), lambda g: g.rename("person 4 of 0", "Zoë"))
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: forget(g, "person 3 of 0"), lambda g: forget(g, "person 5 of 0"), finish_pending)
    done = restore(path, index, replace=True)
    assert (done.faces, done.people, done.forgotten) == (20, 10, 4), "one of the four had been removed before"
    gone = [*faces()[6:8], *faces()[10:12]]
    with open_store(index, write=True) as gallery:
        assert (
            gallery.lines() == []
            and gallery.add(gone).forgotten == 4
            and gallery.enrolled(["person 3 of 0", "person 5 of 0"]) == set()
        )
        forget(gallery, "person 3 of 0")  # it is known still
    assert sound(index)
    texts = [text.encode() for row in gone for text in (row.face_id, row.image_sha256, row.identity)] + [
        row.vector.tobytes()[:32] for row in gone
    ]
    assert not [text for text in texts for file in index.rglob("*") if file.is_file() and text in file.read_bytes()]


def test_a_forgotten_name_stays_forgotten_even_with_faces_that_were_gone_before(index, tmp_path):
    first, second = faces()[6:8]
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: g.split([first.face_id], "person 5 of 0"), lambda g: g.drop_log(math.inf))
    changed(index, lambda g: forget(g, "person 3 of 0"), finish_pending)
    assert restore(path, index, replace=True).forgotten == 2, "one of them is another's since"
    with open_store(index, write=True) as gallery:
        assert gallery.known([first.face_id, second.face_id]) == {} and gallery.lines() == []
        assert (gallery.add([first]).added, gallery.add([second]).forgotten) == (1, 1), (
            "what was forgotten is a face, and a name of that time"
        )
    assert restore(path, index, replace=True).forgotten == 2
    changed(index, lambda g: g.add([second], readmit=True))
    assert restore(path, index, replace=True).forgotten == 0
    with open_store(index) as gallery:
        assert gallery.known([first.face_id, second.face_id]) == dict.fromkeys(
            [first.face_id, second.face_id], "person 3 of 0"
        )


def test_a_name_that_is_used_again_comes_back_from_a_later_backup(index, tmp_path):
    changed(
        index,
        lambda g: forget(g, "person 3 of 0"),
        lambda g: g.add([replace(faces(1, seed=5)[0], identity="person 3 of 0")]),
    )
    path = saved(index, tmp_path / "b")
    assert restore(path, index, replace=True).forgotten == 0
    with open_store(index) as gallery:
        assert gallery.enrolled(["person 3 of 0"]) and gallery.lines()


def test_a_log_from_a_clock_that_was_ahead_goes_too(index, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: 4e9)
        changed(index, lambda g: g.remove("person 3 of 0"))
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: forget(g, "person 3 of 0"))
    assert restore(path, index, replace=True).forgotten == 2
    with open_store(index) as gallery:
        assert gallery.lines() == [] and gallery.execute("SELECT * FROM trash") == []


def test_a_forgotten_in_the_backup_stays_one_in_a_new_index(index, tmp_path):
    changed(index, lambda g: forget(g, "person 3 of 0"))
    restore(saved(index, tmp_path / "b"), tmp_path / "other")
    with open_store(tmp_path / "other", write=True) as gallery:
        assert gallery.add(faces()[6:8]).forgotten == 2 and gallery.add(faces()[6:8], readmit=True).added == 2


def test_a_forget_that_waits_for_a_reader_still_waits_after_a_restore(index, tmp_path):
    path = saved(index, tmp_path / "b")
    with open_store(index) as reader, reader.reading():
        changed(index, lambda g: forget(g, "person 3 of 0"))
        restore(path, index, replace=True)
        with open_store(index) as gallery:
            assert gallery.fact("forgetting") is not None
    with open_store(index) as gallery:
        assert gallery.fact("forgetting") is None


def test_only_a_new_name_or_its_own_index_is_taken(index, tmp_path):
    path, before = saved(index, tmp_path / "b"), picture(index)
    with pytest.raises(GalleryError, match="--name.*--replace"):
        restore(path, index)
    with pytest.raises(InputError, match="expected an index name"):
        restore(path, tmp_path / "-x")
    build(synthetic.write(tmp_path / "v", faces(), extra=["place"]), tmp_path / "another")
    with pytest.raises(GalleryError, match="of another index"):
        restore(path, tmp_path / "another", replace=True)
    assert picture(index) == before and sound(tmp_path / "another")


def garbage(path: Path, index: Path) -> None:
    path.write_bytes(b"\xff\xd8\xff no backup at all" * 5000)


def empty(path: Path, index: Path) -> None:
    path.touch()


def other_database(path: Path, index: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE meta(key, value, checksum); CREATE TABLE dogs(name)")
    db.close()


def unfinished(path: Path, index: Path) -> None:
    create_store(path.parent / "unfinished").close()
    shutil.copyfile(path.parent / "unfinished" / "gallery.db", path)


def half(path: Path, index: Path) -> None:
    saved(index, path)
    os.truncate(path, path.stat().st_size // 2)


def newer(path: Path, index: Path) -> None:
    saved(index, path)
    db = apsw.Connection(str(path))
    db.execute("PRAGMA user_version=99")
    db.close()


def sql(statement: str) -> Callable[[Path, Path], None]:
    def damage(path: Path, index: Path) -> None:
        saved(index, path)
        db = apsw.Connection(str(path))
        db.execute(statement)
        db.close()

    damage.__name__ = statement
    return damage


@pytest.mark.parametrize(
    "damage, words",
    [
        (garbage, "b is no backup"),
        (empty, "b"),
        (other_database, "damaged|holds none"),
        (unfinished, "holds none: check the path"),
        (half, "is damaged"),
        (
            newer,
            f"expected an index of version {len(MIGRATIONS)} or older, .*/b has version 99",
        ),
        (sql("UPDATE people SET name = 'x' WHERE id = 3"), "is damaged"),
        (sql("UPDATE faces SET image = 'x' WHERE id = 3"), "is damaged"),
        (sql("UPDATE crops SET png = x'00' WHERE id = 3"), "is damaged"),
        (sql("UPDATE vectors SET vector = zeroblob(64)"), "is damaged"),
        (sql("DELETE FROM vectors WHERE id = 3"), "is damaged"),
        (sql("UPDATE log SET verb = 'split'"), "is damaged"),
        (sql("UPDATE trash SET identity = 'x'"), "is damaged"),
        (sql("DELETE FROM meta WHERE key = 'salt'"), "is damaged"),
        (sql("UPDATE meta SET value = 'x' WHERE key = 'columns'"), "is damaged"),
        (sql("DROP TABLE trash"), "is damaged"),
    ],
)
@pytest.mark.parametrize("key", [True, False])
def test_what_is_no_sound_backup_is_refused_in_one_line_and_nothing_is_changed(
    index, tmp_path, monkeypatch, damage, words, key
):
    monkeypatch.delenv("FACEGALLERY_KEY", raising=False)
    if key:
        monkeypatch.setenv("FACEGALLERY_KEY", "a key")
    changed(index, lambda g: g.remove("person 3 of 0"))
    damage(tmp_path / "b", index)
    before = picture(index)
    for folder in (index, tmp_path / "new"):
        with pytest.raises(DataError, match=words) as caught:
            restore(tmp_path / "b", folder, replace=True)
        assert (
            str(tmp_path / "b") in str(caught.value)
            or "of b," in str(caught.value)
            or "that b was" in str(caught.value)
        )
        assert "\n" not in str(caught.value) and "_tmp-" not in str(caught.value)
    assert (
        picture(index) == before
        and sound(index)
        and not (tmp_path / "new").exists()
        and not list(tmp_path.rglob("_tmp-*"))
    )


def test_a_backup_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="expected a backup, .*/nowhere"):
        restore(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(FaceGalleryError, match=f"{tmp_path}: Is a directory"):
        restore(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_flipped_bits_of_a_backup_are_noticed_or_harmless(index, tmp_path):
    changed(index, lambda g: g.remove("person 3 of 0"))
    before, data = picture(index), saved(index, tmp_path / "b").read_bytes()
    rng, used, noticed = np.random.default_rng(6), np.flatnonzero(np.frombuffer(data, np.uint8)), 0
    for i in range(40):
        damaged = bytearray(data)
        damaged[rng.choice(used)] ^= 1 << rng.integers(8)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            restore(tmp_path / "damaged", tmp_path / f"new{i}")
        except DataError as error:
            noticed += 1
            assert str(tmp_path / "damaged") in str(error)
        else:
            assert picture(tmp_path / f"new{i}") == before and sound(tmp_path / f"new{i}")
    assert noticed > 10


def truncate(folder: Path) -> None:
    os.truncate(folder / "gallery.db", 200_000)


def overwrite(folder: Path) -> None:
    (folder / "gallery.db").write_bytes(b"?" * 200_000)


def vanish(folder: Path) -> None:
    (folder / "gallery.db").unlink()


def spoil_by(statement: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        db = apsw.Connection(str(folder / "gallery.db"))
        db.execute(statement)
        db.close()

    damage.__name__ = statement
    return damage


SPOILS = [
    truncate,
    overwrite,
    vanish,
    spoil_by("UPDATE meta SET value = 'x'"),
    spoil_by("UPDATE people SET name = name || '?'"),
    spoil_by("DROP TABLE vectors"),
    spoil_by("UPDATE vectors SET vector = x'00'"),
]


@pytest.mark.parametrize("damage", SPOILS)
def test_a_backup_mends_a_damaged_index(index, tmp_path, damage):
    before, path = picture(index), saved(index, tmp_path / "b")
    damage(index)
    assert restore(path, index, replace=True).faces == 24
    assert picture(index) == before and sound(index)


@pytest.mark.parametrize("damage", [s for s in SPOILS if s.__name__.startswith(("UPDATE", "DROP"))])
def test_the_forgotten_stay_forgotten_in_a_damaged_index_that_still_says_so(index, tmp_path, damage):
    path = saved(index, tmp_path / "b")
    changed(index, lambda g: forget(g, "person 3 of 0"))
    damage(index)
    assert restore(path, index, replace=True).forgotten == 2 and sound(index)


def test_a_restore_that_was_stopped_is_begun_again_by_the_same_command(index, tmp_path, monkeypatch):
    path = saved(index, tmp_path / "b")
    for call in ("derive", "tidy"):
        with monkeypatch.context() as patch:
            patch.setattr(transfer, call, lambda gallery: (_ for _ in ()).throw(DataError("stopped")))
            with pytest.raises(DataError, match="stopped"):
                restore(path, tmp_path / call)
    assert restore(path, tmp_path / "derive").faces == 24
    with pytest.raises(GalleryError, match="expected a new name"):
        restore(path, tmp_path / "tidy")
    assert picture(tmp_path / "derive") == picture(tmp_path / "tidy") == picture(index)


# exports --------------------------------------------------------------------


def exported(folder: Path, out: Path, crops: bool = False) -> tuple[transfer.TransferSummary, list[Row]]:
    with open_store(folder) as gallery:
        done = export(gallery, out, crops=crops)
    return done, [row for table in DataSet(out).shards() for row in to_rows(table)]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*part-*")}


@pytest.mark.parametrize("crops", [True, False])
def test_an_export_is_the_gallery(index, tmp_path, crops):
    done, rows = exported(index, tmp_path / "out", crops)
    assert (done.folder, done.faces, done.people, done.without_crop) == (str(tmp_path / "out"), 24, 12, 0)
    assert sorted(map(plain, rows)) == sorted(plain(row, crops) for row in faces()) and {
        row.outcome for row in rows
    } == {"ok"}
    assert DataSet(tmp_path / "out").spec == synthetic.spec() and DataSet(tmp_path / "out").extra == ["place"]
    build(tmp_path / "out", tmp_path / "again")
    now, was = picture(tmp_path / "again"), picture(index)
    assert now[1:] == was[1:] and now[0] == (was[0] if crops else sorted(plain(row, False) for row in faces()))


def test_an_export_is_one_gallery_whatever_splits_it_came_from(index, tmp_path):
    more = [
        replace(row, split=split) for row, split in zip(faces(2, seed=1), (None, "gallery", "probe", None), strict=True)
    ]
    changed(index, lambda g: g.add(more))
    exported(index, tmp_path / "out", True)
    assert build(tmp_path / "out", tmp_path / "again").n == 28
    with Searcher(index) as one, Searcher(tmp_path / "again") as other:
        assert one.search(QUERIES, 30) == other.search(QUERIES, 30)


def test_corrected_names_are_exported(index, tmp_path):
    changed(
        index,
        lambda g: g.rename("person 3 of 0", "Zoë"),
        lambda g: g.split([faces()[0].face_id], "Ann"),
        lambda g: g.merge("person 5 of 0", "person 6 of 0"),
        lambda g: g.remove("person 7 of 0"),
    )
    done, rows = exported(index, tmp_path / "out", True)
    names = {row.face_id: row.identity for row in faces()} | {row.face_id: "Zoë" for row in faces()[6:8]}
    names |= {faces()[0].face_id: "Ann"} | {row.face_id: "person 6 of 0" for row in faces()[10:12]}
    for row in faces()[14:16]:
        del names[row.face_id]
    assert (done.faces, {row.face_id: row.identity for row in rows}) == (22, names)
    build(tmp_path / "out", tmp_path / "again")
    assert held(tmp_path / "again") == held(index)


def test_only_what_has_changed_is_written_again(index, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "WriterOptions", functools.partial(WriterOptions, per_shard=4))
    exported(index, tmp_path / "out", True)
    first = stamps(tmp_path / "out")
    assert len(first) == 2 * 6  # 23 photos, four in a shard
    exported(index, tmp_path / "out", True)
    assert stamps(tmp_path / "out") == first and len(list(tmp_path.glob("out/_plan*"))) == 1
    changed(
        index,
        lambda g: g.rename("person 3 of 0", "Zoë"),
        lambda g: g.remove("person 11 of 0"),
        lambda g: g.add(faces(1, seed=1)),
    )
    _, rows = exported(index, tmp_path / "out", True)
    now = stamps(tmp_path / "out")
    assert sorted(map(plain, rows)) == held(index)
    assert {name for name in first if now[name] != first[name]} == {
        f"{p}part-0000{n}.{e}" for p, e in (("", "parquet"), ("_", "json")) for n in (1, 5)
    }
    assert set(now) - set(first) == {"part-00006.parquet", "_part-00006.json"}
    changed(index, lambda g: g.undo(), lambda g: g.undo(), lambda g: g.undo())
    _, rows = exported(index, tmp_path / "out", True)
    assert sorted(map(plain, rows)) == held(index) == sorted(map(plain, faces()))


def test_faces_without_a_crop_are_counted(tmp_path):
    rows = faces(3)
    for row in rows[::2]:
        row.crop = None
    build(synthetic.write(tmp_path / "v", rows, extra=["place"]), tmp_path / "i")
    assert [exported(tmp_path / "i", tmp_path / f"out{crops}", crops)[0].without_crop for crops in (True, False)] == [
        3,
        0,
    ]


def test_faces_of_photos_that_share_a_path_stay_apart(index, tmp_path):
    x = synthetic.vectors(3, 1, seed=8)
    rows = [synthetic.row("1.jpg", f"p{i}", x[i], image_sha256=f"sha {i}") for i in range(3)]
    changed(index, *(lambda g, row=row: g.add([row]) for row in rows))
    _, found = exported(index, tmp_path / "out")
    assert {(row.face_id, row.identity) for row in found if row.image == "1.jpg"} == {
        (row.face_id, row.identity) for row in rows
    }


def test_a_photo_whose_other_face_was_renamed_is_written_again(index, tmp_path):
    exported(index, tmp_path / "out")
    changed(index, lambda g: g.split([faces()[-1].face_id], "Ann"))
    _, rows = exported(index, tmp_path / "out")
    assert [row.identity for row in rows if row.image == faces()[-1].image] == ["person 11 of 0", "Ann"]


def test_another_contract_column_or_option_asks_for_another_folder(index, tmp_path):
    exported(index, tmp_path / "out")
    with pytest.raises(DataError, match="crops kept .*False .*True"):
        exported(index, tmp_path / "out", True)
    more = faces(1, seed=1)
    more[0].extra = {"year": "1999"}
    changed(index, lambda g: g.add(more))
    with pytest.raises(DataError, match=r"metadata columns was \['place'\] and is now \['place', 'year'\]"):
        exported(index, tmp_path / "out")


def test_a_changed_face_stops_an_export_by_name(index, tmp_path):
    spoil_by("UPDATE people SET name = 'x' WHERE id = 3")(index)
    with pytest.raises(GalleryError, match=f"expected face {faces()[4].face_id} "):
        exported(index, tmp_path / "out")


# killed ---------------------------------------------------------------------


def forked(work: Callable[[], object], at: int = 0) -> int:
    """The status of a fork that is killed before its at-th write of a file."""

    def in_one_thread() -> None:
        faiss.omp_set_num_threads(1)
        work()

    return killed_fork(in_one_thread, at, ("open", "link", "rename", "replace", "unlink"))


def kill_everywhere(index: Path, work: Path) -> None:
    """Exports and backups, killed at each of their writes and begun again. To be called where there are no threads."""
    transfer.WriterOptions = functools.partial(WriterOptions, per_shard=12)
    counts = {}
    for verb in (backup, export):
        n = 0
        while True:
            n += 1
            out = work / f"{verb.__name__}-{n}" / "out"

            def run(out=out, verb=verb) -> None:
                with open_store(index) as gallery:
                    verb(gallery, out)

            status = forked(run, n)
            if status == 0:
                break
            assert os.WIFSIGNALED(status), status
            finished = verb is backup and out.exists()
            assert (forked(run) == 0) != finished, "a backup that is complete is not written again"
            assert not list(out.parent.rglob("_tmp-*"))
        counts[verb.__name__] = n - 1
    print(json.dumps(counts))


def test_killed_at_any_write_the_same_call_again_finishes_it(index, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.indexer.upkeep.test_transfer import kill_everywhere; "
        "kill_everywhere(*map(Path, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, index, tmp_path / "work"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["backup"] > 2 and counts["export"] > 8
    want = sorted(plain(row, False) for row in faces())
    for n in range(1, counts["export"] + 1):
        assert (
            sorted(
                plain(row)
                for table in DataSet(tmp_path / "work" / f"export-{n}" / "out").shards()
                for row in to_rows(table)
            )
            == want
        )
    for n in range(1, counts["backup"] + 1):
        assert (tmp_path / "work" / f"backup-{n}" / "out").stat().st_size == (index / "gallery.db").stat().st_size
