"""Who appears when in videos of real faces: the command, its data set, and how much memory it takes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import to_rows
from facegallery.embedder.faces import align
from facegallery.embedder.video import stage
from facegallery.workflows import videos as module
from tests.conftest import ROOT
from tests.videos import Actor, across, crossing, photos, scene, write

PEOPLE = 10


@pytest.fixture(scope="module")
def clips(att, once):
    """Two people who cross, a third, and the first again (crossing.mp4); s4 alone (deep/alone.mkv)."""

    def make(folder):
        crossing(att, folder)
        (folder / "deep").mkdir()
        alone = Actor(photos(att, 4, (6, 7, 8)), across((20, 20), (90, 30), 6))
        write(folder / "deep" / "alone.mkv", scene([alone], 6, 10, (240, 180)), 10, "libx264")

    return once("clips", make)


@pytest.fixture
def people(att, tmp_path, run):
    """An index of ten people by four photos each that are in no video, calibrated."""
    for person in range(1, PEOPLE + 1):
        (tmp_path / "known" / f"s{person}").mkdir(parents=True)
        for path in photos(att, person, (1, 2, 3, 4)):
            shutil.copy(path, tmp_path / "known" / f"s{person}" / path.name)
    assert run("add", "people", tmp_path / "known", "--create").code == 0
    return "people"


def found_by(run, *arguments):
    done = run("tracks", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def rows_of(folder):
    return [row for table in DataSet(folder).shards() for row in to_rows(table)]


def test_each_person_is_one_track_with_the_right_name(run, people, clips):
    found = found_by(run, clips / "crossing.mp4", "--index", people)
    spans = [(one["identity"], one["start"], one["end"]) for one in found["appearances"]]
    assert sorted(spans) == [("s1", 0, 7.5), ("s1", 18, 21.5), ("s2", 0, 7.5), ("s3", 11, 14.5)]
    assert all(one["score"] > 0.5 for one in found["appearances"])
    persons = {(one["identity"], one["person"]) for one in found["appearances"]}
    assert len(persons) == 3 == len({person for _, person in persons})
    assert (found["videos"], found["unread"]) == (1, [])
    lines = run("tracks", clips / "crossing.mp4", "--index", people).out.splitlines()
    assert lines[3].startswith("0:18.0-0:21.5  s1  0.") and lines[4] == "1 video: 4 tracks of 3 people"


def test_many_people_who_follow_each_other_stay_apart_and_are_found_again(run, att, tmp_path):
    """Hard cuts from one face to the next in the same place; each comes twice, in other photos."""
    n = 16
    actors = [
        Actor(
            photos(att, 1 + i % n, (6, 7) if i < n else (8, 9)),
            across((20, 20), (60, 30), 3),
            start=3 * i,
            end=3 * i + 3,
            each=1.5,
        )
        for i in range(2 * n)
    ]
    path = write(tmp_path / "many.mp4", scene(actors, 6 * n, 5, (240, 180)), 5)
    found = found_by(run, path)["appearances"]
    assert [one["start"] for one in found] == [3 * i for i in range(2 * n)]
    assert [one["person"] for one in found] == [*range(1, n + 1)] * 2


def test_strangers_are_unknown_and_counted(run, people, clips):
    lines = run("tracks", clips / "crossing.mp4", "--index", people, "--min-score", "0.99").out.splitlines()
    assert [line.split("  ")[1] for line in lines[:4]] == [f"unknown (person {n})" for n in (1, 2, 3, 1)]
    lines = run("tracks", clips / "crossing.mp4", "--rate", "1").out.splitlines()
    assert [line.split("  ")[1] for line in lines[:4]] == [f"person {n}" for n in (1, 2, 3, 1)]


def test_a_folder_becomes_rows_and_is_resumed(run, clips, tmp_path, monkeypatch):
    out = tmp_path / "vectors"
    found = found_by(run, clips, "--out", out)
    assert [one["video"] for one in found["appearances"]] == ["crossing.mp4"] * 4 + ["deep/alone.mkv"]
    rows = rows_of(out)
    assert {row.outcome for row in rows} == {"ok"} and len({row.face_id for row in rows}) == len(rows) == 15
    for row in rows:
        assert row.image == f"{row.extra['video']}#t={row.extra['time']}"
        assert float(row.extra["start"]) <= float(row.extra["time"]) <= float(row.extra["end"])
        assert align.from_png(row.crop).size and abs(np.linalg.norm(row.vector) - 1) < 1e-5 and row.identity is None
    before = {path: path.read_bytes() for path in out.glob("*.parquet")}
    monkeypatch.setattr(stage, "Frames", None)  # nothing is read again
    assert found_by(run, clips, "--out", out) == found
    assert {path: path.read_bytes() for path in out.glob("*.parquet")} == before
    refused = run("tracks", clips, "--out", out, "--rate", "3")
    assert refused.code == 3 and "frames a second" in refused.error


def test_the_rows_can_be_enrolled_and_searched(run, people, clips, tmp_path):
    assert run("tracks", clips, "--index", people, "--out", tmp_path / "vectors").code == 0
    answer = json.loads(run("who", people, tmp_path / "vectors", "--json").out)
    assert {one["identity"] for one in answer["people"]} == {"s1", "s2", "s3", "s4"}
    added = json.loads(run("add", people, tmp_path / "vectors", "--json").out)
    assert added["unnamed"] == 15


def test_what_cannot_be_read_is_a_line_each(run, clips, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "vectors"
    folder.mkdir()
    data = (clips / "deep" / "alone.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    (folder / "text.mp4").write_text("hello")
    write(folder / "empty.mp4", scene([], 2, 5, (64, 64)), 5)
    for more in (("--out", out), ()):
        done = run("tracks", folder, *more)
        assert done.code == 0 and done.out.splitlines()[-1] == "3 videos: 1 track of 1 person; 1 could not be read"
        lines = [line for line in done.err.splitlines() if line.startswith(("cut", "text", "empty"))]
        assert [line.split(":")[0] for line in sorted(lines)] == ["cut.mkv", "empty.mp4", "text.mp4"]
        assert "cut or broken" in min(lines)
    assert {row.image: row.outcome for row in rows_of(out) if row.vector is None} == {
        "empty.mp4": "no_face",
        "text.mp4": "unreadable",
    }
    alone = run("tracks", folder / "text.mp4")
    assert alone.code == 3 and "it is text" in alone.err


def test_mistakes_are_one_line(run, clips, tmp_path, monkeypatch):
    for arguments, code, said in (
        (("--rate", "0"), 2, "--rate"),
        (("--faces", "0"), 2, "--faces"),
        (("--max-side", "3"), 2, "--max-side"),
        (("--join-score", "2"), 2, "--join-score"),
        (("--track-score", "0"), 2, "--track-score"),
        (("--index", "nobody"), 5, "nobody"),
        (("--index", "x", "--detector", "mtcnn"), 2, "--detector"),
    ):
        done = run("tracks", clips, *arguments)
        assert done.code == code and said in done.error
    assert run("tracks", tmp_path / "none.mp4").code == 3
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    done = run("tracks", clips)
    assert done.code == 6 and "pip install 'facegallery[video]'" in done.error


MEASURED = """
import sys, threading, time
from contextlib import suppress
from pathlib import Path
from facegallery.workflows.videos import TrackOptions, tracks
from facegallery.embedder.video.frames import FrameOptions

def peak(pid):  # not ru_maxrss: that of a child has the peak of the process that started it, too
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10

decoder = 0

def watch():
    global decoder
    while True:
        with suppress(OSError, IndexError):  # a process or a thread has just ended
            files = Path("/proc/self/task").glob("*/children")
            for pid in [pid for file in files for pid in file.read_text().split()]:
                if b"video.decode" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    decoder = max(decoder, peak(pid))
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
for name in sys.argv[1:]:
    found = tracks(Path(name), TrackOptions(FrameOptions(rate=1)), out=Path(name + ".vectors"))
    print(len(found.appearances), max(one.end for one in found.appearances), peak("self"), decoder)
"""


def test_ten_minutes_take_no_more_memory_than_one(att, tmp_path):
    """Somebody stays all the time, and others come for ten seconds each."""
    for name, minutes in (("one.mp4", 1), ("ten.mp4", 10)):
        actors = [
            Actor(photos(att, 5 + i % 5, (6, 7)), across((120, 10), (150, 10), 10), 30 * i, 30 * i + 10, each=5)
            for i in range(2 * minutes)
        ]
        stays = Actor(photos(att, 1, (6, 7, 8, 9)), across((5, 10), (15, 10), 60 * minutes), each=5)
        write(tmp_path / name, scene([stays, *actors], 60 * minutes, 2, (256, 144)), 2)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "one.mp4"), str(tmp_path / "ten.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    (short, _, own, child), (long, end, own_later, child_later) = (
        map(float, line.split()) for line in done.stdout.splitlines()
    )
    assert short == 3 and long == 21 and end >= 598
    assert own_later - own < 150 and child_later - child < 50, done.stdout  # MB
    assert 30 < child_later < 300
