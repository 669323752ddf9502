"""List the indexes of a root, delete one, and what is said of one that is not there."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from facegallery.indexer.store import database
from tests.conftest import ROOT

SHARED_MEMORY = 1 << 16  # bytes of the files that SQLite keeps while an index is open
KEY = {"FACEGALLERY_KEY": "a key of the test"}


def entries(run, **environment) -> dict[str, dict]:
    done = run("list", "--json", **environment)
    assert done.code == 0, done.err
    return {entry["index"]: entry for entry in json.loads(done.out)}


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if not path.name.startswith("_forgotten")}


# list -----------------------------------------------------------------------


def test_no_indexes_name_the_folder_and_the_variable(run, own_indexes):
    done = run("list")
    assert done.code == 0 and str(own_indexes) in done.out and "FACEGALLERY_INDEXES" in done.out
    assert json.loads(run("list", "--json").out) == []


def test_indexes_with_people_faces_model_and_size(run, vectors, index, own_indexes):
    assert run("build-index", vectors, "--split", "probe", "--name", "probes").code == 0
    (own_indexes / "empty").mkdir()
    (own_indexes / "photos").mkdir()
    (own_indexes / "photos" / "index.txt").write_text("no index")
    found = entries(run)
    assert list(found) == ["att", "probes"]
    assert {k: v for k, v in found["probes"].items() if k != "bytes"} == {
        "index": "probes",
        "people": 10,
        "faces": 90,
        "model": "sface",
        "encrypted": False,
        "problem": None,
    }
    on_disk = sum(path.lstat().st_size for path in (own_indexes / "att").rglob("*") if path.is_file())
    assert on_disk - SHARED_MEMORY <= found["att"]["bytes"] <= on_disk + SHARED_MEMORY
    lines = run("list").out.splitlines()
    assert len(lines) == 2 and "10 people, 90 faces, sface" in lines[1] and "MB" in lines[1]
    short = run("list", "--limit", "1")
    assert short.out.split() == lines[0].split() and "1 of 2 indexes" in short.err


def test_a_damaged_or_locked_index_is_a_line(run, vectors, index, own_indexes, monkeypatch):
    assert run("build-index", vectors, "--name", "secret", "--encrypt", **KEY).code == 0
    for name in ("broken", "busy"):
        shutil.copytree(own_indexes / index, own_indexes / name, symlinks=True)
    (own_indexes / "broken" / "gallery.db").write_bytes(b"no database at all" * 5000)
    monkeypatch.setattr(database, "WAIT_MS", 100)
    holder = apsw.Connection(str(own_indexes / "busy" / "gallery.db"))
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    try:
        found = entries(run)
        lines = dict(line.split(maxsplit=1) for line in run("list").out.splitlines())
    finally:
        holder.close(True)
    assert list(found) == ["att", "broken", "busy", "secret"] == list(lines)
    assert found["att"]["problem"] is None and found["att"]["people"] == 10
    for name, word in (("broken", "damaged"), ("busy", "free"), ("secret", "FACEGALLERY_KEY")):
        assert word in found[name]["problem"] and word in lines[name] and found[name]["people"] is None
    assert found["secret"]["encrypted"] and entries(run, **KEY)["secret"]["people"] == 10


def test_options_for_the_people_of_an_index_need_its_name(run, index):
    for options in (("--identity", "s1"), ("--log",), ("--after", "s1")):
        done = run("list", *options)
        assert done.code == 2 and "NAME" in done.error


def test_an_index_that_is_not_there_is_told_by_path_variable_and_near_name(
    run, vectors, index, own_indexes, monkeypatch
):
    for command in (["search", "atl", vectors], ["info", "atl"], ["list", "atl"], ["delete", "atl", "--yes"]):
        done = run(*command)
        assert done.code == 5, command
        for word in (str(own_indexes / "atl"), f"FACEGALLERY_INDEXES is {own_indexes}", "did you mean att?"):
            assert word in done.error
    assert "mean" not in run("info", "zebra").error
    monkeypatch.delenv("FACEGALLERY_INDEXES")
    monkeypatch.chdir(own_indexes)
    done = run("info", "att")
    assert done.code == 5 and str(own_indexes / "indexes" / "att") in done.error and "is not set" in done.error


# delete ---------------------------------------------------------------------


def test_nothing_is_deleted_without_a_terminal_or_yes(run, index, own_indexes):
    done = run("delete", index)
    assert done.code == 2 and "--yes" in done.error and entries(run)[index]["people"] == 10


def test_forgotten_people_stay_forgotten_in_a_new_index_of_the_name(run, photos, vectors, index, own_indexes):
    receipt = json.loads(run("forget", index, "--identity", "s3", "--json").out)["receipt"]
    assert run("export", index, "--out", own_indexes.parent / "exported").code == 0
    assert run("build-index", vectors, "--split", "probe", "--name", "other").code == 0
    before = entries(run)
    done = run("delete", index, "--yes", "--json")
    told = json.loads(done.out)
    assert done.code == 0 and told["deleted"] and told["bytes"] > 100_000
    assert told["folder"] == str(own_indexes / index) and told["receipts"] == [receipt] and Path(receipt).exists()
    assert told["forgotten"] == str(own_indexes / "_forgotten" / f"{index}.json") and Path(told["forgotten"]).exists()
    assert str(own_indexes.parent / "exported") in told["written"]
    assert not (own_indexes / index).exists() and list(entries(run)) == ["other"]
    assert entries(run)["other"]["faces"] == before["other"]["faces"] == 90
    assert not list(own_indexes.glob("_tmp*"))
    assert run("build-index", vectors, "--name", index).code == 0
    again = {line["identity"] for line in json.loads(run("list", index, "--json").out)}
    assert again == {f"s{i}" for i in range(1, 11)} - {"s3"}
    text = run("delete", index, "--yes").out
    assert text.startswith(f"{index}: deleted {own_indexes / index}") and "_forgotten/" in text
    assert "_forgotten/" not in run("delete", "other", "--yes").out, "nobody was forgotten from it"


def test_the_list_of_an_index_of_an_older_version_is_written_before_it_goes(run, vectors, index, own_indexes):
    assert run("forget", index, "--identity", "s3").code == 0
    shutil.rmtree(own_indexes / "_forgotten")  # as versions were that kept it in gallery.db alone
    assert run("delete", index, "--yes").code == 0
    assert run("build-index", vectors, "--name", index).code == 0
    assert entries(run)[index]["people"] == 9


def test_a_damaged_index_is_deleted_where_its_list_can_be_read(run, vectors, index, own_indexes):
    assert run("forget", index, "--identity", "s3").code == 0
    (own_indexes / index / "gallery.db").write_bytes(b"no database at all" * 5000)
    lists = own_indexes / "_forgotten"
    lists.rename(own_indexes / "elsewhere")
    refused = run("delete", index, "--yes")
    assert refused.code == 5 and "--readmit" in refused.error and (own_indexes / index).exists()
    shutil.rmtree(lists, ignore_errors=True)
    (own_indexes / "elsewhere").rename(lists)
    assert run("delete", index, "--yes").code == 0 and not (own_indexes / index).exists()
    assert run("build-index", vectors, "--name", index).code == 0 and entries(run)[index]["people"] == 9
    (own_indexes / index / "gallery.db").write_bytes(b"no database at all" * 5000)
    shutil.rmtree(lists)
    assert run("delete", index, "--yes", "--readmit").code == 0 and not (own_indexes / index).exists()


def test_an_encrypted_index_is_deleted_with_its_key(run, vectors, own_indexes):
    assert run("build-index", vectors, "--name", "secret", "--encrypt", **KEY).code == 0
    assert run("forget", "secret", "--identity", "s3", **KEY).code == 0
    assert run("delete", "secret", "--yes").code == 5 and (own_indexes / "secret" / "gallery.db").exists()
    assert run("delete", "secret", "--yes", **KEY).code == 0 and not (own_indexes / "secret").exists()
    assert '"sealed"' in (own_indexes / "_forgotten" / "secret.json").read_text()
    assert run("build-index", vectors, "--name", "secret", "--encrypt", **KEY).code == 0
    assert entries(run, **KEY)["secret"]["people"] == 9


def test_links_are_never_followed(run, index, own_indexes, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.jpg").write_text("a photo")
    (own_indexes / "linked").symlink_to(own_indexes / index)
    done = run("delete", "linked", "--yes")
    assert done.code == 5 and "link" in done.error and (own_indexes / "linked").is_symlink()
    (own_indexes / index / "built-99").symlink_to(outside)
    assert run("delete", index, "--yes").code == 0 and not (own_indexes / index).exists()
    assert (outside / "photo.jpg").read_text() == "a photo"


@pytest.mark.parametrize("name", ["photos", "mixed", "nobody", "..", "a/b", "_forgotten"])
def test_what_is_no_index_of_ours_is_refused(run, index, own_indexes, name):
    (own_indexes / "photos").mkdir()
    (own_indexes / "photos" / "1.jpg").write_text("a photo")
    shutil.copytree(own_indexes / index, own_indexes / "mixed", symlinks=True)
    (own_indexes / "mixed" / "notes.txt").write_text("mine")
    before = sorted(own_indexes.rglob("*"))
    done = run("delete", name, "--yes")
    assert done.code == (2 if name in ("..", "a/b", "_forgotten") else 5), done.err
    assert done.error and sorted(own_indexes.rglob("*")) == before
    if name == "mixed":
        assert "'notes.txt'" in done.error


@pytest.mark.parametrize("answer, stays", [("n", True), ("y", False)])
def test_a_terminal_is_asked(index, own_indexes, answer, stays):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "delete", index],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0 and "10 people" in err and (own_indexes / index).exists() is stays
    assert ("nothing" in out) is stays


def test_a_deletion_that_was_killed_is_finished_by_the_next(run, vectors, index, own_indexes):
    assert run("build-index", vectors, "--name", "other").code == 0
    code = (
        "import os, shutil, sys; from facegallery.workflows import indexes;"
        f"shutil.rmtree = lambda path: os.kill(os.getpid(), {int(signal.SIGKILL)}); indexes.delete_index(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, index], cwd=ROOT, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in own_indexes.glob("_tmp-*") if path.is_dir()]
    assert len(left) == 1 and (left[0] / "gallery.db").exists() and list(entries(run)) == ["other"]
    assert run("delete", index, "--yes").code == 5 and not left[0].exists()
