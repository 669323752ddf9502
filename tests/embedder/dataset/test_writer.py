"""What the same run again does: photos that failed, that were changed in place, and two runs at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from facegallery.embedder.dataset import plan
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.plan import digest_of, read_plans
from facegallery.embedder.dataset.row import Entry, Row, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.outcomes import PASSING
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.spec import FaceSpec
from tests.conftest import ROOT

SPEC = FaceSpec()
OLD_DIGEST = "4a6e38f0ec8e590e18a5e3a76c60800e"  # as versions wrote it that knew no inode


def entries(n: int, **changes) -> list[Entry]:
    return [Entry(f"{i}.jpg", 10, 1, inode=i, ctime_ns=5, **changes) for i in range(n)]


def run(
    folder: Path, planned: list[Entry], outcomes: dict[str, str], retry=PASSING, hash_of=lambda entry: None, **options
) -> list[str]:
    """What a run has to do now; photos have the outcomes given, or ok."""
    writer, done = (
        DataSetWriter(folder, SPEC, {}, planned, WriterOptions(per_shard=4, retry=retry, hash_of=hash_of, **options)),
        [],
    )
    for shard, inputs in writer.pending():
        kept = writer.kept(shard)
        done += [e.path for e in writer.todo(shard)]
        rows = [
            row
            for e in inputs
            for row in kept.get(e.path) or [Row(e.path, outcomes.get(e.path, "ok"), f"hash of {e.path}")]
        ]
        writer.write(shard, to_table(rows, SPEC), 0.0, {})
    return done


def outcomes(folder: Path) -> dict[str, str]:
    return {row["image"]: row["outcome"] for row in DataSet(folder).table(["image", "outcome"]).to_pylist()}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.name != "_lock"
    }


@pytest.mark.parametrize("outcome", sorted(PASSING))
def test_what_may_pass_is_tried_again_and_only_that(tmp_path, outcome):
    run(tmp_path, entries(9), {"1.jpg": outcome, "2.jpg": "no_face", "5.jpg": outcome})
    before = files(tmp_path)
    assert run(tmp_path, entries(9), {"1.jpg": outcome, "5.jpg": outcome}) == ["1.jpg", "5.jpg"]
    assert files(tmp_path) == before, "nothing came of it, nothing was written"
    assert run(tmp_path, entries(9), {"5.jpg": outcome}) == ["1.jpg", "5.jpg"]
    now = files(tmp_path)
    assert {name for name in now if now[name] != before[name]} == {"part-00000.parquet", "_part-00000.json"}
    assert outcomes(tmp_path)["1.jpg"] == "ok" and DataSet(tmp_path).outcomes == {"no_face": 1, "ok": 7, outcome: 1}
    assert run(tmp_path, entries(9), {}) == ["5.jpg"] and run(tmp_path, entries(9), {}) == []


@pytest.mark.parametrize("outcome", ["unreadable", "no_face", "too_small", "too_large", "outside"])
def test_what_lasts_is_tried_again_where_the_user_asks_for_it(tmp_path, outcome):
    run(tmp_path, entries(3), {"1.jpg": outcome})
    before = files(tmp_path)
    assert run(tmp_path, entries(3), {}) == [] and files(tmp_path) == before
    assert run(tmp_path, entries(3), {}, retry=PASSING | {outcome}) == ["1.jpg"]
    assert set(outcomes(tmp_path).values()) == {"ok"}


def test_a_photo_changed_in_place_is_found_by_its_inode_or_ctime(tmp_path):
    run(tmp_path, entries(9), {})
    changed = [
        replace(e, inode=99) if e.path == "1.jpg" else replace(e, ctime_ns=6) if e.path == "6.jpg" else e
        for e in entries(9)
    ]
    assert run(tmp_path, changed, {}) == ["1.jpg", "6.jpg"]
    assert run(tmp_path, changed, {}) == []


def test_a_copy_of_the_photos_is_hashed_and_not_done_again(tmp_path):
    run(tmp_path, entries(9), {"3.jpg": "no_face"})
    rows = DataSet(tmp_path).table()
    copied = [replace(e, inode=50 + i, ctime_ns=7, mtime_ns=8) for i, e in enumerate(entries(9))]
    asked = []

    def hash_of(entry: Entry) -> str:
        asked.append(entry.path)
        return "another" if entry.path == "4.jpg" else f"hash of {entry.path}"

    assert run(tmp_path, copied, {}, hash_of=hash_of) == ["4.jpg"] and len(asked) == 9
    assert DataSet(tmp_path).table().equals(rows)
    assert run(tmp_path, copied, {}, hash_of=hash_of) == [] and len(asked) == 9
    larger = [replace(e, size=11) if e.path == "0.jpg" else e for e in copied]
    assert run(tmp_path, larger, {}, hash_of=hash_of) == ["0.jpg"] and len(asked) == 9, (
        "another size is another content"
    )


def test_plans_of_older_versions_know_no_inode_and_nothing_is_done_again(tmp_path, monkeypatch):
    old = [replace(e, inode=None, ctime_ns=None) for e in entries(9)]
    with monkeypatch.context() as patch:
        patch.setattr(plan, "SCHEMA", plan.pa.schema([f for f in plan.SCHEMA if f.name not in plan.LATER]))
        run(tmp_path, old, {})
        assert "inode" not in next(plan.plans(tmp_path))[1].column_names
    before = files(tmp_path)
    assert run(tmp_path, entries(9), {}) == [] and files(tmp_path) == before
    assert read_plans(tmp_path)["0.jpg"].entry == old[0]
    assert run(tmp_path, [replace(e, mtime_ns=2) for e in entries(5)] + entries(9)[5:], {}) == [
        f"{i}.jpg" for i in range(5)
    ]
    assert digest_of([Entry("a", 1, 2)]) == OLD_DIGEST


def test_rows_of_vanished_photos_are_kept_whatever_their_outcome(tmp_path):
    run(tmp_path, entries(4), {"1.jpg": "no_access"})
    assert run(tmp_path, entries(4)[2:], {}) == [] and outcomes(tmp_path)["1.jpg"] == "no_access"
    assert (
        run(tmp_path, [replace(entries(3)[2], size=9), entries(4)[3]], {}) == ["2.jpg"] and len(outcomes(tmp_path)) == 4
    )
    assert run(tmp_path, entries(4)[3:], {}, prune=True) == [] and list(outcomes(tmp_path)) == ["3.jpg"]


def test_a_damaged_shard_or_mark_is_written_again(tmp_path):
    run(tmp_path, entries(9), {"5.jpg": "timeout"})
    rows = DataSet(tmp_path).table()
    for damage in (
        lambda: os.truncate(tmp_path / "part-00001.parquet", 100),
        lambda: (tmp_path / "_part-00001.json").write_text("[" * 100_000),
        lambda: (tmp_path / "part-00001.parquet").write_bytes(
            os.urandom((tmp_path / "part-00001.parquet").stat().st_size)
        ),
    ):
        damage()
        run(tmp_path, entries(9), {"5.jpg": "timeout"})
        assert DataSet(tmp_path).table().equals(rows)


def test_a_run_that_was_killed_between_its_plan_and_its_shard_is_finished(tmp_path):
    run(tmp_path, entries(4), {})
    changed = [replace(entries(4)[0], size=11), *entries(4)[1:]]
    DataSetWriter(tmp_path, SPEC, {}, changed, WriterOptions(per_shard=4))  # the plan alone
    assert run(tmp_path, changed, {}) == [f"{i}.jpg" for i in range(4)], (
        "which rows are whose is not known: all are done"
    )
    assert run(tmp_path, changed, {}) == []


# whole processes ------------------------------------------------------------


def aligning(photos: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "cli.py", "align", str(photos), "--out", str(out), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    said = "".join(process.communicate(timeout=120))
    return process.returncode, said


@pytest.fixture
def two_folders(att, tmp_path) -> list[Path]:
    """Nine photos each, of other people."""
    for name, people in (("one", ("s1", "s2", "s3")), ("two", ("s4", "s5", "s6"))):
        for person in people:
            (tmp_path / name / person).mkdir(parents=True)
            for j in (1, 2, 3):
                shutil.copyfile(att / person / f"{j}.pgm", tmp_path / name / person / f"{j}.pgm")
    return [tmp_path / "one", tmp_path / "two"]


def test_two_runs_on_one_folder_lose_no_row(two_folders, tmp_path):
    ended = [end(process) for process in [aligning(photos, tmp_path / "out") for photos in two_folders]]
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum("is being written by process" in said for _, said in ended) <= 1
    found = DataSet(tmp_path / "out")
    images = found.table(["image"])["image"].to_pylist()
    wanted = [entry.path for photos in two_folders for entry in list_photos(photos).entries]
    assert sorted(images) == sorted(wanted) and found.outcomes == {"ok": 18}


def test_a_run_that_is_killed_frees_the_folder_for_the_one_that_waits(two_folders, tmp_path):
    first = aligning(two_folders[0], tmp_path / "out")
    until = time.monotonic() + 60
    while not (tmp_path / "out" / "_lock").exists() and time.monotonic() < until:
        time.sleep(0.005)
    second = aligning(two_folders[1], tmp_path / "out")
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    assert end(first)[0] == -signal.SIGKILL
    code, said = end(second)
    assert code == 0, said
    code, said = end(aligning(two_folders[0], tmp_path / "out"))
    assert code == 0 and DataSet(tmp_path / "out").outcomes == {"ok": 18}, said


def test_photos_that_failed_are_counted_and_read_by_the_same_command(two_folders, tmp_path):
    photos, out = two_folders[0], tmp_path / "out"
    assert end(aligning(photos, out))[0] == 0
    whole = DataSet(out).table()
    failing = [Row("s1/1.pgm", "no_access"), Row("s2/2.pgm", "timeout"), Row("s2/3.pgm", "unreadable")]
    _replace_rows(out, {row.image: row for row in failing})
    assert DataSet(out).outcomes == {"no_access": 1, "ok": 6, "timeout": 1, "unreadable": 1}
    code, said = end(aligning(photos, out))
    assert (
        code == 0
        and "2 photos that failed before were tried again (1 no_access, 1 timeout): 2 of them are ok now" in said
    )
    assert "9 inputs, 2 of them new" in said and DataSet(out).outcomes == {"ok": 8, "unreadable": 1}
    code, said = end(aligning(photos, out, "--retry", "unreadable"))
    assert code == 0 and "1 photos that failed before were tried again (1 unreadable)" in said
    assert DataSet(out).table().equals(whole)


def _replace_rows(folder: Path, rows: dict[str, Row]) -> None:
    """As if an earlier run had found other outcomes."""
    from facegallery.embedder.dataset.row import to_rows

    data = DataSet(folder)
    table = to_table([rows.get(row.image, row) for row in to_rows(data.table())], data.spec)
    writer = object.__new__(DataSetWriter)
    writer.folder, writer.spec, writer._by_shard = folder, data.spec, plan.by_shard(read_plans(folder))
    writer.write(0, table, 0.0, {})


def test_a_photo_replaced_in_place_with_its_size_and_time_is_embedded_again(two_folders, tmp_path):
    photos, out = two_folders[0], tmp_path / "out"
    assert end(aligning(photos, out))[0] == 0
    before = {r["image"]: r["image_sha256"] for r in DataSet(out).table(["image", "image_sha256"]).to_pylist()}
    target, status = photos / "s1" / "1.pgm", (photos / "s1" / "1.pgm").stat()
    target.write_bytes((two_folders[1] / "s4" / "1.pgm").read_bytes())
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert target.stat().st_size == status.st_size
    code, said = end(aligning(photos, out))
    assert code == 0 and "9 inputs, 1 of them new" in said
    after = {r["image"]: r["image_sha256"] for r in DataSet(out).table(["image", "image_sha256"]).to_pylist()}
    assert [image for image in after if after[image] != before[image]] == ["s1/1.pgm"]
    copy = shutil.copytree(photos, tmp_path / "copy")
    assert "9 inputs, 0 of them new" in end(aligning(copy, out))[1], (
        "a copy has other inodes and ctimes, and the same content"
    )


def test_names_that_are_not_utf8_are_rows_and_their_photos_are_used(two_folders, tmp_path):
    photos = two_folders[0]
    os.rename(os.fsencode(photos / "s1"), os.fsencode(photos) + b"/J\xe9")
    os.rename(os.fsencode(photos / "s2" / "1.pgm"), os.fsencode(photos) + b"/s2/\xe9\n\x1b.pgm")
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/crops\xe9"))
    code, said = end(aligning(photos, out))
    assert code == 0 and "9 ok" in said, said
    images = DataSet(out).table(["image"])["image"].to_pylist()
    assert r"J\xe9/1.pgm" in images and "s2/\\xe9\n\x1b.pgm" in images
    assert "0 of them new" in end(aligning(photos, out))[1]
