import json
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegallery.embedder.dataset.people import FILE, read_people
from facegallery.embedder.dataset.redact import drop_rows
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.errors import Damaged, Unknown
from facegallery.indexer.store.migrations import MIGRATIONS, new_person_id
from facegallery.indexer.store.persons import PERSON_ID, PersonRecord, checked
from facegallery.indexer.store.totals import PERSON_TABLES
from facegallery.indexer.store.unnamed import Arrangement, Place
from facegallery.indexer.upkeep import switch, transfer
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.faults import sql
from tests.indexer.forgetting import forgotten

ROWS = [replace(row, crop=synthetic.png(b"%d" % i * 99)) for i, row in enumerate(synthetic.rows(4, 2))]
ANN, BEN, CID, DAN = (f"person {i}" for i in range(4))
NOTE, CITY = 'says "hello" to\nall the neighbours of Muenchen', "Garmisch-Partenkirchen"


@pytest.fixture
def index(tmp_path) -> Path:
    build(synthetic.write(tmp_path / "vectors", ROWS), tmp_path / "indexes" / "club")
    return tmp_path / "indexes" / "club"


def ids(index: Path) -> dict[str, str]:
    with open_store(index) as gallery:
        assert not verify(gallery).problems
        return gallery.person_ids(name for name, _ in gallery.list_people())


def record(index: Path, name: str) -> PersonRecord:
    with open_store(index) as gallery:
        found = gallery.person(name)[1]
    assert found is not None
    return found


def test_every_person_has_an_id_of_their_own_that_a_new_name_does_not_change(index):
    before = ids(index)
    assert set(before) == {ANN, BEN, CID, DAN} and len(set(before.values())) == 4
    assert all(PERSON_ID.fullmatch(one) for one in before.values())
    with open_store(index, write=True) as gallery:
        gallery.rename(ANN, "Ann Lee")
        assert gallery.person(before[ANN])[0] == "Ann Lee"
        assert ids(index)["Ann Lee"] == before[ANN]
        gallery.undo()
    assert ids(index) == before


def test_the_survivor_of_a_merge_keeps_the_id_and_undo_brings_the_other_back(index):
    before = ids(index)
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"born": 1990, "city": CITY}, "tall")
        gallery.set_person(BEN, {"city": "Bonn"}, "fast")
        gallery.merge(ANN, BEN)
        assert ids(index) == {name: before[name] for name in (BEN, CID, DAN)}
        assert record(index, BEN) == PersonRecord(before[BEN], "fast\ntall", {"born": "1990", "city": "Bonn"})
        gallery.undo()
        assert record(index, ANN) == PersonRecord(before[ANN], "tall", {"born": "1990", "city": CITY})
        assert record(index, BEN) == PersonRecord(before[BEN], "fast", {"city": "Bonn"})
        gallery.set_person(BEN, note="x" * 10_000)
        with pytest.raises(InputError, match="note"):
            gallery.merge(ANN, BEN)
    assert ids(index) == before


def test_a_split_makes_a_new_id_and_undo_ends_it(index):
    before = ids(index)
    with open_store(index, write=True) as gallery:
        face, other = (face["face_id"] for face in gallery.list_faces(ANN))
        gallery.split([face], "Eve")
        after = ids(index)
        assert after.pop("Eve") not in before.values() and after == before
        gallery.split([other], "Eve")  # the last face of Ann
        assert ANN not in ids(index)
        gallery.undo()
        gallery.undo()
    assert ids(index) == before


def test_removed_and_rejected_people_come_back_as_they_were(index):
    before = ids(index)
    with open_store(index, write=True) as gallery:
        gallery.set_person(CID, {"team": "red"}, "goalkeeper")
        kept = record(index, CID)
        gallery.remove(identity=CID)
        assert CID not in ids(index)
        gallery.undo()
        assert record(index, CID) == kept
        faces = [face["face_id"] for face in gallery.list_faces(CID)]
        gallery.arrange("reject", Arrangement(dict.fromkeys(faces, Place())))
        assert CID not in ids(index)
        gallery.undo()
        assert record(index, CID) == kept
    assert ids(index) == before


def test_a_person_who_is_added_after_a_removal_is_another_one(index):
    before = ids(index)
    with open_store(index, write=True) as gallery:
        gallery.remove(identity=ANN)
        gallery.add([synthetic.row("new.jpg", ANN, ROWS[0].vector)])
        assert ids(index)[ANN] not in before.values()
        gallery.undo()
        gallery.undo()
    assert ids(index) == before


def test_metadata_and_note_are_set_unset_and_taken_back(index):
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"born": 1990, "city": " Bonn "}, " tall ")
        first = record(index, ANN)
        assert (first.note, first.metadata) == ("tall", {"born": "1990", "city": "Bonn"})
        done = gallery.set_person(first.person_id, {"born": None, "team": "red"}, "")
        assert (done.verb, done.people) == ("set", (ANN,))
        assert record(index, ANN) == PersonRecord(first.person_id, "", {"city": "Bonn", "team": "red"})
        assert gallery.list_log()[0]["people"] == (ANN,)
        gallery.undo(done.command)
        assert record(index, ANN) == first
        same = gallery.set_person(ANN, {"born": "1990"})
        assert (same.people, same.command) == ((), None)
        gallery.undo()  # of the line that changed nothing
        assert record(index, ANN) == first
        with pytest.raises(InputError, match="born, city"):
            gallery.set_person(ANN, {"height": None})
        with pytest.raises(Unknown):
            gallery.set_person("nobody", {"born": 1990})
    assert verified(index)


def verified(index: Path) -> bool:
    with open_store(index) as gallery:
        return not verify(gallery).problems


@pytest.mark.parametrize(
    ("metadata", "note", "what"),
    [
        ({"a=b": "1"}, None, "key"),
        ({"": "1"}, None, "key"),
        ({"k" * 101: "1"}, None, "key"),
        ({"k": "v" * 1001}, None, "value"),
        ({"k": " "}, None, "value"),
        ({"k": "\x00"}, None, "value"),
        ({"k": "\ud800"}, None, "value"),
        ({f"k{i}": "v" for i in range(101)}, None, "at most 100 keys"),
        ({}, "n" * 10_001, "note"),
        ({}, "\x00", "note"),
    ],
)
def test_what_cannot_be_kept_is_refused(index, metadata, note, what):
    with open_store(index, write=True) as gallery, pytest.raises(InputError, match=what):
        gallery.set_person(ANN, metadata, note)
    assert record(index, ANN).values[1:] == ("", "{}")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@given(st.dictionaries(st.text(string.ascii_letters + "äß .", min_size=1, max_size=9), TEXT, max_size=5), TEXT)
def test_a_record_is_read_as_it_was_written(metadata, note):
    own = {key.strip(): value for key, value in metadata.items() if key.strip() and value.strip()}
    new = PersonRecord(new_person_id()).changed(own, note)
    assert checked(new) == new and new.metadata == {key: value.strip() for key, value in own.items()}
    assert PersonRecord(new.person_id, new.note, json.loads(new.values[2])) == new


def test_search_names_the_person_and_filters_by_metadata(index):
    xb = np.stack([row.vector for row in ROWS[::2]])
    with open_store(index, write=True) as gallery:
        for name, born in ((ANN, "1990"), (BEN, "2001"), (CID, "2001-05-01")):
            gallery.set_person(name, {"born": born})
    by_name = ids(index)
    with Searcher(index) as searcher:
        hits = searcher.search(xb, 4)
        assert all(hit.person_id == by_name[hit.identity] for one in hits for hit in one)

        def found(*where: str) -> set[str]:
            return {hit.identity for hit in searcher.search(xb[:1], 4, where=where)[0]}

        assert found("number(person.born)<2000") == {ANN} and found("number(person.born)>=1990") == {ANN, BEN}
        assert found("person.born=2001") == {BEN} and found("person.born!=2001") == {ANN, CID}
        with pytest.raises(InputError, match=r"person\.born"):
            found("person.height>3")
        with pytest.raises(InputError, match="metadata"):
            found("person.born>2000")


def test_backup_restore_and_another_model_keep_the_records(index, tmp_path):
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"city": CITY}, NOTE)
        gallery.remove(identity=BEN)
        kept = record(index, ANN)
        transfer.backup(gallery, tmp_path / "backup.db")
    transfer.restore(tmp_path / "backup.db", index.with_name("again"))
    again = index.with_name("again")
    assert record(again, ANN) == kept and ids(again) == ids(index)
    with open_store(again, write=True) as gallery:
        gallery.undo()
        assert set(gallery.person_ids([ANN, BEN])) == {ANN, BEN}
        assert gallery.person_ids([BEN])[BEN] not in ids(index).values()
    assert verified(again)


def test_an_export_carries_the_records_into_a_new_gallery_and_into_one_that_is_there(index, tmp_path):
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"city": CITY}, NOTE)
        transfer.export(gallery, tmp_path / "out")
        before, kept = ids(index), record(index, ANN)
    new = index.with_name("new")
    build(tmp_path / "out", new)
    assert ids(new) == before and record(new, ANN) == kept
    with open_store(new, write=True) as gallery:  # the id is in use: whoever has it keeps it
        gallery.rename(ANN, "Ann Lee")
        gallery.offer({ANN: kept})
        gallery.add([synthetic.row("new.jpg", ANN, ROWS[0].vector)])
        assert gallery.person_ids([ANN])[ANN] != kept.person_id == gallery.person_ids(["Ann Lee"])["Ann Lee"]
    assert drop_rows(tmp_path / "out", lambda face_id, name: name == ANN)
    assert kept.person_id.encode() not in (tmp_path / "out" / FILE).read_bytes()
    assert {name for name, _ in read_people(tmp_path / "out")} == {BEN, CID, DAN}
    (tmp_path / "out" / FILE).write_text('{"identity": 1')
    with pytest.raises(DataError, match="damaged"):
        build(tmp_path / "out", new, BuildOptions(replace=True))


def test_forgetting_erases_id_note_and_metadata_everywhere(index, tmp_path):
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"city": CITY}, NOTE)
        gallery.set_person(ANN, {"city": "Oberammergau town"}, "another note of the same person")
        gallery.remove(identity=ANN)
        gallery.undo()
        gallery.set_person(BEN, {"city": CITY}, "the other one")
        gallery.merge(ANN, CID)
        gallery.undo()
        first = gallery.person_ids([ANN])[ANN]
        gallery.merge(CID, ANN)
        texts = [first, "all the neighbours", "Oberammergau town", "another note of"]
        assert all(text.encode() in everything(index) for text in texts)
        receipt = forgotten(gallery, ANN)
        assert receipt.found == 0
    data = everything(index)
    assert not [text for text in texts if text.encode() in data]
    assert CITY.encode() in data and b"the other one" in data  # Ben's
    assert set(ids(index)) == {BEN, DAN}


def everything(index: Path) -> bytes:
    return b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE persons SET note = 'changed' WHERE id = 1",
        "UPDATE persons SET person_id = 'p00000000000000a' WHERE id = 1",
        "DELETE FROM persons WHERE id = 1",
        'UPDATE persons_trash SET extra = \'{"a": "b"}\'',
        "DELETE FROM persons_trash",
    ],
)
def test_what_another_program_changed_is_found(index, statement):
    with open_store(index, write=True) as gallery:
        gallery.set_person(DAN, {"team": "red"})
        gallery.remove(identity=DAN)
    assert verified(index)
    sql(index, statement)
    assert not verified(index)


def test_a_changed_record_is_never_answered(index):
    sql(index, "UPDATE persons SET person_id = 'p00000000000000a' WHERE id = 1")
    with Searcher(index) as searcher, pytest.raises(Damaged, match="record"):
        searcher.search(np.stack([ROWS[0].vector]), 4)


def test_a_gallery_of_the_version_before_is_read_and_then_gets_ids(index):
    for table in PERSON_TABLES:
        sql(index, f"DROP TABLE {table}")
    sql(index, f"PRAGMA user_version={len(MIGRATIONS) - 1}")
    with open_store(index) as gallery:
        assert gallery.person(ANN) == (ANN, None) and gallery.person_ids([ANN]) == {}
    with Searcher(index) as searcher:
        assert searcher.search(np.stack([ROWS[0].vector]), 1)[0][0].person_id is None
    with open_store(index, write=True) as gallery:
        gallery.rename(ANN, "Ann Lee")
    found = ids(index)
    assert len(set(found.values())) == 4 and all(map(PERSON_ID.fullmatch, found.values()))


def test_another_model_keeps_the_records(index):
    other = FaceSpec(parts=(Part("other", "cd" * 32, synthetic.D, "fixed"),))
    with open_store(index, write=True) as gallery:
        gallery.set_person(ANN, {"city": CITY}, NOTE)
        before, kept = ids(index), record(index, ANN)
        switch.prepare(gallery, other)
        for block in switch.pending(gallery):
            switch.store_vectors(gallery, block, np.stack([ROWS[face.id - 1].vector[::-1] for face in block]))
        switch.switch(gallery)
    assert ids(index) == before and record(index, ANN) == kept
