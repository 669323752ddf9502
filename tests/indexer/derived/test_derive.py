import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError, GalleryError, SystemFault
from facegallery.embedder.files import temporary_prefix
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived import derive
from facegallery.indexer.derived.derive import (
    behind,
    built_folder,
    centred,
    compact,
    compact_if_due,
    is_due,
    make_index,
    position_of,
    read_report,
    tidy,
    unsound,
)
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic

QUERIES = synthetic.vectors(20, 1, seed=3)
ROWS = synthetic.rows(50, 2)
MORE = synthetic.rows(150, 2, "more", seed=1)
for _row in MORE:
    _row.split, _row.identity = None, f"more of {_row.identity}"
DERIVED = {"index.faiss", "owners.npy", "report.json"}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build(synthetic.write(folder / "vectors", ROWS), folder / "club")
    return folder / "club"


@pytest.fixture
def seldom(monkeypatch):
    """No verb compacts by itself."""
    monkeypatch.setattr(derive, "LEAST", 10**9)


def right(folder: Path, rows: Sequence[Row]) -> None:
    with Searcher(folder) as searcher:
        found = searcher.search(QUERIES, 5, faces=True)
    assert [[(h.identity, h.score, h.face_id) for h in hits] for hits in found] == [
        synthetic.nearest(rows, q, 5, True) for q in QUERIES
    ]


def derived(folder: Path) -> set[str]:
    """All that is there but the truth itself."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {
        "gallery.db",
        "gallery.db-wal",
        "gallery.db-shm",
    }


def only(generation: int) -> set[str]:
    return {"index.faiss", f"built-{generation}", *(f"built-{generation}/{name}" for name in DERIVED)}


# what is made ---------------------------------------------------------------


def test_a_generation_holds_the_index_the_owners_and_a_report_of_both(gallery, index, seldom):
    gallery.add(MORE[:4])
    gallery.remove("person 3")
    gallery.merge("person 5", "person 6")
    assert compact(gallery) and gallery.generation == 2 and derived(index) == only(2)
    rows = [row for row in ROWS + MORE[:4] if row.identity != "person 3"]
    ids, owners = np.load(index / "built-2" / "owners.npy")
    names = dict(gallery.execute("SELECT id, name FROM people"))
    assert ids.tolist() == [*range(1, 7), *range(9, 105)]
    assert [names[owner] for owner in owners.tolist()] == [
        "person 6" if row.identity == "person 5" else row.identity for row in rows
    ]
    mapped = faiss.read_index(str(index / "index.faiss"))
    assert faiss.vector_to_array(mapped.id_map).tolist() == ids.tolist()
    assert (
        faiss.rev_swig_ptr(faiss.downcast_index(mapped.index).get_xb(), 102 * 16).reshape(102, 16)
        == np.stack([r.vector for r in rows])
    ).all()
    report = json.loads((index / "built-2" / "report.json").read_bytes())
    assert (report["generation"], report["n"], report["d"], report["people"], report["centred"]) == (
        2,
        102,
        16,
        gallery.people,
        False,
    )
    for name in ("index.faiss", "owners.npy"):
        data = (index / "built-2" / name).read_bytes()
        assert report["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert read_report(gallery) == report and unsound(gallery) == [] and verify(gallery).problems == []
    assert (gallery.fact("built"), gallery.fact("built_to"), gallery.execute("SELECT * FROM changed")) == (102, 104, [])


def test_centring_by_hand():
    x, mean = np.array([[3, 4], [0, 0], [1, 1]], np.float32), np.array([1.0, 1.0])
    assert centred(x, None) is x
    np.testing.assert_allclose(
        centred(x, mean), [[2 / math.hypot(2, 3), 3 / math.hypot(2, 3)], [-math.sqrt(0.5)] * 2, [0, 0]], atol=1e-7
    )
    assert centred(x, mean).dtype == np.float32


def test_an_index_is_not_made_of_what_was_changed(gallery):
    gallery.execute("UPDATE vectors SET vector = zeroblob(64) WHERE id = 5")
    for call in (make_index, compact):
        with pytest.raises(GalleryError, match=f"expected face {ROWS[4].face_id} "):
            call(gallery)
    assert gallery.generation == 1 and not list(gallery.folder.glob("_tmp-*"))


# when -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "least, added, removed, given_away, due",
    [
        (1000, 300, 0, 0, False),
        (10, 10, 0, 0, False),
        (10, 11, 0, 0, True),
        (0, 5, 0, 0, False),
        (0, 6, 0, 0, True),
        (0, 0, 10, 0, False),
        (0, 0, 11, 0, True),
        (12, 0, 12, 0, False),
        (12, 0, 13, 0, True),
        (0, 0, 0, 10, False),
        (0, 0, 0, 12, True),
        (0, 0, 6, 6, True),
        (11, 11, 6, 4, False),
        (0, 5, 6, 4, False),
        (0, 0, 0, 0, False),
    ],
)
def test_it_is_due_when_more_was_added_or_changed_than_a_query_should_pay_for(
    gallery, monkeypatch, seldom, least, added, removed, given_away, due
):
    """Of 100 built faces: 5 % may come, 10 % may go or be given to others, and always `least`."""
    gallery.add(MORE[:added])
    for row in ROWS[:removed]:
        gallery.remove(face_id=row.face_id)
    if given_away:
        gallery.split([row.face_id for row in ROWS[-given_away:]], "somebody else")
    assert behind(gallery) == (100, added, removed + given_away)
    monkeypatch.setattr(derive, "LEAST", least)
    assert is_due(gallery) == due
    assert compact_if_due(gallery) == due and gallery.generation == 1 + due
    assert not is_due(gallery) and (behind(gallery) == (100 + added - removed, 0, 0) or not due)


def test_writers_compact_by_themselves_and_nobody_else_notices(gallery, index, monkeypatch):
    monkeypatch.setattr(derive, "LEAST", 7)
    generations, built, tail = [], 100, 0
    with Searcher(index) as searcher:
        for i in range(0, 60, 3):
            gallery.add(MORE[i : i + 3])
            tail += 3
            if tail > max(7, 0.05 * built):
                built, tail = built + tail, 0
            assert behind(gallery) == (built, tail, 0)
            generations.append(gallery.generation)
            found = searcher.search(QUERIES, 3, faces=True)
            want = [synthetic.nearest(ROWS + MORE[: i + 3], q, 3, True) for q in QUERIES]
            assert [[(h.identity, h.score, h.face_id) for h in hits] for hits in found] == want
    assert generations[-1] > 5 and derived(index) == only(generations[-1])


def test_damage_is_due_too(gallery, index):
    os.truncate(index / "built-1" / "index.faiss", 100)
    assert is_due(gallery) and compact_if_due(gallery) and not is_due(gallery) and derived(index) == only(2)


def test_nothing_is_due_before_the_first_build(tmp_path):
    with create_store(tmp_path / "club") as gallery:
        assert not compact_if_due(gallery)


def test_an_encrypted_gallery_has_nothing_derived(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_KEY", "a key")
    monkeypatch.setattr(derive, "LEAST", 0)
    build(synthetic.write(tmp_path / "v", ROWS), tmp_path / "club", BuildOptions(encrypt=True))
    with open_store(tmp_path / "club", write=True) as gallery:
        gallery.add(MORE)
        assert not is_due(gallery) and gallery.generation == 1
        for i in range(41):
            gallery.remove(face_id=MORE[i].face_id)
        assert gallery.generation == 2 and behind(gallery)[2] == 41 - 37, "the 37th was more than a tenth"
        assert compact(gallery) and unsound(gallery) == []
        assert derived(tmp_path / "club") == {"encrypted"} and verify(gallery).problems == []
    right(tmp_path / "club", ROWS + MORE[41:])


def test_a_compaction_tells_how_far_it_is(gallery, index, seldom):
    told: list[tuple[int, int]] = []
    assert compact(gallery, lambda done, total: told.append((done, total)))
    assert told[-1] == (100, 100) and told == sorted(told)


# two at once ----------------------------------------------------------------


def during(monkeypatch, event: Callable[[], object]) -> None:
    """Lets something happen between a compaction's files and its commit, once."""
    write = derive._write

    def watched(gallery: Store, generation: int, *rest: Callable) -> Path:
        folder = write(gallery, generation, *rest)
        monkeypatch.setattr(derive, "_write", write)
        event()
        return folder

    monkeypatch.setattr(derive, "_write", watched)


def test_of_two_compactions_one_wins_and_both_are_fine(gallery, index, monkeypatch, seldom):
    gallery.add(MORE[:4])
    with open_store(index, write=True) as other:
        done = []
        during(monkeypatch, lambda: done.append(compact(other)))
        assert compact(gallery) is False and done == [True]
        assert gallery.generation == other.generation == 2 and derived(index) == only(2) and unsound(gallery) == []
        assert compact(gallery) is True and derived(index) == only(3)
    right(index, ROWS + MORE[:4])


def test_what_comes_and_goes_during_a_compaction_is_not_lost(gallery, index, monkeypatch, seldom):
    gallery.remove(face_id=ROWS[0].face_id)
    with open_store(index, write=True) as other:
        during(
            monkeypatch,
            lambda: (
                other.add(MORE[:4]),
                other.remove(face_id=ROWS[1].face_id),
                other.split([ROWS[2].face_id], "somebody else"),
            ),
        )
        assert compact(gallery) is True and behind(gallery) == (99, 4, 2)
    rows = ROWS[2:] + MORE[:4]
    rows[0] = synthetic.row(rows[0].image, "somebody else", rows[0].vector)
    right(index, rows)
    assert compact(gallery) and behind(gallery) == (102, 0, 0)
    right(index, rows)


def test_two_in_one_process_write_into_folders_of_their_own(gallery, index, monkeypatch, seldom):
    """As threads of a server might: the second has written later rows while the first commits."""
    with open_store(index, write=True) as other:
        written = []

        def second() -> None:
            other.add(MORE[:4])
            with other.reading():
                written.append(derive._write(other, 2))

        during(monkeypatch, second)
        assert compact(gallery) is True and behind(gallery) == (100, 4, 0)
        assert json.loads((index / "built-2" / "report.json").read_bytes())["n"] == 100 and unsound(gallery) == []
        assert json.loads((written[0] / "report.json").read_bytes())["n"] == 104
        shutil.rmtree(written[0])
    right(index, ROWS + MORE[:4])


def test_threads_that_compact_and_write_end_in_one_sound_index(index, monkeypatch):
    monkeypatch.setattr(derive, "LEAST", 3)
    failures: list[BaseException] = []

    def work(part: Sequence[Row]) -> None:
        try:
            with open_store(index, write=True) as gallery:
                for i in range(0, len(part), 2):
                    gallery.add(part[i : i + 2])
                    compact(gallery)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(MORE[i * 16 : i * 16 + 16],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with open_store(index, write=True) as gallery:
        done = verify(gallery)
        assert done.problems == done.rebuilt == [] and derived(index) == only(gallery.generation)
    right(index, ROWS + MORE[:48])


# failures -------------------------------------------------------------------


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "built")


@pytest.mark.parametrize(
    "owner, name",
    [(derive, "_write_file"), (derive, "write_atomic"), (os, "rename"), (derive, "sync_folder"), (shutil, "rmtree")],
)
def test_a_rebuild_that_fails_after_the_commit_only_warns(gallery, index, monkeypatch, caplog, owner, name):
    gallery.add(MORE[:2])
    with monkeypatch.context() as patch:
        patch.setattr(derive, "LEAST", 3)
        patch.setattr(owner, name, no_space)
        assert gallery.add(MORE[2:8]).added == 6
        assert gallery.remove("person 3").faces == 2
    assert all(
        "the change is saved, but the index could not be rebuilt: built: the disk is full: free some" in r.getMessage()
        for r in caplog.records
    )
    assert (
        [(record.levelname, "\n" in record.getMessage()) for record in caplog.records]
        == [("WARNING", False)] * len(caplog.records)
        != []
    )
    caplog.clear()
    rows = [row for row in ROWS + MORE[:8] if row.identity != "person 3"]
    right(index, rows)
    assert caplog.records == [] and verify(gallery).problems == []
    assert compact(gallery) and derived(index) == only(gallery.generation)
    right(index, rows)


def test_a_compaction_that_was_asked_for_says_so(gallery, monkeypatch):
    monkeypatch.setattr(derive, "_write_file", no_space)
    with pytest.raises(SystemFault, match="the disk is full"):
        compact(gallery)
    assert gallery.generation == 1 and not list(gallery.folder.glob("_tmp-*")) and unsound(gallery) == []


def test_a_damaged_row_does_not_keep_others_from_being_added(gallery, index, monkeypatch, caplog):
    gallery.execute("UPDATE vectors SET vector = zeroblob(64) WHERE id = 5")
    monkeypatch.setattr(derive, "LEAST", 3)
    assert gallery.add(MORE[:8]).added == 8 and gallery.faces == 108
    assert [ROWS[4].face_id in record.getMessage() for record in caplog.records] == [True]


def test_a_transaction_that_fails_after_its_rebuild_leaves_the_old_generation(gallery, index):
    with pytest.raises(ZeroDivisionError), gallery.writing():
        gallery.enrol(MORE[:4])
        derive.derive(gallery)
        raise ZeroDivisionError
    assert gallery.generation == 1 and unsound(gallery) == [] and (index / "built-2").exists()
    right(index, ROWS)
    gallery.add(MORE[4:8])
    assert compact(gallery) and derived(index) == only(2), "what it left is not mistaken for the next one"
    right(index, ROWS + MORE[4:8])


def test_the_folder_of_a_process_that_died_before_its_commit_is_replaced(gallery, index):
    (index / "built-2").mkdir()
    (index / "built-2" / "index.faiss").write_bytes(b"half")
    (index / "built-2" / "foreign").write_text("")
    assert compact(gallery) and derived(index) == only(2) and unsound(gallery) == []


# tidying --------------------------------------------------------------------


def damaged_link(folder: Path) -> None:
    (folder / "index.faiss").unlink()
    (folder / "index.faiss").symlink_to("built-7/index.faiss")


def file_for_a_link(folder: Path) -> None:
    (folder / "index.faiss").unlink()
    (folder / "index.faiss").write_bytes(b"a copy")


@pytest.mark.parametrize(
    "damage", [lambda folder: None, lambda folder: (folder / "index.faiss").unlink(), damaged_link, file_for_a_link]
)
def test_tidying_leaves_one_generation_and_nothing_foreign(gallery, index, damage):
    damage(index)
    for name in ("built-0", "built-7", "_tmp-999999999.12345-built"):
        (index / name).mkdir()
        (index / name / "index.faiss").write_bytes(b"old")
    (index / "_tmp-999999998.12345-index.faiss").symlink_to("built-7/index.faiss")
    mine = index / f"{temporary_prefix()}mine"
    mine.write_text(""), (index / "notes.txt").write_text("")
    tidy(gallery)
    assert derived(index) == only(1) | {mine.name, "notes.txt"}, (
        "what belongs to a process that runs stays, and what is not ours"
    )
    assert (
        os.readlink(index / "index.faiss") == "built-1/index.faiss"
        and faiss.read_index(str(index / "index.faiss")).ntotal == 100
    )
    before = (index / "index.faiss").lstat().st_mtime_ns
    tidy(gallery)
    assert (index / "index.faiss").lstat().st_mtime_ns == before


# soundness ------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage, names",
    [
        (lambda b: None, set()),
        (lambda b: flip(b / "index.faiss"), {"index.faiss"}),
        (lambda b: flip(b / "owners.npy"), {"owners.npy"}),
        (lambda b: os.truncate(b / "index.faiss", 9), {"index.faiss"}),
        (lambda b: (b / "owners.npy").unlink(), {"owners.npy"}),
        (lambda b: (flip(b / "index.faiss"), flip(b / "owners.npy")), {"index.faiss", "owners.npy"}),
        (lambda b: flip(b / "report.json"), {"report.json"}),
        (lambda b: (b / "report.json").unlink(), {"report.json"}),
        (lambda b: shutil.rmtree(b), {"report.json"}),
        (lambda b: (shutil.rmtree(b), b.write_text("")), {"report.json"}),
    ],
)
def test_what_is_not_as_it_was_written_is_named(gallery, index, damage, names):
    damage(built_folder(index, 1))
    assert {path.name for path in unsound(gallery)} == names
    assert (read_report(gallery) is None) == ("report.json" in names)
    done = verify(gallery)
    assert (
        done.problems == []
        and {Path(path).name for path in done.rebuilt} == names
        and derived(index) == only(1 + bool(names))
    )


def test_only_files_up_to_a_size_are_hashed(gallery, index):
    built = built_folder(index, 1)
    sizes = {name: (built / name).stat().st_size for name in ("index.faiss", "owners.npy")}
    for name in sizes:
        flip(built / name)
    small, large = sorted(sizes.values())
    assert [len(unsound(gallery, limit)) for limit in (0, small - 1, small, large - 1, large, math.inf)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    os.truncate(built / "index.faiss", 9)
    assert [path.name for path in unsound(gallery, 0)] == ["index.faiss"], "a size is always looked at"


def test_the_files_of_another_gallery_are_not_taken(gallery, index, tmp_path):
    build(synthetic.write(tmp_path / "v", MORE[:100]), tmp_path / "other")
    shutil.rmtree(index / "built-1")
    shutil.copytree(tmp_path / "other" / "built-1", index / "built-1")
    assert unsound(gallery) == [index / "built-1" / "report.json"]


def test_a_position_is_how_far_a_snapshot_reaches(gallery, seldom):
    assert position_of(gallery) == (100, 0, 100)
    gallery.add(MORE[:4])
    gallery.remove(face_id=MORE[3].face_id)
    gallery.remove(face_id=MORE[0].face_id)
    assert position_of(gallery) == (103, 2, 102)


def test_centring_needs_a_direction(tmp_path):
    x, y = np.eye(synthetic.D, dtype=np.float32)[:2]
    z = synthetic.unit((x + y)[None])[0]
    rows = [synthetic.row(f"{i}.jpg", f"p{i}", v) for i, v in enumerate([x, y, *[z] * 2, *[-z] * 2])]
    build(synthetic.write(tmp_path / "v", rows), tmp_path / "a")
    with open_store(tmp_path / "a", write=True) as gallery:
        derive.check_centring(gallery)
        with gallery.writing():
            gallery.set_fact("mean", z.astype(np.float64).tobytes())
        with pytest.raises(DataError, match="--centre"):
            derive.check_centring(gallery)
