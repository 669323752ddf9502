import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from facegallery.embedder.dataset.dataset import DataSet, read_mark
from facegallery.embedder.dataset.plan import digest_of, read_plans
from facegallery.embedder.dataset.redact import IsDoomed, drop_rows
from facegallery.embedder.dataset.row import Entry, Row, to_rows, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.errors import DataError
from tests import synthetic
from tests.conftest import ROOT
from tests.faults import killed_fork

ANN = "person 1"
SPEC = synthetic.spec()


def named(*names: str) -> IsDoomed:
    return lambda face_id, identity: identity in names


def faces(*face_ids: str) -> IsDoomed:
    return lambda face_id, identity: face_id in face_ids


def world() -> list[Row]:
    """Six people with four photos each, a photo without a face, one of two people, and one without a name."""
    xb = synthetic.vectors(7, 4)
    rows = [
        synthetic.row(f"p{i // 4}/{i % 4}.jpg", f"person {i // 4}", x, "gallery", extra={"tag": f"t{i}"})
        for i, x in enumerate(xb[:24])
    ]
    rows.insert(5, synthetic.row("p1/none.jpg", "person 1", None, "gallery", "no_face"))
    rows += [
        synthetic.row("group.jpg", "person 2", xb[24], image_sha256="group"),
        synthetic.row("group.jpg", None, xb[25], image_sha256="group", face=1),
        synthetic.row("nameless.jpg", None, xb[26]),
    ]
    for i, row in enumerate(rows):
        row.crop = synthetic.png(hashlib.sha256(b"%d" % i).digest())
    return rows


ROWS = world()


def entries(rows: Sequence[Row]) -> list[Entry]:
    """As `embed` plans photos."""
    first = {}
    for row in rows:
        first.setdefault(
            row.image, Entry(row.image, 1000, 7, row.identity, row.split, tuple(sorted(row.extra.items())))
        )
    return list(first.values())


def writer(folder: Path, planned: Sequence[Entry], per_shard: int = 5, **options) -> DataSetWriter:
    return DataSetWriter(folder, SPEC, {}, planned, WriterOptions(("tag",), per_shard, **options))


def fill(writer: DataSetWriter, rows: Sequence[Row], shards: int = 99) -> list[int]:
    """Writes what is pending, or so many shards of it."""
    done = writer.pending()[:shards]
    for shard, inputs in done:
        table = to_table([row for entry in inputs for row in rows if row.image == entry.path], SPEC, ["tag"])
        writer.write(shard, table, 1.5, {"made": "up"})
    return [shard for shard, _ in done]


def written(folder: Path, rows: Sequence[Row] = ROWS) -> Path:
    fill(writer(folder, entries(rows)), rows)
    return folder


def files(folder: Path) -> list[Path]:
    """All but the lock, which names the process that held it last."""
    return [path for path in folder.iterdir() if path.name != "_lock"]


def held(folder: Path) -> list[tuple]:
    """Every row, in order."""
    return [plain(row) for table in DataSet(folder).shards() for row in to_rows(table)]


def order(line: tuple) -> tuple:
    return line[1], line[6]


def plain(row: Row) -> tuple:
    vector = None if row.vector is None else [float(v) for v in row.vector]
    return (
        row.face_id,
        row.image,
        row.image_sha256,
        row.identity,
        row.split,
        row.outcome,
        row.face,
        row.box,
        row.crop,
        vector,
        row.extra,
    )


def without(rows: Sequence[Row], *gone: str) -> list[Row]:
    """Rows but those of these images."""
    return [row for row in rows if row.image not in gone]


def consistent(folder: Path) -> None:
    """Every mark says what is in its shard and in the plans."""
    planned: dict[int, list[Entry]] = {}
    for p in read_plans(folder).values():
        planned.setdefault(p.shard, [])
        if not p.dropped:
            planned[p.shard].append(p.entry)
    for shard in DataSet(folder).marks:
        mark, path = read_mark(folder, shard), folder / f"part-{shard:05d}.parquet"
        rows = to_rows(DataSet(folder).shard(shard))
        outcomes = {outcome: sum(row.outcome == outcome for row in rows) for outcome in {row.outcome for row in rows}}
        assert (mark["rows"], mark["bytes"], mark["outcomes"]) == (len(rows), path.stat().st_size, outcomes)
        assert (mark["seconds"], mark["versions"], mark["fingerprint"]) == (1.5, {"made": "up"}, SPEC.fingerprint)
        assert mark["inputs"] == digest_of(planned.get(shard, []))


def names(folder: Path) -> set[str | None]:
    """All that stand in any file, finished or not."""
    return {
        name
        for path in folder.glob("*.parquet")
        for name in pq.read_table(path, columns=["identity"])["identity"].to_pylist()
    }


def images(folder: Path) -> set[str]:
    """All that stand in any file, and the numbers of crops that do."""
    tables = [pq.read_table(path) for path in folder.glob("*.parquet")]
    return {name for table in tables for name in table["path" if "path" in table.column_names else "image"].to_pylist()}


def crops(folder: Path) -> set[int]:
    """Numbers of the rows whose crops' bytes stand in any file."""
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    return {i for i, row in enumerate(ROWS) if row.crop in data}


def is_gone(folder: Path, *people: str) -> bool:
    mine = {i for i, row in enumerate(ROWS) if row.identity in people}
    return (
        not names(folder) & set(people)
        and not images(folder) & {ROWS[i].image for i in mine}
        and not crops(folder) & mine
    )


# what goes and what stays ---------------------------------------------------

MINE = [row.image for row in ROWS if row.identity == ANN]


@pytest.mark.parametrize("per_shard", [1, 3, 5, 64])
def test_a_person_goes_with_their_photos_and_all_else_stays(tmp_path, per_shard):
    fill(writer(tmp_path, entries(ROWS), per_shard), ROWS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not is_gone(tmp_path, ANN)
    assert drop_rows(tmp_path, named(ANN)) == 5
    kept = without(ROWS, *MINE)
    assert held(tmp_path) == [plain(row) for row in kept] and is_gone(tmp_path, ANN)
    consistent(tmp_path)
    assert writer(tmp_path, entries(kept), per_shard).pending() == [] and len(list(tmp_path.glob("_plan*"))) == 1
    touched = {name for name, data in before.items() if (tmp_path / name).read_bytes() != data}
    shards = {i // per_shard for i, entry in enumerate(entries(ROWS)) if entry.path in MINE}
    assert touched == {"_plan-0000.parquet"} | {
        f"{p}part-{n:05d}.{e}" for n in shards for p, e in (("", "parquet"), ("_", "json"))
    }


def test_data_sets_whose_plans_name_nobody(tmp_path):
    """Such as exports."""
    rows = synthetic.rows(6, 4)
    synthetic.write(tmp_path, rows, per_shard=5)
    assert drop_rows(tmp_path, named(ANN)) == 4
    kept = [row for row in rows if row.identity != ANN]
    assert [line[0] for line in held(tmp_path)] == [row.face_id for row in kept] and images(tmp_path) == {
        row.image for row in kept
    }
    assert (
        DataSetWriter(tmp_path, SPEC, {}, [Entry(row.image, 1, 0) for row in kept], WriterOptions((), 5)).pending()
        == []
    )


def test_a_face_goes_alone_from_a_photo_of_others(tmp_path):
    written(tmp_path)
    assert drop_rows(tmp_path, faces(ROWS[-2].face_id)) == 1
    kept = [row for row in ROWS if row is not ROWS[-2]]
    assert held(tmp_path) == [plain(row) for row in kept]
    consistent(tmp_path)
    assert writer(tmp_path, entries(ROWS)).pending() == [], "its photo is not done again"


def test_a_photo_goes_whole_with_the_person_whose_name_it_bears(tmp_path):
    written(tmp_path)
    assert drop_rows(tmp_path, named("person 2")) == 6
    assert held(tmp_path) == [plain(row) for row in ROWS if row.identity != "person 2" and row.image != "group.jpg"]
    consistent(tmp_path)


def test_nobody_doomed_changes_nothing(tmp_path):
    written(tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(tmp_path)}
    assert drop_rows(tmp_path, named("nobody")) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(tmp_path)} == before


def test_everybody_can_go(tmp_path):
    written(tmp_path)
    assert drop_rows(tmp_path, lambda face_id, identity: True) == len(ROWS)
    assert held(tmp_path) == [] and read_plans(tmp_path) == {}
    consistent(tmp_path)


def test_a_name_that_only_a_row_bears_goes_too(tmp_path):
    """The plan was made before somebody corrected the photo's name."""
    rows = [replace(row, identity="Eve") if row.image == "p3/1.jpg" else row for row in ROWS]
    fill(writer(tmp_path, entries(ROWS)), rows)
    assert drop_rows(tmp_path, named("Eve")) == 1
    assert held(tmp_path) == [plain(row) for row in rows if row.identity != "Eve"]
    assert writer(tmp_path, [e for e in entries(ROWS) if e.path != "p3/1.jpg"]).pending() == []


# several plans --------------------------------------------------------------


def several(folder: Path, per_shard: int = 5) -> list[Row]:
    """A first run, then new photos, changed ones, one dropped and one that is back; the rows now."""
    first = without(ROWS, "p5/0.jpg", "p5/1.jpg", "p1/3.jpg")
    fill(writer(folder, entries(first), per_shard), first)
    changed = [
        replace(row, image_sha256="changed") if row.image in ("p1/1.jpg", "p4/2.jpg") else row
        for row in without(ROWS, "p3/3.jpg")
    ]
    now = [replace(e, mtime_ns=8) if e.path in ("p1/1.jpg", "p4/2.jpg") else e for e in entries(changed)]
    fill(writer(folder, now, per_shard, prune=True), changed)
    back = [*changed, *(row for row in ROWS if row.image == "p3/3.jpg")]
    fill(writer(folder, [*now, *(e for e in entries(ROWS) if e.path == "p3/3.jpg")], per_shard, prune=True), back)
    return back


def planned_now(folder: Path) -> list[Entry]:
    return [p.entry for p in read_plans(folder).values() if not p.dropped]


def test_a_person_goes_from_every_plan(tmp_path):
    rows = several(tmp_path)
    assert len(list(tmp_path.glob("_plan*"))) == 3 and sorted(line[1] for line in held(tmp_path)) == sorted(
        row.image for row in rows
    )
    assert drop_rows(tmp_path, named(ANN)) == 5
    kept = [row for row in rows if row.identity != ANN]
    assert sorted(held(tmp_path), key=order) == sorted(map(plain, kept), key=order) and is_gone(tmp_path, ANN)
    consistent(tmp_path)
    assert writer(tmp_path, planned_now(tmp_path), prune=True).pending() == []
    assert {entry.path for entry in planned_now(tmp_path)} == {row.image for row in kept}


def test_photos_that_were_dropped_from_the_plan_stay_dropped(tmp_path):
    written(tmp_path)
    kept = without(ROWS, "p3/3.jpg", "p1/0.jpg")
    fill(writer(tmp_path, entries(kept), prune=True), kept)
    assert drop_rows(tmp_path, named(ANN)) == 4 and is_gone(tmp_path, ANN)
    consistent(tmp_path)
    assert writer(tmp_path, entries(without(kept, *MINE))).vanished == []


def test_what_was_pending_stays_pending(tmp_path):
    """A changed photo whose shard was not written yet is not taken for done."""
    written(tmp_path)
    now = [replace(e, mtime_ns=8) if e.path in ("p1/none.jpg", "p0/3.jpg", "p4/2.jpg") else e for e in entries(ROWS)]
    assert [shard for shard, _ in writer(tmp_path, now).pending()] == [0, 1, 3]
    drop_rows(tmp_path, named(ANN))
    kept = [e for e in now if e.path not in MINE]
    again = writer(tmp_path, kept)
    assert [shard for shard, _ in again.pending()] == [0, 1, 3], (
        "shard 1 has nothing left to do, which the writer finds out"
    )
    fill(again, ROWS)
    assert held(tmp_path) == [plain(row) for row in without(ROWS, *MINE)]
    consistent(tmp_path)


def test_a_run_that_was_not_finished_goes_on(tmp_path):
    assert fill(writer(tmp_path, entries(ROWS)), ROWS, shards=2) == [0, 1]
    assert drop_rows(tmp_path, named(ANN)) == 5 and is_gone(tmp_path, ANN)
    kept = without(ROWS, *MINE)
    assert fill(writer(tmp_path, entries(kept)), kept) == [2, 3, 4, 5] and held(tmp_path) == [
        plain(row) for row in kept
    ]
    consistent(tmp_path)


def test_shards_without_a_mark_and_halves_of_files_go_too(tmp_path):
    """They hold people, though they do not exist for any reader."""
    written(tmp_path)
    (tmp_path / "_part-00001.json").unlink()
    (tmp_path / "_tmp-999999999.12345-part-00002.parquet").write_bytes(ANN.encode())
    drop_rows(tmp_path, named(ANN))
    assert is_gone(tmp_path, ANN) and not list(tmp_path.glob("_tmp-*"))
    kept = without(ROWS, *MINE)
    fill(writer(tmp_path, entries(kept)), kept)
    assert held(tmp_path) == [plain(row) for row in kept]
    consistent(tmp_path)


# refusals -------------------------------------------------------------------


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        drop_rows(tmp_path / "nowhere", named(ANN))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="found none"):
        drop_rows(tmp_path, named(ANN))
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_a_damaged_shard_is_named_and_nothing_is_lost(tmp_path):
    written(tmp_path)
    os.truncate(tmp_path / "part-00001.parquet", 500)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=r"part-00001\.parquet.*damaged"):
        drop_rows(tmp_path, named(ANN))
    assert {path.name: path.read_bytes() for path in files(tmp_path)} == before


# killed ---------------------------------------------------------------------

CALLS = ("open", "replace", "unlink")


def kill_everywhere(folder: Path) -> None:
    """drop_rows, killed at each of its writes and begun again. To be called where there are no threads."""
    base, n = folder / "base", 0
    assert killed_fork(lambda: several(base, per_shard=9), 0, CALLS) == 0
    while True:
        n += 1
        work = Path(shutil.copytree(base, folder / f"killed-{n}"))
        status = killed_fork(lambda work=work: drop_rows(work, named(ANN, "person 2")), n, CALLS)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        assert killed_fork(lambda work=work: drop_rows(work, named(ANN, "person 2")), 0, CALLS) == 0
    print(json.dumps(n))


def test_killed_at_any_write_the_same_call_again_finishes_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.embedder.dataset.test_redact import kill_everywhere; "
        "kill_everywhere(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / f"killed-{done.stdout.strip()}"
    assert int(done.stdout) > 20 and is_gone(whole, ANN, "person 2")
    for n in range(1, int(done.stdout) + 1):
        folder = tmp_path / f"killed-{n}"
        assert {path.name: path.read_bytes() for path in files(folder)} == {
            path.name: path.read_bytes() for path in files(whole)
        }, n
        consistent(folder)
        assert writer(folder, planned_now(folder)).pending() == []
