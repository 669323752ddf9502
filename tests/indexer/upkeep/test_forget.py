import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import apsw
import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError, GalleryError
from facegallery.embedder.files import temporary_prefix
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived.derive import compact
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.compact import compact_and_drop
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.receipt import Receipt, look, look_again, receipt_of
from facegallery.indexer.upkeep.traces import files_below
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.indexer.forgetting import forgotten

D = 32
OTHER = FaceSpec(parts=(Part("other", "cd" * 32, 24, "fixed"),))
ANN = "Ann-Kathrin"
SIMILAR = ("Ann-Kathrin Meyer", "JoAnn-Kathrin", "Ann-Kathri", "ann-kathrin", "Ann-Kathrin\u0301")
OTHERS = ("Bob Björnsson", "Zoë Łódź", "李小龙老师")
QUERIES = synthetic.vectors(20, 1, D, seed=3)


def faces(*names: str, photos: int = 3, seed: int = 0) -> list[Row]:
    """Real hashes, crops that can be told, and columns."""
    rng = np.random.default_rng(seed)
    xb = synthetic.vectors(len(names), photos, D, seed=seed)
    return [
        synthetic.row(
            f"album {seed}/{i}.jpg",
            names[i // photos],
            x,
            image_sha256=hashlib.sha256(b"%d of %d" % (i, seed)).hexdigest(),
            crop=synthetic.png(rng.bytes(400)),
            extra={"place": f"Łódź {i}"},
        )
        for i, x in enumerate(xb)
    ]


ROWS = faces(ANN, *SIMILAR, *OTHERS)
MINE, THEIRS = ROWS[:3], ROWS[3:]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build(synthetic.write(folder / "vectors", ROWS, synthetic.spec(D), extra=["place"]), folder / "club")
    return folder / "club"


def pieces(rows: Sequence[Row], vectors: Sequence[np.ndarray] = ()) -> list[bytes]:
    """Ids, hashes, and every 16 bytes of vectors and crops, but those with which every crop begins."""
    crops = [(row.crop or b"").removeprefix(synthetic.png(b"")) for row in rows]
    whole = [row.vector.tobytes() for row in rows] + crops + [x.tobytes() for x in vectors]
    texts = [text.encode() for row in rows for text in (row.face_id, row.image_sha256)]
    return texts + [data[i : i + 16] for data in whole for i in range(0, len(data) - 15, 16)]


def left(folder: Path, texts: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Where one of the texts stands in any file, links and logs and all, by plain search."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [(path.name, text) for path, data in files.items() for text in texts if text in data]


def named(folder: Path, name: str, longer: Sequence[str] = ()) -> int:
    """How often a name stands in any file, outside of longer texts that may be there."""
    data = b"\0\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for text in longer:
        data = data.replace(text.encode(), b"?") if name in text else data
    return data.count(name.encode())


def answers_for(folder: Path, rows: Sequence[Row]) -> None:
    with Searcher(folder) as searcher:
        found = searcher.search(QUERIES, 5)
    assert [[(h.identity, h.score, h.face_id) for h in hits] for hits in found] == [
        synthetic.nearest(rows, q, 5) for q in QUERIES
    ]


# gone -----------------------------------------------------------------------


def test_what_is_looked_for_is_there_before(index):
    assert len(left(index, pieces(MINE))) >= len(pieces(MINE)) and named(index, ANN, SIMILAR) > 0


def test_nothing_of_a_person_is_left_and_all_others_stay(gallery, index):
    done = forgotten(gallery, ANN)
    assert left(index, pieces(MINE)) == [] and named(index, ANN, SIMILAR) == 0
    assert (done.found, done.pending, done.face_ids) == (0, False, sorted(row.face_id for row in MINE))
    assert [name for name, _ in gallery.list_people()] == sorted(
        {unicodedata.normalize("NFC", row.identity) for row in THEIRS}
    )
    assert verify(gallery).problems == [] and gallery.list_log() == []
    answers_for(index, [replace(row, identity=unicodedata.normalize("NFC", row.identity)) for row in THEIRS])
    assert gallery.columns == ["place"] and all(gallery.crop(row.face_id) == row.crop for row in THEIRS)


Verb = Callable[[Store], object]
OLD, NEWER = "Anna Karenina", "Anna Arkadyevna"
CHAINS: dict[str, tuple[list[Verb], str, set[str]]] = {
    "removed": ([lambda g: g.remove(face_id=MINE[0].face_id)], ANN, {ANN}),
    "wholly removed": ([lambda g: g.remove(ANN)], ANN, {ANN}),
    "renamed": ([lambda g: g.rename(ANN, OLD)], OLD, {ANN, OLD}),
    "renamed twice": ([lambda g: g.rename(ANN, OLD), lambda g: g.rename(OLD, NEWER)], NEWER, {ANN, OLD, NEWER}),
    "renamed and back": ([lambda g: g.rename(ANN, OLD), lambda g: g.rename(OLD, ANN)], ANN, {ANN, OLD}),
    "removed, then renamed": (
        [lambda g: g.remove(face_id=MINE[0].face_id), lambda g: g.rename(ANN, OLD)],
        OLD,
        {ANN, OLD},
    ),
    "renamed, then removed": ([lambda g: g.rename(ANN, OLD), lambda g: g.remove(OLD)], OLD, {ANN, OLD}),
    "merged from": ([lambda g: g.add(faces(OLD, seed=1)), lambda g: g.merge(OLD, ANN)], ANN, {ANN, OLD}),
    "merged into": ([lambda g: g.add(faces(OLD, seed=1)), lambda g: g.merge(ANN, OLD)], OLD, {ANN, OLD}),
    "renamed, merged, renamed": (
        [
            lambda g: g.rename(ANN, OLD),
            lambda g: g.add(faces(ANN, seed=1)),
            lambda g: g.merge(OLD, ANN),
            lambda g: g.rename(ANN, NEWER),
        ],
        NEWER,
        {ANN, OLD, NEWER},
    ),
    "split": ([lambda g: g.split([MINE[0].face_id], OLD), lambda g: g.merge(OLD, ANN)], ANN, {ANN, OLD}),
    "split and removed": (
        [
            lambda g: g.remove(face_id=MINE[1].face_id),
            lambda g: g.split([MINE[0].face_id], OLD),
            lambda g: g.rename(OLD, NEWER),
            lambda g: g.merge(NEWER, ANN),
        ],
        ANN,
        {ANN, OLD, NEWER},
    ),
    "undone": (
        [lambda g: g.rename(ANN, OLD), lambda g: g.undo(), lambda g: g.remove(ANN), lambda g: g.undo()],
        ANN,
        {ANN},
    ),
    "rebuilt": (
        [lambda g: g.remove(face_id=MINE[0].face_id), compact, lambda g: g.add(faces(OTHERS[0], seed=1))],
        ANN,
        {ANN},
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_nothing_is_left_whatever_the_log_says(gallery, index, chain):
    verbs, name, names = CHAINS[chain]
    for verb in verbs:
        verb(gallery)
    gone = MINE + (
        [] if chain not in ("merged from", "merged into", "renamed, merged, renamed") else faces(OLD, seed=1)
    )
    assert left(index, pieces(gone)) and all(named(index, n, SIMILAR) for n in names)
    done = forgotten(gallery, name)
    assert left(index, pieces(gone)) == [] and [n for n in names if named(index, n, SIMILAR)] == []
    assert done.found == 0 and done.face_ids == sorted(row.face_id for row in gone)
    assert verify(gallery).problems == [] and gallery.execute("SELECT * FROM trash") == []
    added = faces(OTHERS[0], seed=1) if chain == "rebuilt" else []
    answers_for(index, [replace(row, identity=unicodedata.normalize("NFC", row.identity)) for row in THEIRS + added])
    while gallery.list_log():
        gallery.undo()
    assert left(index, pieces(gone)) == [] and [n for n in names if named(index, n, SIMILAR)] == []
    for n in names:
        assert forgotten(gallery, n).found == 0, "each of the names is known to have been forgotten"


def test_vectors_of_another_model_go_too(gallery, index):
    other = synthetic.vectors(len(ROWS), 1, 24, seed=5)
    switch.prepare(gallery, OTHER)
    for block in switch.pending(gallery):
        switch.store_vectors(gallery, block, other[[face.id - 1 for face in block]])
    gallery.remove(face_id=MINE[0].face_id)  # the trash keeps one model's vector
    switch.switch(gallery)
    gallery.remove(face_id=MINE[1].face_id)
    assert left(index, pieces(MINE, other[1:3]))
    assert forgotten(gallery, ANN).found == 0 and left(index, pieces(MINE, other[:3])) == []
    switch.switch(gallery)
    answers_for(index, [replace(row, identity=unicodedata.normalize("NFC", row.identity)) for row in THEIRS])


def test_what_deleting_left_in_free_pages_goes_too(index):
    db = apsw.Connection(str(index / "gallery.db"))
    db.execute("PRAGMA secure_delete=OFF")
    for table in ("vectors", "crops"):
        rows = list(db.execute(f"SELECT * FROM {table} WHERE id <= 3"))
        db.execute(f"DELETE FROM {table} WHERE id <= 3")
        db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        db.execute(f"CREATE TABLE copy_of_{table} AS SELECT * FROM {table}; DROP TABLE copy_of_{table}")
    db.close()
    with open_store(index, write=True) as gallery:
        traces = forget(gallery, ANN)
        assert (
            finish_pending(gallery, 1000) and look(gallery, traces)[str(gallery.path)] > 0 and left(index, pieces(MINE))
        )
        assert receipt_of(gallery, traces, {}, pending=False).found == 0
        assert left(index, pieces(MINE)) == [] and verify(gallery).problems == []


SOURCES = {
    f"/data/{ANN}": "/data/*",
    f"/data/{ANN}/photos": "/data/*/photos",
    f"/data/{ANN}.csv": "/data/*.csv",
    unicodedata.normalize("NFD", "/data/Zoë Łódź"): "/data/*",
    f"/data/{ANN} and Bob/photos": None,
    f"/data/x{ANN}/{ANN}s/{ANN}-faces": None,
}


@pytest.mark.parametrize(("source", "shown"), SOURCES.items())
def test_a_source_is_named_but_for_a_folder_that_is_called_like_the_person(gallery, index, source, shown):
    """In this receipt and in later ones."""
    with gallery.writing():
        gallery.set_fact("sources", json.dumps([source, "/data/others"]))
    done = forgotten(gallery, "Zoë Łódź" if "Zo" in source else ANN)
    line = f"data set or photos: {shown or source}"
    assert line in done.not_cleaned and "data set or photos: /data/others" in done.not_cleaned and done.found == 0
    assert json.loads(gallery.fact("sources")) == list(dict.fromkeys([shown or source, "/data/others"]))
    assert done.withheld == (shown is not None) and (source in json.dumps(asdict(done), ensure_ascii=False)) == (
        shown is None
    )
    assert any("1 paths" in note for note in done.notes) == (shown is not None)
    assert line in forgotten(gallery, OTHERS[0]).not_cleaned


def test_a_short_name_inside_of_other_words_empties_no_list(tmp_path):
    """A person called `att` in a data set under such a folder."""
    rows = faces("att", *OTHERS)
    folder = tmp_path / "att-faces" / "batteries" / "vectors"
    build(synthetic.write(folder, rows, synthetic.spec(D), extra=["place"]), tmp_path / "club")
    with open_store(tmp_path / "club", write=True) as gallery:
        for name in ("att", OTHERS[0]):
            assert f"data set or photos: {folder}" in forgotten(gallery, name).not_cleaned


def test_a_photo_that_shows_others_too_stays_theirs(gallery, index):
    """Its hash stands in their row, and is no trace."""
    together = [
        replace(row, face=1, image=mine.image, image_sha256=mine.image_sha256)
        for row, mine in zip(faces(*OTHERS[:2], photos=1, seed=1), MINE, strict=False)
    ]
    gallery.add(together)
    gallery.remove(face_id=together[1].face_id)
    done = forgotten(gallery, ANN)
    hashes = [row.image_sha256.encode() for row in MINE]
    assert (
        done.found == 0
        and left(index, [hashes[2]]) == []
        and {text for _, text in left(index, hashes)} == set(hashes[:2])
    )
    assert gallery.known([row.face_id for row in together]) == {together[0].face_id: OTHERS[0]}
    gallery.undo()
    assert gallery.known([row.face_id for row in together]) == {row.face_id: row.identity for row in together}


# what others can take back --------------------------------------------------


def test_the_log_of_others_is_kept_and_can_be_taken_back(gallery):
    mixed = faces(ANN, OTHERS[0], "Somebody new", seed=1)
    gallery.add(mixed)
    gallery.remove(OTHERS[1])
    gallery.rename(OTHERS[2], "Bruce")
    gallery.split([mixed[0].face_id, mixed[3].face_id], "Somebody new")
    forgotten(gallery, ANN)
    assert [(line["verb"], line["faces"]) for line in gallery.list_log()] == [
        ("split", 1),
        ("rename", 0),
        ("remove", 3),
        ("add", 7),
    ]
    assert [gallery.undo()[0].verb for _ in range(4)] == ["split", "rename", "remove", "add"]
    names = {unicodedata.normalize("NFC", row.identity) for row in THEIRS}
    assert {name for name, _ in gallery.list_people()} == names and verify(gallery).problems == []


def test_a_face_that_was_given_to_another_stays(gallery, index):
    gallery.split([MINE[0].face_id], OTHERS[0])
    done = forgotten(gallery, ANN)
    assert done.face_ids == sorted(row.face_id for row in MINE[1:]) and done.found == 0
    assert (
        gallery.known([MINE[0].face_id]) == {MINE[0].face_id: OTHERS[0]}
        and named(index, ANN, SIMILAR) == 0
        and gallery.list_log() == []
    )


def test_an_old_name_that_is_anothers_by_now_is_let_alone(gallery, index):
    gallery.rename(ANN, OLD)
    new = faces(ANN, seed=1)
    gallery.add(new)
    gallery.remove(face_id=new[0].face_id)
    done = forgotten(gallery, OLD)
    assert done.face_ids == sorted(row.face_id for row in MINE) and gallery.enrolled([ANN]) == {ANN} and done.found == 0
    assert left(index, pieces(MINE)) == [] and named(index, OLD) == 0
    gallery.undo()
    assert len(gallery.list_faces(ANN)) == 3


# again ----------------------------------------------------------------------


def test_a_second_time_finds_nothing_and_an_unknown_name_is_refused(gallery, index):
    first = forgotten(gallery, ANN)
    again = forgotten(gallery, ANN)
    assert (again.found, again.face_ids, len(first.face_ids)) == (0, [], 3)
    before = [row.face_id for row in THEIRS if gallery.known([row.face_id])]
    for name in ("Nobody", "Ann", "", "club"):
        with pytest.raises(GalleryError, match=f"person of club, .*{name!r}"):
            forget(gallery, name)
    assert [row.face_id for row in THEIRS if gallery.known([row.face_id])] == before and gallery.fact(
        "forgetting"
    ) is None


def test_a_name_is_one_whatever_its_unicode(gallery, index):
    assert (
        len(forgotten(gallery, unicodedata.normalize("NFD", "Zoë Łódź")).face_ids) == 3
        and named(index, "Zoë Łódź") == 0
    )
    assert forgotten(gallery, unicodedata.normalize("NFC", "Zoë Łódź")).face_ids == []
    name = unicodedata.normalize("NFC", "Zoë Łódź")
    assert [forget(gallery, unicodedata.normalize(form, name)).names for form in ("NFC", "NFD")] == [{name}, {name}]


def test_the_forgotten_do_not_come_back_but_when_they_are_readmitted(gallery, index):
    forgotten(gallery, ANN)
    for name in (ANN, "Another name"):
        done = gallery.add([replace(row, identity=name) for row in MINE] + faces("New person", seed=1))
        assert (done.forgotten, done.added) == (3, 3 if name == ANN else 0)
    assert left(index, pieces(MINE)) == []
    assert gallery.add(MINE[:2], readmit=True).added == 2 and gallery.add(MINE).forgotten == 1
    assert len(gallery.list_faces(ANN)) == 2 and verify(gallery).problems == []
    assert (
        forgotten(gallery, ANN).face_ids == sorted(row.face_id for row in MINE[:2]) and gallery.add(MINE).forgotten == 3
    )


def test_a_readmission_is_taken_back_by_undo_and_not_forgotten_then(gallery):
    forgotten(gallery, ANN)
    gallery.add(MINE, readmit=True)
    gallery.undo()
    assert gallery.add(MINE).added == 3


def test_building_anew_keeps_them_out(index, original):
    with open_store(index, write=True) as gallery:
        forgotten(gallery, ANN)
    report = build(original.parent / "vectors", index, BuildOptions(replace=True))
    assert (
        (report.n, report.left_out) == (24, {"of a forgotten face": 3})
        and left(index, pieces(MINE)) == []
        and named(index, ANN, SIMILAR) == 0
    )
    with open_store(index, write=True) as gallery:
        assert forgotten(gallery, ANN).found == 0
    assert build(original.parent / "vectors", index, BuildOptions(replace=True, readmit=True)).n == 27


def test_what_is_kept_of_them_says_nothing(gallery):
    forgotten(gallery, ANN)
    kept, salt = [hash for (hash,) in gallery.execute("SELECT hash FROM forgotten")], gallery.fact("salt")
    texts = [row.face_id for row in MINE] + [f"name:{ANN}"]
    assert sorted(kept) == sorted(hashlib.blake2b(text.encode(), key=salt, digest_size=16).digest() for text in texts)
    assert not set(kept) & {hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts}


# while others read ----------------------------------------------------------


def test_a_reader_of_an_older_state_puts_off_the_end(gallery, index):
    with open_store(index) as reader:
        with reader.reading():
            before = reader.list_people()
            traces = forget(gallery, ANN)
            assert not finish_pending(gallery, 10) and reader.list_people() == before
            done = receipt_of(gallery, traces, {}, pending=True)
            assert done.pending and gallery.fact("forgetting")
            with open_store(index) as other:
                assert other.enrolled([ANN]) == set() and other.fact("forgetting"), "it does not wait"
            answers_for(index, [replace(row, identity=unicodedata.normalize("NFC", row.identity)) for row in THEIRS])
        open_store(index).close()
    assert gallery.fact("forgetting") is None and left(index, pieces(MINE)) == []
    assert sum(look(gallery, traces).values()) == 0


def test_a_build_of_an_older_state_puts_off_the_end_and_makes_it(gallery, index):
    receipts: list[Receipt] = []

    def during(done: int, total: int) -> None:
        if not receipts:
            with open_store(index, write=True) as other:
                receipts.append(forgotten(other, ANN))

    compact_and_drop(gallery, on_progress=during)
    (receipt,) = receipts
    assert receipt.pending, "the build holds vectors of an older state"
    assert (
        gallery.fact("forgetting") is None
        and left(index, pieces(MINE)) == []
        and sum(look_again(gallery, receipt, ANN).values()) == 0
    )


def test_what_a_build_leaves_that_was_killed_goes_when_the_index_is_opened(gallery, index):
    folder = index / f"{temporary_prefix()}{'ab' * 16}-built"
    folder.mkdir(), (folder / "index.faiss").write_bytes(MINE[0].vector.tobytes())
    assert forgotten(gallery, ANN).pending
    open_store(index).close()
    assert gallery.fact("forgetting") is not None and left(index, pieces(MINE)) != [], "its process runs"
    folder.rename(index / f"_tmp-{os.getpid()}.12345-ab-built")
    open_store(index).close()
    assert gallery.fact("forgetting") is None and left(index, pieces(MINE)) == []


def test_a_pending_end_outlives_a_build_in_its_place(gallery, index, original):
    with open_store(index) as reader, reader.reading():
        forget(gallery, ANN)
        build(original.parent / "vectors", index, BuildOptions(replace=True))
        assert gallery.fact("forgetting")
    open_store(index).close()
    assert gallery.fact("forgetting") is None and left(index, pieces(MINE)) == []


def test_an_open_searcher_forgets_too(gallery, index):
    with Searcher(index) as searcher:
        assert searcher.search(MINE[0].vector[None], 1)[0][0].identity == ANN
        forgotten(gallery, ANN)
        assert searcher.search(MINE[0].vector[None], 1)[0][0].identity != ANN


# the receipt ----------------------------------------------------------------


def test_a_receipt_names_nobody_and_says_what_was_not_cleaned(tmp_path):
    tuned = FaceSpec(
        parts=(Part("finetuned", "ef" * 32, D, "fixed", parent="ab" * 32), Part("made-up", "ab" * 32, 8, "fixed"))
    )
    rows = [replace(row, vector=synthetic.unit(np.concatenate([row.vector, row.vector[:8]]))) for row in ROWS]
    for name in ("one", "two"):
        synthetic.write(tmp_path / name, rows, tuned, extra=["place"])
    build(tmp_path / "one", tmp_path / "club")
    with open_store(tmp_path / "club", write=True) as gallery:
        gallery.set_fact("sources", json.dumps([str(tmp_path / "one"), str(tmp_path / "two"), f"/photos/{ANN}"]))
        traces = forget(gallery, ANN)
        done = receipt_of(gallery, traces, {str(tmp_path / "one"): 3}, pending=not finish_pending(gallery, 1000))
    text = done.to_json()
    assert all(name not in text for name in (ANN, *SIMILAR, *OTHERS)) and not any(row.image in text for row in ROWS)
    assert done.not_cleaned == [
        f"data set or photos: {tmp_path}/two",
        "data set or photos: /photos/*",
        f"model finetuned ({'ef' * 8}): finetuned, perhaps on this person too",
        "the original photos",
        "backups and exports of this index",
    ]
    assert (done.index, done.data_sets, done.pending) == ("club", {str(tmp_path / "one"): 3}, False)
    shard = str(tmp_path / "one" / "part-00000.parquet")
    assert {path for path, n in done.files.items() if n} == {shard} and done.found == done.files[shard] > 30, (
        "it was not cleaned in fact"
    )
    assert {Path(path).name for path in done.files} >= {
        "gallery.db",
        "index.faiss",
        "owners.npy",
        "report.json",
        "part-00000.parquet",
    }
    assert len(done.notes) == 3
    for note, word in zip(done.notes, ("1 texts", "1 paths", "data sets"), strict=True):
        assert word in note


def test_receipts_are_read_again(gallery, tmp_path):
    done = forgotten(gallery, ANN)
    (tmp_path / "r.json").write_text(done.to_json())
    assert Receipt.read(tmp_path / "r.json") == done
    for text in ("", "[]", "{}", '{"index": "x"}', '{"a": 1}', "\xff"):
        (tmp_path / "bad").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match="receipt .*/bad"):
            Receipt.read(tmp_path / "bad")
    with pytest.raises(DataError, match="nowhere"):
        Receipt.read(tmp_path / "nowhere")


def test_another_look_finds_what_came_back(gallery, index, tmp_path):
    done = forgotten(gallery, ANN)
    assert sum(look_again(gallery, done, ANN).values()) == sum(look_again(gallery, done, None).values()) == 0
    gallery.add(MINE[:1], readmit=True)
    with pytest.raises(GalleryError, match=f"'{ANN}' .*`forget`"):
        look_again(gallery, done, ANN)
    assert sum(look_again(gallery, done, None).values()) > 0
    forgotten(gallery, ANN)
    assert sum(look_again(gallery, done, ANN).values()) == 0
    (index / "notes").write_text(f"{MINE[1].face_id} is {ANN}")
    assert look_again(gallery, done, ANN)[str(index / "notes")] == 2
    (index / "notes").unlink()
    done.data_sets = {
        str(tmp_path / "gone"): 1,
        str(synthetic.write(tmp_path / "v", MINE, synthetic.spec(D), ["place"])): 3,
    }
    assert sum(n for path, n in look_again(gallery, done, ANN).items() if "/v/" in path) > 3


def test_what_cannot_be_looked_for_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_KEY", "a key")
    rows = faces("Al", "Bo", *OTHERS, seed=2)
    for encrypt in (False, True):
        folder = tmp_path / f"club{encrypt}"
        build(
            synthetic.write(tmp_path / f"v{encrypt}", rows, synthetic.spec(D), ["place"]),
            folder,
            BuildOptions(encrypt=encrypt),
        )
        with open_store(folder, write=True) as gallery:
            done = forgotten(gallery, "Al")
        assert ("too short" in str(done.notes)) and done.found == 0
        assert ("encrypted" in str(done.notes)) == encrypt
        assert left(folder, pieces(rows[:3])) == []


def test_files_that_go_while_they_are_looked_through_hold_nothing(gallery, index, monkeypatch):
    traces = forget(gallery, ANN)
    assert finish_pending(gallery, 1000)
    monkeypatch.setattr(
        "facegallery.indexer.upkeep.receipt.files_below",
        lambda folder: [*files_below(folder), folder / "index.faiss-gone"],
    )
    files = {path: n for path, n in look(gallery, traces).items() if Path(path).suffix}
    assert files[str(index / "index.faiss-gone")] == 0
