"""`forget` of the commands and the server: the receipt, other indexes, files that were written, and data sets."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.redact import count_rows
from facegallery.embedder.dataset.row import to_rows
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store import outputs
from facegallery.indexer.store.outputs import WrittenFile
from facegallery.indexer.upkeep.receipt import Receipt
from facegallery.workflows import forget as forgetting
from facegallery.workflows.enrol import add
from facegallery.workflows.evaluate import EvaluationOptions, evaluate
from facegallery.workflows.search import search_to_parquet
from facegallery.workflows.upkeep import backup, export
from tests import synthetic

ROWS = synthetic.rows(6, 2)
GONE = "person 3"
IDS = tuple(sorted(row.face_id for row in ROWS if row.identity == GONE))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path / "indexes"))
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    build(synthetic.write(tmp_path / "vectors", ROWS), tmp_path / "indexes" / "club")
    return tmp_path / "indexes"


def forget(identity: str = GONE, also=(), name: str = "club") -> Receipt:
    return forgetting.forget(name, identity, also=also)


def test_other_indexes_that_hold_the_faces_are_named(root, tmp_path):
    build(tmp_path / "vectors", root / "same")
    renamed = [
        replace(row, identity=f"x{i}", image_sha256=f"{i:064d}") for i, row in enumerate(ROWS) if row.identity == GONE
    ]
    build(synthetic.write(tmp_path / "v2", [*renamed, *synthetic.rows(2, 1, "o", seed=8)]), root / "by-vector")
    build(synthetic.write(tmp_path / "v3", synthetic.rows(2, 1, "o", seed=9)), root / "strangers")
    (root / "damaged").mkdir(), (root / "damaged" / "gallery.db").write_bytes(b"?" * 5000)
    with open_store(root / "same", write=True) as gallery:
        gallery.remove(face_id=IDS[0])  # `undo` brings it back
    done = forget()
    assert done.others == {"same": 2, "by-vector": 2} and done.found == 0
    assert {"index same: 2 faces of this person", "index by-vector: 2 faces of this person"} <= set(done.not_cleaned)
    assert any("damaged" in note for note in done.notes)


def test_a_second_call_finds_the_ids_of_the_first(root, tmp_path):
    """For data sets and indexes that turn up later, and by an old name too."""
    with open_store(root / "club", write=True) as gallery:
        gallery.rename(GONE, "Erika")
    first = forget("Erika")
    assert first.face_ids == IDS
    shutil.copytree(tmp_path / "vectors", tmp_path / "later")
    build(tmp_path / "vectors", root / "later")
    for name in ("Erika", GONE):
        again = forget(name, [tmp_path / "later"])
        assert (again.face_ids, again.others) == (IDS, {"later": 2})
        assert again.data_sets == {str(tmp_path / "later"): 2 * (name == "Erika")}
    for path in root.glob("club-forgotten-*"):
        path.unlink()
    assert forget("Erika").others == {"later": 2}, "by hashes alone"
    assert forget("person 1").others == {"later": 2} and forget("Erika").others == {"later": 2}, "each person's own"


def test_a_data_set_loses_who_was_forgotten_and_texts_of_others_are_no_traces(root, tmp_path):
    rows = [replace(row, image=f"{GONE}/{row.image}") for row in ROWS]  # everybody's path bears the name
    folder = synthetic.write(tmp_path / "copy", rows)
    done = forget(also=[folder])
    left = [row for table in DataSet(folder).shards() for row in to_rows(table)]
    assert {row.identity for row in left} == {f"person {i}" for i in (0, 1, 2, 4, 5)} and done.data_sets == {
        str(folder): 2
    }
    assert done.found == 0
    (path,) = root.glob("club-forgotten-*")
    assert sum(forgetting.verify_forgotten("club", path, GONE).values()) == 0
    shutil.rmtree(folder), synthetic.write(folder, rows)
    found = forgetting.verify_forgotten("club", path, None)
    assert found[str(folder)] == 2 and forgetting.verify_forgotten("club", path, GONE)[str(folder)] == 2


def test_a_name_that_is_anothers_by_now_stays_in_data_sets(root, tmp_path):
    forget()
    other = synthetic.rows(1, 2, "new", seed=5)
    with open_store(root / "club", write=True) as gallery:
        gallery.add([replace(row, identity="Erika") for row in other[:1]])
        gallery.rename("Erika", "old name")
        gallery.rename("old name", "Erika")
    forget("Erika")
    with open_store(root / "club", write=True) as gallery:
        gallery.add([replace(other[1], identity="old name")])
    folder = synthetic.write(tmp_path / "set", [replace(other[1], identity="old name")])
    assert forget("Erika", [folder]).data_sets == {str(folder): 0}


def test_what_was_written_with_its_people_is_named(root, tmp_path):
    backup("club", tmp_path / "kept" / "b")
    export("club", tmp_path / GONE / "export")
    (tmp_path / "hits.parquet").touch()
    for _ in range(2):
        outputs.note(root / "club", "hits", tmp_path / "hits.parquet")
    outputs.note(root / "club", "report", tmp_path / "gone")
    assert len(outputs.read(root / "club")) == 4 and outputs.list_path(root / "club").stat().st_mode & 0o777 == 0o600
    done = forget()
    lines = (f"backup: {tmp_path}/kept/b", f"export: {tmp_path}/*/export", f"hits: {tmp_path}/hits.parquet")
    assert done.outputs == lines and {f"written with people of this index: {line}" for line in lines} <= set(
        done.not_cleaned
    )
    assert done.withheld == 1 and GONE not in str(done) and GONE not in Path(str(done.receipt)).read_text()
    assert GONE not in outputs.list_path(root / "club").read_text()
    assert forget("person 1").outputs == lines
    with open(outputs.list_path(root / "club"), "a") as file:
        file.write('half a line\n{"kind": 3, "path": 4}\n[]\n')
    assert len(outputs.read(root / "club")) == 4
    assert outputs.read(root / "other") == [] and outputs.note(Path("/proc/nowhere/x"), "hits", tmp_path) is None


def test_searches_and_evaluations_note_their_files(root, tmp_path):
    search_to_parquet("club", [tmp_path / "vectors"], tmp_path / "h.parquet")
    evaluate("club", tmp_path / "vectors", EvaluationOptions(predictions=tmp_path / "p.txt"))
    assert outputs.read(root / "club") == [
        WrittenFile("hits", str(tmp_path / "h.parquet")),
        WrittenFile("predictions", str(tmp_path / "p.txt")),
    ]


NAMES = ["Ann\x00", "Ann\nLee", "Ann\x1b[31m", "A\\x00nn", "Ann\u202e"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_old_galleries_that_cannot_be_typed_are_given_as_they_are_shown(root, name):
    """Only an earlier version enrolled them."""
    with open_store(root / "club", write=True) as gallery, gallery.writing():
        gallery._rename(GONE, name)
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in name)
    for given in (shown, shown, name):
        assert forget(given).face_ids == IDS
    with pytest.raises(GalleryError, match="nobody is called"):
        forget("Ann\\x01")
    with open_store(root / "club") as gallery:
        assert name not in dict(gallery.list_people())


def test_a_person_whose_name_looks_like_an_escape_comes_first(root):
    with open_store(root / "club", write=True) as gallery, gallery.writing():
        gallery._rename("person 1", "Ann\\x00"), gallery._rename(GONE, "Ann\x00")
    forget("Ann\\x00")
    with open_store(root / "club") as gallery:
        assert {"Ann\x00"} == {name for name, _ in gallery.list_people() if name.startswith("Ann")}


def test_a_data_set_of_many_rows_is_looked_through_once(root, tmp_path):
    """A list that was read for every row took an hour for a million of them."""
    rows = [replace(row, vector=None, outcome="no_face", face=-1) for row in synthetic.rows(3000, 2, "many", seed=4)]
    folder = synthetic.write(tmp_path / "many", rows)
    with open_store(root / "club", write=True) as gallery:
        salt, listed = gallery.fact("salt"), gallery.forgotten()
        with gallery.changing_forgotten():
            gallery.set_forgotten(listed.with_person(salt, [f"face {i}" for i in range(20_000)]))
        is_doomed, began = forgetting._doomed(gallery, _nobody()), time.monotonic()
        assert count_rows(folder, is_doomed) == 0
    assert time.monotonic() - began < 5, "10 s for a thousand of these rows, when the list was read for each"


def _nobody():
    from facegallery.indexer.upkeep.traces import Traces

    return Traces({"nobody"})


def test_the_command_ends_with_1_where_something_is_left(run, own_indexes, tmp_path):
    build(synthetic.write(tmp_path / "vectors", ROWS), own_indexes / "club")
    (own_indexes / "club" / "notes").write_text(f"see {IDS[0]}")
    done = run("forget", "club", "--identity", GONE, "--json")
    assert done.code == 1 and json.loads(done.out)["found"] == 1
    (own_indexes / "club" / "notes").unlink()
    assert run("forget", "club", "--identity", GONE).code == 0
    with open_store(own_indexes / "club") as reader, reader.reading():
        assert run("forget", "club", "--identity", "person 1").code == 1, "pending"


def test_faces_that_another_index_has_forgotten_are_told_when_they_are_added(root, tmp_path):
    build(synthetic.write(tmp_path / "v2", synthetic.rows(2, 1, "o", seed=8)), root / "new")
    forget()
    first, second = add("new", tmp_path / "vectors"), add("new", tmp_path / "vectors")
    assert [note for note in first.notes if "forgotten from club" in note and GONE in note] and second.notes == ()
