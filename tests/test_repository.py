"""The files for contributors and for releases name what is there."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facegallery import __version__
from tests.conftest import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
MADE = {".venv", "dist/"}  # by make


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_package_is_found_beside_a_folder_of_its_name(tmp_path):
    """As where a script lies beside the checkout."""
    (tmp_path / "facegallery").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import facegallery; facegallery.open"]
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0


def test_every_path_in_contributing_exists():
    named = {name for name in re.findall(r"`([\w./-]+)`", CONTRIBUTING) if "/" in name} - MADE
    named |= set(re.findall(r"(?:benchmarks|tests)/[\w/]+\.py", CONTRIBUTING))
    relative = {"workflows/", "store/", "derived/", "search/", "upkeep/", "evaluation/", "routes/", "page/"}
    relative |= {"speed/", "accuracy/", "server/", "scale/", "peers/", "results/"}
    assert len(named) > 40
    assert [name for name in sorted(named - relative) if not (ROOT / name).exists()] == []
    roots = [ROOT / name for name in ("facegallery", "indexer", "benchmarks")]
    folders = {f"{path.name}/" for root in roots for path in root.rglob("*/")}
    assert relative <= folders


@pytest.mark.parametrize("text", [CONTRIBUTING, WORKFLOW], ids=["CONTRIBUTING.md", "ci.yml"])
def test_every_make_target_exists(text):
    named = set(re.findall(r"(?:`|run: |^)make ([a-z-]+)", text, re.M))
    assert len(named) >= 4 and named <= targets()


def test_the_workflow_tests_every_python_that_the_package_names():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", WORKFLOW)[1])
    assert named == tested and config["options"]["python_requires"] == f">={named[0]}"


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    released = re.search(r"^## \[(\d[^\]]*)\] - (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.search(r"^version: (\S+)", citation, re.M)[1] == released[1] == __version__
    assert re.search(r"^date-released: (\S+)", citation, re.M)[1] == released[2]


def test_the_container_is_built_from_every_folder_of_the_package():
    """What .dockerignore lets in: the package, the folders behind its links, and the files that the build reads."""
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M))
    links = {path.name for path in (ROOT / "facegallery").iterdir() if path.is_symlink()}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    read = {"setup.cfg", "pyproject.toml", config["metadata"]["license_files"]}
    read.add(config["metadata"]["long_description"].removeprefix("file:").strip())
    assert let_in >= {"facegallery"} | links | read
    assert all(Path(ROOT, name).exists() for name in let_in)
