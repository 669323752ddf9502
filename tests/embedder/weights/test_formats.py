"""Weights files of every layout with random values: arrays and vectors are those of the program that wrote the file."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.weights import fetch, formats, store
from tests import naive, slim, torch_layout

LEAST_COSINE = 0.99999


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return naive.random_arrays(512)


@pytest.fixture(scope="module")
def some(crops) -> np.ndarray:
    return crops[:4]


@pytest.fixture(scope="module")
def facenet(arrays, some, tmp_path_factory):
    """The folder of facenet's own files, and the vectors that its graph gives."""
    folder = tmp_path_factory.mktemp("facenet")
    return folder, slim.save(arrays, (some.astype(np.float32) - 127.5) / 128, folder)


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))


def vectors(path, crops: np.ndarray) -> np.ndarray:
    part = fetch.import_file(path, "mine", "fixed")
    return Embedder(store.open_model(part.sha256), Compute("cpu", "f32"))(crops)


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_frozen_graph_with_batch_norm_apart(facenet, arrays, some):
    folder, theirs = facenet
    assert_equal(formats.read(folder / "model.pb"), arrays)
    assert (vectors(folder / "model.pb", some) * theirs).sum(1).min() >= LEAST_COSINE
    assert (theirs @ theirs.T).min() < 0.999  # photos are told apart, so that the line above means something


@pytest.mark.parametrize("end", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_a_checkpoint_by_its_prefix_or_any_of_its_files(facenet, arrays, end):
    folder, _ = facenet
    assert_equal(formats.read(formats.locate(folder / f"model.ckpt-7{end}")), arrays)


def test_a_checkpoint_gives_the_vectors_of_its_graph(facenet, some):
    folder, theirs = facenet
    assert (vectors(folder / "model.ckpt-7", some) * theirs).sum(1).min() >= LEAST_COSINE


def test_damaged_or_lone_checkpoint_files_are_refused_in_one_line(facenet, tmp_path):
    folder, _ = facenet
    shutil.copy(folder / "model.ckpt-7.index", tmp_path / "a.ckpt-7.index")
    (tmp_path / "b.index").write_bytes(b"no index")
    for name in ("a.ckpt-7", "b.index"):
        with pytest.raises(ModelError, match="damaged") as caught:
            fetch.import_file(tmp_path / name, "bad", "fixed")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fused", [True, False])
def test_another_epsilon_is_refused(tmp_path, fused):
    with tf.Graph().as_default() as graph, tf.name_scope("InceptionResnetV1/Conv2d_1a_3x3/BatchNorm"):
        if fused:
            tf.raw_ops.FusedBatchNorm(
                x=tf.zeros((1, 1, 1, 2)), scale=[1.0, 1.0], offset=[0.0, 0.0], mean=[], variance=[], epsilon=1e-5
            )
        else:
            tf.constant(1e-5, name="batchnorm/add/y")
    (tmp_path / "w.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ModelError, match="epsilon 0.001"):
        formats.read(tmp_path / "w.pb")


def write_h5(path, arrays, root):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            layer, weight = name.split("/")
            file[f"{root}{layer}/{layer}/{weight}:0"] = array


def with_gamma(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    gammas = {
        name.replace("beta", "gamma"): draw.uniform(-1.5, 1.5, a.shape).astype(np.float32)
        for name, a in arrays.items()
        if "beta" in name
    }
    return arrays | gammas


def naive_vectors(arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """By plain ops, gamma too."""

    def norm(x, layer):
        gamma, beta, mean, variance = (
            arrays[f"{layer}_BatchNorm/{p}"] for p in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    def conv(x, layer, stride, padding):
        return tf.nn.relu(norm(tf.nn.conv2d(x, arrays[f"{layer}/kernel"], stride, padding), layer))

    def up(x, layer):
        return tf.nn.conv2d(x, arrays[f"{layer}/kernel"], 1, "SAME") + arrays[f"{layer}/bias"]

    found = norm(naive.features(x, conv, up) @ arrays["Bottleneck/kernel"], "Bottleneck").numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("root", ["model_weights/", ""], ids=["whole model", "weights alone"])
def test_keras_hdf5(arrays, tmp_path, root):
    write_h5(tmp_path / "w.h5", arrays, root)
    assert_equal(formats.read(tmp_path / "w.h5"), arrays)


def test_gamma_is_taken_into_the_weights(arrays, some, tmp_path):
    theirs = with_gamma(arrays)
    write_h5(tmp_path / "w.h5", theirs, "")
    wanted = naive_vectors(theirs, (some.astype(np.float32) - 127.5) / 128)
    assert (vectors(tmp_path / "w.h5", some) * wanted).sum(1).min() >= LEAST_COSINE


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_facenet_pytorch(arrays, some, tmp_path, older):
    theirs = with_gamma(arrays)
    torch_layout.save(tmp_path / "w.pt", torch_layout.facenet_pytorch(theirs), older)
    wanted = naive_vectors(theirs, (some.astype(np.float32) - 127.5) / 128)
    assert (vectors(tmp_path / "w.pt", some) * wanted).sum(1).min() >= LEAST_COSINE


def test_weights_of_another_network_are_refused_in_one_line(arrays, facenet, tmp_path, monkeypatch):
    torch_layout.save(tmp_path / "resnet.pt", {"conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, older=False)
    write_h5(tmp_path / "vgg.h5", {"block1_conv1/kernel": np.zeros((3, 3, 3, 64), np.float32)}, "")
    write_h5(tmp_path / "deeper.h5", arrays | {"Block35_6_Conv2d_1x1/bias": np.zeros(256, np.float32)}, "")
    write_h5(tmp_path / "wider.h5", arrays | {"Conv2d_1a_3x3/kernel": np.zeros((3, 3, 3, 64), np.float32)}, "")
    with tf.Graph().as_default() as graph:
        tf.constant([1.0], name="MobilenetV1/Conv2d_0/weights")
    (tmp_path / "mobile.pb").write_bytes(graph.as_graph_def().SerializeToString())
    for name, word in [
        ("resnet.pt", "'conv1.weight'"),
        ("vgg.h5", "Bottleneck/kernel"),
        ("deeper.h5", "Block35_6"),
        ("wider.h5", "shape"),
        ("mobile.pb", "Bottleneck"),
    ]:
        with pytest.raises(ModelError, match=f"{word}.*not these weights"):
            fetch.import_file(tmp_path / name, "bad", "fixed")
    with pytest.raises(InputError, match="folder.*model.ckpt-7.index, model.pb"):
        fetch.import_file(facenet[0], "bad", "fixed")
    monkeypatch.chdir(facenet[0])
    with pytest.raises(InputError, match="is a folder"):
        fetch.import_file(Path("."), "bad", "fixed")
    with pytest.raises(InputError, match="not there"):
        fetch.import_file(tmp_path / "gone.pt", "bad", "fixed")


def test_names_of_slim():
    name = formats._layer_name
    assert (
        name("InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/weights") == "Block35_1_Branch_0_Conv2d_1x1/kernel"
    )
    assert (
        name("InceptionResnetV1/Block8/Branch_1/Conv2d_0b_1x3/Conv2D_bn_offset")
        == "Block8_6_Branch_1_Conv2d_0b_1x3/bias"
    )
    assert name("InceptionResnetV1/Repeat_2/block8_5/mul/x") is None and name("InceptionResnetV1") is None
    assert name("InceptionResnetV1/Bottleneck/BatchNorm/beta") == "Bottleneck_BatchNorm/beta"
    assert name("InceptionResnetV2/Conv2d_1a_3x3/weights") is None
