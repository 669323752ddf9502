"""Near-identical photos of a gallery: found by vectors and crops, and dropped by the commands that are printed."""

import json
import shlex
import shutil
import zlib
from dataclasses import replace

import numpy as np
from PIL import Image

import facegallery as fg
from facegallery.embedder.faces import align as crops_of
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.workflows.dedupe_gallery import dedupe_gallery
from tests import synthetic

D = 32


def picture(seed: int) -> np.ndarray:
    """Smooth pixels, uint8 (160, 160, 3), different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((160, 160), Image.Resampling.BICUBIC))


def unit(seed: int) -> np.ndarray:
    return synthetic.unit(np.random.default_rng(seed).normal(size=(1, D)))[0]


def row(image: str, who: str | None, seed: int, *, crop: int | None = None, side: float = 40, **changes):
    """A face of a picture; copies share the seed. crop: the seed of its crop, if that is another."""
    noise = 0.02 * np.random.default_rng(zlib.crc32(image.encode())).normal(size=D)
    vector = synthetic.unit((unit(seed) + noise)[None])[0]
    png = crops_of.to_png(picture(seed if crop is None else crop))
    return synthetic.row(image, who, vector, box=[0, 0, side, side], crop=png, sharpness=9.0, **changes)


def made(tmp_path, enrolled, unnamed=()):
    folder = tmp_path / "indexes" / "club"
    build(synthetic.write(tmp_path / "vectors", enrolled, synthetic.spec(D)), folder)
    if unnamed:
        with open_store(folder, write=True) as gallery:
            gallery.add_unnamed(list(unnamed))
    return folder


def images(found) -> list[list[str]]:
    return [[photo.image for photo in one.photos] for one in found]


def test_copies_are_found_and_the_best_is_kept(tmp_path):
    rows = [
        row("a/1.jpg", "Ann", 1),
        row("a/big.jpg", "Ann", 1, side=80),
        row("a/2.jpg", "Ann", 2),
        replace(row("a/sharp.jpg", "Ann", 2), sharpness=30.0),
        row("b/1.jpg", "Ben", 3),
        row("b/first.jpg", "Ben", 4),
        row("b/same.jpg", "Ben", 4),
        row("b/other crop.jpg", "Ben", 3, crop=77),
    ]
    found = dedupe_gallery(made(tmp_path, rows))
    assert sorted(images(found)) == [
        ["a/big.jpg", "a/1.jpg"],
        ["a/sharp.jpg", "a/2.jpg"],
        ["b/first.jpg", "b/same.jpg"],
    ]
    why = {one.keep.image: one.why for one in found}
    assert "80 x 80" in why["a/big.jpg"] and "sharpest" in why["a/sharp.jpg"] and "first" in why["b/first.jpg"]
    assert (found.photos, found.by_crops) == (8, True)


def test_enrolled_photos_are_kept_before_unnamed_ones_and_the_commands_drop_the_rest(tmp_path, monkeypatch):
    folder = made(
        tmp_path,
        [row("a/1.jpg", "Ann", 1), row("a/2.jpg", "Ann", 2), row("a/small.jpg", "Ann", 1, side=20)],
        [row("heap/1.jpg", None, 1, side=90), row("heap/2.jpg", None, 9)],
    )
    (one,) = dedupe_gallery(folder)
    assert [photo.image for photo in one.photos] == ["a/1.jpg", "a/small.jpg", "heap/1.jpg"]
    assert [(photo.people, photo.unnamed) for photo in one.photos] == [(("Ann",), 0), (("Ann",), 0), ((), 1)]
    with open_store(folder, write=True) as gallery:
        before = gallery.list_log()
        remove, ignore = map(shlex.split, one.commands)
        assert (remove[:3], ignore[:2]) == (["remove", "club", "--face"], ["ignore", "club"])
        assert gallery.find(face_id=remove[3])[0]["image"] == "a/small.jpg"
        assert [face.image for face in gallery.unnamed_faces(ignore[2:])] == ["heap/1.jpg"]
        assert before == gallery.list_log(), "nothing is changed"


def test_two_people_on_one_picture_are_not_dropped_by_a_command(tmp_path):
    (one,) = dedupe_gallery(made(tmp_path, [row("a/1.jpg", "Ann", 1), row("b/1.jpg", "Ben", 1)]))
    assert one.commands == () and "Ann and Ben" in one.why


def test_each_face_of_the_smaller_photo_needs_a_like_one(tmp_path):
    def heap(image: str, *seeds: int):
        rows = [row(image, None, seed, face=n, image_sha256=f"sha of {image}") for n, seed in enumerate(seeds)]
        return [replace(one, vector=synthetic.unit(unit(s)[None])[0]) for one, s in zip(rows, seeds, strict=True)]

    unnamed = [*heap("1.jpg", 11, 12), *heap("2.jpg", 11, 13), *heap("3.jpg", 21, 22), *heap("4.jpg", 22, 21)]
    found = dedupe_gallery(made(tmp_path, [row("a.jpg", "Ann", 1)], unnamed))
    assert images(found) == [["3.jpg", "4.jpg"]]
    assert len(shlex.split(found[0].commands[0])) == 4


def test_without_crops_vectors_decide_and_it_says_so(tmp_path):
    rows = [row("a/1.jpg", "Ann", 1), row("a/2.jpg", "Ann", 1, crop=5), row("a/3.jpg", "Ann", 2)]
    found = dedupe_gallery(made(tmp_path, [replace(one, crop=None) for one in rows]))
    assert images(found) == [["a/1.jpg", "a/2.jpg"]] and not found.by_crops


def test_the_command_takes_a_gallery(run, att, tmp_path):
    photos = tmp_path / "photos" / "Ann"
    photos.mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(att / "s1" / f"{number}.pgm", photos)
    Image.open(att / "s1" / "1.pgm").save(photos / "again.jpg", quality=90)
    assert run("add", "album", tmp_path / "photos", "--create").code == 0
    done = run("dedupe", "album")
    assert done.code == 0 and "facegallery remove album --face" in done.out
    found = json.loads(run("dedupe", "album", "--json").out)
    assert found["photos"] == 3 and len(found["sets"]) == 1
    assert {photo["image"] for photo in found["sets"][0]["photos"]} == {"Ann/1.pgm", "Ann/again.jpg"}
    assert run(*shlex.split(found["sets"][0]["commands"][0])).code == 0
    assert "no two are near-identical" in run("dedupe", "album").out
    with fg.open("album") as gallery:
        assert gallery.dedupe().to_arrow().num_rows == 0 and len(gallery.dedupe()) == 0


def test_a_folder_of_that_name_comes_first(run, att, tmp_path, monkeypatch):
    name = "album"
    (tmp_path / name).mkdir()
    shutil.copy(att / "s1" / "1.pgm", tmp_path / name)
    assert run("add", name, tmp_path / name, "--create", "--names-from", "nobody").code == 0
    monkeypatch.chdir(tmp_path)
    done = run("dedupe", name)
    assert "1 photos: no copies" in done.out and "is a gallery, too" in done.err
