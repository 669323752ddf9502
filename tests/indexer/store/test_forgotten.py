import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.errors import GalleryError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.forgotten import Forgotten, Unreadable, list_path, locked
from facegallery.indexer.store.lists import begin, elsewhere, lists, recover
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.transfer import backup, restore
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.conftest import ROOT
from tests.doses import doses
from tests.indexer.forgetting import forgotten

ROWS = synthetic.rows(6, 2)
GONE = "person 3"
MINE = [row for row in ROWS if row.identity == GONE]


@pytest.fixture
def vectors(tmp_path) -> Path:
    return synthetic.write(tmp_path / "vectors", ROWS)


@pytest.fixture
def index(vectors, tmp_path) -> Path:
    """A backup was made, then somebody was forgotten."""
    folder = tmp_path / "indexes" / "club"
    build(vectors, folder)
    with open_store(folder, write=True) as gallery:
        backup(gallery, tmp_path / "backup")
    forgets(folder)
    return folder


def forgets(folder: Path, name: str = GONE):
    with open_store(folder, write=True) as gallery:
        return forgotten(gallery, name)


def people(folder: Path) -> set[str]:
    with open_store(folder) as gallery:
        assert verify(gallery).problems == []
        return {name for name, _ in gallery.list_people()}


def is_refused(folder: Path) -> bool:
    """The person's faces, by a writer that opens the index now."""
    with open_store(folder, write=True) as gallery:
        return gallery.add(MINE).forgotten == len(MINE) and GONE not in {name for name, _ in gallery.list_people()}


def test_the_list_is_read_once_however_many_faces_come(index, monkeypatch):
    """It was made anew for every 4,096 rows."""
    monkeypatch.setattr("facegallery.indexer.store.rows.BLOCK", 2)
    with open_store(index, write=True) as gallery:
        made, forgotten_of = [], Store.forgotten
        monkeypatch.setattr(Store, "forgotten", lambda self: made.append(1) or forgotten_of(self))
        assert gallery.add(ROWS).forgotten == len(MINE) and len(made) == 1


def test_readmitting_in_several_blocks_takes_all_of_them_off_the_list(index, monkeypatch):
    monkeypatch.setattr("facegallery.indexer.store.rows.BLOCK", 1)
    with open_store(index, write=True) as gallery:
        assert gallery.add(ROWS, readmit=True).added == len(MINE) and not gallery.forgotten()


# gallery.db is lost ---------------------------------------------------------


def truncated(folder: Path) -> None:
    os.truncate(folder / "gallery.db", 100_000)


def emptied(folder: Path) -> None:
    os.truncate(folder / "gallery.db", 0)


def zeroed(folder: Path) -> None:
    (folder / "gallery.db").write_bytes(bytes(200_000))


def garbage(folder: Path) -> None:
    (folder / "gallery.db").write_bytes(b"?" * 200_000)


def missing(folder: Path) -> None:
    (folder / "gallery.db").unlink()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def another(folder: Path) -> None:
    """An empty database."""
    missing(folder)
    db = apsw.Connection(str(folder / "gallery.db"))
    db.execute("CREATE TABLE x(y)")
    db.close()


def without_salt(folder: Path) -> None:
    db = apsw.Connection(str(folder / "gallery.db"))
    db.execute("UPDATE meta SET value = x'00' WHERE key = 'salt'")
    db.close()


def without_list(folder: Path) -> None:
    db = apsw.Connection(str(folder / "gallery.db"))
    db.execute("DELETE FROM forgotten")
    db.close()


def half_of_the_pages(folder: Path) -> None:
    data = bytearray((folder / "gallery.db").read_bytes())
    for at in range(65536, len(data), 131072):
        data[at : at + 65536] = bytes(65536)
    (folder / "gallery.db").write_bytes(data)


SPOILS = [truncated, emptied, zeroed, garbage, missing, gone, another, without_salt, without_list, half_of_the_pages]


def damage(folder: Path, how: Callable[[Path], None]) -> None:
    how(folder)
    for name in ("gallery.db-wal", "gallery.db-shm"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("how", SPOILS)
def test_an_index_built_again_leaves_out_who_was_forgotten(index, vectors, how):
    damage(index, how)
    report = build(vectors, index, BuildOptions(replace=True))
    assert report.left_out == {"of a forgotten face": 2} and GONE not in people(index) and is_refused(index)
    assert build(vectors, index, BuildOptions(replace=True)).n == 10, "and once more"
    assert build(vectors, index, BuildOptions(replace=True, readmit=True)).n == 12 and GONE in people(index)
    assert build(vectors, index, BuildOptions(replace=True)).n == 12


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("name", ["club", "other"])
def test_a_restored_index_leaves_out_who_was_forgotten_since(index, tmp_path, how, name):
    damage(index, how)
    folder = index.parent / name
    assert restore(tmp_path / "backup", folder, replace=True).forgotten == 2
    assert GONE not in people(folder) and is_refused(folder)
    damage(folder, missing)
    assert restore(tmp_path / "backup", folder, replace=True).forgotten == 2, "and once more"
    assert restore(tmp_path / "backup", folder, replace=True, readmit=True).forgotten == 0 and GONE in people(folder)
    assert restore(tmp_path / "backup", folder, replace=True).forgotten == (2 if name == "other" else 0), (
        "club forgot for itself"
    )


def test_a_restore_under_another_name_beside_a_sound_index_leaves_them_out(index, tmp_path):
    assert restore(tmp_path / "backup", index.parent / "other").forgotten == 2
    assert GONE not in people(index.parent / "other") and is_refused(index.parent / "other") and is_refused(index)


def test_the_list_of_a_lost_index_is_kept_for_a_backup_of_another(index, vectors, tmp_path):
    """Two salts on one list."""
    build(vectors, tmp_path / "elsewhere" / "club")
    with open_store(tmp_path / "elsewhere" / "club", write=True) as gallery:
        backup(gallery, tmp_path / "another")
    damage(index, missing)
    assert restore(tmp_path / "another", index, replace=True).forgotten == 2
    assert GONE not in people(index) and is_refused(index)
    forgets(index, "person 1")
    damage(index, garbage)
    assert build(vectors, index, BuildOptions(replace=True)).left_out == {"of a forgotten face": 4} and people(
        index
    ) == {f"person {i}" for i in (0, 2, 4, 5)}


# the list is lost, too ------------------------------------------------------

LISTS: list[Callable[[Path], object]] = [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(bytes(300)),
    lambda path: path.write_bytes(b"[" * 100_000),
    lambda path: path.write_text("{}"),
    lambda path: path.write_text('{"lists": 3, "checksum": 4}'),
    lambda path: path.write_bytes(path.read_bytes()[:-40]),
    lambda path: path.write_bytes(path.read_bytes().replace(b'"hashes": {"', b'"hashes": {"00')),
]


@pytest.mark.parametrize("lose", LISTS)
def test_where_nobody_can_say_who_was_forgotten_it_is_asked_for(index, vectors, tmp_path, lose):
    lose(list_path(index))
    damage(index, garbage)
    for _ in range(2):
        for again in (
            lambda: build(vectors, index, BuildOptions(replace=True)),
            lambda: restore(tmp_path / "backup", index, replace=True),
            lambda: restore(tmp_path / "backup", index.parent / "other"),
        ):
            with pytest.raises(Unreadable, match="club.*--readmit") as told:
                again()
            assert told.value.exit_code == 5 and "\n" not in str(told.value)
    assert not (index.parent / "other").exists()
    assert build(vectors, index, BuildOptions(replace=True, readmit=True)).n == 12
    forgets(index)
    damage(index, garbage)
    assert build(vectors, index, BuildOptions(replace=True)).n == 10, "the list is kept again"


@pytest.mark.parametrize("lose", LISTS)
def test_a_list_that_is_damaged_is_written_again_from_a_sound_gallery(index, vectors, lose):
    before = list_path(index).read_bytes()
    lose(list_path(index))
    open_store(index, write=True).close()
    assert list_path(index).read_bytes() == before
    lose(list_path(index))
    assert build(vectors, index, BuildOptions(replace=True)).n == 10 and list_path(index).read_bytes() == before


def test_an_index_of_an_older_version_gets_its_file_when_it_is_written(index, vectors):
    shutil.rmtree(index.parent / "_forgotten")
    db = apsw.Connection(str(index / "gallery.db"))
    db.execute("DELETE FROM meta WHERE key = 'forgotten_list'")
    db.close()
    assert is_refused(index)
    damage(index, garbage)
    assert build(vectors, index, BuildOptions(replace=True)).n == 10


def test_a_first_build_that_was_stopped_asks_nobody(tmp_path, vectors):
    """By an older version, before its first commit."""
    folder = tmp_path / "indexes" / "club"
    folder.mkdir(parents=True)
    (folder / "gallery.db").touch()
    assert build(vectors, folder).n == 12
    shutil.rmtree(tmp_path / "indexes")
    create_store(folder).close()
    assert build(vectors, folder).n == 12


def test_the_file_is_private_and_says_no_name_and_no_id(index):
    path = list_path(index)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert not [text for text in (GONE, *(row.face_id for row in MINE)) if text.encode() in path.read_bytes()]
    assert recover(index).refused([*(row.face_id for row in ROWS), f"name:{GONE}", "name:person 1"]) == {
        *(row.face_id for row in MINE),
        f"name:{GONE}",
    }


def test_readmitted_people_leave_the_list(index):
    with open_store(index, write=True) as gallery:
        assert gallery.add(MINE[:1], readmit=True).added == 1
    assert recover(index).refused([row.face_id for row in MINE]) == {MINE[1].face_id} and not recover(index).holds(
        f"name:{GONE}"
    )


def test_a_new_index_says_whom_another_has_forgotten(index, vectors):
    report = build(vectors, index.parent / "new")
    assert report.n == 12 and [
        line for line in report.notes if "1 people who were forgotten from club" in line and GONE in line
    ]
    assert "forget new --identity P" in report.notes[-1] and build(vectors, index.parent / "new").notes == []


# encrypted ------------------------------------------------------------------


def test_the_salt_of_an_encrypted_index_is_sealed_by_its_key(tmp_path, vectors, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_KEY", "a key")
    folder = tmp_path / "indexes" / "club"
    build(vectors, folder, BuildOptions(encrypt=True))
    with open_store(folder, write=True) as gallery:
        salt = gallery.fact("salt")
        backup(gallery, tmp_path / "backup")
    forgets(folder)
    assert salt.hex() not in list_path(folder).read_text() and '"sealed"' in list_path(folder).read_text()
    for how in (missing, gone):
        damage(folder, how)
        assert build(vectors, folder, BuildOptions(replace=True, encrypt=True)).n == 10
        damage(folder, how)
        assert restore(tmp_path / "backup", folder, replace=True).forgotten == 2
    damage(folder, missing)
    monkeypatch.setenv("FACEGALLERY_KEY", "another key")
    with pytest.raises(Unreadable, match="sealed .*FACEGALLERY_KEY"):
        build(vectors, folder, BuildOptions(replace=True, encrypt=True))
    monkeypatch.delenv("FACEGALLERY_KEY")
    with pytest.raises(Unreadable):
        build(vectors, folder, BuildOptions(replace=True))


# lists ----------------------------------------------------------------------

SALTS, HASHES = [bytes([i]) * 32 for i in range(3)], [bytes([i]) * 16 for i in range(5)]
made = st.dictionaries(
    st.sampled_from(SALTS), st.dictionaries(st.sampled_from(HASHES), st.sampled_from([b"", *HASHES[:2]]))
).map(Forgotten)


@settings(max_examples=50, deadline=None)
@given(made, made, st.sampled_from([None, b"a key"]))
def test_lists_are_sets_and_survive_their_text(a, b, key):
    def pairs(listed: Forgotten) -> set[tuple[bytes, bytes]]:
        return {(salt, hash) for salt, marks in listed.by_salt.items() for hash in marks}

    assert pairs(a | b) == pairs(a) | pairs(b) and pairs(a - b) == pairs(a) - pairs(b)
    assert (a | b).salts == a.salts | b.salts and bool(a) == bool(pairs(a)) and (a | a) == a
    assert Forgotten.from_json(a.to_json(key), key) == a


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), max_size=4), st.sets(st.sampled_from("abcdef")))
def test_a_list_holds_what_was_put_on_it(people, back):
    listed = Forgotten()
    for texts in people:
        listed = listed.with_person(SALTS[0], texts)
    listed = listed.without(back)
    assert listed.refused("abcdefg") == set().union(*people) - back


def test_whoever_was_forgotten_together_is_found_by_any_of_the_names():
    listed = (
        Forgotten()
        .with_person(SALTS[0], ["id 1", "id 2", "name:Ann", "name:Anna"])
        .with_person(SALTS[0], ["id 3", "name:Bob"])
    )
    listed = listed.with_person(SALTS[0], ["id 4", "name:Ann"])
    for key in ("name:Ann", "name:Anna"):
        assert listed.person([key]).refused(["id 1", "id 2", "id 3", "id 4"]) == {"id 1", "id 2", "id 4"}
    assert not listed.person(["name:Zoe"])


# at once --------------------------------------------------------------------


def test_locks_exclude_threads_and_are_taken_again_by_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("facegallery.indexer.store.forgotten.WAIT_MS", 200)
    refused = []

    def other(folder: Path) -> None:
        try:
            with locked(folder):
                refused.append(False)
        except GalleryError as error:
            refused.append("another process" in str(error))

    with locked(tmp_path / "a", tmp_path / "b"), locked(tmp_path / "a"):
        for name in ("a", "b", "c"):
            thread = threading.Thread(target=other, args=(tmp_path / name,))
            thread.start(), thread.join()
    other(tmp_path / "a")
    assert refused == [True, True, False, False]


def test_a_forget_of_an_index_that_was_replaced_meanwhile_is_refused(index, vectors):
    with open_store(index, write=True) as gallery:
        damage(index, missing)
        build(vectors, index, BuildOptions(replace=True))
        with pytest.raises(Replaced, match="replaced"):
            forget(gallery, "person 1")
    assert "person 1" in people(index)


RACE = """
import sys, time
from pathlib import Path
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.opening import open_store
from facegallery.indexer.upkeep.transfer import restore
from tests import synthetic
verb, index, folder, at = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
mine = [row for row in synthetic.rows(6, 2) if row.identity == "person 3"]
time.sleep(max(0, at - time.time()))
for _ in range(20):
    try:
        if verb == "forget":
            with open_store(index, write=True) as gallery:
                forget(gallery, "person 3"), finish_pending(gallery)
        elif verb == "build":
            build(folder / "vectors", index, BuildOptions(replace=True))
        elif verb == "build over damage":
            (index / "gallery.db").write_bytes(b"?" * 99999)
            build(folder / "vectors", index, BuildOptions(replace=True))
        elif verb == "restore":
            restore(folder / "backup", index, replace=True)
        elif verb == "restore elsewhere":
            restore(folder / "backup", index.parent / "other", replace=True)
        else:
            with open_store(index, write=True) as gallery:
                gallery.add(mine)
        break
    except GalleryError as error:
        if verb != "forget":
            break
        time.sleep(0.05)
else:
    sys.exit(f"{verb} never came through: {error}")
"""


@pytest.mark.parametrize("delays", doses((0.01,), (-0.05, 0, 0.02, 0.05)))
@pytest.mark.parametrize("verb", ["build", "build over damage", "restore", "restore elsewhere", "add"])
def test_whoever_was_forgotten_is_gone_whatever_is_done_beside(tmp_path, vectors, verb, delays):
    """Acknowledged, they are in no index afterwards; another index says that it holds them, or does not."""
    import time

    index = tmp_path / "indexes" / "club"
    build(vectors, index)
    with open_store(index, write=True) as gallery:
        backup(gallery, tmp_path / "backup")
    for delay in delays:
        build(vectors, index, BuildOptions(replace=True, readmit=True))
        shutil.rmtree(index.parent / "other", ignore_errors=True)
        at = time.time() + 2.5
        runs = [
            subprocess.Popen([sys.executable, "-c", RACE, what, index, tmp_path, str(at + after)], cwd=ROOT)
            for what, after in (("forget", 0), (verb, delay))
        ]
        assert [run.wait(120) for run in runs] == [0, 0]
        if verb == "build over damage":
            build(vectors, index, BuildOptions(replace=True))
        held = [
            folder.name
            for folder in index.parent.glob("[!_]*")
            if (folder / "gallery.db").exists() and GONE in people(folder)
        ]
        found = [] if not held else [*receipt(index).others]
        assert set(held) <= set(found), "the caller learns of a failure"
        assert "club" not in held and is_refused(index)


def receipt(index: Path):
    return forgets(index)


def test_lists_of_a_root_are_told_by_name(index, vectors):
    build(vectors, index.parent / "b.c")
    list_path(index.parent / "b.c").write_text("x"), damage(index.parent / "b.c", garbage)
    found = dict(lists(index.parent))
    assert set(found) == {"b.c", "club"} and isinstance(found["b.c"], Unreadable) and found["club"]
    shutil.rmtree(index)
    assert dict(lists(index.parent))["club"] == found["club"]
    assert begin(index) == found["club"] and json.loads(list_path(index).read_bytes())["lists"]
    assert elsewhere(index, []) == [] and list(itertools.chain(lists(index.parent / "nowhere"))) == []
