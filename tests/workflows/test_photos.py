import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import InputError
from facegallery.workflows import photos
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.session import GallerySession


@pytest.mark.parametrize("name", ["mtcnn", "yunet", "both"])
def test_crops_record_their_detector(att, tmp_path, name):
    photos.align(att / "s1", tmp_path / "crops", photos.AlignOptions(algorithm=name, min_face=30))
    data = DataSet(tmp_path / "crops")
    assert data.spec.detector == photos.make_detector({"algorithm": name, "min_face": 30}).record
    with pytest.raises(InputError, match="--detector, received crops"):
        photos._check_for_crops(photos.EmbedOptions(algorithm=name))


def test_crops_cannot_be_turned():
    with pytest.raises(InputError, match="--turned"):
        photos._check_for_crops(photos.EmbedOptions(turned=True))


def test_a_gallery_finds_faces_with_the_detector_of_its_contract(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path))
    monkeypatch.setattr("facegallery.embedder.faces.detectors.DEFAULT_DETECTOR", "both")
    create_gallery("people")
    monkeypatch.undo()
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path))
    with GallerySession("people") as session, session.store() as store:
        assert store.spec.detector["algorithm"] == "both"
        assert photos.make_detector(store.spec.detector).record == store.spec.detector
        assert session.networks._settings == store.spec.detector
