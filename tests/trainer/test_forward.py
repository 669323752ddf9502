import keras
import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.network import keras_network
from facegallery.embedder.network.runtime_tensorflow import standardise
from facegallery.trainer import forward
from tests import crops

FAR, GRADIENTS_FAR = {"f32": 1e-4, "bf16": 0.02}, {"f32": 1e-4, "bf16": 0.15}  # relative; ReLUs near 0 turn in bf16


def same(x: tf.Tensor) -> tf.Tensor:
    return x


def far(a: tf.Tensor, b: tf.Tensor) -> float:
    """The length of the difference over that of b."""
    return float(tf.norm(tf.cast(a, tf.float32) - b) / tf.norm(b))


@pytest.fixture
def tiny(monkeypatch):
    crops.tiny(monkeypatch.setattr)


def model(folded: bool) -> keras.Model:
    """Random weights, biases and statistics, so that each counts."""
    chance = np.random.default_rng(0)
    arrays = crops.random_arrays(8, folded)
    for name, a in arrays.items():
        if name.endswith(("bias", "beta", "moving_mean")):
            arrays[name] = chance.normal(0, 0.1, a.shape).astype(np.float32)
        if name.endswith("moving_variance"):
            arrays[name] = chance.uniform(0.5, 2, a.shape).astype(np.float32)
    return keras_network.load(arrays)


@pytest.fixture(scope="module")
def photos() -> tf.Tensor:
    return standardise(tf.constant(np.stack([crops.picture(p, 0) for p in range(6)])), "fixed")


def gradients(run, net: keras.Model, x: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Prelogits, and each variable's gradient of a sum that weighs them."""
    with tf.GradientTape() as tape:
        y = run(x)
        loss = tf.reduce_sum(y * tf.constant(np.random.default_rng(1).normal(size=y.shape).astype(np.float32)))
    variables = net.trainable_variables
    names = {id(v): name for name, v in keras_network.variables_by_name(net).items()}
    return y, dict(
        zip((names[id(v)] for v in variables), tape.gradient(loss, [v.value for v in variables]), strict=True)
    )


@pytest.mark.parametrize("precision", forward.DTYPES)
@pytest.mark.parametrize("folded, live", [(False, False), (False, True), (True, False)])
def test_vectors_and_gradients_are_those_of_the_keras_model(tiny, photos, precision, folded, live):
    net, other = model(folded), model(folded)
    expected, right = gradients(lambda x: other(x, training=live), other, photos)
    got, found = gradients(lambda x: forward.prelogits(net, x, precision, same, live=live), net, photos)
    assert got.dtype == tf.float32 and far(got, expected) < FAR[precision]
    assert found.keys() == right.keys() and all(far(found[k], right[k]) < GRADIENTS_FAR[precision] for k in right)
    before, after = (
        crops.arrays_of(other),
        crops.arrays_of(net),
    )  # the statistics, which moved where they are live
    assert all(far(after[k], before[k]) < FAR[precision] for k in before)


def test_inception_resnet_in_f32_is_the_keras_model_and_in_bf16_near(photos):
    net = model(False)
    expected = net(photos, training=False)
    assert far(forward.prelogits(net, photos, "f32", same, live=False), expected) < FAR["f32"]
    assert 1e-5 < far(forward.prelogits(net, photos, "bf16", same, live=False), expected) < FAR["bf16"]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("precision", forward.DTYPES)
def test_the_parts_make_the_whole(tiny, photos, folded, precision):
    net = model(folded)
    whole, maps = forward.prelogits(net, photos, precision, same, live=False), forward.maps(net, photos, precision)
    assert maps.shape == (6, 9, 9, 8) and maps.dtype == forward.DTYPES[precision]
    assert np.abs(forward.upper(net, maps, precision, same) - whole).max() < 1e-6
    assert np.abs(forward.bottleneck(net, forward.pooled(net, maps, precision)) - whole).max() < 1e-5


def test_inception_resnets_maps_lead_to_its_vectors(photos):
    net = model(True)
    maps = forward.maps(net, photos, "f32")
    assert (
        maps.shape == (6, 8, 8, 896)
        and far(forward.upper(net, maps, "f32", same), net(photos, training=False)) < FAR["f32"]
    )


def test_dropout_comes_before_the_bottleneck(tiny, photos):
    seen = []
    forward.prelogits(model(False), photos, "bf16", lambda x: seen.append(x) or x, live=False)
    assert [(x.shape, x.dtype) for x in seen] == [((6, 16), tf.float32)]
