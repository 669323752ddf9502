"""`evaluate-pairs` on AT&T's photos, by each kind of list, against a plain recount with NumPy."""

import json
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from tests.command import run_in_this_process

PEOPLE, PHOTOS = 20, 3


@pytest.fixture(scope="module")
def vectors(att, once) -> Path:
    """Vectors of three photos of each of twenty people, of a folder of links."""

    def make(folder: Path) -> None:
        for p in range(1, PEOPLE + 1):
            (folder / "photos" / f"s{p}").mkdir(parents=True)
            for i in range(1, PHOTOS + 1):
                (folder / "photos" / f"s{p}" / f"{i}.pgm").write_bytes((att / f"s{p}" / f"{i}.pgm").read_bytes())
        assert run_in_this_process("embed", folder / "photos", "--out", folder / "v").code == 0

    return once("att-pairs", make) / "v"


@pytest.fixture
def pairs() -> list[tuple[str, str, bool]]:
    """A hundred pairs: of each fold's two people, three of one person each and four of two people."""
    found = []
    for a in range(1, PEOPLE + 1, 2):
        b = a + 1
        found += [(f"s{p}/{i}.pgm", f"s{p}/{j}.pgm", True) for p in (a, b) for i, j in ((1, 2), (1, 3), (2, 3))]
        found += [(f"s{a}/{i}.pgm", f"s{p}/{i}.pgm", False) for i in (1, 2) for p in (b, b % PEOPLE + 1)]
    return found


def recount(vectors: Path, pairs: list[tuple[str, str, bool]]) -> list[float]:
    """The accuracy of each of ten folds, a threshold at a time, from the data set's rows."""
    table = DataSet(vectors).table(["image", "vector"]).to_pylist()
    x = {row["image"]: np.array(row["vector"]) for row in table if row["vector"] is not None}
    distance = np.array([((x[a] - x[b]) ** 2).sum() if a in x and b in x else np.inf for a, b, _ in pairs])
    same, n = np.array([s for *_, s in pairs]), len(pairs) // 10
    accuracies = []
    for fold in range(10):
        tested = np.arange(len(pairs)) // n == fold
        right = [((distance < t) == same) for t in np.arange(0, 4, 0.01)]
        best = int(np.argmax([r[~tested].mean() for r in right]))
        accuracies.append(float(right[best][tested].mean()))
    return accuracies


@pytest.mark.parametrize("form", ["list", "csv", "cfp"])
def test_a_list_is_judged_in_its_folds(run, vectors, pairs, tmp_path, form):
    if form == "cfp":
        file = tmp_path / "Protocol" / "Split" / "FF"
        photos = sorted({path for a, b, _ in pairs for path in (a, b)})
        for fold in range(10):
            (file / f"{fold + 1:02d}").mkdir(parents=True)
            for name, kind in (("same", True), ("diff", False)):
                chosen = [
                    (photos.index(a) + 1, photos.index(b) + 1) for a, b, s in pairs[10 * fold :][:10] if s == kind
                ]
                (file / f"{fold + 1:02d}" / f"{name}.txt").write_text("".join(f"{i},{j}\n" for i, j in chosen))
        lines = (f"{i} ../Data/Images/{path}\n" for i, path in enumerate(photos, 1))
        (tmp_path / "Protocol" / "Pair_list_F.txt").write_text("".join(lines))
    else:
        file, mark = tmp_path / f"pairs.{form}", " " if form == "list" else ","
        head = "" if form == "list" else "path1,path2,label\n"
        file.write_text(head + "".join(f"att/{a}{mark}att/{b}{mark}{int(s)}\n" for a, b, s in pairs))
    done = run("evaluate-pairs", vectors, file, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    if form == "cfp":
        (tmp_path / "Protocol" / "Pair_list_F.txt").unlink()
        broken = run("evaluate-pairs", vectors, file)
        assert broken.code == 3 and "Pair_list_F.txt cannot be read" in broken.error
    expected = recount(vectors, pairs)
    assert found["folds"] == pytest.approx(expected) and found["pairs"] == 100 and found["accuracy"] > 0.9


def test_a_photo_with_two_names_is_one_line(run, vectors, tmp_path):
    (file := tmp_path / "list.txt").write_text("b/s1/1.pgm a/s1/1.pgm 0\ns2/1.pgm s2/2.pgm 1\n" * 10)
    done = run("evaluate-pairs", vectors, file)
    assert done.code == 3 and "a/s1/1.pgm and b/s1/1.pgm both end like s1/1.pgm" in done.error, done.err
