from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.picture import seen_by
from facegallery.embedder.network import runtime_tensorflow
from facegallery.embedder.network.preprocess import middle, standardise, unit
from facegallery.embedder.network.runtime import Embedder, on_openvino
from facegallery.embedder.weights import store
from tests.conftest import close

EXACT = Compute("cpu", "f32")


@pytest.fixture(scope="module")
def duo(crops):
    return Embedder(store.open_model("duo"))(crops)


def test_standardisations_against_numpy():
    x = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    x[2] = 77  # a flat crop: the deviation is bounded below
    f = x.astype(np.float64)
    deviation = np.maximum(f.std((1, 2, 3), keepdims=True), 1 / np.sqrt(160 * 160 * 3))
    expected = (f - f.mean((1, 2, 3), keepdims=True)) / deviation
    for how, wanted, bound in (("per_image", expected, 1e-4), ("fixed", (f - 127.5) / 128, 1e-6)):
        assert np.abs(standardise(x, how) - wanted).max() < bound and standardise(x, how).dtype == np.float32
        assert np.abs(runtime_tensorflow.standardise(tf.constant(x), how).numpy() - wanted).max() < bound


@pytest.mark.parametrize("zoom", [1.02, 1.14, 3.0])
def test_a_zoom_is_pillows_enlargement_of_the_middle(crops, zoom):
    found = middle(crops[:3], zoom)
    assert found.dtype == np.float32 and np.abs(found - close(crops[:3], zoom)).max() <= 1  # Pillow rounds, twice
    assert np.abs(runtime_tensorflow.middle(tf.constant(crops[:3]), zoom).numpy() - found).max() < 1e-3


def test_a_zoom_of_1_is_the_crop_itself(crops):
    assert middle(crops, 1.0) is crops


def test_vectors_have_length_1_and_do_not_depend_on_the_batch(crops):
    embed = Embedder(store.open_model("msceleb"))
    vectors = embed(crops)
    assert vectors.shape == (40, 128) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert np.array_equal(embed(crops[:5]), vectors[:5])
    assert embed(crops[:0]).shape == (0, 128)


def test_the_lengths_are_those_of_sfaces_vectors_before_they_are_scaled(crops, windows):
    faces, rule = windows
    model = store.open_model("sface")
    embed, part = Embedder(model, EXACT), model.spec.parts[0]
    vectors, lengths = embed.measured(faces, rule)
    raw = on_openvino(model.weights(0), part, "f32")(seen_by(part, faces, rule))
    assert np.abs(lengths - np.linalg.norm(raw, axis=1)).max() < 1e-4 and lengths.dtype == np.float32
    assert np.abs(vectors - unit(raw)).max() < 1e-6 and (embed(faces, rule) == vectors).all()
    assert 5 < np.median(lengths) < 20
    assert Embedder(store.open_model("msceleb"), EXACT).measured(crops[:2])[1] is None
    assert embed.measured([])[1] is None


def test_duo_is_the_weighted_unit_length_concatenation(crops, duo):
    first, second = (Embedder(store.open_model(name))(crops) for name in ("msceleb", "casia"))
    assert np.abs(duo - np.concatenate([first, 0.7 * second], axis=1) / np.sqrt(1.49)).max() < 1e-6


def test_margins_average_half_the_zoom_where_a_network_zooms(crops, duo):
    model = store.open_model("msceleb")
    network = on_openvino(model.arrays(0), model.spec.parts[0], "f32")
    cut = [close(crops[:4], zoom) for zoom in (1.14, 1.07)]
    expected = unit(sum(unit(network(x)) for images in cut for x in (images, images[:, :, ::-1])))
    for few in (False, True):
        found = Embedder(replace(model, spec=model.spec.with_views("all")), EXACT, few=few)(crops[:4])
        assert np.abs(found - expected).max() < 1e-5
    both = store.open_model("duo")
    found = Embedder(replace(both, spec=both.spec.with_views("margins")))(crops)
    assert (
        np.abs(unit(found[:, 128:]) - unit(duo[:, 128:])).max()
        < 1e-6
        < np.abs(unit(found[:, :128]) - unit(duo[:, :128])).max()
    )


def test_margins_need_a_network_that_zooms():
    spec = store.open_model("casia").spec
    with pytest.raises(InputError, match="take plain or mirror"):
        spec.with_views("margins")
    assert spec.with_views("plain") == spec and spec.with_views("mirror").flip


def test_tensorflow_sees_the_same_views(crops):
    model = store.open_model("msceleb")
    run, part = runtime_tensorflow.compiled(model.arrays(0), model.spec.parts[0], "CPU:0"), model.spec.parts[0]
    less = on_openvino(model.arrays(0), part, "f32")(crops[:3], 1.07)
    assert (
        np.abs(unit(run(crops[:3], 1.07)) - unit(less)).max() < 1e-5 < np.abs(unit(run(crops[:3])) - unit(less)).max()
    )


def test_flip_averages_the_mirror_image(crops):
    model = store.open_model("casia")
    plain = Embedder(model)
    both = plain(crops[:4]) + plain(crops[:4, :, ::-1])
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    flipped = Embedder(replace(model, spec=replace(model.spec, flip=True)))(crops[:4])
    assert np.abs(flipped - expected).max() < 1e-6


@pytest.mark.parametrize("views", ["plain", "all"])
def test_contracts_of_before_see_the_middle_of_the_crop(crops, views):
    model = store.open_model("msceleb").with_views(views)
    part = replace(model.spec.parts[0], crop="box")
    network = on_openvino(model.arrays(0), part, "f32")
    mirrored = (crops[:4], crops[:4, :, ::-1])
    every = [(x, zoom) for x in mirrored for zoom in (1.14, 1.07)] if views == "all" else [(crops[:4], 1.14)]
    expected = unit(sum(unit(network(x, zoom)) for x, zoom in every))
    found = Embedder(replace(model, spec=replace(model.spec, parts=(part,))), EXACT)(crops[:4])
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["msceleb", pytest.param("casia", marks=pytest.mark.slow)])
def test_openvino_gives_tensorflows_vectors(crops, name):
    """Batch norm live and folded; a batch that is not full."""
    model = store.open_model(name)
    seen = close(crops[:35]) if name == "msceleb" else crops[:35]
    reference = unit(runtime_tensorflow.compiled(model.arrays(0), model.spec.parts[0], "CPU:0")(seen))
    exact = Embedder(model, EXACT)(crops[:35])
    assert np.abs(exact - reference).max() < 1e-5
    fast = Embedder(model, Compute("cpu", "bf16"))(crops[:35])
    cosines = np.einsum("ij,ij->i", fast, exact)
    assert cosines.min() > 0.999 and cosines.mean() > 0.9998


def test_what_ran_is_recorded(crops):
    embedder = Embedder(store.open_model("msceleb"), EXACT)
    assert embedder.spec.precision == "f32" and embedder.spec.runtime.startswith("openvino 20")
    assert embedder.where.startswith("msceleb on CPU:0 (openvino 20")


def test_several_threads_at_once_give_the_same_vectors(crops):
    embed = Embedder(store.open_model("msceleb"))
    expected = embed(crops)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda i: embed(crops[i : i + 3]), [*range(0, 36, 3)] * 3))
    assert all(np.array_equal(part, expected[i : i + 3]) for part, i in zip(parts, [*range(0, 36, 3)] * 3, strict=True))


def test_real_faces_are_told_apart(att, crops, duo):
    scores = duo @ duo.T
    np.fill_diagonal(scores, -1)
    assert scores.max() < 0.95
