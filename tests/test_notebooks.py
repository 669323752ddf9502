"""The notebooks run from their first cell to their last, and print what is stored in them."""

import json

import pytest

from tests.conftest import DATA
from tests.notebooks import NOTEBOOKS, differ, run, stored

TOLERANCE = 0.03  # of scores and shares, which differ a little between processors


@pytest.fixture
def folder(att, tmp_path):
    """A folder in which AT&T's photos and the weights are there already."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(DATA / "models")
    (tmp_path / "data" / "att").symlink_to(att)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(path, folder, monkeypatch):
    for name in ("FACEGALLERY_DATA", "FACEGALLERY_INDEXES"):
        monkeypatch.delenv(name, raising=False)
    for number, (shown, printed) in enumerate(zip(stored(path), run(path, folder), strict=True), 1):
        assert not differ(shown, printed, TOLERANCE), f"cell {number}: {shown!r}, now {printed!r}"


def test_numbers_are_compared_by_value_and_words_as_they_are():
    assert not differ("0.97 of 40", "0.98 of 40", TOLERANCE)
    assert differ("0.90 of 40", "0.98 of 40", TOLERANCE)
    assert differ("0.97 of 40", "0.97 in 40", TOLERANCE)
    assert not differ("0.97 of 40", "0.97 of 41", TOLERANCE) and differ("0.97 of 40", "0.97 of 42", TOLERANCE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole(path):
    """Notebook format 4, every code cell was run, and pictures are not stored: they would be of people."""
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert all("image/png" not in json.dumps(cell) for cell in notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert notebook["cells"][0]["cell_type"] == "markdown" and notebook["cells"][0]["source"][0].startswith("# ")
