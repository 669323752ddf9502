"""What is stored of a face and what networks see of it, against plain recomputations and against OpenCV."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

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
POINTS = Part("points", "cd" * 32, 128, "affine", crop="arcface", size=112)
WINDOWS = CropRule(window=WINDOW)


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
        for part in (BOXES, POINTS):
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

    from tests.embedder.faces.test_sface import as_shipped

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
