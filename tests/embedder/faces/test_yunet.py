import pickle
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.faces import both, detectors, names
from facegallery.embedder.faces.both import BothDetector
from facegallery.embedder.faces.mtcnn import DetectedFace, MtcnnDetector, shrink
from facegallery.embedder.faces.yunet import OVERLAP, THRESHOLD, PlacedYunet, YunetDetector, greedy, moved
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import detectors as weights
from facegallery.embedder.weights import fetch
from facegallery.embedder.weights.detectors import YUNET
from facegallery.workflows.photos import make_detector
from tests.conftest import coloured

BLANK = np.zeros((112, 92, 3), np.uint8)


@pytest.fixture(scope="module")
def detector():
    return YunetDetector().load()


@pytest.fixture(scope="module")
def joined():
    return BothDetector().load()


@pytest.fixture(scope="module")
def photos(att) -> list[np.ndarray]:
    """Photos of many sizes: one face, four, twelve, and none."""
    faces = [coloured(att / f"s{i}" / "1.pgm") for i in range(1, 13)]
    four = np.concatenate([np.concatenate(faces[i : i + 2], axis=1) for i in (0, 2)])
    twelve = np.concatenate([np.concatenate(faces[i : i + 4], axis=1) for i in (0, 4, 8)])
    large = np.asarray(Image.fromarray(twelve).resize((1200, 1100), Image.Resampling.BICUBIC))
    return [faces[0], four, twelve, BLANK, large]


def by_opencv(photo: np.ndarray, side: int) -> np.ndarray:
    """What OpenCV finds on a canvas of `side` pixels with the photo in its corner: rows x y w h, ten points, score."""
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[: photo.shape[0], : photo.shape[1]] = photo[..., ::-1]
    made = cv2.FaceDetectorYN.create(str(YUNET.file), "", (side, side), THRESHOLD, OVERLAP, 5000)
    found = made.detect(canvas)[1]
    return np.empty((0, 15)) if found is None else found


def same(one: list[DetectedFace], other: list[DetectedFace]) -> bool:
    return [(a.box, a.landmarks, a.confidence) for a in one] == [(b.box, b.landmarks, b.confidence) for b in other]


# YuNet ----------------------------------------------------------------------


@pytest.mark.parametrize(("number", "count"), [(0, 1), (1, 4), (2, 12), (3, 0), (4, 12)])
def test_faces_are_those_of_opencv(photos, detector, number, count):
    small, factor = shrink(photos[number], 1024)
    side = next(side for side in (320, 640, 1024) if side >= max(small.shape[:2]))
    theirs, ours = by_opencv(small, side), detector([photos[number]])[0]
    assert len(ours) == len(theirs) == count
    if not count:
        return
    boxes = np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:4]], axis=1).clip(0, None) * factor
    boxes = boxes.clip(None, [photos[number].shape[1] - 1, photos[number].shape[0] - 1] * 2)
    assert np.abs(np.array([face.box for face in ours]) - boxes).max() < 1e-2
    assert np.abs(np.array([face.landmarks for face in ours]) - theirs[:, 4:14] * factor).max() < 1e-2
    assert np.abs(np.array([face.confidence for face in ours]) - theirs[:, 14]).max() < 1e-5


def test_networks_from_the_cache_and_compiled_anew_agree(photos, tmp_path, monkeypatch, detector):
    """OpenVINO's own reader of the file fails here, now and then."""
    folder = tmp_path / "models" / YUNET.file.parent.name
    folder.mkdir(parents=True)
    shutil.copy(YUNET.file, folder)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    anew, cached = YunetDetector()(photos), YunetDetector()(photos)
    assert (folder / "yunet-320-f32.blob").is_file()
    assert all(map(same, anew, detector(photos))) and all(map(same, cached, anew))


def test_small_faces_are_dropped_and_a_tiny_photo_has_none(photos, detector):
    ((face,),) = detector([photos[0]])
    side = max(face.box[2] - face.box[0], face.box[3] - face.box[1])
    assert YunetDetector(min_face=int(side) + 1)([photos[0]]) == [[]]
    assert len(YunetDetector(min_face=int(side))([photos[0]])[0]) == 1
    assert detector([np.full((1, 1, 3), 200, np.uint8), photos[0][:3], BLANK]) == [[], [], []] and detector([]) == []


def test_a_photo_beyond_the_largest_side_is_found_on_a_smaller_copy(photos, detector):
    large = photos[4]
    found = YunetDetector(max_side=500)([large])[0]
    assert len(found) == 12 and YunetDetector(max_side=4096)([large])[0]
    for face in found:
        nearest = min(detector([large])[0], key=lambda other: abs(np.subtract(face.box, other.box)).max())
        assert np.abs(np.subtract(face.box, nearest.box)).max() < 40


def test_greedy_keeps_a_box_whose_better_neighbour_is_dropped():
    boxes = np.array([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [0, 0, 10, 10]], float)
    assert greedy(boxes, 0.3) == [0, 2] and greedy(np.empty((0, 4)), 0.3) == []


# with MTCNN -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [YunetDetector, PlacedYunet, BothDetector])
def test_faces_do_not_depend_on_the_other_photos(photos, kind):
    made = pickle.loads(pickle.dumps(kind().load()))  # as worker processes receive it
    alone = [made([photo])[0] for photo in photos]
    counts = [len(faces) for faces in alone]
    assert counts[:4] == [1, 4, 12, 0]
    if kind is not BothDetector:  # MTCNN's own first network answers in float32 up to rounding
        assert all(map(same, made(photos), alone)) and all(map(same, made(photos[::-1]), alone[::-1]))
    assert [len(faces) for faces in made(photos)] == counts


def test_mtcnns_third_network_places_yunets_faces(photos, detector):
    mtcnn, placed = MtcnnDetector(), PlacedYunet()
    ((found,),), ((ours,),), ((theirs,),) = detector([photos[0]]), placed([photos[0]]), mtcnn([photos[0]])
    assert ours.confidence == found.confidence and ours.landmarks != found.landmarks
    assert np.abs(np.subtract(ours.landmarks, theirs.landmarks)).max() < 3
    box = np.array([[2.0, 2.0, 20.0, 20.0]])
    none, (nowhere,) = mtcnn.placed([photos[3], photos[0]], [np.empty((0, 4)), box])
    assert none == [] and nowhere.confidence < 0.3
    noise = DetectedFace((2.0, 2.0, 20.0, 20.0), tuple(range(10)), 0.9)
    assert moved([noise, found], [nowhere, ours]) == [noise, ours]


def test_what_both_keep(joined):
    def face(x: float, side: float, confidence: float) -> DetectedFace:
        return DetectedFace((x, 0.0, x + side, side), (), confidence)

    sure, unsure, twin = face(0, 60, 0.9), face(200, 60, 0.65), face(2, 58, 0.99)
    small, large = face(100, 20, 1), face(300, 60, 1)
    assert joined._joined([sure, unsure], [twin, small, large], 640) == [small, sure]
    assert joined._joined([sure], [large], 3 * 1024) == [large, sure]  # small in the copy that is searched
    assert joined._joined([unsure], [small, large], 640) == [small, large]
    assert joined._joined([unsure], [], 640) == [unsure] and joined._joined([], [], 640) == []
    assert joined._joined([sure, unsure], [large, face(205, 50, 1)], 640) == [sure, unsure]  # MTCNN sees it, too
    assert both.overlapping([sure, unsure], [twin, small]).tolist() == [[True, False], [False, False]]


# records --------------------------------------------------------------------


@pytest.mark.parametrize("name", names.DETECTORS)
def test_a_record_is_enough_to_make_the_detector_again(name, photos):
    made = make_detector({"algorithm": name, "min_face": 30, "max_side": 300})
    spec = FaceSpec.from_json(FaceSpec(detector=made.record).to_json())
    again = make_detector(spec.detector)
    assert type(again) is type(made) and again.record == made.record == spec.detector
    assert {"algorithm": name, "min_face": 30, "max_side": 300}.items() <= made.record.items()
    assert all(map(same, again(photos[:3]), made(photos[:3])))


def test_records_without_a_name_and_with_an_unknown_one():
    assert make_detector({"min_face": 40}).record["algorithm"] == names.DEFAULT_DETECTOR
    old = {"algorithm": "mtcnn", "weights": "0" * 16, "thresholds": [0.6, 0.7, 0.7], "scale_factor": 0.709}
    assert isinstance(make_detector(old), MtcnnDetector)
    with pytest.raises(InputError, match="expected a detector of mtcnn, yunet, both, received 'retina'"):
        detectors.make({"algorithm": "retina"})


# weights --------------------------------------------------------------------


def test_fetch_and_a_damaged_file(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped.onnx"
    shutil.copy(YUNET.file, shipped)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    with pytest.raises(
        ModelError, match=r"is not there: run `facegallery weights fetch yunet`, or set FACEGALLERY_DATA"
    ):
        YunetDetector().load()
    assert weights.listed()[0]["stored"].startswith("no") and not YUNET.is_sound
    assert fetch.fetch_detector("yunet", shipped) is YUNET and YUNET.is_sound
    assert weights.listed()[0]["stored"] == "yes" and weights.listed()[0]["licence"].startswith("MIT")
    data = bytearray(YUNET.file.read_bytes())
    data[len(data) // 2] ^= 1
    YUNET.file.write_bytes(data)
    for kind in (YunetDetector, PlacedYunet, BothDetector):
        with pytest.raises(ModelError, match="expected weights yunet with sha256 49f000ec501fef24"):
            kind()([BLANK])
    with pytest.raises(ModelError, match="wrong or truncated"):
        fetch.fetch_detector("yunet", YUNET.file)
    fetch.fetch_detector("yunet", shipped)
    assert YUNET.is_sound
