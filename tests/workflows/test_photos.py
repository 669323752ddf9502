from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import vectors_of
from facegallery.embedder.errors import DataError, GalleryError, InputError
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights.store import Model, open_model
from facegallery.indexer.build import BuildOptions, build
from facegallery.workflows import photos
from facegallery.workflows.indexes import create_gallery, ensure_gallery
from facegallery.workflows.probes import fitting_model
from facegallery.workflows.session import GallerySession

CLOSE = Part("boxes", "ab" * 32, 128, "affine", zoom=1.14, crop="close")


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


def seeing_boxes(reference: str) -> Model:
    """The model as contracts of before have it: its network sees the middle of the crop."""
    model = open_model(reference)
    return replace(model, spec=replace(model.spec, parts=(replace(model.spec.parts[0], crop="box"),)))


def test_only_another_kind_of_box_is_taken_from_before():
    now, before = FaceSpec.of(CLOSE), FaceSpec.of(replace(CLOSE, crop="box"))
    assert now.seeing_as(before) == before and before.seeing_as(now) == now
    for other in ({"zoom": 1.1}, {"sha256": "cd" * 32}, {"crop": "arcface"}):
        made = FaceSpec.of(replace(CLOSE, **{"crop": "box"} | other))
        assert now.seeing_as(made) == now
    assert now.seeing_as(FaceSpec()) == now and now.seeing_as(FaceSpec.of(*before.parts, CLOSE)) == now


def test_a_data_set_of_before_goes_on_under_the_models_name(att, tmp_path, caplog):
    caplog.set_level("INFO")
    copytree(att / "s1", tmp_path / "photos" / "s1")
    compute = Compute("cpu", "f32")
    earlier = Embedder(seeing_boxes("msceleb"), compute)
    photos.embed(tmp_path / "photos", tmp_path / "vectors", earlier)
    before = DataSet(tmp_path / "vectors").spec
    assert "an earlier version" not in caplog.text
    copytree(att / "s2", tmp_path / "photos" / "s2")
    summary = photos.embed(tmp_path / "photos", tmp_path / "vectors", photos.make_embedder("msceleb", compute))
    assert "vectors keeps the crops that msceleb saw in an earlier version" in caplog.text
    assert summary.photos == 20 and DataSet(tmp_path / "vectors").spec == before
    photos.embed(tmp_path / "photos", tmp_path / "anew", photos.make_embedder("msceleb", compute))
    assert DataSet(tmp_path / "anew").spec.parts[0].crop == "close"
    photos.embed(tmp_path / "photos", tmp_path / "as before", earlier)
    first, second, third = (vectors_by_photo(tmp_path / name) for name in ("vectors", "as before", "anew"))
    assert all(np.array_equal(first[image], second[image]) for image in first)
    assert any(not np.allclose(first[image], third[image]) for image in first)
    with pytest.raises(DataError, match="it was made with msceleb"):
        photos.embed(tmp_path / "photos", tmp_path / "vectors", photos.make_embedder("sface"))


def vectors_by_photo(folder) -> dict[str, np.ndarray]:
    data = DataSet(folder)
    table = data.table(["image", "vector"])
    return dict(zip(table["image"].to_pylist(), vectors_of(table, data.spec.dimension), strict=True))


def test_a_gallery_of_before_goes_on_under_the_models_name(att, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_INDEXES", str(tmp_path / "indexes"))
    copytree(att / "s1", tmp_path / "photos" / "s1")
    photos.embed(tmp_path / "photos", tmp_path / "vectors", Embedder(seeing_boxes("msceleb"), Compute("cpu", "f32")))
    build(tmp_path / "vectors", tmp_path / "indexes" / "people", BuildOptions())
    ensure_gallery("people", "msceleb")
    with GallerySession("people") as session:
        spec = session.searcher.spec
        assert spec.parts[0].crop == "box" and fitting_model(session.searcher, "msceleb").spec.parts == spec.parts
        assert fitting_model(session.searcher, "casia").spec.parts != spec.parts
    with pytest.raises(GalleryError, match="leave the model out"):
        ensure_gallery("people", "casia")
