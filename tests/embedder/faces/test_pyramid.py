import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.faces import pyramid
from facegallery.embedder.faces.pyramid import (
    CELL,
    GAP,
    OVERLAP,
    STRIDE,
    Memory,
    centred,
    lay_out,
    pack,
    patches,
    scales,
    windows,
)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Less 128; the fourth channel says nothing."""
    return np.random.default_rng(seed).integers(-128, 128, (height, width, 4), np.int8)


def test_scales_are_the_packages():
    from mtcnn.utils.images import build_scale_pyramid

    for height, width, least in (
        (250, 250, 20),
        (112, 92, 20),
        (1024, 683, 33),
        (20, 20, 20),
        (19, 500, 40),
        (13, 13, 12),
    ):
        expected = build_scale_pyramid(width, height, least, pyramid.SCALE_FACTOR)
        assert scales(height, width, least) == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("height, width", [(250, 250), (112, 92), (61, 203), (33, 34), (603, 700)])
def test_levels_are_means_over_areas_as_tensorflow_takes_them(height, width):
    pixels = photo(height, width)
    for scale, level in pyramid._levels(pixels, scales(height, width, 20)):
        size = int(height * scale), int(width * scale)
        expected = tf.image.resize(pixels[None].astype(np.float32), size, "area").numpy()[0]
        assert level.shape == (*size, 4) and np.abs(level - expected).max() < 0.01


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), max_size=60))
def test_packed_rectangles_lie_inside_apart_and_at_even_places(sizes):
    where, n = pack(sizes, 64)
    taken = np.zeros((n, 64, 64), int)
    for (height, width), (canvas, top, left) in zip(sizes, where, strict=True):
        assert top % 2 == left % 2 == 0
        area = taken[canvas, top : top + height, left : left + width]
        assert area.shape == (height, width)
        area += 1
    assert taken.max(initial=0) <= 1 and all(taken.sum((1, 2)) > 0)


@given(st.integers(12, 3000), st.sampled_from((64, 256)))
def test_pieces_of_a_side_give_every_answer_once(n, side):
    def answers(length: int) -> int:
        return -(-(length - 2) // 2) - 4

    seen = [start // 2 + i for start, length in pyramid._cuts(n, side) for i in range(answers(length))]
    assert seen == list(range(answers(n)))
    assert all(start % 2 == 0 and OVERLAP < length <= side for start, length in pyramid._cuts(n, side))


def test_a_canvas_holds_the_levels_and_marks_where_odd_ones_end():
    photos = [photo(250, 250), photo(75, 130, 1), photo(700, 90, 2)]
    canvases = lay_out(photos, 20, 128, Memory())
    assert canvases.pixels.shape[1:] == (128, 128, 4) and {piece.photo for piece in canvases.pieces} == {0, 1, 2}
    levels = [dict(pyramid._levels(p, scales(*p.shape[:2], 20))) for p in photos]
    gaps = np.zeros_like(canvases.gaps)
    for piece, (canvas, top, left) in zip(canvases.pieces, canvases.where, strict=True):
        level = levels[piece.photo][piece.scale]
        expected = level[piece.top : piece.top + piece.height, piece.left : piece.left + piece.width]
        bottom, right = top + piece.height, left + piece.width
        assert np.array_equal(canvases.pixels[canvas, top:bottom, left:right], expected)
        gaps[canvas, bottom - 2 : bottom - 1 if piece.height % 2 else bottom - 2, left:right] = GAP
        gaps[canvas, top:bottom, right - 2 : right - 1 if piece.width % 2 else right - 2] = GAP
    assert np.array_equal(canvases.gaps, gaps)


def test_windows_are_what_single_answers_see():
    canvases = lay_out([photo(75, 131)], 20, 64, Memory())
    cells = np.array([[0, 0, 1], [3, 11, 26], [0, 25, 7]])
    pixels, gaps = windows(canvases, tuple(cells))
    for (canvas, y, x), seen, gap in zip(cells.T, pixels, gaps, strict=True):
        top, left = y * STRIDE, x * STRIDE
        assert np.array_equal(seen, canvases.pixels[canvas, top : top + CELL, left : left + CELL])
        assert np.array_equal(gap, canvases.gaps[canvas, top : top + CELL - 2, left : left + CELL - 2])


def test_centred_photos_are_less_128():
    pixels = np.random.default_rng(5).integers(0, 256, (7, 9, 3), np.uint8)
    found = centred(pixels)
    assert (
        found.dtype == np.int8 and found.shape == (7, 9, 4) and np.array_equal(found[..., :3], pixels.astype(int) - 128)
    )


def test_photos_in_which_no_face_fits_have_no_levels():
    canvases = lay_out([photo(12, 90), photo(3, 3)], 20, 64, Memory())
    assert canvases.pieces == [] and len(canvases.pixels) == 0 and len(lay_out([], 20, 64, Memory()).pixels) == 0


@pytest.mark.parametrize("size", [24, 48])
def test_patches_are_sampled_as_tensorflow_samples_them(size):
    rng = np.random.default_rng(3)
    pixels = photo(90, 130)
    corner = rng.uniform(-30, 100, (60, 2))
    rows = np.concatenate([corner, corner + rng.uniform(2, 90, (60, 2))], axis=1)
    normal = (pixels[None, ..., :3].astype(np.float32) + 0.5) / 128
    share = rows[:, [1, 0, 3, 2]] / [90, 130, 90, 130]
    expected = tf.image.crop_and_resize(normal, share, np.zeros(60, np.int32), (size, size)).numpy()
    found = (patches(pixels, rows, size)[..., :3] + 0.5) / 128
    outside = (expected == 0) != (found == 0)  # a sample exactly on the edge may fall on either side
    assert outside.mean() < 0.001 and np.abs(found - expected)[~outside].max() < 1e-4
