"""The commands from photos to answers, as a user runs them, on AT&T's photos."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import apsw
import faiss
import numpy as np
import pyarrow.dataset
import pytest
from PIL import Image

from facegallery.embedder.dataset.dataset import DataSet
from tests.cli.conftest import PEOPLE
from tests.conftest import ROOT
from tests.embedder.photos.test_decoder import bomb


def test_photos_to_answers(run, photos, tmp_path, own_indexes):
    done = run("embed", photos, "--out", tmp_path / "v", "--json")
    assert done.code == 0 and json.loads(done.out)["outcomes"] == {"ok": 100} and "sface" in done.err
    table = pyarrow.dataset.dataset(tmp_path / "v").to_table(columns=["vector", "image"])
    xb = np.asarray(table["vector"].to_pylist(), np.float64)
    assert xb.shape == (100, 128) and np.abs(np.linalg.norm(xb, axis=1) - 1).max() < 1e-5
    assert run("build-index", tmp_path / "v", "--name", "x").code == 0
    index = faiss.read_index(str(own_indexes / "x" / "index.faiss"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT and index.ntotal == PEOPLE and index.d == 128
    answer = run("evaluate", "x", tmp_path / "v", "--json", "--predictions", tmp_path / "p.txt")
    result = json.loads(answer.out)
    assert result["top1"] >= 0.98 and result["probes"] == 90 and result["gallery"] == PEOPLE
    assert result["top1_interval"][0] < result["top1"] <= result["top1_interval"][1]
    lines = (tmp_path / "p.txt").read_text().splitlines()
    assert len(lines) == 92 and lines[-2:] == [f"top1 {result['top1']:.4f}", f"top5 {result['top5']:.4f}"]
    assert all(len(line.split("\t")) == 7 for line in lines[:90])
    found = json.loads(run("search", "x", photos / "probe", "--one-face", "--json").out)["probes"]
    by_image = {line.split("\t")[0]: [cell.rsplit(" ", 1)[0] for cell in line.split("\t")[2:]] for line in lines[:90]}
    searched = {f"probe/{p['image']}": [h["identity"] for h in p["faces"][0]["hits"]] for p in found}
    assert searched == by_image
    assert run("evaluate", "x", photos, "--json").out == run("evaluate", "x", tmp_path / "v", "--json").out


def test_search_prints_json_a_table_and_a_picture(run, photos, index, tmp_path):
    photo = photos / "probe" / "s1" / "2.pgm"
    (probe,) = json.loads(run("search", index, photo, "--k", "3", "--json", "--image", tmp_path / "a.png").out)[
        "probes"
    ]
    (face,) = probe["faces"]
    assert set(probe) == {"image", "identity", "outcome", "why", "faces"} and set(face) == {
        "face_id",
        "box",
        "confidence",
        "known",
        "chance",
        "chance_limit",
        "weak",
        "stale",
        "margin",
        "hits",
        "unnamed",
    }
    assert (
        face["known"] is None and [h["rank"] for h in face["hits"]] == [1, 2, 3] and face["hits"][0]["identity"] == "s1"
    )
    assert set(face["hits"][0]) == {"rank", "identity", "score", "face_id", "image", "person_id"}
    assert [h["score"] for h in face["hits"]] == sorted((h["score"] for h in face["hits"]), reverse=True)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 4 * 160 and len(picture.getcolors(1 << 24)) > 100
    table = run("search", index, photo, "--k", "3")
    assert "calibrate" in table.err and "s1" in table.out.splitlines()[1]


def test_search_says_why_a_photo_is_not_asked_about(run, index, tmp_path):
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    found = run("search", index, tmp_path / "page.jpg", "--json")
    (probe,) = json.loads(found.out)["probes"]
    assert probe["outcome"] == "unreadable" and "web page" in probe["why"] and "web page" in found.err


def test_search_ends_with_3_where_no_photo_could_be_read(run, photos, vectors, index, tmp_path):
    for name in ("page.jpg", "other.jpg"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>404</html>")
    Image.new("RGB", (96, 96)).save(tmp_path / "black.png")
    assert (
        run("search", index, tmp_path / "page.jpg").code
        == run("search", index, tmp_path / "page.jpg", tmp_path / "other.jpg").code
        == 3
    )
    assert run("search", index, tmp_path / "page.jpg", "--out", tmp_path / "hits.parquet").code == 3
    assert run("search", index, tmp_path / "black.png").code == 0, "it was read: there is nobody in it"
    assert run("search", index, tmp_path / "page.jpg", photos / "probe" / "s1" / "2.pgm").code == 0


def test_k_larger_than_the_gallery_gives_everyone(run, vectors, index):
    probes = json.loads(run("search", index, vectors, "--k", "99", "--json").out)["probes"]
    assert len(probes) == 100 and all(len(p["faces"][0]["hits"]) == PEOPLE for p in probes)


def test_centring_and_another_models_vectors(run, photos, vectors, index, tmp_path):
    assert run("build-index", vectors, "--name", "centred", "--centre").code == 0
    assert json.loads(run("evaluate", "centred", vectors, "--json").out)["top1"] >= 0.98
    assert run("embed", photos / "probe" / "s1", "--model", "casia", "--out", tmp_path / "casia").code == 0
    other = run("search", index, tmp_path / "casia")
    assert other.code == 5 and "sface" in other.error and "casia" in other.error
    given = run("search", index, photos / "probe" / "s1" / "2.pgm", "--model", "casia")
    assert given.code == 5 and "casia" in given.error


def test_what_was_asked_of_an_index_stays_with_it(run, vectors, index):
    def recall() -> tuple:
        told = json.loads(run("info", index, "--json").out)
        return told["recall"], told["memory"], told["kind"]

    assert recall() == (0.99, None, "exact")
    done = run("build-index", vectors, "--name", index, "--recall", "0.95", "--memory", "1.5G")
    assert done.code == 0 and "compared" in done.err and recall() == (0.95, 1_500_000_000, "exact")
    again = json.loads(run("build-index", vectors, "--name", index, "--json").out)
    assert not again["changed"] and recall() == (0.95, 1_500_000_000, "exact")


def test_another_folder_into_the_same_data_set_is_said_so(run, photos, tmp_path):
    out = tmp_path / "c"
    assert run("align", photos / "gallery", "--out", out).code == 0
    said = run("align", photos / "probe" / "s1", "--out", out).err
    assert str(out) in said and "--prune" in said
    assert "--prune" not in run("align", photos / "probe" / "s1", "--out", tmp_path / "alone").err


def test_a_data_set_inside_the_folder_of_its_photos_is_never_read_as_photos(run, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "gallery", folder)
    for written in (PEOPLE, 0):
        done = json.loads(run("embed", folder, "--out", folder / "vectors", "--json").out)
        assert done["photos"] == PEOPLE and done["written"] == written and done["outcomes"] == {"ok": PEOPLE}


def test_a_photo_among_many_costs_only_itself(run, photos, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(photos / "probe" / "s1", folder / "ünï cödé näme")
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.jpg").touch()
    bomb(folder / "bomb.png", 20000)
    (folder / "loop").symlink_to(folder)
    (folder / "out.jpg").symlink_to(photos / "probe" / "s2" / "2.pgm")
    done = run("align", folder, "--out", tmp_path / "c", "--json", "--sheet", tmp_path / "sheet.png")
    assert done.code == 0 and json.loads(done.out)["outcomes"] == {
        "ok": 9,
        "outside": 1,
        "too_large": 1,
        "unreadable": 2,
    }
    for word in (
        "text.jpg: unreadable",
        "empty.jpg: unreadable",
        "bomb.png: too_large",
        "out.jpg: outside",
        "loop: a link",
    ):
        assert word in done.err
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    assert run("align", folder, "--out", tmp_path / "c", "--strict").code == 1


def test_each_mistake_is_one_line_and_its_exit_code(run, photos, vectors, index, own_indexes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert run("align", photos / "gallery", "--out", tmp_path / "aligned").code == 0
    assert run("embed", photos / "gallery", "--out", tmp_path / "other").code == 0
    for code, word, arguments in [
        (2, "received 0", ["search", index, vectors, "--k", "0"]),
        (2, "wide", ["align", photos, "--out", tmp_path / "o", "--margin", "wide"]),
        (2, "much", ["build-index", vectors, "--name", "x", "--memory", "much"]),
        (2, "1.5", ["build-index", vectors, "--name", "x", "--recall", "1.5"]),
        (2, "../x", ["build-index", vectors, "--name", "../x"]),
        (3, "nowhere", ["embed", tmp_path / "nowhere", "--out", tmp_path / "o"]),
        (3, "empty", ["embed", tmp_path / "empty", "--out", tmp_path / "o"]),
        (3, "margin", ["align", photos, "--out", tmp_path / "aligned", "--margin", "32px"]),
        (4, "nothing", ["embed", photos, "--model", "nothing", "--out", tmp_path / "o"]),
        (5, "nobody", ["search", "nobody", vectors]),
        (5, "--replace", ["build-index", tmp_path / "other", "--name", index]),
        (6, "file", ["embed", photos, "--out", tmp_path / "file" / "x"]),
    ]:
        done = run(*arguments)
        assert done.code == code, (arguments, done.err)
        assert word in done.error, done.error


def test_missing_weights_name_the_command_that_brings_them(run, photos, tmp_path):
    done = run("embed", photos, "--out", tmp_path / "o", FACEGALLERY_DATA=str(tmp_path / "data"))
    assert done.code == 4 and "`facegallery weights fetch sface`" in done.error
    assert str(tmp_path / "data" / "models") in done.error and "FACEGALLERY_DATA" in done.error


def test_damaged_files_are_named(run, vectors, index, own_indexes, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(vectors, copy)
    with open(copy / "part-00000.parquet", "r+b") as file:
        file.truncate(2000)
    done = run("build-index", copy, "--name", "y")
    assert done.code == 3 and "part-00000.parquet" in done.error
    database = own_indexes / index / "gallery.db"
    whole = database.read_bytes()
    connection = apsw.Connection(str(database))
    connection.execute("UPDATE people SET name = 'somebody else' WHERE name = 's1'").fetchall()
    connection.close()
    done = run("search", index, vectors)
    assert done.code == 5 and "gallery.db" in done.error
    database.write_bytes(whole[: len(whole) // 2])
    done = run("search", index, vectors)
    assert done.code == 5 and "gallery.db" in done.error
    database.write_bytes(b"not a database at all" * 1000)
    done = run("search", index, vectors)
    assert done.code == 5 and "gallery.db" in done.error


def full_disk(folder: Path, size: str, command: list) -> subprocess.CompletedProcess:
    """Runs a command with a tiny file system of its own on `folder`."""
    inner = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner, str(folder), *map(str, command)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("command", ["embed", "build-index"])
def test_a_full_disk_is_one_line(photos, vectors, tmp_path, command):
    small = tmp_path / "small"
    small.mkdir()
    arguments = {
        "embed": ["embed", photos, "--out", small / "v"],
        "build-index": ["build-index", vectors, "--name", "x"],
    }[command]
    environment = ["env", f"FACEGALLERY_INDEXES={small}", f"FACEGALLERY_DATA={os.environ['FACEGALLERY_DATA']}"]
    done = full_disk(small, "256k", [*environment, sys.executable, ROOT / "cli.py", *arguments])
    if "unshare" in done.stderr:  # a system without user namespaces: a limit on the size of files instead
        limited = "ulimit -f 100; trap '' XFSZ; exec \"$@\""
        done = subprocess.run(
            ["sh", "-c", limited, "sh", *environment, sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 6 and len(errors) == 1, done.stderr


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(run, photos, tmp_path):
    command = [sys.executable, str(ROOT / "cli.py"), "embed", str(photos), "--out", str(tmp_path / "v")]
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background jobs, these tests too, ignore it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    assert "sface" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert run("embed", photos, "--out", tmp_path / "v").code == 0


def test_the_homeworks_layout_end_to_end(run, att, tmp_path):
    for i in range(4):
        for j in (1, 2):
            image = Image.open(att / f"s{i + 1}" / f"{j}.pgm").convert("RGB")
            (tmp_path / "raw").mkdir(exist_ok=True)
            image.save(tmp_path / "raw" / f"{i}_{j}.jpg", quality=95)
    done = run("prepare", "homework", tmp_path / "raw", tmp_path / "set", "--json")
    assert json.loads(done.out)["splits"] == {"gallery": 4, "probe": 4}
    assert run("align", tmp_path / "set", "--margin", "32px", "--no-face", "whole", "--out", tmp_path / "c").code == 0
    assert run("embed", tmp_path / "c", "--out", tmp_path / "v").code == 0
    assert run("build-index", tmp_path / "v", "--name", "homework", "--centre").code == 0
    result = json.loads(run("evaluate", "homework", tmp_path / "v", "--json").out)
    assert (result["top1"], result["probes"]) == (1.0, 4)


def test_weights_commands(run, tmp_path):
    listed = json.loads(run("weights", "list", "--json").out)
    assert [e["name"] for e in listed[:6]] == ["sface", "trio", "msceleb", "duo", "casia", "vggface2"]
    assert all("licence" in entry or "networks" in entry for entry in listed[:6])
    assert run("weights", "verify").code == 0
    assert "already" in run("weights", "fetch", "msceleb").err
    assert run("weights", "fetch", "vgg").code == 2


def test_the_detector_is_named(run, att, tmp_path):
    done = run("embed", att / "s1" / "1.pgm", "--detector", "both", "--out", tmp_path / "v", "--json")
    assert done.code == 0 and DataSet(tmp_path / "v").spec.detector["algorithm"] == "both"
    assert run("align", att / "s1", "--detector", "retina", "--out", tmp_path / "c").code == 2
    assert run("embed", tmp_path / "v", "--detector", "both", "--out", tmp_path / "w").code == 2
