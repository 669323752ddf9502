"""ONNX files that do not fit, lead elsewhere or would harm: each is refused in one line and leaves nothing behind."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facegallery.embedder.errors import ModelError
from facegallery.embedder.weights import fetch, reader_process
from tests import onnx_networks as networks
from tests.onnx_networks import BOX, last, network, of_type, saved


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """Models are stored in a folder of the test's own."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    "model, words",
    [
        (networks.external(), "another file"),
        (networks.external_in_an_attribute(), "another file"),
        (networks.external_in_a_branch(), "another file"),
        (networks.external_without_a_place(), "another file"),
        (networks.custom(), "custom operator .*com.example"),
        (networks.functions(), "functions of its own"),
        (networks.loop(), "a loop"),
        (last("Special"), "OpenVINO reads.*Special"),
        (networks.two_outputs(), "one output of vectors, .* has 2"),
        (networks.two_inputs(), "one input of images, .* has 2"),
        (network(side=48), "--size 48 .*received 32"),
        (last("Add", inputs=("v", "nan")), "finite.*NaN"),
        (last("Mul", inputs=("v", "zero")), "different vectors"),
        (last("RandomNormalLike"), "OpenVINO reads|same vector for the same face|batch"),
        (last("RandomUniformLike"), "OpenVINO reads|same vector for the same face"),
        (last("Transpose", perm=[1, 0]), "one vector an image"),
        (network(dimension=2), "vectors of 16 to 4096 numbers"),
        (network(dimension=5000), "vectors of 16 to 4096 numbers"),
        (of_type(TensorProto.UINT8), "--mean 0 --scale 1 .*uint8"),
        (of_type(TensorProto.INT64), "float or uint8 numbers"),
        (networks.grey(), r"channel count \(1\)"),
        (networks.oblong(), "square"),
        (networks.no_shape(), "OpenVINO reads.*rank"),
        (onnx.ModelProto(ir_version=8), "damaged or another .*no graph"),
        (b"", "damaged or another"),
        (b"no model", "damaged or another"),
        (b"<?xml version='1.0'?><net/>", "damaged or another"),
        (network().SerializeToString()[:-40], "damaged or another|OpenVINO reads"),
        (b"\x3a\x05" + b"\x0a\x03\x3a\x01a", "custom operator"),
        (b"\x3a\x04" + b"\x0a\x02\x38\x07", "damaged or another"),
        (networks.deep(), "damaged or another"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(model, words, tmp_path, data):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (tmp_path / "mine.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        fetch.import_file(tmp_path / "mine.onnx", "mine", None, None, BOX)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert not list(data.rglob("*"))


def test_a_network_that_ends_the_process_takes_too_long_or_is_too_large_is_refused(tmp_path, data, monkeypatch):
    path = saved(network(), tmp_path)
    monkeypatch.setattr(reader_process, "SECONDS", 0.01)
    with pytest.raises(ModelError, match="within"):
        fetch.import_file(path, "mine", None, None, BOX)
    monkeypatch.setattr(reader_process, "SECONDS", 60)
    monkeypatch.setattr(reader_process, "command", lambda *_: ["sh", "-c", "kill -SEGV $$"])
    with pytest.raises(ModelError, match="ended with -11"):
        fetch.import_file(path, "mine", None, None, BOX)
    with open(path, "wb") as file:
        file.truncate(2 << 30)  # a hole
    with pytest.raises(ModelError, match="at most"):
        fetch.import_file(path, "mine", None, None, BOX)
    assert not list(data.rglob("*"))


def test_a_network_that_fills_the_memory_is_refused(tmp_path, data):
    sizes = numpy_helper.from_array(np.array([1 << 18, 1 << 18]), "sizes")
    model = network(
        last=[
            helper.make_node("ConstantOfShape", ["sizes"], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["v", "sum"], ["y"]),
        ]
    )
    model.graph.initializer.append(sizes)
    with pytest.raises(ModelError, match="mine.onnx"):
        fetch.import_file(saved(model, tmp_path), "mine", None, None, BOX)
    assert not list(data.rglob("*"))
