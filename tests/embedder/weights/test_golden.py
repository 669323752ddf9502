"""Golden tests: our network against the frozen graph in TensorFlow, and against an independent reading of the HDF5."""

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import ModelError
from facegallery.embedder.network import keras_network
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import store
from tests import naive
from tests.conftest import DATA, close
from tests.crops import arrays_of

LEAST_COSINE = 0.99999


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_casia_equals_the_frozen_graph_run_by_tensorflow(archives, crops):
    graph = tf.compat.v1.GraphDef.FromString(archives["casia"].read_bytes())
    with tf.Graph().as_default() as g, tf.compat.v1.Session(graph=g) as session:
        tf.import_graph_def(graph, name="")
        x = (crops.astype(np.float32) - 127.5) / 128
        theirs = np.concatenate([session.run("embeddings:0", {"input:0": x[i : i + 1]}) for i in range(len(x))])
    ours = Embedder(store.open_model("casia"), Compute("cpu", "f32"))(crops)
    assert theirs.shape == ours.shape == (40, 512)
    assert cosines(theirs, ours).min() >= LEAST_COSINE


def naive_msceleb(path: Path, x: np.ndarray) -> np.ndarray:
    """The network again on arrays read one by one."""
    file = h5py.File(path)["model_weights"]

    def array(layer, weight):
        return file[f"{layer}/{layer}/{weight}:0"][()]

    def norm(x, layer):
        layer += "_BatchNorm"
        return (x - array(layer, "moving_mean")) / np.sqrt(array(layer, "moving_variance") + 1e-3) + array(
            layer, "beta"
        )

    def conv(x, layer, stride, padding):
        return tf.nn.relu(norm(tf.nn.conv2d(x, array(layer, "kernel"), stride, padding), layer))

    def up(x, layer):
        return tf.nn.conv2d(x, array(layer, "kernel"), 1, "SAME") + array(layer, "bias")

    return norm(naive.features(x, conv, up) @ array("Bottleneck", "kernel"), "Bottleneck").numpy()


def test_msceleb_equals_an_independent_reading_of_the_hdf5(archives, crops):
    model = store.open_model("msceleb")
    x = close(crops).astype(np.float64)
    deviation = np.maximum(x.std((1, 2, 3), keepdims=True), 1 / np.sqrt(x[0].size))
    theirs = naive_msceleb(archives["msceleb"], ((x - x.mean((1, 2, 3), keepdims=True)) / deviation).astype(np.float32))
    ours = Embedder(model, Compute("cpu", "f32"))(crops)
    assert cosines(theirs, ours).min() >= LEAST_COSINE


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A data folder with msceleb of its own, which a test may damage."""
    part = store.KNOWN["msceleb"].part
    shutil.copytree(DATA / "models" / part.sha256[:16], tmp_path / "models" / part.sha256[:16])
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    return store.stored_file(part)


def test_a_changed_file_is_never_run(copied):
    data = bytearray(copied.read_bytes())
    data[-1] ^= 1
    copied.write_bytes(data)
    with pytest.raises(ModelError, match="damaged or was changed"):
        store.open_model("msceleb").arrays(0)
    assert [(part.name, sound) for part, sound in store.verify()] == [("msceleb", False)]
    copied.unlink()
    with pytest.raises(ModelError, match="weights fetch msceleb"):
        store.open_model("msceleb")


def test_store_open_and_link_a_model(copied, tmp_path):
    arrays = store.open_model("msceleb").arrays(0)
    changed = arrays | {"Bottleneck/kernel": arrays["Bottleneck/kernel"] + 0.5}
    part = store.store_part(changed, "mine", "per_image", store.KNOWN["msceleb"].sha256)
    assert part.sha256 == hashlib.sha256(store.stored_file(part).read_bytes()).hexdigest() and part.dimension == 128
    spec = store.open_model(part.sha256[:16]).spec
    assert spec == store.open_model("mine").spec
    store.write_model(tmp_path / "MODEL", spec)
    shutil.rmtree(store.stored_file(part).parent)
    again = store.open_model(str(tmp_path / "MODEL")).arrays(0)
    assert np.array_equal(again["Bottleneck/kernel"], changed["Bottleneck/kernel"])
    with pytest.raises(ModelError, match="expected a model"):
        store.open_model("nothing-of-this-name")


def test_weights_of_another_network_are_refused():
    arrays = store.open_model("msceleb").arrays(0)
    model = keras_network.build(128)
    for change, word in [
        ({k: v for k, v in arrays.items() if k != "Bottleneck/kernel"}, "misses 'Bottleneck/kernel'"),
        (arrays | {"extra/kernel": np.zeros(1)}, "unknown 'extra/kernel'"),
        (arrays | {"Bottleneck/kernel": np.zeros((3, 3), np.float32)}, "shape"),
        (arrays | {"Bottleneck/kernel": np.full((1792, 128), np.nan, np.float32)}, "NaN"),
    ]:
        with pytest.raises(ModelError, match=word):
            keras_network.set_weights(model, change)
    with pytest.raises(ModelError, match="Bottleneck/kernel"):
        keras_network.load({})
    assert keras_network.is_folded(store.open_model("casia").arrays(0)) and not keras_network.is_folded(arrays)
    keras_network.set_weights(model, arrays)
    assert all(np.array_equal(v, arrays[k]) for k, v in arrays_of(model).items())


def test_two_stored_models_of_one_name_are_refused_by_their_hashes(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    parts = [Part("club", digit * 64, 128, "fixed", "ab" * 32) for digit in "12"]
    for part in parts:
        folder = store.make_folder(store.stored_file(part).parent)
        (folder / "spec.json").write_text(FaceSpec(parts=(part,)).to_json())
        store.stored_file(part).write_bytes(b"weights")
    with pytest.raises(ModelError, match="'club'.*1{16}, 2{16}"):
        store.open_model("club")
    assert [store.open_model(digit * 16).spec.parts for digit in "12"] == [(part,) for part in parts]
