"""The same picture saved again is known, and another one of the same person is not."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.faces.align import to_png
from facegallery.embedder.faces.copies import same_picture
from facegallery.embedder.faces.picture import ARCFACE
from facegallery.embedder.spec import CropRule

RULE = CropRule(window=192)


def face(photo: Image.Image) -> Row:
    """A row of a photo that is all face, as `embed` makes it."""
    scale = photo.width / 112
    points = (ARCFACE * scale).ravel().tolist()
    shown = photo if photo.width <= 192 else photo.resize((192, 192))
    png = to_png(np.array(shown), (0, 0, photo.width, photo.height))
    return Row("a.jpg", "ok", face=0, box=(0, 0, photo.width, photo.height), landmarks=points, crop=png)


def photo(seed: int, side: int = 224) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("side", [112, 160, 448])
@pytest.mark.parametrize("quality", [40, 90])
def test_saved_again(seed, side, quality):
    file = io.BytesIO()
    photo(seed).resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    again = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    assert same_picture(face(photo(seed)), face(again), RULE)
    assert not same_picture(face(photo(seed + 100)), face(again), RULE)


def test_a_face_that_moved_is_another_picture():
    moved = np.roll(np.array(photo(1)), 30, axis=1)
    assert not same_picture(face(photo(1)), face(Image.fromarray(moved)), RULE)


@pytest.mark.parametrize("lost", ["crop", "landmarks", "box"])
def test_what_is_not_known_is_no_copy(lost):
    one = face(photo(1))
    assert not same_picture(one, replace(one, **{lost: None}), RULE)


def test_a_grey_picture_is_no_copy_of_another():
    grey = Image.new("RGB", (112, 112), (90, 90, 90))
    assert not same_picture(face(grey), face(photo(1)), RULE)
