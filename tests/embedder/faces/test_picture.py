"""What is stored of a face and what networks see of it, against plain recomputations and against OpenCV."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import least_squares

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces import align, picture
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.network.engines import OpenvinoEngine, in_batches
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.network.sface_network import build
from facegallery.embedder.spec import WINDOW, CropRule, FaceSpec, Part
from facegallery.embedder.weights.store import open_model
from tests.conftest import coloured

BOXES = Part("boxes", "ab" * 32, 128, "affine")
CLOSE = replace(BOXES, crop="close", zoom=1.14)
POINTS = Part("points", "cd" * 32, 128, "affine", crop="arcface", size=112)
WINDOWS = CropRule(window=WINDOW)
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def found(att):
    """[(photo, face)] of real faces: small, and enlarged so that a window is a smaller copy."""
    photos = [coloured(att / f"s{i}" / "1.pgm") for i in range(1, 9)]
    photos += [np.asarray(Image.fromarray(photo).resize((460, 560), Image.Resampling.BICUBIC)) for photo in photos]
    return [(photo, faces[0]) for photo, faces in zip(photos, MtcnnDetector()(photos), strict=True) if faces]


def stored(photo, face, rule):
    """A face as it comes back from a data set."""
    pixels, region = picture.take(photo, face.box, face.landmarks, rule)
    return picture.read(align.to_png(pixels, region), face.box, face.landmarks, rule)


def test_a_stored_face_looks_to_a_network_as_in_the_photo(found):
    for photo, face in found:
        pixels, region = picture.take(photo, face.box, face.landmarks, WINDOWS)
        direct = picture.stored(pixels, region, face.box, face.landmarks, WINDOWS)
        for part in (BOXES, CLOSE, POINTS):
            now, later = (picture.seen_by(part, [one], WINDOWS) for one in (direct, stored(photo, face, WINDOWS)))
            assert now.shape == (1, part.size, part.size, 3) and np.array_equal(now, later)


def test_a_window_holds_the_photos_own_pixels_and_what_both_kinds_of_networks_need(found):
    for photo, face in found:
        pixels, (left, top, right, bottom) = picture.take(photo, face.box, face.landmarks, WINDOWS)
        assert max(pixels.shape[:2]) <= WINDOW and right <= photo.shape[1] and bottom <= photo.shape[0]
        crop = align.crop_box(face.box, WINDOWS, photo.shape[1], photo.shape[0])
        assert left <= crop[0] and top <= crop[1] and right >= crop[2] and bottom >= crop[3]
        if max(right - left, bottom - top) <= WINDOW:
            assert np.array_equal(pixels, photo[top:bottom, left:right])
            plain = align.cut(photo, face.box, CropRule())
            assert np.array_equal(picture.seen_by(BOXES, [stored(photo, face, WINDOWS)], WINDOWS)[0], plain)


@pytest.mark.parametrize("rule, least", [(WINDOWS, 0.999), (CropRule(border=20), 0.95), (CropRule(), 0.95)])
def test_points_lie_where_the_template_has_them_whatever_is_stored(found, rule, least):
    """Against the same transform of the whole photo, by correlation of the pixels."""
    small = [(photo, face) for photo, face in found if photo.shape[0] < 200]
    for photo, face in small:
        direct = picture.warped(photo, np.reshape(face.landmarks, (5, 2)))
        seen = picture.seen_by(POINTS, [stored(photo, face, rule)], rule)[0]
        assert np.corrcoef(direct.ravel(), seen.ravel())[0, 1] >= least


def test_a_crop_of_an_earlier_version_has_no_region_and_is_taken_to_lie_inside_its_photo(found):
    photo, face = found[0]
    pixels, region = picture.take(photo, face.box, face.landmarks, CropRule())
    older = picture.read(align.to_png(pixels), face.box, face.landmarks, CropRule())
    newer = picture.read(align.to_png(pixels, region), face.box, face.landmarks, CropRule())
    assert older.shown[:2] == newer.shown[:2] and all(np.subtract(older.shown, newer.shown) >= 0)
    assert picture.seen_by(POINTS, [older], CropRule()).shape == (1, 112, 112, 3)


@pytest.mark.parametrize(
    "landmarks",
    [
        None,
        (),
        (50.0,) * 10,
        (float("nan"),) * 10,
        (0.0, 0.0) * 4 + (1e9, 1e9),
        (1e-3, 0.0, 0.0, 0.0, 0.0, 1e-3, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_points_that_no_face_has_leave_the_box(found, landmarks):
    photo, face = found[0]
    pixels, region = picture.take(photo, face.box, landmarks, WINDOWS)
    seen = picture.seen_by(POINTS, [picture.stored(pixels, region, face.box, landmarks, WINDOWS)], WINDOWS)[0]
    x0, y0, x1, y1 = align.crop_box(face.box, WINDOWS, photo.shape[1], photo.shape[0])
    box = np.asarray(Image.fromarray(photo[y0:y1, x0:x1]).resize((112, 112), Image.Resampling.BILINEAR))
    assert np.array_equal(seen, box)


def test_mirrored_points_give_a_picture(found):
    photo, face = found[0]
    right, left, *rest = np.reshape(face.landmarks, (5, 2))
    landmarks = np.ravel([left, right, *rest]).tolist()
    pixels, region = picture.take(photo, face.box, landmarks, WINDOWS)
    seen = picture.seen_by(POINTS, [picture.stored(pixels, region, face.box, landmarks, WINDOWS)], WINDOWS)
    assert seen.shape == (1, 112, 112, 3)


def test_colours_are_in_the_networks_order(found):
    one = stored(*found[0], WINDOWS)
    for part in (BOXES, POINTS):
        rgb, bgr = (picture.seen_by(replace(part, colour=colour), [one], WINDOWS) for colour in ("RGB", "BGR"))
        assert np.array_equal(rgb[..., ::-1], bgr)


@pytest.mark.parametrize("region", [(5, 5, 5, 9), (-1, 0, 9, 9), (0, 0, 1 << 30, 9)])
def test_a_region_that_no_photo_has_is_refused(region):
    with pytest.raises(DataError, match="region"):
        align.region_of(align.to_png(np.zeros((4, 4, 3), np.uint8), region))


def test_a_region_is_skipped_by_other_readers(found):
    photo, face = found[0]
    pixels, region = picture.take(photo, face.box, face.landmarks, WINDOWS)
    png = align.to_png(pixels, region)
    assert align.region_of(png) == region and np.array_equal(align.from_png(png), pixels)
    assert align.region_of(align.to_png(pixels)) is None


def test_a_larger_window_than_the_contracts_is_refused():
    png = align.to_png(np.zeros((WINDOW + 1, 10, 3), np.uint8), (0, 0, 10, WINDOW + 1))
    with pytest.raises(DataError, match="window"):
        picture.read(png, (0, 0, 10, 10), None, WINDOWS)


def test_crops_alone_are_refused_where_a_network_needs_points(crops):
    with pytest.raises(InputError, match="points"):
        Embedder(open_model("sface"))(crops)


def test_vectors_are_opencvs(found, tmp_path, archives):
    """The same aligned faces, RGB here and BGR there, through OpenCV's FaceRecognizerSF."""
    import cv2
    import onnx

    from tests.embedder.network.test_sface_network import as_shipped

    file = tmp_path / "sface.onnx"
    onnx.save(as_shipped(archives["sface"], 1), file)
    theirs_of = cv2.FaceRecognizerSF.create(str(file), "")
    faces = picture.seen_by(POINTS, [stored(photo, face, WINDOWS) for photo, face in found], WINDOWS)
    theirs = unit(np.concatenate([theirs_of.feature(np.ascontiguousarray(face[..., ::-1])) for face in faces]))
    arrays = open_model("sface").arrays(0)
    ours = unit(in_batches(OpenvinoEngine(lambda: build(arrays, 8)), (faces.astype(np.float32),), 8))
    assert (ours * theirs).sum(1).min() >= 0.9999


def test_contracts_with_and_without_points():
    both, points = FaceSpec.of(BOXES, POINTS), FaceSpec.of(POINTS)
    assert both.crop.window == points.crop.window == WINDOW and FaceSpec.of(BOXES).crop == CropRule()
    assert replace(points, crop=CropRule("32px")).fingerprint == points.fingerprint, "no network sees boxes"
    assert replace(both, crop=CropRule("32px", window=WINDOW)).fingerprint != both.fingerprint
    assert replace(both, crop=CropRule()).fingerprint == both.fingerprint, "what is stored changes no meaning"
    assert FaceSpec.from_json(both.to_json()) == both


# the border that training needs ----------------------------------------------


@pytest.mark.parametrize("part", [BOXES, CLOSE, replace(POINTS, colour="BGR")], ids=["box", "close", "points"])
@pytest.mark.parametrize("rule", [WINDOWS, CropRule(border=20), CropRule()], ids=["window", "border", "crop"])
def test_the_centre_of_what_training_sees_is_what_the_network_sees(found, rule, part):
    for photo, face in found[::5]:
        one = stored(photo, face, rule)
        wide, seen = picture.with_border(part, one, rule, 14), picture.seen_by(part, [one], rule)[0]
        assert wide.shape == (part.size + 28,) * 2 + (3,) and np.array_equal(wide[14:-14, 14:-14], seen)


def test_the_border_shows_what_lies_around_the_crop(found):
    """Against the same crop of the whole photo, where the window has the pixels."""
    for photo, face in found[:8]:
        one = stored(photo, face, WINDOWS)
        box = picture.with_border(BOXES, one, WINDOWS, 4)
        assert np.corrcoef(box.ravel(), align.cut(photo, face.box, CropRule(border=4)).ravel())[0, 1] > 0.99
        points = picture.with_border(POINTS, one, WINDOWS, 14)
        direct = picture.warped(photo, np.reshape(face.landmarks, (5, 2)), border=14)
        assert np.corrcoef(points.ravel(), direct.ravel())[0, 1] > 0.9
        assert np.abs(points[14:-14, 14:-14].astype(int) - direct[14:-14, 14:-14]).mean() < 1


def middle_of(photo: np.ndarray, box: align.Box, margin: float = 0.25, zoom: float = 1.14) -> np.ndarray:
    """The middle of the box with its margin, as far as the photo goes, in 160 pixels."""
    x, y, w, h = round(box[0]), round(box[1]), round(box[2] - box[0]), round(box[3] - box[1])
    across, down = w * (1 + margin) / zoom / 2, h * (1 + margin) / zoom / 2
    left, top, right, bottom = x + w / 2 - across, y + h / 2 - down, x + w / 2 + across, y + h / 2 + down
    inside = max(left, 0), max(top, 0), min(right, photo.shape[1]), min(bottom, photo.shape[0])
    return np.asarray(Image.fromarray(photo).resize((160, 160), Image.Resampling.BILINEAR, box=inside))


@pytest.mark.parametrize(("rule", "near"), [(WINDOWS, 2), (CropRule(border=20), 6), (CropRule(), 6)])
@pytest.mark.parametrize("cut", [0, 0.15, 0.4])
def test_a_close_crop_is_the_middle_of_the_box_before_the_photos_edge_cuts_it(found, rule, near, cut):
    for photo, face in found[:8]:
        x0, y0, x1, y1 = face.box
        less, lower = round(x0 + cut * (x1 - x0)) if cut else 0, round(y1 - cut * (y1 - y0)) if cut else None
        part = photo[:lower, less:]  # the photo ends within the face
        box = x0 - less, y0, x1 - less, y1
        pixels, region = picture.take(part, box, None, rule)
        seen = picture.seen_by(CLOSE, [picture.stored(pixels, region, box, None, rule)], rule)[0]
        assert np.abs(seen.astype(int) - middle_of(part, box)).mean() < near


@pytest.mark.parametrize("cut", [0, 0.4])
def test_a_border_changes_no_close_crop(found, cut):
    for photo, face in found:
        x0, y0, x1, y1 = face.box
        less = round(x0 + cut * (x1 - x0)) if cut else 0
        box = x0 - less, y0, x1 - less, y1
        rules = CropRule(), CropRule(border=20)
        taken = [picture.take(photo[:, less:], box, None, rule) for rule in rules]
        faces = [picture.stored(*one, box, None, rule) for one, rule in zip(taken, rules, strict=True)]
        plain, bordered = (picture.seen_by(CLOSE, [one], rule) for one, rule in zip(faces, rules, strict=True))
        assert np.array_equal(plain, bordered)


def test_a_close_crop_at_a_zoom_of_1_is_the_crop(found):
    whole = replace(CLOSE, zoom=1.0)
    for rule in (WINDOWS, CropRule(border=20)):
        faces = [stored(photo, face, rule) for photo, face in found]
        assert np.array_equal(picture.seen_by(whole, faces, rule), picture.seen_by(BOXES, faces, rule))


@pytest.mark.parametrize("rule", [WINDOWS, CropRule(), CropRule(border=20)])
@pytest.mark.parametrize("box", [(-300.0, 10, -200, 110), (95, 95, 900, 900), (0, 0, 100, 100), (99, 0, 100, 1)])
def test_a_close_crop_of_a_box_that_is_nearly_or_wholly_outside_is_a_picture(rule, box):
    photo = rng.integers(0, 256, (100, 100, 3), np.uint8)
    pixels, region = picture.take(photo, box, None, rule)
    face = picture.stored(pixels, region, box, None, rule)
    assert picture.seen_by(CLOSE, [face], rule).shape == (1, 160, 160, 3)
    assert picture.with_border(CLOSE, face, rule, 20).shape == (200, 200, 3)


def test_of_a_face_whose_place_is_not_known_a_close_crop_is_the_middle():
    crop = rng.integers(0, 256, (160, 160, 3), np.uint8)
    lost = (160 - 160 / 1.14) / 2
    box = lost, lost, 160 - lost, 160 - lost
    expected = np.asarray(Image.fromarray(crop).resize((160, 160), Image.Resampling.BILINEAR, box=box))
    assert np.array_equal(picture.seen_by(CLOSE, [picture.plain_crop(crop)], CropRule())[0], expected)


def test_a_face_whose_place_is_not_known_is_its_crop_without_the_border():
    pixels = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    face = picture.stored(pixels, None, None, None, CropRule(border=20))
    assert np.array_equal(picture.seen_by(BOXES, [face], CropRule(border=20))[0], pixels[20:180, 20:180])


# the similarity --------------------------------------------------------------


def test_the_similarity_is_the_least_squares_one():
    for _ in range(5):
        points = picture.ARCFACE * rng.uniform(0.5, 2) + rng.uniform(-9, 9, (5, 2))

        def residuals(p, points=points):
            x, y = points.T
            return np.concatenate(
                [p[0] * x - p[1] * y + p[2] - picture.ARCFACE[:, 0], p[1] * x + p[0] * y + p[3] - picture.ARCFACE[:, 1]]
            )

        best = least_squares(residuals, [1.0, 0, 0, 0], xtol=1e-12, ftol=1e-12, gtol=1e-12).x
        a, b = picture.similarity(points)
        assert np.allclose([a.real, a.imag, b.real, b.imag], best, atol=1e-5)


def test_a_turned_scaled_and_moved_face_comes_back_to_the_points():
    a, b = 1.3 * np.exp(0.4j), 20 - 7j
    moved = (picture.ARCFACE @ (1, 1j) - b) / a
    assert np.allclose(picture.similarity(np.stack([moved.real, moved.imag], axis=1)), (a, b))


def naive_warp(canvas: np.ndarray, points: np.ndarray, border: int) -> np.ndarray:
    """Pixel by pixel: where it comes from, and the four pixels around that."""
    side = 112 + 2 * border
    a, b = picture.similarity(points)
    last = np.array(canvas.shape[:2]) - 1
    out = np.empty((side, side, 3))
    for v in range(side):
        for u in range(side):
            z = (complex(u - border, v - border) - b) / a
            x0, y0 = int(np.floor(z.real)), int(np.floor(z.imag))
            fx, fy = z.real - x0, z.imag - y0
            rows, columns = np.clip([y0, y0 + 1], 0, last[0]), np.clip([x0, x0 + 1], 0, last[1])
            four = canvas[np.ix_(rows, columns)].astype(np.float64)
            out[v, u] = np.tensordot(np.outer([1 - fy, fy], [1 - fx, fx]), four, 2)
    return out


@pytest.mark.parametrize("border", [0, 14])
def test_the_warp_equals_a_naive_one_also_beyond_the_edges(crops, border):
    for turn, shift in ((0.0, 30), (0.3, 5), (-0.5, 45)):
        z = (picture.ARCFACE @ (1, 1j)) * 1.2 * np.exp(1j * turn) + shift * (1 + 0.3j)
        points = np.stack([z.real, z.imag], axis=1)
        ours, theirs = picture.warped(crops[0], points, border=border), naive_warp(crops[0], points, border)
        assert ours.shape == (112 + 2 * border,) * 2 + (3,) and ours.dtype == np.uint8
        assert np.abs(ours - theirs).max() < 1.01  # Pillow cuts what is behind the point
