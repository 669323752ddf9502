import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import apsw
import faiss
import numpy as np
import pytest

from facegallery.embedder.errors import DataError, GalleryError, InputError, SystemFault
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived.derive import Sink, centred
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.selection import Selection
from facegallery.workflows.upkeep import build_index
from tests import synthetic
from tests.conftest import ROOT
from tests.doses import doses
from tests.indexer.forgetting import forgotten
from tests.synthetic import D


def state(folder: Path) -> dict:
    """All that an index holds: every table, the FAISS file, the report, the names of files."""
    tables = ("people", "faces", "vectors", "crops", "meta", "log", "changed", "sqlite_sequence")
    db = apsw.Connection(str(folder / "gallery.db"))
    try:
        content = {table: list(db.execute(f"SELECT * FROM {table} ORDER BY 1")) for table in tables}
        content["meta"] = [
            line for line in content["meta"] if line[0] not in ("salt", "totals")
        ]  # drawn by chance, and counted
    finally:
        db.close()
    built = (folder / "index.faiss").resolve().parent
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.startswith("gallery.db-")}
    report = json.loads((built / "report.json").read_bytes())
    return content | {"index": (built / "index.faiss").read_bytes(), "report": report, "names": names}


# what is built --------------------------------------------------------------


def test_plain_faiss_opens_it_and_it_holds_the_vectors(tmp_path):
    rows = synthetic.rows(9, 3)
    report = build(synthetic.write(tmp_path / "v", rows, per_shard=5), tmp_path / "i" / "nine")
    index = faiss.read_index(str(tmp_path / "i" / "nine" / "index.faiss"))
    assert (index.metric_type, index.d, index.ntotal) == (faiss.METRIC_INNER_PRODUCT, D, 27)
    assert faiss.vector_to_array(index.id_map).tolist() == list(range(1, 28))
    assert (
        faiss.rev_swig_ptr(faiss.downcast_index(index.index).get_xb(), 27 * D).reshape(27, D) == synthetic.vectors(9, 3)
    ).all()
    _, found = index.search(rows[13].vector[None], 1)
    with open_store(tmp_path / "i" / "nine") as gallery:
        assert gallery.fetch(found[0])[14].face_id == rows[13].face_id
    assert (report.n, report.d, report.people, report.changed, report.kind, report.centred) == (
        27,
        D,
        9,
        True,
        "exact",
        False,
    )
    assert report.text == f"nine: 27 faces of 9 people, {D} dimensions, exact: built"


def test_the_report_hashes_the_index_and_names_nobody(tmp_path):
    build(synthetic.write(tmp_path / "v", synthetic.rows(3, 1)), tmp_path / "i")
    text = (tmp_path / "i" / "built-1" / "report.json").read_text()
    report = json.loads(text)
    assert report["files"]["index.faiss"]["sha256"] == sha256((tmp_path / "i" / "index.faiss").read_bytes()).hexdigest()
    assert (report["generation"], report["n"], report["d"], report["people"]) == (1, 3, D, 3)
    assert (
        report["versions"]["faiss"] == faiss.__version__
        and report["reason"]
        and report["fingerprint"] == synthetic.spec().fingerprint
    )
    assert "person" not in text and "all/" not in text


def test_names_that_are_nearly_the_same_are_told_and_kept(tmp_path):
    rows = [
        synthetic.row(f"{name}.jpg", name, x)
        for name, x in zip(("Ann", "ann", "Bob"), synthetic.vectors(3, 1), strict=True)
    ]
    data = synthetic.write(tmp_path / "v", rows)
    for report in (build(data, tmp_path / "i"), build(data, tmp_path / "i")):
        (note,) = report.notes
        assert "'Ann' and 'ann'" in note and report.people == 3
    assert build(synthetic.write(tmp_path / "w", rows[1:]), tmp_path / "j").notes == []


def test_files_are_the_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        build(synthetic.write(tmp_path / "v", synthetic.rows(3, 1)), tmp_path / "i")
    finally:
        os.umask(old)
    paths = [tmp_path / "i", *(path for path in (tmp_path / "i").rglob("*") if not path.is_symlink())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert os.readlink(tmp_path / "i" / "index.faiss") == "built-1/index.faiss"


def test_centring_is_frozen_and_stored_vectors_stay(tmp_path):
    xb = synthetic.vectors(8, 2)
    build(synthetic.write(tmp_path / "v", synthetic.rows(8, 2)), tmp_path / "i", BuildOptions(centre=True))
    mean = xb.astype(np.float64).mean(axis=0)
    want = xb - mean
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    index = faiss.read_index(str(tmp_path / "i" / "index.faiss"))
    got = faiss.rev_swig_ptr(faiss.downcast_index(index.index).get_xb(), xb.size).reshape(xb.shape)
    np.testing.assert_allclose(got, want, atol=1e-6)
    with open_store(tmp_path / "i") as gallery:
        np.testing.assert_allclose(gallery.mean, mean, atol=1e-12)
        assert (next(gallery.vectors())[1] == xb).all()


def test_centring_needs_faces_that_differ(tmp_path):
    x = synthetic.vectors(1, 1)[0]
    data = synthetic.write(tmp_path / "v", [synthetic.row(f"{i}.jpg", "ann", x) for i in range(3)])
    with pytest.raises(DataError, match="--centre"):
        build(data, tmp_path / "i", BuildOptions(centre=True))
    with pytest.raises(GalleryError, match="there is none"):
        open_store(tmp_path / "i")
    assert (centred(x[None], x.astype(np.float64)) == 0).all()


# which rows -----------------------------------------------------------------


def mixed() -> list:
    x = iter(synthetic.vectors(9, 1))
    return [
        synthetic.row("a.jpg", "ann", next(x), "gallery"),
        synthetic.row("b.jpg", "bob", None, "gallery", "no_face"),
        synthetic.row("c.jpg", None, next(x), "gallery"),
        synthetic.row("d.jpg", "", next(x), "gallery"),
        synthetic.row("e.jpg", "eve", next(x), "probe"),
        synthetic.row("f.jpg", "fay", next(x), None),
        synthetic.row("g.jpg", "gus", None, "gallery", "outside"),
    ]


@pytest.mark.parametrize(
    "split, names, left_out",
    [
        (None, ["ann"], {"of another split": 2, "without a vector": 2, "without an identity": 2}),
        ("gallery", ["ann"], {"of another split": 2, "without a vector": 2, "without an identity": 2}),
        ("probe", ["eve"], {"of another split": 6}),
    ],
)
def test_rows_are_chosen_and_the_others_counted(tmp_path, split, names, left_out):
    report = build(synthetic.write(tmp_path / "v", mixed(), per_shard=2), tmp_path / "i", BuildOptions(split))
    with open_store(tmp_path / "i") as gallery:
        assert [name for (name,) in gallery.rows("SELECT name FROM people ORDER BY id")] == names
    assert report.left_out == left_out and report.n + sum(left_out.values()) == 7
    assert "rows left out: 6 of another split" in report.text or split != "probe"


def test_all_rows_where_there_is_no_gallery_split(tmp_path):
    rows = [row for row in mixed() if row.split != "gallery"]
    report = build(synthetic.write(tmp_path / "v", rows), tmp_path / "i")
    assert (report.people, report.split, report.left_out) == (2, None, {})


def test_one_face_under_two_people_is_a_conflict(tmp_path):
    x = synthetic.vectors(4, 1)
    same = {"image_sha256": "one photo"}
    rows = [
        synthetic.row("a/1.jpg", "ann", x[0], **same),
        synthetic.row("b/1.jpg", "bob", x[0], **same),
        synthetic.row("a/copy.jpg", "ann", x[0], **same),
        synthetic.row("b/2.jpg", "bob", x[1]),
    ]
    report = build(synthetic.write(tmp_path / "v", rows), tmp_path / "i")
    assert (report.n, report.people) == (2, 2)
    assert report.left_out == {"the same face again": 1, "the same face under another person": 1}
    assert [(c.image, c.kept, c.refused, c.face_id) for c in report.conflicts] == [
        ("b/1.jpg", "ann", "bob", rows[0].face_id)
    ]
    assert len(report.notes) == 1 and "ann" in report.notes[0] and "bob" in report.notes[0]
    assert build(tmp_path / "v", tmp_path / "i").left_out == report.left_out


def test_many_conflicts_are_cut_short(tmp_path):
    x = synthetic.vectors(1, 1)[0]
    rows = [synthetic.row(f"{i}.jpg", f"p{i}", x, image_sha256="one photo") for i in range(30)]
    report = build(synthetic.write(tmp_path / "v", rows), tmp_path / "i")
    assert len(report.conflicts) == 29 and len(report.notes) == 21 and report.notes[-1] == "and 9 more such faces"


def test_the_users_columns_are_kept(tmp_path):
    rows = synthetic.rows(2, 1)
    rows[0].extra = {"year": "1999", "tag": "Übung"}
    build(synthetic.write(tmp_path / "v", rows, extra=["year", "tag"]), tmp_path / "i")
    with open_store(tmp_path / "i") as gallery:
        assert [json.loads(text) for (text,) in gallery.rows("SELECT extra FROM faces ORDER BY id")] == [
            rows[0].extra,
            {},
        ]


# refusals -------------------------------------------------------------------


def test_nothing_to_enrol(tmp_path):
    rows = [
        synthetic.row("a.jpg", "ann", None, outcome="no_face"),
        synthetic.row("b.jpg", None, synthetic.vectors(1, 1)[0]),
    ]
    data = synthetic.write(tmp_path / "v", rows)
    with pytest.raises(DataError, match="1 rows .*vector, 1 rows .*identity"):
        build(data, tmp_path / "i")
    with pytest.raises(DataError, match="'probe'"):
        build(data, tmp_path / "i", BuildOptions("probe"))
    with pytest.raises(GalleryError, match="there is none"):
        open_store(tmp_path / "i")


def test_a_refused_build_leaves_nothing_and_says_how_people_are_named(tmp_path):
    data = synthetic.write(tmp_path / "v", [synthetic.row("b.jpg", None, synthetic.vectors(1, 1)[0])])
    with pytest.raises(DataError, match="`add --identity`") as caught:
        build(data, tmp_path / "indexes" / "i")
    assert "\n" not in str(caught.value) and not (tmp_path / "indexes").exists()


def test_a_refused_build_leaves_an_index_that_is_there_as_it_was(tmp_path):
    build(synthetic.write(tmp_path / "v", synthetic.rows(3, 2)), tmp_path / "i")
    before = state(tmp_path / "i")
    nameless = synthetic.write(tmp_path / "n", [synthetic.row("b.jpg", None, synthetic.vectors(1, 1)[0])])
    with pytest.raises(DataError, match="without an identity"):
        build(nameless, tmp_path / "i", BuildOptions(replace=True))
    assert state(tmp_path / "i") == before


def test_photos_where_vectors_belong_are_named_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path / "indexes"))
    photo = tmp_path / "photos" / "Ann" / "1.jpg"
    photo.parent.mkdir(parents=True), photo.write_bytes(b"x")
    for given in (tmp_path / "photos", photo):
        with pytest.raises(DataError, match="`embed .* --model M --out VECTORS`") as caught:
            build_index(given, "i")
        assert "\n" not in str(caught.value) and not (tmp_path / "indexes").exists()


def test_inputs_that_are_no_vectors(tmp_path):
    crops = synthetic.write(tmp_path / "crops", [synthetic.row("a.jpg", "ann", None)], FaceSpec())
    with pytest.raises(DataError, match="crops: run `embed"):
        build(crops, tmp_path / "i")
    with pytest.raises(DataError, match="is not there"):
        build(tmp_path / "nowhere", tmp_path / "i")
    long = synthetic.write(tmp_path / "long", [synthetic.row("a.jpg", "ann", 2 * synthetic.vectors(1, 1)[0])])
    with pytest.raises(DataError, match="length 1 .*received one of 2"):
        build(long, tmp_path / "i")
    with pytest.raises(InputError, match="index name"):
        build(crops, tmp_path / "-i")


def test_a_truncated_shard(tmp_path):
    data = synthetic.write(tmp_path / "v", synthetic.rows(20, 1), per_shard=10)
    os.truncate(data / "part-00001.parquet", 500)
    with pytest.raises(DataError, match=r"part-00001\.parquet is missing or damaged"):
        build(data, tmp_path / "i")


# again ----------------------------------------------------------------------


def test_the_same_inputs_are_a_no_op_others_are_refused(tmp_path):
    a = synthetic.write(tmp_path / "a", synthetic.rows(5, 2))
    b = synthetic.write(tmp_path / "b", synthetic.rows(5, 2, seed=1))
    first = build(a, tmp_path / "i")
    before, time_of = state(tmp_path / "i"), (tmp_path / "i" / "gallery.db").stat().st_mtime_ns
    again = build(a, tmp_path / "i")
    assert first.changed and not again.changed and "nothing was done" in again.text
    for other in [(b, None, False), (a, None, True)]:
        with pytest.raises(GalleryError, match="--replace"):
            build(other[0], tmp_path / "i", BuildOptions(*other[1:]))
    assert state(tmp_path / "i") == before and (tmp_path / "i" / "gallery.db").stat().st_mtime_ns == time_of


def change(field: str, value: object):
    def rows() -> list:
        made = synthetic.rows(3, 1)
        setattr(made[1], field, value)
        return made

    return rows


@pytest.mark.parametrize(
    "other",
    [
        change("identity", "another"),
        change("image_sha256", "another"),
        change("vector", synthetic.vectors(1, 1, seed=9)[0]),
        change("extra", {"tag": "x"}),
        lambda: synthetic.rows(3, 1)[::-1],
        lambda: synthetic.rows(2, 1),
    ],
)
def test_any_change_is_another_input(tmp_path, other):
    build(synthetic.write(tmp_path / "a", synthetic.rows(3, 1), extra=["tag"]), tmp_path / "i")
    with pytest.raises(GalleryError, match="--replace"):
        build(synthetic.write(tmp_path / "b", other(), extra=["tag"]), tmp_path / "i")


def test_other_inputs_are_refused_with_every_way_on(tmp_path):
    a, b = (synthetic.write(tmp_path / str(s), synthetic.rows(5, 2, seed=s)) for s in (0, 1))
    build(a, tmp_path / "i")
    with pytest.raises(GalleryError, match=r"`add i .*/1` .*--replace .*another --name"):
        build(b, tmp_path / "i")


def test_replace_says_which_changes_it_replaces(tmp_path):
    data = synthetic.write(tmp_path / "v", synthetic.rows(5, 2))
    build(data, tmp_path / "i")
    assert build(data, tmp_path / "i", BuildOptions(replace=True)).dropped == 0
    with open_store(tmp_path / "i", write=True) as gallery:
        gallery.rename(gallery.list_people()[0][0], "Ann")
        gallery.add(())
        assert gallery.add(synthetic.rows(6, 1)[5:]).added == 1
    report = build(data, tmp_path / "i", BuildOptions(replace=True))
    assert report.dropped == 2 and any(line.startswith("2 changes") for line in report.notes)
    assert build(data, tmp_path / "i", BuildOptions(replace=True)).dropped == 0


@pytest.mark.parametrize("damaged", [False, True])
def test_a_build_that_fails_late_leaves_no_index(tmp_path, damaged):
    """All rows are of somebody who was forgotten, which only the filling finds."""
    rows = synthetic.rows(2, 1)
    build(synthetic.write(tmp_path / "all", rows), tmp_path / "i")
    one = synthetic.write(tmp_path / "one", rows[:1])
    with open_store(tmp_path / "i", write=True) as gallery:
        forgotten(gallery, rows[0].identity)
    if damaged:
        (tmp_path / "i" / "gallery.db").write_bytes(b"no gallery" * 1000)
    else:
        shutil.rmtree(tmp_path / "i")
    with pytest.raises(DataError, match="forgotten"):
        build(one, tmp_path / "i", BuildOptions(replace=damaged))
    assert not (tmp_path / "i" / "gallery.db").exists()
    with pytest.raises(GalleryError, match="`build-index VECTORS --name other` or .*--create`$"):
        open_store(tmp_path / "other")
    with pytest.raises(DataError, match="forgotten"):
        build(one, tmp_path / "i")
    assert build(one, tmp_path / "i", BuildOptions(readmit=True)).n == 1


def test_a_gallery_that_a_kill_left_empty_is_not_offered(tmp_path):
    create_store(tmp_path / "half").close()
    with pytest.raises(GalleryError, match="--create`$"):
        open_store(tmp_path / "other")


def test_replace_puts_the_new_in_the_place_of_the_old(tmp_path):
    a, b = (synthetic.write(tmp_path / str(s), synthetic.rows(5, 2, seed=s)) for s in (0, 1))
    build(a, tmp_path / "i")
    report = build(b, tmp_path / "i", BuildOptions(replace=True))
    now = state(tmp_path / "i")
    assert (report.generation, report.changed, len(now["faces"])) == (2, True, 10)
    assert now["names"] == {
        "gallery.db",
        "index.faiss",
        "built-2",
        "built-2/index.faiss",
        "built-2/owners.npy",
        "built-2/report.json",
    }
    assert [line[0] for line in now["faces"]] == list(range(11, 21)), "ids are never used twice"
    assert build(b, tmp_path / "i").changed is False
    assert synthetic.rows(5, 2)[0].vector.tobytes() not in (tmp_path / "i" / "gallery.db").read_bytes(), "secure_delete"


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "empty", "remove", "fact"])
def test_replace_mends_a_damaged_gallery(tmp_path, damage):
    data = synthetic.write(tmp_path / "v", synthetic.rows(40, 3))
    build(data, tmp_path / "i")
    path = tmp_path / "i" / "gallery.db"
    if damage == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "overwrite":
        path.write_bytes(b"?" * path.stat().st_size)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "remove":
        path.unlink()
    else:
        db = apsw.Connection(str(path))
        list(db.execute("UPDATE meta SET value = 'x'"))
        db.close()
    with pytest.raises(GalleryError, match="--replace"):
        Searcher(tmp_path / "i")
    assert build(data, tmp_path / "i", BuildOptions(replace=True)).n == 120
    with Searcher(tmp_path / "i") as searcher:
        assert searcher.search(synthetic.vectors(40, 3)[:1], 1)[0][0].identity == "person 0"


@pytest.mark.parametrize("damage", ["built-1/index.faiss", "built-1/report.json", "built-1", "index.faiss"])
def test_the_same_command_mends_derived_files(tmp_path, damage):
    data = synthetic.write(tmp_path / "v", synthetic.rows(5, 2))
    build(data, tmp_path / "i")
    before, path = state(tmp_path / "i"), tmp_path / "i" / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = build(data, tmp_path / "i")
    now = state(tmp_path / "i")
    assert not report.changed and now["index"] == before["index"] and now["faces"] == before["faces"]
    assert now["names"] == {name.replace("built-1", f"built-{report.generation}") for name in before["names"]}


def test_two_at_once_end_in_one_index(tmp_path):
    data = synthetic.write(tmp_path / "v", synthetic.rows(30, 4))
    code = (
        "import sys; from pathlib import Path; from facegallery.indexer.build import build; "
        "print(build(*map(Path, sys.argv[1:])).changed)"
    )
    run = [sys.executable, "-c", code, data, tmp_path / "i"]
    runs = [subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(run.communicate()[0].strip() for run in runs) == ["False", "False", "True"]
    build(data, tmp_path / "j")
    assert state(tmp_path / "i") == state(tmp_path / "j")


# killed ---------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from facegallery.indexer.build import BuildOptions, build
import faiss
print("go", flush=True)
build(Path(sys.argv[1]), Path(sys.argv[2]), BuildOptions(replace=len(sys.argv) > 3))
print("done", flush=True)
"""


def start(*arguments: object) -> subprocess.Popen:
    run = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "go\n"
    return run


@pytest.mark.parametrize("kills", doses(2, 10))
def test_killed_at_random_moments(tmp_path, kills):
    data = synthetic.write(tmp_path / "v", synthetic.rows(500 * kills, 4), per_shard=200 * kills)
    run, began = start(data, tmp_path / "whole"), time.monotonic()
    assert run.communicate()[0] == "done\n"
    seconds, whole = time.monotonic() - began, state(tmp_path / "whole")
    rng, unfinished = random.Random(8), 0
    for _ in range(kills):
        run = start(data, tmp_path / "i")
        time.sleep(rng.uniform(0, seconds))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        try:
            with Searcher(tmp_path / "i"):
                pass
        except GalleryError as error:
            unfinished += 1
            assert "there is none: run `build-index" in str(error)
        else:
            shutil.rmtree(tmp_path / "i")
    assert unfinished
    build(data, tmp_path / "i")
    assert state(tmp_path / "i") == whole


# A fork of this process dies at the n-th step, another one resumes from there. A step is each file that is opened, each
# fsync, rename, removal, begin, commit and fact that is set.
STEPS = """
import os, shutil, signal, sys, warnings
from pathlib import Path
import faiss
from facegallery.indexer import build as b
from facegallery.indexer.store import store
from facegallery.indexer.search.searcher import Searcher
from tests import synthetic

old, new, folder, base = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "replace"
left = -1

def deadly(owner, name):
    call = getattr(owner, name)
    def wrapped(*args, **kwargs):
        global left
        left -= name != "execute" or args[1].startswith(("BEGIN", "COMMIT", "DELETE", "CREATE"))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    setattr(owner, name, wrapped)

def forked(work, at=-1):
    global left
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    left = at
    faiss.omp_set_num_threads(1)
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

calls = ["fsync", "replace", "open", "mkdir"]
for owner, names in [(os, calls), (shutil, ["rmtree"]), (store.Store, ["execute", "set_fact"])]:
    for name in names:
        deadly(owner, name)

def whole(target):
    if base:
        b.build(old, target)
    return b.build(new, target, b.BuildOptions(replace=base))

def sound():
    rows = [synthetic.rows(6, 2, seed=s) for s in (0, 1)]
    if base:
        assert faiss.read_index(str(folder / "index.faiss")).ntotal == 12
    try:
        with Searcher(folder) as s:
            hits = [[(h.identity, h.score, h.face_id) for h in s.search(rows[1][0].vector[None], 3)[0]]]
    except b.GalleryError as error:
        assert not base and "there is none" in str(error), error
    else:
        assert hits[0] in [synthetic.nearest(r, rows[1][0].vector, 3) for r in rows[0 if base else 1:]], hits

assert forked(lambda: whole(folder.with_name("whole"))) == 0
n = 0
while True:
    n += 1
    shutil.rmtree(folder, ignore_errors=True)
    if base:
        assert forked(lambda: b.build(old, folder)) == 0
    status = forked(lambda: b.build(new, folder, b.BuildOptions(replace=base)), n)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    assert forked(sound) == 0, n
    if folder.exists():
        shutil.copytree(folder, folder.with_name(f"killed-{n}"), symlinks=True)
    assert forked(lambda: b.build(new, folder.with_name(f"killed-{n}"), b.BuildOptions(replace=base))) == 0, n
print(n)
"""


@pytest.mark.parametrize("base", ["first", "replace"])
def test_killed_at_every_step(tmp_path, base):
    old, new = (synthetic.write(tmp_path / f"v{s}", synthetic.rows(6, 2, seed=s)) for s in (0, 1))
    run = [sys.executable, "-c", STEPS, old, new, tmp_path / "i", base]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    whole = state(tmp_path / "whole")
    folders = sorted(tmp_path.glob("killed-*"))
    assert len(folders) == int(done.stdout) - 1 > 20
    for folder in folders:
        assert same_answer(state(folder), whole, base == "replace"), folder.name


def same_answer(now: dict, whole: dict, replaced: bool) -> bool:
    """Equal, except for ids and generation, which rise where --replace ran twice after a kill."""
    if not replaced or now["report"]["generation"] == whole["report"]["generation"]:
        return now == whole
    strip = [[line[1:2] + line[3:-1] for line in s["faces"]] for s in (now, whole)]
    return (
        strip[0] == strip[1]
        and [line[1] for line in now["vectors"]] == [line[1] for line in whole["vectors"]]
        and len(now["names"]) == 6
    )


# the disk -------------------------------------------------------------------

FULL = """
import resource, sys
from pathlib import Path
from facegallery.embedder.errors import SystemFault
from facegallery.indexer.build import build
import faiss
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    build(Path(sys.argv[1]), Path(sys.argv[2]))
except SystemFault as fault:
    print(fault)
"""


@pytest.mark.parametrize("limit", [100_000, 600_000])
def test_a_file_that_may_not_grow(tmp_path, limit):
    data = synthetic.write(tmp_path / "v", synthetic.rows(4000, 1), per_shard=4000)
    run = [sys.executable, "-c", FULL, data, tmp_path / "i", str(limit)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(tmp_path / "i") in done.stdout and len(done.stdout.splitlines()) == 1
    with pytest.raises(GalleryError, match="there is none"):
        open_store(tmp_path / "i")
    assert build(data, tmp_path / "i").n == 4000


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip(
            "a small file system needs root; test_a_file_that_may_not_grow and test_faiss_meets_a_full_disk stand in"
        )
    try:
        data = synthetic.write(tmp_path / "v", synthetic.rows(8000, 1), per_shard=4000)
        with pytest.raises(SystemFault, match="full"):
            build(data, disk / "i")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert build(data, disk / "i").n == 8000
        assert [path.name for path in disk.rglob("built-*")] == ["built-1"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_faiss_meets_a_full_disk():
    index = faiss.IndexFlatIP(D)
    index.add(synthetic.vectors(9, 1))
    with open("/dev/full", "wb", buffering=0) as file:
        sink = Sink(file)
        faiss.write_index(index, faiss.PyCallbackIOWriter(sink))
    assert sink.error and sink.error.errno == errno.ENOSPC


def test_a_folder_that_cannot_be(tmp_path):
    data = synthetic.write(tmp_path / "v", synthetic.rows(2, 1))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFault, match="folder"):
        build(data, tmp_path / "file" / "i")


def test_a_selection_can_be_read_twice(tmp_path):
    from facegallery.embedder.dataset.dataset import DataSet

    selection = Selection(DataSet(synthetic.write(tmp_path / "v", mixed())), None)
    once = [row.image for row in selection]
    counts = dict(selection.left_out)
    assert [row.image for row in selection] == once == ["a.jpg"] and dict(selection.left_out) == counts
