import math
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from facegallery.embedder import photo_stage
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, FaceGalleryError, SystemFault
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.machine import cores, usable
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.photos.workers import Workers
from facegallery.embedder.pipeline import Options, PhotoStage, process_photos
from facegallery.embedder.weights import store
from tests.conftest import ROOT
from tests.doses import doses
from tests.embedder.test_pipeline import nothing, same


def refuse(why: str) -> None:
    raise DataError(why)


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_work_is_done_elsewhere_and_in_order():
    workers = Workers(math.sqrt)
    assert [workers.submit(float(i)).result() for i in range(20)] == [math.sqrt(i) for i in range(20)]


def test_as_many_processes_as_cores_each_on_its_own():
    workers = Workers(os.sched_getaffinity)
    found = [future.result() for future in [workers.submit(0) for _ in range(8 * cores())]]
    assert all(len(core) == 1 for core in found) and {core for one in found for core in one} <= set(usable())


def test_what_work_raises_is_raised_here():
    with pytest.raises(DataError, match="^no faces there$"):
        Workers(refuse).submit("no faces there").result()
    with pytest.raises(FaceGalleryError, match="ValueError: .*math domain error"):
        Workers(math.sqrt).submit(-1.0).result()


def test_a_process_that_dies_fails_its_own_question_alone():
    workers = Workers(os.kill)
    pid = os.getpid()
    with pytest.raises(SystemFault, match=r"ended \(7\)"):
        Workers(os._exit).submit(7).result()
    assert workers.submit(pid, 0).result() is None  # a question to this process, which is there


def test_what_cannot_be_sent_fails_its_own_question_alone():
    workers = Workers(os.getpid)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        workers.submit(lambda: None).result()
    assert workers.submit().result() != os.getpid()


def test_what_a_library_prints_is_no_answer():
    workers = Workers(os.system)
    assert [workers.submit("echo forged; echo forged >&2").result() for _ in range(3)] == [0] * 3
    printing = Workers(print)
    assert [printing.submit("forged", i).result() for i in range(3)] == [None] * 3


def test_an_end_waits_for_no_work_and_takes_what_was_started_along(tmp_path):
    workers = Workers(os.system)
    future = workers.submit(f"echo $$ > {tmp_path}/pid; sleep 1000")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    began = time.monotonic()
    workers.close()
    with pytest.raises(SystemFault):
        future.result(0)
    assert time.monotonic() - began < 10 and is_gone(int((tmp_path / "pid").read_text()))


def test_a_new_process_takes_the_place_of_one_that_died():
    workers = Workers(os.kill)
    for _ in range(2 * cores()):
        with pytest.raises(SystemFault):
            workers.submit(0, signal.SIGKILL).result()  # its own group
    assert workers.submit(os.getpid(), 0).result() is None


def test_processes_end_with_their_pool():
    workers = Workers(os.getpid)
    pid = workers.submit().result()
    del workers
    assert is_gone(pid)


def test_processes_end_with_a_process_that_is_killed():
    script = (
        "import os, time; from facegallery.embedder.photos.workers import Workers; w = Workers(os.getpid); "
        "print(w.submit().result(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert pid != parent.pid
        parent.kill()
    assert is_gone(pid)


@pytest.mark.parametrize("n", doses(120, 400))
def test_many_photos_give_the_rows_of_few(att, tmp_path, monkeypatch, n):
    embedder, listed, tables = Embedder(store.open_model("msceleb")), list_photos(att), []
    for name, many in (("threads", 1 << 40), ("processes", 0)):
        monkeypatch.setattr(photo_stage, "MANY", many)
        stage = PhotoStage(embedder.spec, MtcnnDetector(), embedder, Options())
        process_photos(replace(listed, entries=listed.entries[:n]), tmp_path / name, stage, "embed", nothing, 100)
        assert (stage._workers is None) == bool(many)
        tables.append(DataSet(tmp_path / name).table())
    assert tables[0].num_rows == n
    same(*tables)


LIMITED = """
import os, sys
from facegallery.embedder import machine, photo_stage
photo_stage.MANY = 0
if sys.argv[3] == "one core":
    os.sched_setaffinity(0, {machine.usable()[0]})
sys.argv = ["cli.py", "embed", sys.argv[1], "--out", sys.argv[2], "--quiet"]
from facegallery.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("how", ["one core", "all cores"])
def test_little_memory_is_enough(how, att, tmp_path):
    for i in range(1, 4):
        (tmp_path / "p").mkdir(exist_ok=True)
        os.link(att / f"s{i}" / "1.pgm", tmp_path / "p" / f"{i}.pgm")
    limited = 'ulimit -v 4000000; exec "$@"'
    command = ["bash", "-c", limited, "-", sys.executable, "-c", LIMITED, str(tmp_path / "p"), str(tmp_path / "v"), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert DataSet(tmp_path / "v").outcomes == {"ok": 3}
