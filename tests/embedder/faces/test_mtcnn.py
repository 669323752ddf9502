import csv

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.compute import Compute
from facegallery.embedder.faces import mtcnn
from facegallery.embedder.faces import mtcnn_nets as nets
from facegallery.embedder.faces.mtcnn import BATCHES, CANVAS, MARGIN, THRESHOLDS, MtcnnDetector, shrink
from facegallery.embedder.faces.pyramid import CELL, centred, patches
from facegallery.embedder.network.engines import OpenvinoEngine, TensorflowEngine, core, in_batches
from tests.conftest import coloured
from tests.embedder.faces.test_boxes import overlap


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the package's own reader, on Python 3.13
def test_boxes_and_landmarks_are_the_packages_own(att, detector):
    from mtcnn import MTCNN

    photo = coloured(att / "s3" / "1.pgm")
    (theirs,) = MTCNN().detect_faces(photo, threshold_onet=0.7)
    (ours,) = detector([photo])[0]
    x, y, w, h = theirs["box"]
    assert np.abs(np.subtract(ours.box, (x, y, x + w, y + h))).max() <= 1  # they round
    names = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]  # the viewer's sides
    expected = np.concatenate([theirs["keypoints"][n] for n in names])
    assert np.abs(np.subtract(ours.landmarks, expected)).max() <= 0.51
    assert ours.confidence == pytest.approx(float(theirs["confidence"]), abs=1e-6)
    right_eye, left_eye = ours.landmarks[0], ours.landmarks[2]
    assert right_eye < left_eye  # the person's right eye is on the photo's left


def test_photos_of_unequal_sizes_and_none_with_faces(att, detector):
    one, other = coloured(att / "s1" / "1.pgm"), coloured(att / "s2" / "1.pgm")
    larger = np.pad(other, ((10, 30), (20, 40), (0, 0)), mode="edge")
    blank = np.zeros((112, 92, 3), np.uint8)
    together = detector([one, blank, larger, blank])
    alone = [detector([photo])[0] for photo in (one, blank, larger, blank)]
    assert [len(faces) for faces in together] == [len(faces) for faces in alone] and together[1] == together[3] == []
    for mine, theirs in zip(together, alone, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert np.abs(np.subtract(a.box, b.box)).max() < 1e-2
    assert detector([blank]) == [[]] and detector([]) == []


def test_a_large_photo_is_found_on_a_smaller_copy(att):
    photo = coloured(att / "s1" / "1.pgm")
    large = np.repeat(np.repeat(photo, 6, axis=0), 6, axis=1)
    (small_box,) = (f.box for f in MtcnnDetector()([photo])[0])
    (large_box,) = (f.box for f in MtcnnDetector(max_side=336)([large])[0])
    assert np.abs(np.subtract(np.divide(large_box, 6), small_box)).max() < 6
    assert shrink(large, 336)[0].shape == (336, 276, 3) and shrink(photo, 336)[0] is photo


def test_no_number_of_photos_and_no_order_changes_an_answer(att, detector):
    photos = [coloured(att / f"s{i}" / f"{j}.pgm") for i in range(1, 6) for j in (1, 2)]
    assert detector(photos[::-1])[::-1] == detector(photos) == [detector([photo])[0] for photo in photos]


def test_the_cascade_runs_on_tensorflow_too(att, detector, monkeypatch):
    """What a GPU runs, here on the CPU."""
    photos = [np.pad(coloured(att / f"s{i}" / "3.pgm"), ((0, i), (0, 2 * i), (0, 0)), mode="edge") for i in range(1, 9)]
    shapes = (1, CANVAS, CANVAS, 4), (BATCHES[1], 24, 24, 4), (BATCHES[2], 48, 48, 4)
    other = MtcnnDetector(compute=Compute(precision="f32")).load()
    for name, net, shape in zip(("_pnet", "_rnet", "_onet"), nets.NETS, shapes, strict=True):
        monkeypatch.setattr(other, name, TensorflowEngine(nets.in_tensorflow(net, nets.load(net), shape), "CPU:0"))
    for ours, theirs in zip(detector(photos), other(photos), strict=True):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(np.subtract(a.box + a.landmarks, b.box + b.landmarks)).max() < 0.05


needs_bf16 = pytest.mark.skipif(
    "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="this CPU does not multiply bf16"
)


@needs_bf16
def test_faces_are_those_of_float32_alone(att, monkeypatch):
    """AT&T's faces at several sizes and turned upside down, on paper of noise."""
    rng = np.random.default_rng(8)
    photos = []
    for i in range(1, 25):
        face = Image.fromarray(coloured(att / f"s{i}" / f"{i % 10 + 1}.pgm"))
        photo = rng.integers(0, 256, (220, 300, 3), np.uint8)
        for x, width in ((0, 92), (100, 60), (170, 130)):
            small = np.asarray(face.resize((width, width * 112 // 92)))[:: -1 if i % 4 == 0 else 1]
            photo[i : i + len(small), x : x + width] = small
        photos.append(photo)
    monkeypatch.setattr(mtcnn, "has_fast_bf16", lambda: True)
    detector, alone = (MtcnnDetector(compute=Compute(precision=how)) for how in ("bf16", "f32"))
    assert detector.load()._screens and not alone.load()._screens
    found, expected = detector(photos), alone(photos)
    assert [len(faces) for faces in found] == [len(faces) for faces in expected] and sum(map(len, found)) > 24
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(np.subtract(a.box + a.landmarks, b.box + b.landmarks)).max() < 0.01


@needs_bf16
@pytest.mark.parametrize("i, net", [(0, nets.PNET), (1, nets.RNET)])
def test_bf16_errs_by_less_than_the_margin_near_the_threshold(att, i, net):
    size = (CELL, 24)[i]
    faces = [coloured(att / f"s{n}" / "2.pgm") for n in range(1, 41)]
    boxes = np.random.default_rng(6).uniform(0, 60, (40, 100, 3))
    boxes = np.concatenate([boxes[..., :2], boxes[..., :2] + 12 + boxes[..., 2:]], axis=-1)
    seen = np.concatenate([patches(centred(face), of_face, size) for face, of_face in zip(faces, boxes, strict=True)])
    inputs = (seen, np.zeros((len(seen), CELL - 2, CELL - 2, 1), np.float32)) if net is nets.PNET else (seen,)
    arrays, shape = nets.load(net), (BATCHES[i], size, size, 4)
    exact, rough = (
        in_batches(OpenvinoEngine(lambda: nets.in_openvino(net, arrays, shape), p), inputs, BATCHES[i])[..., -1].ravel()
        for p in ("f32", "bf16")
    )
    near = np.abs(exact - np.log(THRESHOLDS[i] / (1 - THRESHOLDS[i]))) < 2
    assert near.sum() > 100 and 0 < np.abs(exact - rough)[near].max() < MARGIN


@pytest.mark.lfw
def test_every_face_that_the_package_finds_on_lfw_is_found(lfw, detector):
    """Asked are 99.5 % at an overlap of 0.9."""
    with open(lfw / "lfw_one_shot.csv") as file:
        names = [row["image"] for row in csv.DictReader(file)][::4]
    photos = [np.asarray(Image.open(lfw / name).convert("RGB")) for name in names]
    ours = [faces for i in range(0, len(photos), 64) for faces in detector(photos[i : i + 64])]
    theirs = [boxes for i in range(0, len(photos), 64) for boxes in by_package(photos[i : i + 64])]
    found = [
        max((overlap(face.box, box, smaller=False) for face in faces), default=0.0)
        for faces, boxes in zip(ours, theirs, strict=True)
        for box in boxes
    ]
    assert len(found) > 1000 and np.mean(np.array(found) >= 0.9) >= 0.995
    assert sum(map(len, ours)) <= 1.005 * len(found), "no more false ones"


def by_package(photos: list[np.ndarray]) -> list[np.ndarray]:
    """x0 y0 x1 y1 of each face of each photo; all of one size."""
    from mtcnn import MTCNN

    rows = MTCNN().detect_faces(
        [photo.astype(np.float32) for photo in photos], box_format="xyxy", output_type="numpy", threshold_onet=0.7
    )
    return [rows[rows[:, 0] == i, 1:5] for i in range(len(photos))]
