"""Rows that another program deletes, adds or changes are noticed by `verify`, however well the rest fits together."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.faces import align
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.filters import kept_ids, parse
from facegallery.indexer.store.kinds import Counts
from facegallery.indexer.store.migrations import MIGRATIONS
from facegallery.indexer.store.totals import PERSON_TABLES, TABLES, UNNAMED_TABLES, count
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.compact import compact_and_drop
from facegallery.indexer.upkeep.info import info
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.transfer import backup, restore
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.indexer.forgetting import forgotten


def rows(name: str, people: int, seed: int = 0):
    found = synthetic.rows(people, 2, name, seed=seed)
    crops = (align.to_png(np.full((160, 160, 3), 10 * seed + i, np.uint8)) for i in range(len(found)))
    return [
        replace(row, crop=png, extra={"year": str(1990 + i)})
        for i, (row, png) in enumerate(zip(found, crops, strict=True))
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An index with rows in every table."""
    folder = tmp_path_factory.mktemp("totals")
    build(synthetic.write(folder / "vectors", rows("first", 4), extra=["year"]), folder / "club")
    with open_store(folder / "club", write=True) as gallery:
        gallery.add(rows("second", 3, seed=1))
        gallery.remove("person 0")
        gallery.rename("person 1", "Ann")
        other = replace(gallery.spec, parts=(replace(gallery.spec.parts[0], sha256="cd" * 32),))
        switch.prepare(gallery, other)
        for block in switch.pending(gallery):
            switch.store_vectors(gallery, block, synthetic.vectors(len(block), 1, seed=5))
    return folder / "club"


@pytest.fixture
def index(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "club", symlinks=True)
    return tmp_path / "club"


def problems(folder: Path) -> str:
    with open_store(folder) as gallery:
        return "\n".join(verify(gallery).problems)


def sql(folder: Path, *statements: str) -> None:
    """By another program: Python's own sqlite3."""
    with closing(sqlite3.connect(folder / "gallery.db")) as db, db:
        for statement in statements:
            assert db.execute(statement).rowcount, statement
    db.close()


FACE = "(SELECT min(id) FROM faces WHERE person IN (SELECT person FROM faces GROUP BY person HAVING count(*) > 1))"


@pytest.mark.parametrize("table", ["vectors", "crops", "other_vectors", "faces"])
def test_a_whole_face_that_was_deleted_is_noticed(index, table):
    assert problems(index) == ""
    tables = [t for t in ("crops", "other_vectors", "vectors", "faces") if t == table or table == "faces"]
    with closing(sqlite3.connect(index / "gallery.db")) as db, db:
        ((id,),) = db.execute(f"SELECT {FACE}")
    sql(index, *(f"DELETE FROM {t} WHERE id = {id}" for t in tables))
    assert f"1 rows of the table {table} were deleted by another program" in problems(index)


def test_a_person_deleted_with_everything_is_noticed(index):
    of_ann = "IN (SELECT faces.id FROM faces JOIN people ON people.id = person WHERE name = 'Ann')"
    sql(
        index,
        *(f"DELETE FROM {t} WHERE id {of_ann}" for t in ("crops", "vectors", "other_vectors", "faces")),
        "DELETE FROM people WHERE name = 'Ann'",
    )
    found = problems(index)
    assert (
        "4 rows of the table faces were deleted by another program" in found and "1 rows of the table people" in found
    )


@pytest.mark.parametrize("table", ["log", "trash", "people", "crops", "faces", "vectors", "other_vectors"])
def test_an_emptied_table_is_noticed(index, table):
    sql(index, f"DELETE FROM {table}")
    assert f"rows of the table {table} were deleted by another program" in problems(index)


@pytest.mark.parametrize("where", ["rowid = (SELECT max(rowid) FROM {})", "rowid = (SELECT min(rowid) FROM {})"])
@pytest.mark.parametrize("table", ["log", "trash"])
def test_one_line_is_noticed(index, table, where):
    sql(index, f"DELETE FROM {table} WHERE {where.format(table)}")
    assert f"1 rows of the table {table} were deleted by another program" in problems(index)


@pytest.mark.parametrize("key", ["calibration", "kinds", "changes", "log", "totals", "sources", "columns"])
def test_an_entry_is_noticed(index, key):
    if key == "calibration":
        with open_store(index, write=True) as gallery, gallery.writing():
            gallery.set_fact("calibration", "{}")
    sql(index, f"DELETE FROM meta WHERE key = '{key}'")
    assert "1 rows of the table meta were deleted" in problems(index) or (
        key == "totals" and "'totals' is missing" in problems(index)
    )


def test_a_row_exchanged_for_one_of_before_is_noticed(index):
    with closing(sqlite3.connect(index / "gallery.db")) as db, db:
        old = db.execute("SELECT * FROM people WHERE name = 'Ann'").fetchone()
    with open_store(index, write=True) as gallery:
        gallery.rename("Ann", "Bea")
    sql(index, f"UPDATE people SET name = '{old[1]}' WHERE id = {old[0]}")
    assert "rows of the table people were changed by another program" in problems(index)


def test_rows_too_many_are_noticed(index):
    sql(index, "INSERT INTO people(name) VALUES ('Nobody')")
    assert "the table people has 1 rows too many" in problems(index)


VERBS = {
    "add": lambda g: g.add(rows("third", 2, seed=2)),
    "add nothing": lambda g: g.add(()),
    "remove": lambda g: g.remove("person 2"),
    "undo": lambda g: g.undo(),
    "rename": lambda g: g.rename("Ann", "Bea"),
    "merge": lambda g: g.merge("Ann", "person 2"),
    "split": lambda g: g.split([g.list_faces("Ann")[0]["face_id"]], "Eve"),
    "forget": lambda g: (forgotten(g, "Ann"), finish_pending(g)),
    "compact": lambda g: compact_and_drop(g, 0.0),
    "switch": switch.switch,
    "give up the other model": lambda g: compact_and_drop(g, 0.0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_keeps_the_totals(index, verb):
    with open_store(index, write=True) as gallery:
        VERBS[verb](gallery)
        assert gallery.totals == count(gallery) and verify(gallery).problems == []


def test_a_change_that_fails_leaves_the_totals(index):
    with open_store(index, write=True) as gallery:
        before = gallery.totals
        with pytest.raises(ZeroDivisionError), gallery.writing():
            gallery.enrol(rows("third", 2, seed=2))
            1 / 0  # noqa: B018
        gallery.add(rows("fourth", 1, seed=3))
        assert gallery.totals == count(gallery) and gallery.totals.rows["faces"] == before.rows["faces"] + 2


def test_a_backup_and_its_restore_keep_the_totals(index, tmp_path):
    with open_store(index) as gallery:
        backup(gallery, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    restore(tmp_path / "backup", index, replace=True)
    for folder in (tmp_path / "again", index):
        with open_store(folder) as gallery:
            assert gallery.totals == count(gallery) and verify(gallery).problems == []


def test_a_backup_that_lacks_a_face_is_refused(index, tmp_path):
    with open_store(index) as gallery:
        backup(gallery, tmp_path / "backup.db")
    with closing(sqlite3.connect(tmp_path / "backup.db")) as db, db:
        db.execute("DELETE FROM crops WHERE id = (SELECT min(id) FROM crops)")
    db.close()
    with pytest.raises(Exception, match="damaged"):
        restore(tmp_path / "backup.db", tmp_path / "again")


def as_version_4(index: Path) -> None:
    """Without totals and kinds."""
    sql(index, "DELETE FROM meta WHERE key = 'totals'", "DELETE FROM meta WHERE key = 'kinds'")
    with closing(sqlite3.connect(index / "gallery.db")) as db, db:
        for table in (*PERSON_TABLES, *reversed(UNNAMED_TABLES)):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version=4")
    db.close()


def test_an_older_gallery_counts_the_kinds_of_its_columns_once_for_each_state(index, monkeypatch):
    as_version_4(index)
    counted, over = [], Counts.over
    monkeypatch.setattr(Counts, "over", lambda rows: counted.append(1) or over(rows))
    with open_store(index) as gallery:
        kept_ids(gallery, parse(["year>=1991", "year<=1992", "year!=1993"]))
        assert len(counted) == 1 and gallery.kinds.kind("year") == "number"
        sql(index, """UPDATE faces SET extra = '{"year": "unknown"}'""")
        assert gallery.kinds.kind("year") == "text" and len(counted) == 2


def test_an_older_gallery_says_what_cannot_be_known(index):
    as_version_4(index)
    with open_store(index) as gallery:
        found = verify(gallery)
        assert info(gallery)["column_kinds"] == {"year": "number"} and gallery.version == 4
        assert found.problems == [] and "not checked" in found.text
    with open_store(index, write=True) as gallery:
        gallery.add(rows("third", 2, seed=2))
        assert gallery.version == len(MIGRATIONS)
        found = verify(gallery)
        assert found.problems == [] and gallery.totals == count(gallery) and "before 20" in found.text
    sql(index, "DELETE FROM trash")
    assert "rows of the table trash were deleted by another program" in problems(index)


def test_every_table_is_counted_or_has_a_checksum_of_its_own(made):
    with closing(sqlite3.connect(made / "gallery.db")) as db, db:
        tables = {
            name
            for (name,) in db.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        }
    db.close()
    assert tables == {*TABLES, "changed", "forgotten"}
