"""The checks of a wheel and an sdist find what each is for."""

import base64
import hashlib
import io
import stat
import tarfile
import zipfile

import pytest

from tests.conftest import ROOT
from tools.check_wheel import only, package_files, sdist_problems, wheel_problems

INFO = "facegallery-1.0.dist-info"
LICENSE = {f"{INFO}/licenses/LICENSE": b"MIT"}
TREE = {"facegallery/__init__.py": b"", "facegallery/server/page/app.js": b"1;"}


def record_of(files):
    hashes = {
        path: "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        for path, data in files.items()
    }
    rows = [f"{path},{digest},{len(files[path])}" for path, digest in hashes.items()]
    return "\n".join([*rows, f"{INFO}/RECORD,,"]).encode()


@pytest.fixture
def wheel(tmp_path):
    def make(files, record=None):
        path = tmp_path / "facegallery-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**files, f"{INFO}/RECORD": record or record_of(files)}.items():
                archive.writestr(name, data)
        return path

    return make


@pytest.fixture
def sdist(tmp_path):
    def make(files, links=()):
        path = tmp_path / "facegallery-1.0.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"facegallery-1.0/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            for name in links:
                member = tarfile.TarInfo(f"facegallery-1.0/{name}")
                member.type, member.linkname = tarfile.SYMTYPE, "../embedder"
                archive.addfile(member)
        return path

    return make


def test_a_whole_wheel_has_no_problems(wheel):
    assert wheel_problems(wheel(LICENSE | TREE), TREE) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"console.py": b""}, "foreign top-level name: console.py"),
        ({"embedder/__init__.py": b""}, "foreign top-level name: embedder"),
        ({"facegallery-0.9.dist-info/METADATA": b""}, "foreign top-level name: facegallery-0.9.dist-info"),
        ({"facegallery/server/page/app.js": None}, "missing: facegallery/server/page/app.js"),
        ({"facegallery/server/page/app.js": b"2;"}, "other content: facegallery/server/page/app.js"),
        ({"facegallery/old.py": b""}, "not in the checkout: facegallery/old.py"),
        ({f"{INFO}/licenses/LICENSE": None, f"{INFO}/licenses/cli.py": b""}, "missing: LICENSE"),
    ],
)
def test_a_wheel_that_differs_from_the_checkout(wheel, changes, problem):
    files = {path: data for path, data in (LICENSE | TREE | changes).items() if data is not None}
    assert wheel_problems(wheel(files), TREE) == [problem]


def test_a_record_that_does_not_fit(wheel):
    files = LICENSE | TREE
    wrong = record_of({**files, "facegallery/__init__.py": b"other", "facegallery/gone.py": b""})
    assert wheel_problems(wheel(files, wrong), TREE) == [
        "only in RECORD: facegallery/gone.py",
        "RECORD has another hash: facegallery/__init__.py",
    ]
    short = record_of({path: data for path, data in files.items() if not path.endswith(".js")})
    assert wheel_problems(wheel(files, short), TREE) == ["not in RECORD: facegallery/server/page/app.js"]


def test_a_wheel_with_a_link(wheel):
    path = wheel(LICENSE | TREE)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("facegallery/embedder")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../embedder")
    with pytest.raises(SystemExit, match="facegallery/embedder"):
        wheel_problems(path, TREE)


def test_sdists(sdist):
    whole = {"LICENSE": b"MIT", "README.md": b"", "setup.cfg": b"", "cli.py": b"", **TREE}
    assert sdist_problems(sdist(whole), TREE) == []
    assert sdist_problems(sdist(whole, ["facegallery/embedder"]), TREE) == [
        "not a plain file: facegallery-1.0/facegallery/embedder"
    ]
    del whole["LICENSE"], whole["facegallery/server/page/app.js"]
    assert sdist_problems(sdist(whole), TREE) == ["missing: LICENSE", "missing: facegallery/server/page/app.js"]


def test_files_of_the_checkout_are_found_through_the_links():
    found = package_files(ROOT)
    assert found["facegallery/embedder/spec.py"] == (ROOT / "embedder" / "spec.py").read_bytes()
    data = {path.rsplit("/", 1)[1] for path in found if not path.endswith(".py")}
    assert {"report.html", "index.html", "quick.toml"} <= data and not any("__pycache__" in path for path in found)


def test_one_file_of_a_kind_is_expected(tmp_path):
    with pytest.raises(SystemExit, match="received 0"):
        only(tmp_path, "*.whl")
    for name in ("a.whl", "b.whl"):
        (tmp_path / name).touch()
    with pytest.raises(SystemExit, match="received 2"):
        only(tmp_path, "*.whl")
