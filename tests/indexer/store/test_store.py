import errno
import os
import shutil
import stat
import unicodedata
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest

from facegallery.embedder.errors import DataError, GalleryError, InputError, SystemFault
from facegallery.embedder.names import person_name
from facegallery.indexer.build import build
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.search.filters import kept_ids, parse
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store import database, migrations
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import one_line
from facegallery.indexer.store.reader import check_name, index_folder
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.faults import sql
from tests.indexer.forgetting import forgotten

PEOPLE, PHOTOS = 12, 2


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A finished index that no test changes."""
    folder = tmp_path_factory.mktemp("original")
    rows = synthetic.rows(PEOPLE, PHOTOS)
    for i, row in enumerate(rows):
        row.crop, row.extra = synthetic.png(f"png {i}".encode()), {"place": "Łódź"} if i % 2 else {}
    build(synthetic.write(folder / "vectors", rows, extra=["place"]), folder / "indexes" / "club")
    return folder / "indexes" / "club"


@pytest.fixture
def index(original, tmp_path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(original, tmp_path / "indexes" / "club", symlinks=True))


def answers(folder: Path):
    with Searcher(folder) as searcher:
        return searcher.search(synthetic.vectors(PEOPLE, PHOTOS), 4)


# the file -------------------------------------------------------------------


def test_files_are_the_owners_alone_and_sqlite_is_set_up_to_last(index):
    with open_store(index, write=True) as gallery:
        pragmas = {
            name: gallery.execute(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "secure_delete", "page_size")
        }
        modes = {
            path.name: stat.S_IMODE(path.lstat().st_mode)
            for path in [index, *index.rglob("*")]
            if not path.is_symlink()
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "page_size": 65536}
    assert modes == {
        "club": 0o700,
        "built-1": 0o700,
        "gallery.db": 0o600,
        "gallery.db-wal": 0o600,
        "gallery.db-shm": 0o600,
        "index.faiss": 0o600,
        "report.json": 0o600,
        "owners.npy": 0o600,
    }
    assert sql(index, "PRAGMA integrity_check") == [("ok",)]


def test_what_is_stored(index):
    rows = synthetic.rows(PEOPLE, PHOTOS)
    stored = sql(
        index,
        "SELECT faces.id, face_id, name, image, face, box, extra, vector, png FROM faces "
        "JOIN people ON people.id = person JOIN vectors USING (id) JOIN crops USING (id) ORDER BY faces.id",
    )
    assert [line[:5] for line in stored] == [(i + 1, r.face_id, r.identity, r.image, 0) for i, r in enumerate(rows)]
    assert np.frombuffer(stored[0][5], np.float32).tolist() == [1, 2, 30, 40.5]
    assert [line[6] for line in stored[:2]] == ["{}", '{"place": "Łódź"}']
    assert all(line[7] == r.vector.tobytes() for line, r in zip(stored, rows, strict=True)) and stored[3][
        8
    ] == synthetic.png(b"png 3")
    with open_store(index) as gallery:
        assert (gallery.faces, gallery.people, gallery.generation, gallery.mean) == (24, 12, 1, None)
        assert (
            gallery.spec == synthetic.spec()
            and gallery.crop(rows[3].face_id) == synthetic.png(b"png 3")
            and gallery.crop("unknown") is None
        )
        assert gallery.enrolled(["person 3", "nobody"]) == {"person 3"}


@pytest.mark.parametrize("block", [1, 7, 24, 100])
def test_vectors_come_whole_whatever_the_block(index, block):
    with open_store(index) as gallery:
        blocks = list(gallery.vectors(block))
    assert np.concatenate([ids for ids, _ in blocks]).tolist() == list(range(1, 25))
    assert (np.concatenate([xb for _, xb in blocks]) == synthetic.vectors(PEOPLE, PHOTOS)).all()


def test_one_name_whatever_its_unicode(tmp_path):
    zoe = "Zoë"
    spellings = [unicodedata.normalize(form, zoe) for form in ("NFC", "NFD")]
    assert spellings[0] != spellings[1]
    rows = [
        synthetic.row(f"{i}.jpg", name, x)
        for i, (name, x) in enumerate(zip(spellings, synthetic.vectors(2, 1), strict=True))
    ]
    with create_store(tmp_path / "i") as gallery:
        with gallery.writing():
            gallery.set_fact("spec", synthetic.spec().to_json())
        assert gallery.add(rows).added == 2 and gallery.add(rows[1:]).again == 1
        assert gallery.people == 1 and gallery.enrolled([spellings[1]]) == {spellings[1]}


def test_ids_are_never_used_twice(index):
    with open_store(index, write=True) as gallery, gallery.writing():
        gallery.clear()
        gallery.set_fact("spec", synthetic.spec().to_json())
        gallery.enrol(synthetic.rows(1, 1))
        assert gallery.owners()[0].tolist() == [25]


def test_a_write_is_kept_whole_or_not_at_all(index):
    before = answers(index)
    with pytest.raises(ZeroDivisionError), open_store(index, write=True) as gallery, gallery.writing():
        gallery.clear()
        raise ZeroDivisionError
    assert answers(index) == before


def test_undo_takes_back_the_change_that_is_meant_or_none(index):
    with open_store(index, write=True) as gallery:
        people = [name for name, _ in gallery.list_people()]
        changes = [gallery.rename(people[0], "B"), gallery.rename("B", "C"), gallery.rename("C", "C")]
        assert [change.command is None for change in changes] == [False, False, True]
        assert [line["command"] for line in gallery.list_log(3)][1:] == [changes[1].command, changes[0].command]
        with pytest.raises(GalleryError, match="`list --log`"):
            gallery.undo(changes[0].command)
        assert gallery.enrolled(["C"])
        for change in reversed(changes[:2]):
            assert gallery.undo(change.command) == [replace(change, faces=0)]
        assert [name for name, _ in gallery.list_people()] == people


def test_two_writers_in_turn(index, monkeypatch):
    monkeypatch.setattr(database, "WAIT_MS", 50)
    with open_store(index, write=True) as one, open_store(index, write=True) as two, one.writing():
        with pytest.raises(GalleryError, match="another process is writing"), two.writing():
            pass


# versions -------------------------------------------------------------------


def test_an_index_of_a_newer_version_is_refused(index):
    sql(index, "PRAGMA user_version=99")
    for way in (open_store, create_store):
        with pytest.raises(GalleryError, match="version 99"):
            way(index)


def test_an_older_index_opens_and_is_migrated_once(index, monkeypatch):
    before = answers(index)
    more = (*migrations.MIGRATIONS, "CREATE TABLE tags(id INTEGER, tag TEXT) STRICT")
    monkeypatch.setattr(database, "MIGRATIONS", more)
    assert answers(index) == before and sql(index, "PRAGMA user_version") == [(len(migrations.MIGRATIONS),)]
    for _ in range(2):
        with open_store(index, write=True) as gallery, gallery.writing():
            pass
    assert answers(index) == before
    assert sql(index, "PRAGMA user_version") == [(len(more),)] and sql(index, "SELECT * FROM tags") == []


# names ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lfw", "a", "LFW-2.1_b", "0", "x" * 100])
def test_names_that_may_be(name, tmp_path):
    assert index_folder(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "_x", "-x", ".x", "ä", "a b", "a\n", "x" * 101, "a\0"]
)
def test_names_that_may_not(name):
    with pytest.raises(InputError, match="expected an index name"):
        check_name(name)


# damage ---------------------------------------------------------------------


def test_an_index_that_is_not_there(index):
    with pytest.raises(GalleryError, match="`build-index VECTORS --name clubb` .*club$"):
        open_store(index.parent / "clubb")


def test_a_build_that_never_finished_is_no_index(tmp_path):
    create_store(tmp_path / "i").close()
    with pytest.raises(GalleryError, match="`build-index"):
        open_store(tmp_path / "i")


def test_a_missing_gallery(index):
    for suffix in ("", "-wal", "-shm"):
        (index / f"gallery.db{suffix}").unlink(missing_ok=True)
    with pytest.raises(GalleryError, match=r"gallery\.db, .*missing.*`build-index --replace`"):
        open_store(index)


def test_a_truncated_gallery_at_any_length(original, tmp_path):
    size = (original / "gallery.db").stat().st_size
    for length in [0, 1, 99, 100, 4096, 65536, 65536 * 3, size // 2, size - 65536]:
        copy = Path(shutil.copytree(original, tmp_path / str(length), symlinks=True))
        os.truncate(copy / "gallery.db", length)
        with pytest.raises(GalleryError) as caught:
            answers(copy)
        assert (
            "gallery.db" in str(caught.value)
            and "build-index --replace" in str(caught.value)
            and "\n" not in str(caught.value)
        )


def test_something_else_called_gallery_db(index):
    for suffix in ("-wal", "-shm"):
        (index / f"gallery.db{suffix}").unlink(missing_ok=True)
    (index / "gallery.db").write_bytes(b"no database " * 9999)
    for way in (open_store, create_store):
        with pytest.raises(GalleryError, match=r"gallery\.db is damaged .*--replace"):
            way(index)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET vector = zeroblob(64) WHERE id = 5",
        "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE id = 9) WHERE id = 5",
        "UPDATE vectors SET vector = x'00' WHERE id = 5",
        "DELETE FROM vectors WHERE id = 5",
        "UPDATE people SET name = 'somebody' WHERE id = 3",
        "DELETE FROM people WHERE id = 3",
        "UPDATE faces SET person = 7 WHERE id = 5",
        "UPDATE faces SET image = 'other.jpg' WHERE id = 5",
        "UPDATE faces SET face_id = 'other' WHERE id = 5",
    ],
)
def test_a_changed_row_is_named_when_it_would_be_a_hit(index, statement):
    face = synthetic.rows(PEOPLE, PHOTOS)[4].face_id
    sql(index, statement)
    with pytest.raises(
        GalleryError,
        match=rf"face (other|{face}) .*gallery\.db .*--replace",
    ):
        with Searcher(index) as searcher:
            searcher.search(synthetic.vectors(PEOPLE, PHOTOS)[4:5], 1)


def test_a_moved_row_is_named(index):
    sql(index, "PRAGMA foreign_keys=OFF")
    sql(index, "UPDATE faces SET id = 999 WHERE id = 5")
    with pytest.raises(GalleryError, match="as it was enrolled"):
        answers(index)


def test_a_lost_face_is_named(index):
    with open_store(index) as gallery, pytest.raises(GalleryError, match="face number 999 is lost"):
        gallery.fetch([5, 999])


@pytest.mark.parametrize("key", ["spec", "generation", "built_to"])
def test_a_changed_or_missing_fact_is_named(index, key):
    sql(index, "UPDATE meta SET value = value || ' ' WHERE key = ?", (key,))
    with pytest.raises(GalleryError, match=f"damaged .the entry '{key}' was changed"):
        answers(index)
    sql(index, "DELETE FROM meta WHERE key = ?", (key,))
    with pytest.raises(GalleryError, match="--replace|there is none"):
        answers(index)


@pytest.mark.parametrize("table", ["meta", "people", "faces", "vectors"])
def test_a_missing_table(index, table):
    sql(index, f"DROP TABLE {table}")
    with pytest.raises(GalleryError, match=rf"damaged .*no such table: (main\.)?{table}"):
        answers(index)


@pytest.mark.parametrize("where", ["anywhere", "faces_person", "people", "meta"])
def test_flipped_bytes_are_noticed_or_harmless(original, tmp_path, where):
    rng, before, noticed = np.random.default_rng(5), answers(original), 0
    data = (original / "gallery.db").read_bytes()
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    if where != "anywhere":
        page = sql(original, "SELECT rootpage FROM sqlite_schema WHERE name = ?", (where,))[0][0]
        used = used[used // 65536 == page - 1]
    for i in range(60):
        copy = Path(shutil.copytree(original, tmp_path / str(i), symlinks=True))
        damaged = bytearray(data)
        damaged[rng.choice(used)] ^= 1 << rng.integers(8)
        (copy / "gallery.db").write_bytes(damaged)
        try:
            assert answers(copy) == before
            with open_store(copy) as gallery:
                noticed += bool(verify(gallery).problems)
        except GalleryError as error:
            noticed += 1
            assert "gallery.db" in str(error) or "there is none" in str(error)
        shutil.rmtree(copy)
    assert noticed > 10


# errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, kind, words",
    [
        (apsw.FullError("full"), SystemFault, "disk is full"),
        (apsw.CantOpenError("unable"), SystemFault, "permission denied"),
        (apsw.ReadOnlyError("read-only"), SystemFault, "permission denied"),
        (apsw.IOError("disk I/O error"), SystemFault, "disk I/O error"),
        (apsw.BusyError("locked"), GalleryError, "wait"),
        (apsw.CorruptError("malformed"), GalleryError, "--replace"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), GalleryError, "--replace"),
    ],
)
def test_sqlites_errors_become_ours(error, kind, words, tmp_path):
    (tmp_path / "gallery.db").touch()
    ours = one_line(error, tmp_path / "gallery.db")
    assert type(ours) is kind or (kind is GalleryError and isinstance(ours, kind))
    assert words in str(ours) and f"{tmp_path}/gallery.db" in str(ours)


def test_a_fault_of_ours_stays_one():
    fault = apsw.ConstraintError("UNIQUE")
    assert one_line(fault, Path("x")) is fault


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        create_store(tmp_path / "file" / "i")
    assert caught.value.errno == errno.ENOTDIR


@pytest.mark.parametrize(
    "ask",
    (
        lambda g: g.list_faces("\udcff"),
        lambda g: g.rename("person 3", "a\ud800"),
        lambda g: g.remove(image="\udc80.jpg"),
        lambda g: g.add([synthetic.row("a.jpg", "\udcff", synthetic.vectors(1, 1)[0])]),
        lambda g: kept_ids(g, parse(["image=\udcff"])),
    ),
)
def test_text_that_is_no_unicode_is_one_line(index, ask):
    with open_store(index, write=True) as gallery:
        with pytest.raises(InputError, match="expected text, received .*UTF-8"):
            ask(gallery)
        assert gallery.faces == PEOPLE * PHOTOS


@pytest.mark.parametrize("name", (None, " \u2003"))
def test_a_face_that_is_known_still_needs_a_name(index, name):
    with open_store(index, write=True) as gallery:
        row = gallery.table_rows([1], crops=False)[0]
        with pytest.raises(DataError, match="expected a person's name, received"):
            gallery.add([replace(row, identity=name)])


def test_checksums_tell_fields_apart():
    fields = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("ab", b"c"),
        (1, "2"),
        ("1", 2),
        (None, ""),
        ("", None),
        ("", ""),
        (),
        (b"a", b"bc"),
        (b"ab", b"c"),
    ]
    assert len({checksum(*f) for f in fields}) == len(fields) and len(checksum()) == 16


NAMES = ["Ann ", " Ann", "A\u00adnn", "\ufeffAnn", "Ann\u200b", "An\u200dn", "Ann\n", "Ann\u00a0"]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_in_gives_a_person_one_name(index, name):
    rows = [
        synthetic.row(f"{i}.jpg", who, x)
        for i, (who, x) in enumerate(zip(("Ann", name), synthetic.vectors(2, 1, seed=97), strict=True))
    ]
    with open_store(index, write=True) as gallery:
        gallery.add(rows)
        assert len(gallery.list_faces("Ann")) == len(gallery.list_faces(name)) == 2 and gallery.enrolled([name]) == {
            name
        }
        assert gallery.rename("person 3", f"{name}Lee").people == ("person 3", person_name(f"{name}Lee"))
        with pytest.raises(GalleryError, match="use `merge`"):
            gallery.rename("person 4", name)
        with pytest.raises(InputError, match="twice"):
            gallery.merge("Ann", name)
        assert gallery.split([rows[0].face_id], f" {name}").faces == 0
        assert gallery.remove(identity=name).people == ("Ann",)


@pytest.mark.parametrize("name", ["Ann ", "Ann\u200b", "A\x00nn", "A\x1bnn", "x" * 600, "\n"])
def test_a_name_that_an_earlier_version_allowed_can_still_be_used(index, name):
    def old(gallery):
        with gallery.writing():
            gallery.enrol([synthetic.row("old.jpg", name, synthetic.vectors(1, 1, seed=99)[0])])

    with open_store(index, write=True) as gallery:
        old(gallery)
        gallery.add([synthetic.row("new.jpg", "Ann", synthetic.vectors(1, 1, seed=98)[0])])
        (face,) = gallery.list_faces(name)
        assert face["image"] == "old.jpg" and [f["image"] for f in gallery.list_faces("Ann")] == ["new.jpg"]
        gallery.remove(identity=name)
        gallery.undo()
        assert [f["image"] for f in gallery.list_faces(name)] == ["old.jpg"]
        gallery.rename(name, "Bob")
        gallery.undo()
        gallery.split([face["face_id"]], name)
        gallery.merge(name, "Ann")
        gallery.undo()
        assert [f["image"] for f in gallery.list_faces(name)] == ["old.jpg"]
        assert forgotten(gallery, name).found == 0 and name not in [person for person, _ in gallery.list_people()]
        assert [f["image"] for f in gallery.list_faces("Ann")] == ["new.jpg"]


@pytest.mark.parametrize("name", ["A\x00nn", "A\x1b[31mnn", "Ann\x7f", "x" * 501])
def test_a_new_name_that_cannot_be_is_refused(index, name):
    with open_store(index, write=True) as gallery:
        for ask in (
            lambda: gallery.add([synthetic.row("a.jpg", name, synthetic.vectors(1, 1)[0])]),
            lambda: gallery.rename("person 3", name),
            lambda: gallery.split([gallery.list_faces("person 3")[0]["face_id"]], name),
        ):
            with pytest.raises(DataError, match="expected a (person's )?name"):
                ask()
