import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegallery.embedder.faces import align
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.spec import CropRule


def face(*box, confidence=0.9):
    return DetectedFace(box, (), confidence)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_homeworks_choice_of_face():
    small_central, large_aside = face(45, 45, 55, 55), face(0, 0, 30, 30, confidence=0.99)
    # area - 2 x squared distance: 100 - 0, against 900 - 2 x (35^2 + 35^2) = -4000
    assert align.centrality(large_aside.box, 100, 100) == -4000
    assert align.order_faces([large_aside, small_central], 100, 100) == [small_central, large_aside]
    others = [face(45, 45, 55, 55), face(0, 0, 9, 9, confidence=0.5), face(90, 90, 99, 99, confidence=0.8)]
    assert [f.confidence for f in align.order_faces(others, 100, 100)] == [0.9, 0.8, 0.5]
    assert align.order_faces([], 100, 100) == []


@pytest.mark.parametrize(
    "margin, expected",
    [("0.25", (27, 12, 72, 87)), ("32px", (16, 4, 84, 96)), ("0", (32, 20, 68, 80))],
)
def test_the_margin_in_hand_computed_pixels(margin, expected):
    # 36.4 x 59.8 at 32.4, 20.2 is 36 x 60 at 32, 20; 0.25 adds 4.5 and 7.5 on each side, 32px adds 16; then it is cut
    assert align.crop_box((32.4, 20.2, 68.8, 80.0), CropRule(margin=margin), 100, 100) == expected


@given(
    st.floats(-50, 150),
    st.floats(-50, 150),
    st.floats(0, 120),
    st.floats(0, 120),
    st.sampled_from(["0.25", "32px", "4"]),
)
def test_a_crop_is_never_empty_nor_outside(x, y, w, h, margin):
    left, top, right, bottom = align.crop_box((x, y, x + w, y + h), CropRule(margin=margin), 100, 80)
    assert 0 <= left < right <= 100 and 0 <= top < bottom <= 80


def test_a_crop_is_pillows_own():
    photo = noise(120, 90)
    expected = np.asarray(Image.fromarray(photo).crop((27, 12, 72, 87)).resize((160, 160), Image.Resampling.BILINEAR))
    assert np.array_equal(align.cut(photo, (32.4, 20.2, 68.4, 80.2), CropRule()), expected)


@pytest.mark.parametrize("box", [(32, 20, 68, 80), (0, 0, 119, 89), (100, 70, 119, 89)])
def test_the_centre_of_a_bordered_crop_is_the_plain_one(box):
    photo = noise(120, 90)
    wide = align.cut(photo, box, CropRule(border=20))
    assert wide.shape == (200, 200, 3)
    assert np.array_equal(align.centre(wide, CropRule(border=20)), align.cut(photo, box, CropRule()))


def test_the_border_carries_the_grid_on_and_repeats_the_edge():
    ramp = np.tile(np.arange(400, dtype=np.float32)[None, :, None] * 0.5, (400, 1, 3)).astype(np.uint8)
    wide = align.cut(ramp, (120, 120, 280, 280), CropRule(margin="0", border=20))
    assert np.abs(np.diff(wide[100, :, 0].astype(int))).max() <= 1  # no seam, no jump in the ramp
    assert abs(int(wide[100, 0, 0]) - 50) <= 1 and abs(int(wide[100, 199, 0]) - 149) <= 1
    edge = align.cut(ramp, (0, 0, 160, 160), CropRule(margin="0", border=20))
    assert (edge[:, :20] == edge[:, :1]).all()


def test_sharpness_falls_with_blur_and_png_is_lossless():
    crop = noise(160, 160)
    blurred = np.asarray(Image.fromarray(crop).resize((20, 20)).resize((160, 160)))
    assert (
        align.sharpness(blurred) < align.sharpness(crop) / 10
        and align.sharpness(np.zeros((160, 160, 3), np.uint8)) == 0
    )
    assert np.array_equal(align.from_png(align.to_png(crop)), crop)
