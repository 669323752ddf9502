"""A folder is followed as it changes: what is written, half written, moved, deleted, and a folder that disappears."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from facegallery.embedder.errors import DataError, SystemFault
from facegallery.indexer.opening import open_store
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.session import GallerySession
from facegallery.workflows.sync import SyncOptions
from facegallery.workflows.watch import MOST, Waiting, watch
from tests.command import ROOT, run_in_own_process

pytest.importorskip("watchfiles")
SECONDS = 60


@pytest.fixture
def album(att, tmp_path) -> Path:
    (tmp_path / "album" / "s1").mkdir(parents=True)
    shutil.copy(att / "s1" / "1.pgm", tmp_path / "album" / "s1")
    return tmp_path / "album"


@pytest.fixture
def indexes(tmp_path) -> Path:
    create_gallery(tmp_path / "indexes" / "club")
    return tmp_path / "indexes"


class Watcher:
    """A watch in a thread, and what it did so far."""

    def __init__(self, folder: Path, album: Path):
        self.done, self.error, self.stop = [], None, threading.Event()
        self.thread = threading.Thread(target=self._watch, args=(folder, album))
        self.thread.start()

    def _watch(self, folder: Path, album: Path) -> None:
        try:
            with GallerySession(folder) as session:
                for done in watch(session, album, SyncOptions(names_from="nobody"), stop=self.stop):
                    self.done.append(done)
        except Exception as error:
            self.error = error

    def wait(self, n: int) -> None:
        until = time.monotonic() + SECONDS
        while len(self.done) < n and self.error is None:
            assert time.monotonic() < until, self.done
            time.sleep(0.05)


@pytest.fixture
def watcher(indexes, album) -> Iterator[Watcher]:
    watcher = Watcher(indexes / "club", album)
    yield watcher
    watcher.stop.set()
    watcher.thread.join(SECONDS)
    assert not watcher.thread.is_alive()


def images(indexes: Path) -> set[str]:
    with open_store(indexes / "club") as store:
        return {one.image for one in store.unnamed_faces()}


def test_photos_are_taken_as_they_come(watcher, indexes, album, att):
    watcher.wait(1)
    assert watcher.done[0].new == 1
    shutil.copy(att / "s2" / "1.pgm", album / "s2.pgm")
    watcher.wait(2)
    assert images(indexes) == {"s1/1.pgm", "s2.pgm"} and watcher.done[1].new == 1
    (album / "s2.pgm").rename(album / "s1" / "2.pgm")
    watcher.wait(3)
    assert images(indexes) == {"s1/1.pgm", "s1/2.pgm"} and watcher.done[2].moved == 1
    shutil.copytree(att / "s3", album / "trip")
    until = time.monotonic() + SECONDS
    while len(images(indexes)) < 12 and time.monotonic() < until:
        time.sleep(0.1)
    assert images(indexes) == {"s1/1.pgm", "s1/2.pgm", *(f"trip/{n}.pgm" for n in range(1, 11))}


def test_a_file_that_is_still_written_is_not_taken(watcher, indexes, album, att):
    watcher.wait(1)
    data = (att / "s2" / "1.pgm").read_bytes()
    with open(album / "slow.pgm", "wb") as file:
        for i in range(0, len(data), len(data) // 10):
            file.write(data[i : i + len(data) // 10])
            file.flush()
            time.sleep(0.3)
    watcher.wait(2)
    assert [(done.new, done.changed, done.failed) for done in watcher.done[1:]] == [(1, 0, {})]
    assert images(indexes) == {"s1/1.pgm", "slow.pgm"}


def test_a_folder_that_disappears_ends_the_watch(watcher, album):
    watcher.wait(1)
    shutil.rmtree(album)
    watcher.thread.join(SECONDS)
    assert isinstance(watcher.error, DataError) and "is gone" in str(watcher.error)


def test_what_waits_is_bounded(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add(str(tmp_path / f"{i}.jpg") for i in range(MOST))
    assert len(waiting.marks) == MOST and not waiting.everything
    waiting.add([str(tmp_path / "one more.jpg"), str(tmp_path.parent / "outside.jpg")])
    assert waiting.everything and not waiting.marks
    assert waiting.settled() is None and waiting.settled() == []


def test_a_file_settles_once_it_stays_as_it_is(tmp_path):
    waiting, file = Waiting(tmp_path, quiet=0.1), tmp_path / "a.jpg"
    file.write_bytes(b"1")
    waiting.add([str(file)])
    assert waiting.settled() == []
    file.write_bytes(b"12")
    time.sleep(0.15)
    assert waiting.settled() == []  # it is another file than before
    time.sleep(0.15)
    assert waiting.settled() == ["a.jpg"] and waiting.settled() == []


def test_without_the_package_one_line_says_what_to_install(monkeypatch, indexes, album):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with GallerySession(indexes / "club") as session:
        with pytest.raises(SystemFault, match=r"facegallery\[watch\]"):
            next(watch(session, album))


def test_the_command_ends_cleanly_on_ctrl_c(indexes, album):
    env = os.environ | {"FACEGALLERY_INDEXES": str(indexes)}
    command = [sys.executable, str(ROOT / "cli.py"), "watch", "club", str(album), "--json"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and '"new":1' in process.stdout.readline().replace(" ", "")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and out == "" and "Traceback" not in err and "stopped" in err


def test_a_folder_that_is_not_there_is_one_line(indexes, album):
    done = run_in_own_process("watch", "club", album / "nothing", FACEGALLERY_INDEXES=str(indexes))
    assert done.code == 3 and "is not there" in done.error
