from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from embedder import weights
from embedder.errors import SystemFault
from embedder.runtime import Embedder, choose_device, standardise


@pytest.fixture(scope="module")
def duo(crops):
    return Embedder(weights.open_model("duo"))(crops)


def test_standardisations_against_numpy():
    x = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    x[2] = 77  # a flat crop: the deviation is bounded below
    f = x.astype(np.float64)
    deviation = np.maximum(f.std((1, 2, 3), keepdims=True), 1 / np.sqrt(160 * 160 * 3))
    expected = (f - f.mean((1, 2, 3), keepdims=True)) / deviation
    assert np.abs(standardise(tf.constant(x), "per_image").numpy() - expected).max() < 1e-4
    assert np.abs(standardise(tf.constant(x), "fixed").numpy() - (f - 127.5) / 128).max() < 1e-6


def test_vectors_have_length_1_and_do_not_depend_on_the_batch(crops):
    embed = Embedder(weights.open_model("msceleb"))
    vectors = embed(crops)
    assert vectors.shape == (40, 128) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert np.array_equal(embed(crops[:5]), vectors[:5])
    assert embed(crops[:0]).shape == (0, 128)


def test_duo_is_the_unit_length_concatenation(crops, duo):
    parts = [Embedder(weights.open_model(name))(crops) for name in ("msceleb", "casia")]
    assert np.abs(duo - np.concatenate(parts, axis=1) / np.sqrt(2)).max() < 1e-6


def test_flip_averages_the_mirror_image(crops):
    model = weights.open_model("msceleb")
    plain = Embedder(model)
    both = plain(crops[:4]) + plain(crops[:4, :, ::-1])
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    flipped = Embedder(replace(model, spec=replace(model.spec, flip=True)))(crops[:4])
    assert np.abs(flipped - expected).max() < 1e-6


def test_real_faces_are_told_apart(att, crops, duo):
    scores = duo @ duo.T
    np.fill_diagonal(scores, -1)
    assert scores.max() < 0.95


def test_a_gpu_that_is_not_there_is_refused():
    if tf.config.list_physical_devices("GPU"):
        assert choose_device("gpu") == "GPU:0"
    else:
        with pytest.raises(SystemFault, match="expected a GPU"):
            choose_device("gpu")
    assert choose_device("cpu") == "CPU:0"
