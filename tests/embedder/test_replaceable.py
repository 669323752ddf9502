"""A command replaces what it wrote itself and nothing else."""

import json
import os
from io import BytesIO

import pytest
from PIL import Image

from facegallery.embedder import draw
from facegallery.embedder.errors import InputError
from facegallery.embedder.photos.region_writer import NamedBox, to_packet
from facegallery.embedder.replaceable import IS_OURS, check_replaceable, write_own
from facegallery.indexer.evaluation import report
from facegallery.indexer.evaluation.evaluate import write_predictions
from facegallery.indexer.search.hit_writer import HitWriter
from tests import synthetic

PHOTO = BytesIO()
Image.new("RGB", (8, 8), "red").save(PHOTO, "JPEG")
PNG = BytesIO()
Image.new("RGB", (8, 8), "red").save(PNG, "PNG")
OF_OTHERS = [
    PHOTO.getvalue(),
    PNG.getvalue(),
    b"some notes\n",
    b"{}",
    b'{"index": 1}',
    b"[]",
    b"<html></html>",
    b"\0" * 100,
    b"top1 0.9\n",
    b"PAR1PAR1",
    b"[" * 100_000,
    b"facegallery",
    PNG.getvalue() + b"facegallery",
    b"\xff",
    to_packet([], 84, 40).replace(b'x:xmptk="facegallery"', b'x:xmptk="XMP Core 4.4.0-Exiv2"'),  # changed by another
]
RESULT = {"top1": 1.0, "top5": 1.0}


def picture(path):
    draw.save(Image.new("RGB", (8, 8)), path)


def jpeg(path):
    picture(path.with_suffix(".jpg"))
    return path.with_suffix(".jpg")


def hits(path):
    with HitWriter(path):
        pass


def page(path):
    report.write(path.parent, report.Page("t", {}, [], [], []))
    return path.parent / report.FILE


WRITERS = {
    "picture": picture,
    "hits": hits,
    "predictions": lambda path: write_predictions(path, [], RESULT),
    "page": page,
    "sidecar": lambda path: write_own(path, "sidecar", to_packet([NamedBox("Ann", (0.1, 0.1, 0.2, 0.2))], 84, 40)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_written_here_is_replaced(tmp_path, kind):
    for _ in range(2):
        path = WRITERS[kind](tmp_path / "out.png") or tmp_path / "out.png"
        check_replaceable(path, kind)
    for other in set(IS_OURS) - {kind}:
        with pytest.raises(InputError, match="nothing was replaced"):
            check_replaceable(path, other)


def test_a_jpeg_of_ours_too(tmp_path):
    check_replaceable(jpeg(jpeg(tmp_path / "x")), "picture")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("content", OF_OTHERS, ids=range(len(OF_OTHERS)))
def test_a_file_of_others_stays(tmp_path, kind, content):
    path = tmp_path / ("index.html" if kind == "page" else "mine.png")
    path.write_bytes(content)
    with pytest.raises(InputError, match="nothing was replaced") as caught:
        WRITERS[kind](path)
    assert (
        path.read_bytes() == content
        and [p.name for p in tmp_path.iterdir()] == [path.name]
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("kind", IS_OURS)
def test_every_kind_knows_others_and_takes_empty_files(tmp_path, kind):
    path = tmp_path / "x"
    check_replaceable(path, kind)
    path.touch()
    check_replaceable(path, kind)
    for content in OF_OTHERS:
        path.write_bytes(content)
        with pytest.raises(InputError):
            check_replaceable(path, kind)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError):
        check_replaceable(path, kind)


def test_a_picture_has_a_known_suffix_and_is_complete(tmp_path):
    for name in ("x.gif", "x", "x.txt", "x.webp"):
        with pytest.raises(InputError, match="choose .png or .jpg"):
            picture(tmp_path / name)
    picture(tmp_path / "x.PNG")
    with Image.open(tmp_path / "x.PNG") as drawn:
        assert drawn.info["Software"] == "facegallery"
    assert len(list(tmp_path.iterdir())) == 1


def test_commands_refuse_before_they_do_anything(run, tmp_path):
    vectors = synthetic.write(tmp_path / "v", synthetic.rows(4, 2))
    assert run("build-index", vectors, "--name", "odd").code == 0
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(PHOTO.getvalue())
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<p>mine</p>")
    for command in (
        ("search", "odd", vectors, "--out", mine),
        ("search", "odd", vectors, "--image", mine),
        ("evaluate", "odd", vectors, "--predictions", mine),
        ("evaluate", "odd", vectors, "--report", tmp_path / "page"),
        ("forget", "odd", "--identity", "person 1", "--receipt", mine),
        ("reembed", "odd", "--model", "msceleb", "--report", mine),
        ("align", tmp_path, "--out", tmp_path / "crops", "--sheet", mine),
        ("backup", "odd", mine),
    ):
        done = run(*command)
        assert done.code == 2 and done.err.count("\n") <= 2, (command, done)
        assert mine.read_bytes() == PHOTO.getvalue() and "mine" in (tmp_path / "page" / "index.html").read_text()
    assert {line["identity"] for line in json.loads(run("list", "odd", "--json").out)} == {
        f"person {i}" for i in range(4)
    }
    out, predictions = tmp_path / "hits.parquet", tmp_path / "p.txt"
    for _ in range(2):
        assert run("search", "odd", vectors, "--out", out).code == 0
        assert run("evaluate", "odd", vectors, "--predictions", predictions, "--report", tmp_path / "report").code == 0


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kind", sorted(IS_OURS))
def test_a_file_that_appears_while_ours_is_written_stays(tmp_path, monkeypatch, kind, links):
    """It is there when the data of ours is on disk and has no name yet."""
    path, sync = tmp_path / "x", os.fsync

    def meanwhile(fd):
        sync(fd)
        path.write_text("mine")

    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    write_own(path, kind, b"")
    assert path.read_bytes() == b""
    monkeypatch.setattr(os, "fsync", meanwhile)
    for before in (b"", None):
        path.unlink()
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(InputError, match="nothing was replaced"):
            write_own(path, kind, b"ours")
        assert path.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["x"]
