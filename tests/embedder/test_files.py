import contextlib
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from facegallery.embedder import files
from facegallery.embedder.dataset.writer import check_is_ours
from facegallery.embedder.errors import DataError
from facegallery.embedder.files import (
    atomic,
    drop_stale_temporaries,
    held,
    locked,
    temporary_beside,
    temporary_folder,
    temporary_prefix,
    write_atomic,
)
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from facegallery.embedder.files import {name}
with {name}(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def holding(name: str, path, *before: str) -> subprocess.Popen:
    """A process that holds a lock or an unfinished file until it is killed."""
    command = [*before, sys.executable, "-c", HOLD.format(name=name), str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@contextlib.contextmanager
def killed_when_logged(process: subprocess.Popen) -> Iterator[list[str]]:
    """Collect the lines that are logged; at the first, kill the process with -9, so that the kernel frees its lock."""
    said: list[str] = []

    class Killer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            kill(process)

    logger, killer = logging.getLogger("facegallery.embedder.files"), Killer()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(killer)
    try:
        yield said
    finally:
        logger.removeHandler(killer)
        logger.setLevel(level)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def can_make_containers() -> bool:
    return subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0


@pytest.fixture(params=["here", "container"])
def before(request) -> list[str]:
    """How a process is begun: beside this one, or with process numbers of its own."""
    if request.param == "here":
        return []
    if not can_make_containers():
        pytest.skip("namespaces of processes cannot be made here")
    return CONTAINER


def test_a_file_is_whole_or_not_there(tmp_path):
    write_atomic(tmp_path / "a", b"1")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a") as file:
        file.write(b"2")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"1" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_two_writers_of_one_file_in_one_process_do_not_meet(tmp_path):
    with atomic(tmp_path / "a") as one, atomic(tmp_path / "a") as two:
        one.write(b"1" * 9)
        two.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"1" * 9 and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_long_name_can_be_written(tmp_path):
    write_atomic(tmp_path / ("ü" * 127), b"1")
    assert (tmp_path / ("ü" * 127)).read_bytes() == b"1"


def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    dead, mine, another = (
        tmp_path / name
        for name in ("_tmp-999999999.12345-x", f"{temporary_prefix()}0-x", f"_tmp-{os.getpid()}.12345-x")
    )
    dead.mkdir(), (dead / "x").touch(), mine.touch(), another.touch()
    drop_stale_temporaries(tmp_path)
    assert not dead.exists() and mine.exists()
    assert not another.exists(), "of a process that had this one's number before"


@pytest.mark.parametrize(
    "name",
    [
        "photos",
        "notes.txt",
        "999999999",
        "999999999-x",
        "2024-12-31",
        "2024.12-photos",
        "12.2024-photos",
        "1.2.20241231-photos",
        "999999999.12345",
        "999999999.12345.0000000g-0-x",
        "999999999.12345.00000000-x",
        "٣.12345-x",
        "ended.ended-x",
        "",
        "1.1.00000000-0-",
    ],
)
def test_other_files_with_the_beginning_of_a_temporary_stay(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "GRACE", -1.0)
    monkeypatch.setattr(files, "UNLOCKABLE_GRACE", -1.0)
    (tmp_path / f"_tmp-{name}").mkdir(), (tmp_path / f"_tmp-{name}" / "x.jpg").touch()
    drop_stale_temporaries(tmp_path)
    assert (tmp_path / f"_tmp-{name}" / "x.jpg").exists()
    with pytest.raises(DataError, match="holds other files"):
        check_is_ours(tmp_path)


def test_every_name_that_this_process_gives_is_a_temporarys(tmp_path):
    with temporary_folder(tmp_path) as folder:
        names = [
            folder.name,
            temporary_beside(tmp_path / "_x\ny.db").name,
            f"{temporary_prefix()}{uuid.uuid4().hex}-built",
        ]
    assert all(map(files.is_temporary, names)) and not files.is_temporary(f"x{names[0]}")


def test_an_unfinished_file_stays_while_its_process_runs_and_goes_after_it(tmp_path, before, monkeypatch):
    monkeypatch.setattr(files, "GRACE", 0.0)
    process = holding("atomic", tmp_path / "model.bin", *before)
    try:
        (unfinished,) = tmp_path.iterdir()
        drop_stale_temporaries(tmp_path)
        assert unfinished.exists(), "another process, with numbers of its own, still writes it"
    finally:
        kill(process)
    until = time.monotonic() + 20
    while unfinished.exists() and time.monotonic() < until:  # a container ends a moment after its first process
        drop_stale_temporaries(tmp_path)
        time.sleep(0.01)
    assert not unfinished.exists()


def test_what_another_container_has_just_made_and_not_yet_locked_stays(tmp_path):
    name = f"_tmp-1.1.{'0' * 8}-0-x"
    (tmp_path / name).touch(), (tmp_path / f"{name}-link").symlink_to("x")
    drop_stale_temporaries(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_held_stays(tmp_path, monkeypatch):
    folder = tmp_path / f"_tmp-1.1.{'0' * 8}-{'0' * 32}-built"
    folder.mkdir()
    monkeypatch.setattr(files, "GRACE", 0.0)
    with held(folder):
        drop_stale_temporaries(tmp_path)
        assert folder.exists()
    drop_stale_temporaries(tmp_path)
    assert not folder.exists()


def test_temporaries_have_names_of_their_own(tmp_path):
    assert temporary_beside(tmp_path / "x") != temporary_beside(tmp_path / "x")


def test_the_second_process_waits_and_says_for_whom(tmp_path, before):
    process = holding("locked", tmp_path, *before)
    started = time.monotonic()
    with killed_when_logged(process) as said, locked(tmp_path):
        assert len(said) == 1 and f"{tmp_path} " in said[0] and f" {1 if before else process.pid} " in said[0]
        assert time.monotonic() - started < 10
    with killed_when_logged(process) as said, locked(tmp_path):
        assert said == []
    assert len(said) == 0, "nobody is waited for"


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, no folder is closed
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"process": "x", "host": 7}', b"\xff" * 9])
def test_what_a_lock_says_may_be_anything(tmp_path, content):
    process = holding("locked", tmp_path)
    (tmp_path / files.LOCK).write_bytes(content)
    with killed_when_logged(process) as said, locked(tmp_path):
        assert len(said) == 1 and "another process" in said[0]
