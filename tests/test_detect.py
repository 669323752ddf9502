import shutil
from pathlib import Path

import numpy as np
import pytest

from embedder.detect import WEIGHTS, MtcnnDetector, batches_of_one_size, shrink, verified_stages
from embedder.errors import ModelError
from tests.conftest import coloured


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package's own reader, on Python 3.13
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


def test_batches_hold_one_size_and_few_pixels():
    shapes = [(10, 10), (20, 20), (10, 10), (4000, 3000), (4000, 3000)]
    assert batches_of_one_size(shapes) == [[0, 2], [1], [3], [4]]


def test_weights_planted_in_the_working_folder_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in WEIGHTS:
        Path(name).write_bytes(b"would run")
    assert [len(stage.model.get_weights()) for stage in verified_stages()] == [13, 16, 21]


def test_changed_package_weights_are_refused(tmp_path, monkeypatch):
    import mtcnn

    real = Path(mtcnn.__file__).parent / "assets" / "weights"
    shutil.copytree(real, tmp_path / "assets" / "weights")
    monkeypatch.setattr(mtcnn, "__file__", str(tmp_path / "__init__.py"))
    assert len(verified_stages()) == 3
    (tmp_path / "assets" / "weights" / "onet.lz4").write_bytes(b"x")
    with pytest.raises(ModelError, match="expected onet.lz4"):
        verified_stages()
