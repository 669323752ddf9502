"""What lies in the user's folder, or where environment variables point, is run by no process that we start."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from facegallery.embedder import process
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.weights import fetch
from tests.conftest import ROOT
from tests.served import running
from tests.videos import Actor, across, photos, scene, write

NAMES = (
    "resource",
    "numpy",
    "json",
    "io",
    "os",
    "re",
    "signal",
    "select",
    "struct",
    "socket",
    "pickle",
    "runpy",
    "hashlib",
    "tempfile",
    "secrets",
    "ctypes",
    "subprocess",
    "threading",
    "multiprocessing",
    "importlib",
    "PIL",
    "embedder",
    "facegallery",
    "indexer",
    "cli",
    "pip",
    "encodings",
    "sitecustomize",
    "usercustomize",
    "pillow_heif",
    "av",
    "mtcnn",
    "uvicorn",
    "fastapi",
    "server",
    "workflows",
    "tensorflow",
    "openvino",
    "faiss",
    "apsw",
    "scipy",
    "pyarrow",
    "joblib",
    "click",
    "setuptools",
    "pkg_resources",
)


@pytest.fixture
def trap(tmp_path):
    """A folder in which each module that a process of ours could look for leaves a mark, and the marks."""
    folder, marks = tmp_path / "trap", tmp_path / "marks"
    folder.mkdir(), marks.mkdir()
    code = (
        f"import sys, _io\n_io.open({str(marks)!r} + '/' + __name__ + str(len(sys.path)), 'w').close()\n"
        "raise ImportError('trapped')\n"
    )
    for name in NAMES:
        (folder / f"{name}.py").write_text(code)
        (folder / "package").mkdir(exist_ok=True)
    for name in ("PIL", "embedder", "facegallery", "pip", "multiprocessing"):
        (folder / f"{name}.py").unlink()
        (folder / name).mkdir()
        for file in ("__init__", "__main__"):
            (folder / name / f"{file}.py").write_text(code)
    return folder, marks


def photos_in(folder, att, n=3):
    folder.mkdir()
    for i in range(1, n + 1):
        (folder / f"s{i}").mkdir()
        os.link(att / f"s{i}" / "1.pgm", folder / f"s{i}" / "1.pgm")
    return folder


def command(trap, *arguments, **environment):
    line = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=trap, env=os.environ | environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


MANY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from facegallery.embedder import photo_stage
photo_stage.MANY = 0  # processes for the networks, too
os.environ |= {name: sys.argv[2] for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX")}
os.environ |= {"PYTHONSTARTUP": sys.argv[2] + "/numpy.py", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error::numpy.Oops"}
sys.argv = ["cli.py", *sys.argv[3:]]
from facegallery.cli.main import main
sys.exit(main())
"""


def test_photos_are_decoded_and_embedded_by_our_own_code(trap, att, tmp_path):
    folder, marks = trap
    photos = photos_in(tmp_path / "photos", att)
    command(folder, "embed", photos, "--out", tmp_path / "plain", "--quiet")
    arguments = ["-c", MANY, str(ROOT), str(folder), "embed", str(photos), "--out", str(tmp_path / "many"), "--quiet"]
    done = subprocess.run([sys.executable, "-I", *arguments], capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("plain", "many"):
        assert DataSet(tmp_path / name).outcomes == {"ok": 3}
    assert list(marks.iterdir()) == []


def test_videos_are_decoded_by_our_own_code(trap, att, tmp_path):
    folder, marks = trap
    actor = Actor(photos(att, 1, (1, 2)), across((20, 20), (40, 20), 2))
    path = write(tmp_path / "a.mp4", scene([actor], 2, 5, (200, 160)), 5)
    command(folder, "tracks", path, "--out", tmp_path / "rows", "--quiet")
    assert DataSet(tmp_path / "rows").outcomes == {"ok": 3}
    assert list(marks.iterdir()) == []


def test_a_server_of_two_processes_runs_our_own_code(trap, att_gallery, tmp_path, monkeypatch):
    folder, marks = trap
    built = att_gallery(tmp_path / "server")
    monkeypatch.chdir(folder)
    with running(built, "--workers", "2") as server:
        for i in range(1, 7):
            answer = httpx.post(
                f"{server.url}/v1/indexes/att/search",
                content=server.probe(i),
                headers={"Authorization": f"Bearer {server.key}"},
                timeout=60,
            )
            assert answer.status_code == 200 and answer.json()["faces"][0]["hits"][0]["identity"] == f"s{i}"
    assert list(marks.iterdir()) == []


def test_pip_is_the_installed_one(trap, monkeypatch, tmp_path):
    folder, marks = trap
    monkeypatch.chdir(folder)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"):
        monkeypatch.setenv(name, str(folder))
    done = subprocess.run(
        process.command("pip", "--version"), capture_output=True, text=True, env=process.environment(), cwd=folder
    )
    assert done.stdout.startswith("pip "), done.stderr
    with pytest.raises(fetch.SystemFault, match="expected pip to download"):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        fetch.pip_download("facegallery-none==1", "0" * 64, tmp_path)
    assert list(marks.iterdir()) == []


def test_our_folder_comes_after_what_is_installed_and_others_come_last(monkeypatch, tmp_path):
    given, user = tmp_path / "given", tmp_path / "user"
    given.mkdir(), user.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(given))
    monkeypatch.setenv("PYTHONUSERBASE", str(user))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(given), "relative", str(user), *sys.path])
    found = process.search_path()
    assert "" not in found and "relative" not in found and str(tmp_path) not in found
    stdlib = found.index(os.path.dirname(os.__file__))
    assert stdlib < found.index(str(ROOT)) < found.index(str(given)) < found.index(str(user))


def test_an_installation_that_only_a_variable_leads_to_works(tmp_path):
    """A module that is found by PYTHONPATH alone can be the work of a process."""
    (tmp_path / "elsewhere.py").write_text("def double(n):\n    return 2 * n\n")
    script = (
        "import elsewhere\nfrom facegallery.embedder.photos.workers import Workers\n"
        "print(Workers(elsewhere.double).submit(21).result())"
    )
    variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=variables)
    assert done.stdout == "42\n", done.stderr


ENDING = """
import sys, threading, time
from facegallery.embedder.process import ending_within
with ending_within(1):
    print("now", flush=True)
    {work}
"""
AFTER_IT = "threading.Thread(target=time.sleep, args=(60,)).start(), time.sleep(60)"


@pytest.mark.parametrize("work", ["time.sleep(60)", AFTER_IT])
def test_ctrl_c_ends_a_process_in_time_whatever_it_does(work):
    line = [sys.executable, "-c", ENDING.format(work=work)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as found:
        found.stdout.readline()
        time.sleep(0.2)
        found.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert found.wait(10) in (130, 1, -2) and time.monotonic() - began < 5
