"""The page that `--report` writes, read as a browser reads it."""

import json
import re
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.faces.align import to_png
from facegallery.embedder.files import make_folder
from facegallery.embedder.weights import trained_on
from facegallery.indexer.evaluation import report
from facegallery.indexer.evaluation.report import Chart, Page
from tests import synthetic
from tests.workflows.test_evaluate import pairs, people  # noqa: F401

HOSTILE = "<script>alert('x')</script> & \"Ann\" \u202e"
VOID = {"meta", "img", "br", "wbr"}


class Reader(HTMLParser):
    """Tags with their attributes, the text, and a list of cells for each row of a table."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.rows = "", []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def cells(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0] == first)[1:]


def read(folder: Path) -> tuple[Reader, str]:
    text = (folder / "index.html").read_text()
    page = Reader(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "a", "base"} and text.startswith(
        "<!DOCTYPE html>"
    )
    for name, attributes in page.tags:
        assert not any(key.startswith("on") or key in ("href", "srcset", "style") for key in attributes)
        if name == "img":
            assert re.match("data:image/(jpeg|svg[+]xml);base64,", attributes["src"]) and attributes["alt"]
    assert not re.search(r"https?:|//|url\(|@import", re.sub('base64,[^"]*', "", text))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert stat.S_IMODE((folder / "index.html").stat().st_mode) == 0o600 and "biometric" in page.text
    return page, text


def with_crops(rows: list) -> list:
    rng = np.random.default_rng(0)
    return [replace(row, crop=to_png(rng.integers(0, 255, (160, 160, 3), np.uint8))) for row in rows]


@pytest.fixture
def index(run, tmp_path) -> str:
    """40 people, one with a hostile name; probes of them and of ten strangers, all with crops."""
    rows = with_crops(people(0, 40, 3, "gallery") + people(0, 50, 2, "probe", seed=2))
    rows = [replace(row, identity=HOSTILE) if row.identity == "person 3" else row for row in rows]
    synthetic.write(tmp_path / "v", rows, extra=["sex"])
    assert run("build-index", tmp_path / "v", "--name", "made").code == 0
    return "made"


def test_the_page_says_what_the_result_says(run, index, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o755)
    (out / "mine.txt").write_text("stays")
    (out / "index.html").touch()
    (out / "page.html").write_text("old")
    done = run(
        "evaluate",
        index,
        tmp_path / "v",
        "--by",
        "sex",
        "--sizes",
        "10,40",
        "--against",
        index,
        "--predictions",
        tmp_path / "p.txt",
        "--report",
        out,
        "--json",
    )
    assert done.code == 0 and f"{out}/index.html holds names and faces" in done.err, done.err
    found, (page, text) = json.loads(done.out), read(out)
    assert {p.name for p in out.iterdir()} == {"index.html", "mine.txt", "page.html"} and (
        out / "page.html"
    ).read_text() == "old"
    for k in (1, 5, 10, 20):
        low, high = found["cmc_interval"][k - 1]
        assert page.cells(f"top-{k}")[:2] == [f"{found['cmc'][k - 1]:.4f}", f"{low:.4f} to {high:.4f}"]
    for rate in found["open_set"]["rates"]:
        low, high = rate["interval"]
        assert page.cells(f"DIR at FPIR {rate['fpir']:g}") == [f"{rate['dir']:.4f}", f"{low:.4f} to {high:.4f}"]
    assert (found["roc"]["same"], found["roc"]["different"], found["roc"]["drawn"]) == (80 * 3, 80 * 117, False)
    assert [page.cells(f"TAR at FAR {t['far']:g}")[0] for t in found["roc"]["tar"]] == [
        f"{t['tar']:.4f}" for t in found["roc"]["tar"]
    ]
    assert page.cells("f")[:2] == ["40", f"{found['groups'][0]['top1']:.4f}"] and page.cells("10 people")[0] == "20"
    assert "made on the same 80 probes and 20 strangers" in page.text and "sha256 abababababababab..." in page.text
    assert "20 photos of 10 people, 0 without a face" in page.text and "evaluate made" in page.text
    assert "&lt;script&gt;" in text and "<script" not in text
    check_mistakes(tmp_path, page, text)


def check_mistakes(tmp_path: Path, page: Reader, text: str) -> None:
    """Every mistake is there with its scores, as the file of predictions has them."""
    lines = [line.split("\t") for line in (tmp_path / "p.txt").read_text().splitlines()[:-2]]
    wrong = [
        line
        for line in lines
        if int(line[1].removeprefix("person ") if "person" in line[1] else 3) < 40
        and not line[2].startswith(line[1] + " ")
    ]
    assert f"The worst mistakes: {len(wrong)} of {len(wrong)}" in page.text and len(wrong) > 5
    for image, truth, *answers in wrong:
        name, score = answers[0].rsplit(" ", 1)
        assert re.search(
            re.escape(f"asked{truth}{image}")
            + r"\s*"
            + re.escape(f"answered{name}{float(score):.4f}gallery/")
            + r"\S+\s*right, rank (\d+|beyond 20)"
            + re.escape(truth)
            + r"-?\d\.\d{4}",
            page.text,
        ), (image, page.text)
    assert "Strangers most like somebody: 20 of 20" in page.text and "crop not kept" not in page.text
    assert text.count("data:image/jpeg") == 3 * len(wrong) + 2 * 20 and text.count("data:image/svg") == 4


def test_the_same_page_again_but_for_its_date(run, tmp_path):
    synthetic.write(tmp_path / "v", with_crops(people(0, 9, 2, "gallery") + people(0, 9, 2, "probe", spread=1, seed=2)))
    assert run("build-index", tmp_path / "v", "--name", "small").code == 0
    pages = []
    for _ in range(2):
        assert run("evaluate", "small", tmp_path / "v", "--report", tmp_path / "out").code == 0
        pages.append(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", (tmp_path / "out" / "index.html").read_text()))
    assert (
        pages[0] == pages[1]
        and "data:image/jpeg" in pages[0]
        and stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    )


def test_what_cannot_be_drawn_is_said(run, tmp_path):
    synthetic.write(tmp_path / "v", people(0, 1, 2, "gallery") + people(0, 1, 1, "probe", seed=2))
    assert run("build-index", tmp_path / "v", "--name", "one").code == 0
    done = run("evaluate", "one", tmp_path / "v", "--report", tmp_path / "out", "--json")
    page, text = read(tmp_path / "out")
    assert json.loads(done.out)["roc"] is None and text.count("data:image/svg") == 2
    for words in (
        "nobody among the probes is a stranger",
        "no pairs of two people",
        "Nobody scored higher",
        "mistakes: 0 of 0",
    ):
        assert words in page.text


def test_crops_that_were_not_kept_and_right_people_by_their_template(run, tmp_path):
    synthetic.write(tmp_path / "v", people(0, 40, 3, "gallery") + people(0, 40, 3, "probe", spread=2, seed=2))
    assert run("build-index", tmp_path / "v", "--name", "bare", "--centre").code == 0
    assert run("evaluate", "bare", tmp_path / "v", "--score", "template", "--report", tmp_path / "out").code == 0
    page, text = read(tmp_path / "out")
    assert (
        "crop not kept" in page.text
        and "rank beyond 20" in page.text
        and "image/jpeg" not in text
        and "mistakes: 60 of " in page.text
    )


def test_training_curves_are_found_beside_the_weights(run, index, tmp_path):
    lines = [
        {"network": "<b>", "stage": 1 + i // 2, "epoch": 1 + i % 2, "loss": 3.0 - i, "accuracy": i / 4}
        for i in range(4)
    ]
    folder = make_folder(tmp_path / "data" / "models" / ("ab" * 8))
    (folder / trained_on.EPOCHS).write_text("\n".join(map(json.dumps, lines)))
    done = run("evaluate", index, tmp_path / "v", "--report", tmp_path / "out", FACEGALLERY_DATA=str(tmp_path / "data"))
    assert done.code == 0, done.err
    page, text = read(tmp_path / "out")
    assert (
        "Training of <b>: loss" in page.text
        and "Training of <b>: accuracy" in page.text
        and text.count("data:image/svg") == 6
    )
    (folder / trained_on.EPOCHS).write_text("{")
    done = run("evaluate", index, tmp_path / "v", "--report", tmp_path / "out", FACEGALLERY_DATA=str(tmp_path / "data"))
    assert done.code == 4 and "metrics.jsonl is damaged" in done.error


def test_a_file_is_no_folder(run, index, tmp_path, pairs):  # noqa: F811
    (tmp_path / "file").write_text("mine")
    for command in (("evaluate", index, tmp_path / "v"), ("evaluate-pairs", tmp_path / "faces", pairs)):
        done = run(*command, "--report", tmp_path / "file")
        assert (
            done.code == 2
            and "expected a folder for --report" in done.error
            and (tmp_path / "file").read_text() == "mine"
        )


def test_pairs(run, pairs, tmp_path):  # noqa: F811
    done = run(
        "evaluate-pairs",
        tmp_path / "faces",
        pairs,
        "--against",
        tmp_path / "faces",
        "--report",
        tmp_path / "out",
        "--json",
    )
    assert done.code == 0, done.err
    found, (page, text) = json.loads(done.out), read(tmp_path / "out")
    assert (
        page.cells("accuracy") == [f"{found['accuracy']:.4f}", f"{found['std']:.4f}"]
        and text.count("data:image/svg") == 1
    )
    assert "+0.0000" in page.cells("difference of accuracy")[0]


def test_text_that_is_no_text_does_not_stop_it(tmp_path):
    facts = report.facts(datetime(2026, 1, 2, tzinfo=UTC), "facegallery \udcff", synthetic.spec())
    path = report.write(tmp_path / "new" / "out", Page("t", facts, [], [], [Chart("c", "none")]))
    assert "2026-01-02 00:00 UTC" in path.read_text() and "facegallery \\udcff" in path.read_text()


def test_real_photos_with_a_wrong_label(run, att, tmp_path):
    """Twelve people and a photo of s1 that is said to be of s2: the page shows it, its face detected anew."""
    for p in range(1, 13):
        for split, photo in (("gallery", 1), ("probe", 2)):
            if split == "probe" or p <= 10:
                folder = make_folder(tmp_path / "photos" / split / f"s{p}")
                shutil.copy(att / f"s{p}" / f"{photo}.pgm", folder)
    shutil.copy(att / "s1" / "3.pgm", tmp_path / "photos" / "probe" / "s2")
    assert run("embed", tmp_path / "photos", "--model", "msceleb", "--out", tmp_path / "v").code == 0
    assert run("build-index", tmp_path / "v", "--name", "att").code == 0
    texts = []
    for source in ("v", "photos"):
        done = run("evaluate", "att", tmp_path / source, "--report", tmp_path / source / "page", "--json")
        assert done.code == 0, done.err
        page, text = read(tmp_path / source / "page")
        texts.append(text)
        assert re.search(
            r"askeds2probe/s2/3.pgm\s*answereds1\d\.\d{4}gallery/s1/1.pgm\s*right, rank \d+s2\d\.\d{4}gallery/s2/1.pgm",
            page.text,
        )
        assert page.cells("top-1")[0] == f"{json.loads(done.out)['top1']:.4f}" and "crop not kept" not in page.text
        assert "The worst mistakes: 1 of 1" in page.text and "Strangers most like somebody: 2 of 2" in page.text
    faces = [set(re.findall('data:image/jpeg[^"]*', text)) for text in texts]
    assert faces[0] == faces[1] and len(faces[0]) >= 6
