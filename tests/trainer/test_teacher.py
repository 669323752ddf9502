from dataclasses import replace

import numpy as np
import pytest

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.weights import store
from facegallery.trainer import batches, teacher
from facegallery.trainer.teacher import side_by_side, solve, vectors
from tests import crops as made

EXACT = Compute("cpu", "f32")


@pytest.fixture(scope="module")
def faces(tmp_path_factory, crops) -> batches.TrainingCrops:
    """Twelve real faces in the middle of canvases of 200 pixels."""
    wide = [np.pad(crop, ((20, 20), (20, 20), (0, 0)), "edge") for crop in crops[:12]]
    rows = [made.row(p, 0, side=200, crop=made.png(x)) for p, x in enumerate(wide)]
    return batches.read(made.write(tmp_path_factory.mktemp("f") / "crops", rows, border=20)).train


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(teacher, "LEAST_PHOTOS", 4)


# vectors --------------------------------------------------------------------


def test_itself_is_the_network_with_mirror_images_averaged_in(few, faces, crops):
    model = store.open_model("msceleb")
    found, usable = vectors("itself", model.spec.parts[0], faces, EXACT)
    expected = Embedder(replace(model, spec=replace(model.spec, flip=True)), EXACT)(crops[:12])
    assert usable.all() and found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5


def test_networks_stand_side_by_side_with_equal_weight(few, faces, crops):
    one, other = (vectors(name, store.KNOWN["msceleb"].part, faces, EXACT) for name in ("itself", "casia"))
    found, usable = side_by_side([one, other])
    assert usable.all() and np.abs(found - np.concatenate([one[0], other[0]], axis=1) / np.sqrt(2)).max() < 1e-6


def test_photos_that_one_of_them_does_not_know_are_told(few):
    x = np.eye(6, dtype=np.float32)
    _, usable = side_by_side([(x, np.arange(6) != 2), (x, np.arange(6) != 3)])
    assert usable.tolist() == [True, True, False, False, True, True]


def test_sface_is_a_teacher_and_photos_without_a_face_are_told(few, tmp_path):
    """Patterns are no faces: the detector finds nothing on them."""
    photos = batches.read(made.write(tmp_path / "crops", [made.row(p, 0, side=200) for p in range(5)], border=20)).train
    found, usable = vectors("sface", store.KNOWN["msceleb"].part, photos, EXACT)
    assert not usable.any() and not found.any()
    with pytest.raises(DataError, match="teacher"):
        side_by_side([(found, usable)])


def test_sface_sees_faces_on_canvases(few, faces):
    found, usable = vectors("sface", store.KNOWN["msceleb"].part, faces, EXACT)
    assert found.shape == (12, 128) and usable.sum() >= 11
    assert np.abs(np.linalg.norm(found[usable], axis=1) - 1).max() < 1e-6


def test_too_few_photos_are_refused():
    with pytest.raises(DataError, match="100 crops or more .* received 12"):
        side_by_side([(np.ones((12, 3), np.float32), np.ones(12, bool))])


def test_the_hashes_of_teachers_are_recorded():
    assert teacher.sha256s(["itself"]) == []
    assert teacher.sha256s(["itself", "casia", "sface"]) == [
        store.KNOWN["casia"].sha256,
        store.KNOWN["sface"].sha256,
    ]


# the bottleneck -------------------------------------------------------------


def given_by(bottleneck: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """By batch norm's own formula."""
    x = features @ bottleneck["Bottleneck/kernel"] - bottleneck["Bottleneck_BatchNorm/moving_mean"]
    return (
        x / np.sqrt(bottleneck["Bottleneck_BatchNorm/moving_variance"] + 1e-3) + bottleneck["Bottleneck_BatchNorm/beta"]
    )


def test_without_a_ridge_a_linear_map_is_found_again():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(3, 2, (1, 200, 20)), rng.normal(size=(20, 5))
    targets = features[0] @ kernel + rng.normal(size=5)
    found = solve(features, targets, 0.0)
    assert np.abs(given_by(found, features[0]) - targets).max() < 1e-4
    assert all(a.dtype == np.float32 for a in found.values())


def test_the_ridge_is_that_of_least_squares_with_more_rows():
    """sqrt(ridge n) times the identity below the standardised features of all views, and zeros below the targets."""
    rng = np.random.default_rng(1)
    views, targets, ridge = rng.normal(1, 3, (3, 50, 8)), rng.normal(size=(50, 4)), 0.2
    mean, deviation = views[0].mean(0), views[0].std(0) + 1e-3
    x = np.concatenate([*((view - mean) / deviation for view in views), np.sqrt(ridge * 150) * np.eye(8)])
    y = np.concatenate([*[targets - targets.mean(0)] * 3, np.zeros((8, 4))])
    kernel, *_ = np.linalg.lstsq(x, y, rcond=None)
    probe = rng.normal(1, 3, (10, 8))
    expected = (probe - mean) / deviation @ kernel + targets.mean(0)
    assert np.abs(given_by(solve(views, targets, ridge), probe) - expected).max() < 1e-5


def test_the_solved_bottleneck_fits_the_network_and_both_ways_to_run_it(crops):
    from facegallery.embedder.network.runtime import on_openvino
    from facegallery.trainer.learner import TrainableNetwork

    model = store.open_model("casia")
    part, start = model.spec.parts[0], model.arrays(0)
    targets = unit(np.random.default_rng(0).normal(size=(12, 16)))
    net = TrainableNetwork(start, part)
    arrays = start | solve([*net.below("bottleneck", net.maps([crops[:12]]))], targets, 0.01)
    wider = TrainableNetwork(arrays, part)
    assert wider.dimension == 16 and keras_network.is_folded(arrays)
    trained = unit(wider.embed(iter([crops[:12]])))
    assert np.einsum("ij,ij->i", trained, targets).min() > 0.9  # twelve photos are learnt by heart
    assert np.abs(unit(on_openvino(arrays, part, "f32")(crops[:12])) - trained).max() < 1e-4
