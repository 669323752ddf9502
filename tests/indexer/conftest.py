"""An index that each test may change: a copy of the module's `original`."""

import shutil
from pathlib import Path

import pytest

from facegallery.indexer.opening import open_store


def copied(original: Path, folder: Path) -> Path:
    """Copy the files of a closed index."""
    ignored = shutil.ignore_patterns("*-wal", "*-shm")
    return Path(shutil.copytree(original, folder, symlinks=True, ignore=ignored))


@pytest.fixture
def index(original, tmp_path) -> Path:
    return copied(original, tmp_path / "club")


@pytest.fixture
def gallery(index):
    with open_store(index, write=True) as gallery:
        yield gallery
