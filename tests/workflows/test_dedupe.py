"""Copies and bursts among real photos: which are found, which is kept and why, and that nothing is changed."""

import csv
import io
import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facegallery as fg
from facegallery.embedder.errors import DataError, InputError
from facegallery.workflows import dedupe as module
from facegallery.workflows.dedupe import dedupe
from tests.conftest import coloured

BEGAN = datetime(2024, 5, 1, 10, 0, 0)


def photo(att: Path, name: str, side: int = 8) -> Image.Image:
    """A photo of AT&T's in colour, enlarged."""
    image = Image.fromarray(coloured(att / f"{name}.pgm"))
    return image.resize((image.width * side // 2, image.height * side // 2), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, taken: datetime | None = None, turned: int = 1, **options) -> Path:
    exif = Image.Exif()
    exif[0x0112] = turned
    if taken is not None:
        exif.get_ifd(0x8769).update({0x9003: taken.strftime("%Y:%m:%d %H:%M:%S"), 0x9291: f"{taken.microsecond:06}"})
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **{"quality": 92} | options, **({"exif": exif.tobytes()} if path.suffix != ".png" else {}))
    return path


def state(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    return {
        path: (path.lstat().st_ino, path.lstat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def said(found) -> list[tuple[str, list[str]]]:
    return [(one.kind, [Path(photo.image).name for photo in one.photos]) for one in found]


@pytest.fixture(scope="module")
def album(att, tmp_path_factory) -> Path:
    """Copies of s1's photo, a burst of s2, other photos of s1 and s3, flat pictures, and what is no photo."""
    folder = tmp_path_factory.mktemp("album")
    image = photo(att, "s1/1")
    save(image, folder / "whole.jpg", quality=95)
    save(image, folder / "pressed.jpg", quality=50)
    save(image.resize((92, 112)), folder / "small.jpg")
    save(image.transpose(Image.Transpose.ROTATE_90), folder / "turned.webp", turned=6, quality=60)
    shutil.copy(folder / "small.jpg", folder / "small again.jpg")
    os.utime(folder / "small again.jpg", (0, 0))
    for number, name in enumerate(("s2/1", "s2/7", "s2/4")):
        save(photo(att, name), folder / "burst" / f"IMG_{7 + number:04}.jpg", BEGAN + timedelta(seconds=0.4 * number))
    for name in ("s1/5", "s3/1", "s3/2"):
        save(photo(att, name), folder / f"other {name.replace('/', '-')}x.jpg")
    for number in (1, 2):
        Image.new("RGB", (300, 200), (200, 200, 200 + number)).save(folder / f"flat-{number}x.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    (folder / "link.jpg").symlink_to(folder / "small.jpg")
    (folder / "away.jpg").symlink_to(att / "s4" / "1.pgm")
    return folder


def test_sets_are_found_by_kind_with_the_one_to_keep_first(album):
    before = state(album)
    ticks = []
    found = dedupe(album, progress=lambda done, total: ticks.append((done, total)))
    assert said(found)[:2] == [
        ("same file", ["small again.jpg", "small.jpg"]),
        ("same picture", ["whole.jpg", "pressed.jpg", "turned.webp", "small again.jpg"]),
    ]
    ((kind, burst),) = said(found)[2:]
    assert kind == "burst" and set(burst) <= {"IMG_0007.jpg", "IMG_0008.jpg", "IMG_0009.jpg"} and len(burst) >= 2
    assert {(Path(one.image).name, one.outcome) for one in found.unread} == {
        ("broken.jpg", "unreadable"),
        ("away.jpg", "outside"),
    }
    assert found.photos == 15 and ticks[-1] == (15, 15) and len(ticks) == 15
    assert state(album) == before


def test_why_one_is_kept_is_said(album):
    files, pictures, burst = dedupe(album)
    assert files.why == "the same bytes, the oldest file"
    assert pictures.why.startswith("368 x 448, and of this size the least compressed: ")
    assert burst.why == "368 x 448, and of this size the sharpest"
    assert burst.keep.sharpness == max(photo.sharpness for photo in burst.photos)
    assert burst.keep.taken and burst.keep.taken.startswith("2024-05-01T10:00:0") and pictures.keep.taken is None
    assert pictures.keep.bytes == (album / "whole.jpg").stat().st_size and pictures.keep.width == 368


def test_bursts_need_time(album, att, tmp_path):
    assert [one.kind for one in dedupe(album, seconds=0)] == ["same file", "same picture"]
    assert [one.kind for one in dedupe(album, seconds=0.1)] == ["same file", "same picture"]
    with pytest.raises(InputError, match="seconds"):
        dedupe(album, seconds=-1)
    with pytest.raises(InputError, match="seconds"):
        dedupe(album, seconds=float("nan"))
    for number, minute in enumerate((0, 1)):
        save(photo(att, "s2/1"), tmp_path / f"{number}.jpg", BEGAN + timedelta(minutes=minute), quality=90 + number)
    assert not dedupe(tmp_path), "two exposures of one scene, a minute from each other"


def test_two_exposures_of_a_still_scene_are_a_burst_and_no_copies(att, tmp_path):
    """By their times, also where a camera writes whole seconds: then the numbers in their names tell."""
    for number, time in enumerate((BEGAN, BEGAN, BEGAN + timedelta(seconds=1))):
        save(photo(att, "s2/1"), tmp_path / f"DSC{number + 9}.jpg", time, quality=90 + number)
    save(photo(att, "s2/1").resize((92, 112)), tmp_path / "DSC8.jpg", BEGAN)  # smaller, so no exposure of its own
    pictures, burst = dedupe(tmp_path)
    assert pictures.kind == "same picture" and pictures.others[0].image.endswith("DSC8.jpg")
    assert burst.kind == "burst" and len(burst.photos) == 3 and len(pictures.photos) == 2


def test_without_exif_bursts_are_files_of_following_names_and_times(att, tmp_path):
    for name, number, second in (("a", 1, 0), ("a", 2, 2), ("a", 4, 3), ("b", 5, 3), ("b", 6, 60)):
        path = save(photo(att, f"s2/{(1, 7)[number % 2]}"), tmp_path / f"{name}{number}.png")
        os.utime(path, (1e9 + second, 1e9 + second))
    ((kind, names),) = said(dedupe(tmp_path))[-1:]
    bursts = [one for one in said(dedupe(tmp_path)) if one[0] == "burst"]
    assert all(set(names) == {"a1.png", "a2.png"} for _, names in bursts)


def test_flat_pictures_and_other_colours_are_no_copies(att, tmp_path):
    image = photo(att, "s5/1")
    save(image, tmp_path / "a.jpg")
    save(image.convert("L").convert("RGB"), tmp_path / "grey.jpg")
    save(image.crop((0, 0, 368, 300)), tmp_path / "other shape.jpg")
    for level in (250, 251):
        Image.new("RGB", (500, 400), (level,) * 3).save(tmp_path / f"page {level} x.png")
    assert not dedupe(tmp_path)


def test_every_copy_is_itself_like_the_one_that_is_kept(att, tmp_path, monkeypatch):
    """No chain: a copy of a copy of a copy that is no longer like the first is not in its set."""
    image = photo(att, "s6/1")
    width, height = image.size
    for step in range(8):
        cut = 5 * step
        save(image.crop((cut, cut, width - cut, height - cut)).resize((width, height)), tmp_path / f"{step}-x.png")
    found = dedupe(tmp_path)
    assert len(found) >= 2 and all(one.kind == "same picture" for one in found)
    for one in found:
        seen = [module.look(np.asarray(Image.open(photo.image))).thumbnail for photo in one.photos]
        first = np.zeros(len(seen) - 1, np.int64)
        assert module.likeness(np.stack(seen), (first, first + 1 + np.arange(len(first)))).min() >= module.ONE_PICTURE
    monkeypatch.setattr(module, "AT_ONCE", 1)
    assert said(dedupe(tmp_path)) == said(found)


def test_inputs_are_those_of_other_functions(album, att, tmp_path):
    assert fg.dedupe is dedupe
    image = Image.open(album / "whole.jpg")
    found = fg.dedupe([image, np.asarray(image), (album / "pressed.jpg").read_bytes(), album / "small.jpg"])
    assert [one.kind for one in found] == ["same file", "same picture"] and found.photos == 4
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image"], [album / "whole.jpg"], [album / "pressed.jpg"]])
    shutil.copy(album / "whole.jpg", tmp_path)
    assert fg.dedupe(album / "whole.jpg").photos == 1 and not fg.dedupe(album / "whole.jpg")
    assert fg.dedupe([tmp_path / "whole.jpg", tmp_path]).photos == 1, "given twice"
    with pytest.raises(DataError):
        fg.dedupe(tmp_path / "nowhere")
    with pytest.raises(DataError):
        fg.dedupe(att / "s1" / "none")


def test_a_data_set_is_refused(album, tmp_path):
    shutil.copy(album / "whole.jpg", tmp_path / "a.jpg")
    fg.align(tmp_path / "a.jpg", tmp_path / "crops", detector="mtcnn")
    with pytest.raises(InputError, match="data set"):
        fg.dedupe(tmp_path / "crops")


def test_the_result_is_a_table_too(album):
    found = fg.dedupe(album)
    rows = found.to_arrow().to_pylist()
    assert len(rows) == sum(len(one.photos) for one in found) and sum(row["keep"] for row in rows) == len(found)
    assert rows[0]["kind"] == "same file" and rows[0]["set"] == 0 and rows[0]["keep"]
    assert found.spare("same picture") == 3
    assert found.spare_bytes == sum(row["bytes"] for row in rows if not row["keep"])


# the command


def test_the_command_prints_sets_and_one_document(run, album):
    done = run("dedupe", album)
    assert done.code == 0 and "broken.jpg: unreadable" in done.err and "1 photo given twice" in done.err
    lines = done.out.splitlines()
    assert lines[0] == f"same file: keep {album / 'small again.jpg'}: the same bytes, the oldest file"
    assert lines[1].startswith(f"  {album / 'small again.jpg'}  92 x 112, ")
    assert lines[-1].startswith("15 photos: 3 sets; not to be kept: 1 of the same file, 3 of the same picture, ")
    assert lines[-1].endswith("; 2 could not be read")
    document = json.loads(run("dedupe", album, "--json", "--quiet").out)
    assert [one["kind"] for one in document["sets"]] == ["same file", "same picture", "burst"]
    assert document["photos"] == 15 and {one["outcome"] for one in document["unread"]} == {"unreadable", "outside"}
    assert document["sets"][1]["photos"][0]["image"] == str(album / "whole.jpg")


def test_exit_codes_are_those_of_other_commands(run, album, tmp_path):
    assert run("dedupe", album, "--strict").code == 1
    (tmp_path / "a.jpg").write_bytes(io.BytesIO(b"no photo").read())
    assert run("dedupe", tmp_path).code == DataError.exit_code
    assert run("dedupe", tmp_path / "nowhere").code == DataError.exit_code
    assert run("dedupe", album, "--seconds", "-1").code == 2
    alone = run("dedupe", album / "whole.jpg", "--strict")
    assert alone.code == 0 and alone.out == "1 photos: no copies and no bursts\n"
