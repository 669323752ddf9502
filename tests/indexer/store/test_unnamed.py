import hashlib
import json
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.store.totals import LATER_TABLES
from facegallery.indexer.store.unnamed import LOOSE, Arrangement, Place, Rejection
from facegallery.indexer.upkeep import switch, transfer
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.faults import sql
from tests.indexer.forgetting import forgotten

PEOPLE, PHOTOS = 6, 2


def png(i: int) -> bytes:
    return synthetic.png(np.random.default_rng(i).bytes(900))


def in_heap(i: int, row: Row) -> Row:
    sha256 = hashlib.sha256(b"heap %d" % i).hexdigest()
    return replace(row, identity=None, image=f"heap/{i}.jpg", image_sha256=sha256, crop=png(i))


HEAP = [in_heap(i, row) for i, row in enumerate(synthetic.rows(8, 3, seed=5))]
IDS = [row.face_id for row in HEAP]


@pytest.fixture
def index(tmp_path) -> Path:
    """A gallery of people, and 24 faces without one."""
    rows = [replace(row, crop=png(100 + i)) for i, row in enumerate(synthetic.rows(PEOPLE, PHOTOS))]
    build(synthetic.write(tmp_path / "vectors", rows), tmp_path / "indexes" / "club")
    with open_store(tmp_path / "indexes" / "club", write=True) as gallery:
        assert gallery.add_unnamed(HEAP) == IDS
    return tmp_path / "indexes" / "club"


def sound(folder: Path) -> bool:
    with open_store(folder) as gallery:
        done = verify(gallery)
    return not done.problems


def test_unnamed_faces_are_kept_and_never_answer(index):
    with open_store(index) as gallery:
        faces = list(gallery.unnamed_faces())
        assert [face.face_id for face in faces] == IDS and {face.place for face in faces} == {LOOSE}
        assert faces[3].columns["image"] == "heap/3.jpg"
        ids, xb = next(iter(gallery.unnamed_vectors()))
        assert ids.tolist() == [face.id for face in faces]
        assert np.array_equal(xb, np.stack([row.vector for row in HEAP]))
        assert gallery.unnamed_crop(IDS[2]) == HEAP[2].crop and gallery.unnamed_crop("0" * 32) is None
        assert (gallery.unnamed, gallery.faces, gallery.people) == (24, PEOPLE * PHOTOS, PEOPLE)
    with Searcher(index) as searcher:
        named = {row.identity for row in synthetic.rows(PEOPLE, PHOTOS)}
        assert {
            hit.identity for hits in searcher.search(np.stack([r.vector for r in HEAP]), 4) for hit in hits
        } <= named
    assert sound(index)


def test_a_face_is_kept_once_and_not_where_it_is_enrolled(index):
    enrolled = synthetic.rows(PEOPLE, PHOTOS)[0]
    with open_store(index, write=True) as gallery:
        assert gallery.add_unnamed([HEAP[0], replace(enrolled, identity=None)]) == []
        assert gallery.unnamed == 24
        with pytest.raises(DataError, match="numbers"):
            gallery.add_unnamed([replace(HEAP[0], image_sha256="sha of new", vector=np.ones(3, np.float32))])


def test_naming_enrols_and_undo_takes_it_back(index):
    with open_store(index, write=True) as gallery:
        gallery.arrange("group", Arrangement({IDS[i]: Place(None, 7) for i in range(3)}))
        done = gallery.arrange("name", Arrangement({f: Place("Ann") for f in IDS[:3]}), to="Ann")
        assert (done.verb, done.faces, done.people) == ("name", 3, ("Ann",))
        assert [face["image"] for face in gallery.list_faces("Ann")] == [f"heap/{i}.jpg" for i in range(3)]
        assert gallery.unnamed == 21 and gallery.crop(IDS[1]) == HEAP[1].crop
    with Searcher(index) as searcher:
        assert searcher.search(np.stack([HEAP[1].vector]), 1)[0][0].identity == "Ann"
    assert sound(index)
    with open_store(index, write=True) as gallery:
        gallery.undo(done.command)
        assert gallery.unnamed == 24 and not gallery.enrolled(["Ann"])
        assert [face.face_id for face in gallery.group(7)] == IDS[:3]
        gallery.undo()
        assert not gallery.list_groups()
        assert gallery.undo()[0].faces == 24
        assert gallery.unnamed == 0
    assert sound(index)


def test_a_kept_face_that_is_enrolled_is_named(index):
    with open_store(index, write=True) as gallery:
        done = gallery.add(
            [replace(HEAP[4], identity="Ben"), replace(HEAP[5], image_sha256="sha of newer", identity="Ben")]
        )
        assert done.added == 2 and gallery.unnamed == 23 and len(gallery.list_faces("Ben")) == 2
        gallery.undo(done.command)
        assert gallery.unnamed == 24 and not gallery.enrolled(["Ben"])
    assert sound(index)


def test_an_enrolled_face_can_be_rejected(index):
    name = synthetic.rows(PEOPLE, PHOTOS)[0].identity
    with open_store(index, write=True) as gallery:
        face_id = gallery.list_faces(name)[0]["face_id"]
        said = Rejection(face_id, None, name)
        done = gallery.arrange("reject", Arrangement({face_id: LOOSE}, [said]))
        assert gallery.kept([face_id]) and gallery.rejections() == [said] and len(gallery.list_faces(name)) == 1
        gallery.rename(name, "Zoe")
        assert gallery.rejections() == [said._replace(identity="Zoe")]
        gallery.merge("Zoe", synthetic.rows(PEOPLE, PHOTOS)[-1].identity)
        assert {said.identity for said in gallery.rejections()} == {"Zoe", synthetic.rows(PEOPLE, PHOTOS)[-1].identity}
        gallery.undo()
        gallery.undo()
        assert gallery.rejections() == [said]
        gallery.undo(done.command)
        assert gallery.rejections() == [] and len(gallery.list_faces(name)) == 2
    assert sound(index)


def test_a_face_or_group_that_is_not_here_is_refused(index):
    with open_store(index, write=True) as gallery:
        with pytest.raises(Unknown, match="none with the id"):
            gallery.arrange("name", Arrangement({"0" * 32: Place("Ann")}))
        with pytest.raises(Unknown, match="no group 3"):
            gallery.group(3)


def test_groups_are_listed_largest_first_without_ignored_faces(index):
    with open_store(index, write=True) as gallery:
        places = {IDS[0]: Place(None, 1), IDS[1]: Place(None, 2, "confirmed"), IDS[2]: Place(None, 2, "confirmed")}
        places |= {IDS[3]: Place(None, 9, "ignored"), IDS[4]: Place(None, None, "ignored")}
        gallery.arrange("group", Arrangement(places))
        found = [(g.number, g.faces, g.confirmed, g.face_id) for g in gallery.list_groups()]
        assert found == [(2, 2, True, IDS[1]), (1, 1, False, IDS[0])]
        assert len(gallery.list_groups(1)) == 1


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE unnamed SET image='x' WHERE id=3", "changed"),
        ("UPDATE unnamed_vectors SET vector=zeroblob(length(vector)) WHERE id=3", "changed"),
        ("UPDATE unnamed_crops SET png=x'00' WHERE id=3", "changed"),
        ("UPDATE grouped SET number=5", "changed"),
        ("UPDATE rejected SET identity='x'", "changed"),
        ("DELETE FROM unnamed_vectors WHERE id=3", "deleted"),
        ("DELETE FROM grouped", "deleted"),
        ("DELETE FROM rejected", "deleted"),
    ],
)
def test_damage_is_found(index, statement, line):
    with open_store(index, write=True) as gallery:
        gallery.arrange("group", Arrangement({IDS[0]: Place(None, 1)}, [Rejection(IDS[1], 1, None)]))
    assert sound(index)
    sql(index, statement)
    with open_store(index) as gallery:
        assert any(line in problem for problem in verify(gallery).problems)


def test_a_backup_brings_everything_back(index, tmp_path):
    with open_store(index, write=True) as gallery:
        gallery.arrange("group", Arrangement({IDS[0]: Place(None, 1)}, [Rejection(IDS[1], 1, None)]))
        transfer.backup(gallery, tmp_path / "backup")
    transfer.restore(tmp_path / "backup", tmp_path / "indexes" / "other")
    with open_store(tmp_path / "indexes" / "other", write=True) as gallery:
        assert gallery.unnamed == 24 and gallery.rejections() == [Rejection(IDS[1], 1, None)]
        assert gallery.group(1)[0].face_id == IDS[0]
        assert gallery.unnamed_rows([IDS[2]])[IDS[2]].crop == HEAP[2].crop
    assert sound(tmp_path / "indexes" / "other")


def test_forgetting_a_person_leaves_no_word_of_them(index):
    with open_store(index, write=True) as gallery:
        gallery.arrange("name", Arrangement({f: Place("Ann Unlike") for f in IDS[:3]}), to="Ann Unlike")
        gallery.arrange("reject", Arrangement({IDS[2]: LOOSE}, [Rejection(IDS[2], None, "Ann Unlike")]))
    with open_store(index, write=True) as gallery:
        assert forgotten(gallery, "Ann Unlike").found == 0
        assert gallery.rejections() == [] and gallery.unnamed == 22
        assert gallery.add_unnamed(HEAP[:3]) == []  # two are forgotten, one is kept
        assert "Ann Unlike" not in json.dumps([line.detail for line in gallery.lines()])
    assert sound(index)


def test_another_model_embeds_unnamed_faces_too(index):
    other = FaceSpec(parts=(Part("other", "cd" * 32, synthetic.D, "fixed"),))
    draw = np.random.default_rng(1)
    with open_store(index, write=True) as gallery:
        before = np.concatenate([x for _, x in gallery.unnamed_vectors()])
        switch.prepare(gallery, other)
        assert switch.missing(gallery) == PEOPLE * PHOTOS + 24
        for block in switch.pending(gallery):
            xb = synthetic.unit(draw.normal(size=(len(block), synthetic.D))).astype(np.float32)
            switch.store_vectors(gallery, block, xb)
        gallery.arrange("group", Arrangement(dict.fromkeys(IDS[:3], Place(None, 1))))
        with gallery.writing():
            gallery.keep_group_sums()
        switch.switch(gallery)
        assert not gallery.group_sums([1])[2].any(), "sums of the other model's vectors are gone"
        after = np.concatenate([x for _, x in gallery.unnamed_vectors()])
        assert after.shape == before.shape and not np.allclose(after, before)
    assert sound(index)


def test_a_gallery_of_an_earlier_version_is_read_as_it_is(index):
    for table in ("group_sums", *reversed(LATER_TABLES)):
        sql(index, f"DROP TABLE {table}")
    sql(index, "PRAGMA user_version=4")
    with open_store(index) as gallery:
        assert gallery.unnamed == 0 and gallery.list_groups() == [] and gallery.rejections() == []
        assert list(gallery.unnamed_faces()) == [] and gallery.kept(IDS) == set()


# whatever is done ------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_are_those_of_a_plain_model(index, seed):
    """Dictionaries as the oracle; `undo` is the oracle's state of before."""
    draw = random.Random(seed)
    state: dict[str, Place] = dict.fromkeys(IDS, LOOSE)
    words: list[Rejection] = []
    past = []
    with open_store(index, write=True) as gallery:
        for _ in range(40):
            some = draw.sample(sorted(state), draw.randint(1, 6))
            what = draw.choice(["name", "group", "reject", "ignore", "undo", "undo"])
            if what == "undo" and past:
                gallery.undo()
                state, words = past.pop()
                continue
            past.append((deepcopy(state), list(words)))
            if what == "reject":
                said = [Rejection(f, state[f].number, state[f].identity) for f in some if state[f] != LOOSE]
                places = dict.fromkeys(some, LOOSE)
                words += [one for one in dict.fromkeys(said) if one not in words]
            else:
                said, number = [], draw.randint(1, 4)
                states = {
                    "group": Place(None, number, draw.choice(["open", "confirmed"])),
                    "ignore": Place(None, None, "ignored"),
                }
                places = {f: states.get(what, Place(draw.choice(["Ann", "Ben"]))) for f in some}
            gallery.arrange(what, Arrangement(places, said))
            state |= places
            assert gallery.places(state) == state
            assert sorted(gallery.rejections(), key=str) == sorted(words, key=str)
        assert gallery.places(state) == state
        people = {name: sum(p.identity == name for p in state.values()) for name in ("Ann", "Ben")}
        assert {n: c for n, c in gallery.list_people() if n in people} == {n: c for n, c in people.items() if c}
        while past:
            gallery.undo()
            past.pop()
        assert gallery.places(IDS) == dict.fromkeys(IDS, LOOSE) and not gallery.rejections()
        rows = gallery.unnamed_rows(IDS)
        assert all(np.array_equal(rows[row.face_id].vector, row.vector) for row in HEAP)
        assert all(rows[row.face_id].crop == row.crop for row in HEAP)
    assert sound(index)
