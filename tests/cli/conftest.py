"""Ten people of AT&T: their photos, their vectors and an index of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command import run_in_this_process

PEOPLE = 10


@pytest.fixture(scope="session")
def photos(att, once) -> Path:
    """Ten people x 10 photos, as `prepare` lays them out: the first photo in the gallery, nine probes."""
    from facegallery.embedder.photos.prepare import prepare

    def make(folder: Path) -> None:
        for i in range(1, PEOPLE + 1):
            shutil.copytree(att / f"s{i}", folder / "raw" / f"s{i}")
        prepare("att", folder / "raw", folder / "set")

    return once("ten-people", make) / "set"


@pytest.fixture(scope="session")
def vectors(photos, once) -> Path:
    """The vectors of those photos."""

    def make(folder: Path) -> None:
        assert run_in_this_process("embed", photos, "--out", folder / "v").code == 0

    return once("ten-people-vectors", make) / "v"


@pytest.fixture
def index(run, vectors) -> str:
    assert run("build-index", vectors, "--name", "att").code == 0
    return "att"
