import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import detectors
from facegallery.embedder.faces.mtcnn import DetectedFace
from facegallery.embedder.faces.turned import SURE, TurnedDetector, back
from facegallery.workflows import photos

TURNS = range(4)


class Marks:
    """Takes the brightest pixel for a face, as sure as it is bright, if it lies in the upper half of the photo."""

    compute, where = Compute("cpu", "f32"), "marks"

    def __init__(self):
        self.record, self.asked = {"algorithm": "marks"}, 0

    def load(self):
        return self

    def __call__(self, given):
        self.asked += len(given)
        return [self._faces(photo[..., 0]) for photo in given]

    def _faces(self, grey: np.ndarray) -> list[DetectedFace]:
        y, x = map(int, np.unravel_index(grey.argmax(), grey.shape))
        if y >= len(grey) // 2 or not grey[y, x]:
            return []
        return [DetectedFace((x, y, x + 1, y), (x, y) * 5, grey[y, x] / 255)]


def marked(x: int, y: int, brightness: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    photo = np.zeros((*shape, 3), np.uint8)
    photo[y, x] = brightness
    return photo


@pytest.mark.parametrize("quarters", (1, 2, 3))
def test_a_place_in_the_turned_photo_is_found_again_in_the_photo(quarters):
    photo = np.random.default_rng(0).permutation(20 * 30).reshape(20, 30)
    turned = np.rot90(photo, quarters)
    for x, y, x1, y1 in ((0, 0, 4, 9), (3, 5, 12, 11)):
        face = back(DetectedFace((x, y, x1, y1), (x, y, x1, y1) * 2 + (x, y), 0.5), quarters, photo.shape)
        assert photo[face.landmarks[1], face.landmarks[0]] == turned[y, x]
        assert photo[face.landmarks[3], face.landmarks[2]] == turned[y1, x1]
        left, top, right, bottom = face.box
        inside = photo[top : bottom + 1, left : right + 1]
        assert sorted(inside.ravel()) == sorted(turned[y : y1 + 1, x : x1 + 1].ravel()) and face.confidence == 0.5


def test_turns_are_tried_only_where_no_face_is_sure_and_taken_only_where_surer():
    inner = Marks()
    detector = TurnedDetector(inner)
    sure, unsure, low, empty = marked(4, 2, 250), marked(4, 2, 150), marked(4, 15, 150), marked(0, 0, 0)
    assert detector([sure]) == Marks()([sure]) and inner.asked == 1
    assert detector([unsure]) == Marks()([unsure]) and inner.asked == 1 + 4  # as sure in the turns: it stays
    ((face,),) = detector([low])
    assert face.landmarks[:2] == (4, 15) and detector([empty]) == [[]]
    assert [len(faces) for faces in detector([sure, low, empty, unsure])] == [1, 1, 0, 1]
    assert detector([]) == [] and detector.record == {"algorithm": "marks", "turned": SURE}


def test_a_record_makes_the_same_detector_again():
    made = detectors.make({"turned": True, "min_face": 30})
    assert isinstance(made, TurnedDetector) and made.record["min_face"] == 30
    assert detectors.make(made.record).record == made.record
    assert "turned" not in detectors.make({}).record


def test_a_turned_photo_gives_the_vector_of_the_upright_one(att, tmp_path):
    """Of AT&T's people by SFace; boxes and points are those of the photo as it is."""
    for person in ("s2", "s9"):
        image = Image.open(att / person / "1.pgm").resize((184, 224))
        for turn in TURNS:
            image.rotate(90 * turn, expand=True).save(tmp_path / f"{person}-{turn}.png")
    folder = tmp_path / "in"
    folder.mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(folder / path.name)
    embedder = photos.make_embedder("sface", Compute("cpu", "f32"))
    photos.embed(folder, tmp_path / "out", embedder, photos.EmbedOptions(turned=True))
    data = DataSet(tmp_path / "out")
    rows = {row["image"].split(".")[0]: row for table in data.shards() for row in table.to_pylist()}
    assert data.spec.detector["turned"] == SURE and {row["outcome"] for row in rows.values()} == {"ok"}
    for person in ("s2", "s9"):
        vectors = np.array([rows[f"{person}-{turn}"]["vector"] for turn in TURNS])
        assert (vectors @ vectors[0]).min() > 0.95
        for turn in TURNS:
            x0, y0, x1, y1 = rows[f"{person}-{turn}"]["box"]
            points = np.array(rows[f"{person}-{turn}"]["landmarks"]).reshape(5, 2)
            assert (points > (x0, y0)).all() and (points < (x1, y1)).all()
            down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
            assert (
                np.abs(down).argmax() == (1, 0, 1, 0)[turn]
                and np.sign(down[np.abs(down).argmax()]) == (1, 1, -1, -1)[turn]
            )
    with pytest.raises(InputError, match="msceleb sees boxes"):
        photos.embed(folder, tmp_path / "no", photos.make_embedder("msceleb"), photos.EmbedOptions(turned=True))
    assert not (tmp_path / "no").exists()
