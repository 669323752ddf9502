from dataclasses import replace

import numpy as np
import pytest

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import picture
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import WINDOW, CropRule
from facegallery.embedder.weights import store
from facegallery.trainer import batches, teacher
from facegallery.trainer.faces import TrainingFaces
from facegallery.trainer.teacher import projected, side_by_side, solve, vectors
from tests import crops as made
from tests.conftest import coloured

EXACT = Compute("cpu", "f32")


@pytest.fixture(scope="module")
def faces(tmp_path_factory, crops) -> TrainingFaces:
    """Twelve real faces in the middle of canvases of 200 pixels."""
    wide = [np.pad(crop, ((20, 20), (20, 20), (0, 0)), "edge") for crop in crops[:12]]
    rows = [made.row(p, 0, side=200, crop=made.png(x)) for p, x in enumerate(wide)]
    return batches.read(made.write(tmp_path_factory.mktemp("f") / "crops", rows, border=20)).train


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(teacher, "LEAST_PHOTOS", 4)


# vectors --------------------------------------------------------------------


def test_itself_is_the_network_with_mirror_images_averaged_in(faces, crops):
    model = store.open_model("msceleb")
    found = vectors("itself", model.spec.parts[0], faces, EXACT)
    wide = [picture.plain_crop(np.pad(crop, ((20, 20), (20, 20), (0, 0)), "edge"), 20) for crop in crops[:12]]
    expected = Embedder(replace(model, spec=replace(model.spec, flip=True)), EXACT)(wide, CropRule(border=20))
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5


def test_networks_stand_side_by_side_with_equal_weight(few, faces, crops):
    one, other = (vectors(name, store.KNOWN["msceleb"].part, faces, EXACT) for name in ("itself", "casia"))
    found = side_by_side([one, other])
    assert np.abs(found - np.concatenate([one, other], axis=1) / np.sqrt(2)).max() < 1e-6


@pytest.mark.parametrize("name", ["sface", "sface+msceleb:0.7"])
def test_a_teacher_sees_faces_in_the_photo_by_its_own_rule(att, tmp_path, name):
    """Against each photo, aligned whole: no face is looked for again."""
    photos = {(p, 0): coloured(att / f"s{p + 1}" / "1.pgm") for p in range(4)}
    rule = CropRule(window=WINDOW)
    rows = made.face_rows(photos, rule)
    faces = batches.read(made.write(tmp_path / "windows", rows, window=WINDOW)).train
    found = vectors(name, store.KNOWN["msceleb"].part, faces, EXACT)
    model = store.open_model(name)
    embed = Embedder(replace(model, spec=model.spec.with_views("mirror")), EXACT)
    whole = [
        picture.FacePicture(
            photo, (0, 0, photo.shape[1], photo.shape[0]), row.box, picture.points_of(row.landmarks, row.box)
        )
        for photo, row in zip(photos.values(), rows, strict=True)
    ]
    assert found.shape == (4, model.spec.dimension) and (found * embed(whole, rule)).sum(axis=1).min() > 0.999


def test_a_projection_keeps_cosines_as_well_as_its_dimensions_can():
    chance = np.random.default_rng(0)
    rows = unit(chance.normal(size=(200, 6)) @ chance.normal(size=(6, 40))).astype(np.float32)
    assert np.abs(projected(rows, 6) @ projected(rows, 6).T - rows @ rows.T).max() < 1e-5
    noisy = unit(rows + chance.normal(0, 0.01, rows.shape)).astype(np.float32)
    got, (left, values, _) = projected(noisy, 6), np.linalg.svd(noisy, full_matrices=False)
    best = unit(left[:, :6] * values[:6])
    assert np.abs(got @ got.T - best @ best.T).max() < 1e-5 and got.dtype == np.float32
    wider = projected(rows, 64)
    assert wider.shape == (200, 64) and np.array_equal(wider[:, :40], rows) and not wider[:, 40:].any()


def test_too_few_photos_are_refused():
    with pytest.raises(DataError, match="100 crops or more .* received 12"):
        side_by_side([np.ones((12, 3), np.float32)])


def test_the_hashes_of_teachers_are_recorded():
    assert teacher.sha256s(["itself"]) == []
    assert teacher.sha256s(["itself", "casia", "sface"]) == [
        store.KNOWN["casia"].sha256,
        store.KNOWN["sface"].sha256,
    ]


# the bottleneck -------------------------------------------------------------


def test_without_a_ridge_a_linear_map_is_found_again():
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(3, 2, (1, 200, 20)), rng.normal(size=(20, 5))
    targets = features[0] @ kernel + rng.normal(size=5)
    found, bias = solve(features, targets, 0.0)
    assert np.abs(features[0] @ found + bias - targets).max() < 1e-4
    assert found.dtype == bias.dtype == np.float32


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
    found, bias = solve(views, targets, ridge)
    assert np.abs(probe @ found + bias - expected).max() < 1e-5


def test_the_solved_bottleneck_fits_the_network_and_both_ways_to_run_it(crops):
    from facegallery.embedder.network.runtime import on_openvino
    from facegallery.trainer.network import TrainableNetwork

    model = store.open_model("casia")
    part, start = model.spec.parts[0], model.arrays(0)
    targets = unit(np.random.default_rng(0).normal(size=(12, 16)))
    net = TrainableNetwork(start, part)
    wider = net.with_solved(*solve([*net.below("bottleneck", net.maps([crops[:12]]))], targets, 0.01))
    arrays = wider.arrays()
    assert wider.dimension == 16 and keras_network.is_folded(arrays)
    trained = unit(wider.embed(iter([crops[:12]])))
    assert np.einsum("ij,ij->i", trained, targets).min() > 0.9  # twelve photos are learnt by heart
    assert np.abs(unit(on_openvino(arrays, part, "f32")(crops[:12])) - trained).max() < 1e-4
