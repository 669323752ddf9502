"""ONNX networks: their vectors against onnx's own reference, and files that are refused in one line."""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.export.export import export
from facegallery.embedder.faces import samples
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import fetch, onnx_check, reader_process, store
from facegallery.embedder.weights.onnx_import import Seen
from tests.conftest import DATA
from tests.embedder.faces.test_sface import as_shipped

SIDE, DIMENSION = 32, 24
BOX = Seen(crop="box", size=SIDE, mean=100.0, scale=50.0)
F32 = Compute("cpu", "f32")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """Models are stored in a folder of the test's own."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def network(batch="n", side=SIDE, *, nhwc=False, middle=None, last=None, dimension=DIMENSION) -> onnx.ModelProto:
    """A small network: images -> convolution -> 8 means -> vectors.

    middle: nodes from "g" (n, 8, 1, 1) to "m" (n, 8). last: nodes from "v" to "y".
    """
    draw = np.random.default_rng(3)
    tensors = [
        numpy_helper.from_array(draw.normal(size=(8, 3, 5, 5)).astype(np.float32) / 8, "kernel"),
        numpy_helper.from_array(draw.normal(size=(8, dimension)).astype(np.float32), "matrix"),
        numpy_helper.from_array(np.array([1, 8]), "one"),
        numpy_helper.from_array(np.array([-1, 8]), "any"),
        numpy_helper.from_array(np.array([1, 2, 4]), "halves"),
        numpy_helper.from_array(np.array(np.nan, np.float32), "nan"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    shape = [batch, side, side, 3] if nhwc else [batch, 3, side, side]
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        helper.make_node("Conv", ["t" if nhwc else "x", "kernel"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        *(middle or [helper.make_node("Reshape", ["g", "any"], ["m"])]),
        helper.make_node("MatMul", ["m", "matrix"], ["v" if last else "y"]),
        *(last or []),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


BURNT_IN = (
    helper.make_node("Reshape", ["g", "halves"], ["h"]),
    helper.make_node("Reshape", ["h", "one"], ["m"]),
)
MIXED = (  # without a fault for any batch, but each face has the mean of the batch taken off
    helper.make_node("ReduceMean", ["g"], ["all"], axes=[0], keepdims=1),
    helper.make_node("Mul", ["all", "half"], ["h"]),
    helper.make_node("Sub", ["g", "h"], ["d"]),
    helper.make_node("Reshape", ["d", "any"], ["m"]),
)


def of_type(kind: int) -> onnx.ModelProto:
    """The same network with an input of other numbers."""
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.input[0].name = "given"
    model.graph.node.insert(0, helper.make_node("Cast", ["given"], ["x"], to=TensorProto.FLOAT))
    return model


def mixed() -> onnx.ModelProto:
    model = network(middle=MIXED)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    return model


def saved(model: onnx.ModelProto, folder: Path, name="mine.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def expected(model: onnx.ModelProto, faces: np.ndarray, seen: Seen = BOX) -> np.ndarray:
    """The unit vectors of faces, uint8 RGB (n, s, s, 3), one by one, by onnx's reference."""
    x = ((faces if seen.colour != "bgr" else faces[..., ::-1]).astype(np.float32) - seen.mean) / seen.scale
    channels_last = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 3
    x = x if channels_last else x.transpose(0, 3, 1, 2)
    reference = ReferenceEvaluator(model)
    return unit(np.concatenate([reference.run(None, {"x": np.ascontiguousarray(one[None])})[0] for one in x]))


# networks that fit ----------------------------------------------------------


@pytest.mark.parametrize(
    "model, together",
    [
        (network(), True),
        (network(1), True),
        (network(4), True),
        (network(nhwc=True), True),
        (network(1, nhwc=True), True),
        (network(side="s"), True),
        (network(1, middle=BURNT_IN), False),
        (mixed(), False),
    ],
    ids=["dynamic", "one", "four", "nhwc", "nhwc-one", "any-size", "burnt-in", "mixed"],
)
def test_vectors_are_those_of_onnx(model, together, tmp_path, data, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    part = fetch.import_file(saved(model, tmp_path), "mine", None, None, BOX)
    assert (part.network, part.crop, part.size, part.dimension) == ("onnx", "box", SIDE, DIMENSION)
    assert part.sha256 == hashlib.sha256((tmp_path / "mine.onnx").read_bytes()).hexdigest()
    assert "assumed --colour rgb;" in caplog.messages[0]
    assert "drawn faces" in caplog.messages[1] and ("one at a time" in caplog.messages[1]) is not together
    faces = samples.drawn(11, SIDE)
    for few in (False, True):
        embedder = Embedder(store.open_model("mine"), F32, few=few)
        vectors = embedder(faces)
        assert (vectors * expected(model, faces)).sum(1).min() >= 0.999999
        assert np.array_equal(embedder(faces[5:6])[0], vectors[5])
    assert store.verify() == [(part, True)]
    assert {file.name for file in data.rglob("*") if file.is_file()} == {
        *(f"{part.sha256[:16]}.onnx", "spec.json", "onnx.json", "one-f32.blob")
    }


def test_colours_and_the_contract_travel(tmp_path):
    seen = replace(BOX, colour="bgr")
    model = network()
    part = fetch.import_file(saved(model, tmp_path), "mine", None, 1.5, seen)
    assert (part.colour, part.mean, part.scale, part.zoom) == ("BGR", 100.0, 50.0, 1.5)
    spec = store.open_model(part.sha256).spec
    assert FaceSpec.from_json(spec.to_json()) == spec
    plain = store.Model(FaceSpec.of(replace(part, zoom=1.0)), store.open_model("mine").files)
    faces = samples.drawn(3, SIDE)
    assert (Embedder(plain, F32)(faces) * expected(model, faces, seen)).sum(1).min() >= 0.999999
    assert FaceSpec.of(part).fingerprint != FaceSpec.of(replace(part, mean=0.0)).fingerprint


@pytest.mark.parametrize("kind, least", [(TensorProto.FLOAT16, 0.99999), (TensorProto.UINT8, 0.999999)])
def test_inputs_of_other_numbers(kind, least, tmp_path):
    seen = replace(BOX, mean=0.0, scale=1.0)
    fetch.import_file(saved(of_type(kind), tmp_path), "mine", None, None, seen)
    faces = samples.drawn(3, SIDE)
    assert (Embedder(store.open_model("mine"), F32)(faces) * expected(network(), faces, seen)).sum(1).min() >= least


def test_bf16_is_near(tmp_path):
    fetch.import_file(saved(network(), tmp_path), "mine", None, None, BOX)
    faces = samples.drawn(5, SIDE)
    vectors = [Embedder(store.open_model("mine"), Compute("cpu", precision))(faces) for precision in ("f32", "bf16")]
    assert (vectors[0] * vectors[1]).sum(1).min() >= 0.999


def test_real_faces_are_taken_where_the_demo_has_them(att, tmp_path, data, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    data.mkdir()
    (data / "att").symlink_to(att)
    fetch.import_file(saved(network(), tmp_path), "mine", None, None, BOX)
    assert f"8 faces of {data / 'att'}" in caplog.messages[1]


# a model's folder that somebody copied --------------------------------------


def copied(folder: Path, model: onnx.ModelProto, **fields) -> Path:
    """A model's folder as another machine would have made it."""
    content = model.SerializeToString()
    folder.mkdir(exist_ok=True)
    part = Part("mine", "0" * 64, DIMENSION, "affine", network="onnx", size=SIDE, mean=BOX.mean, scale=BOX.scale)
    part = replace(part, sha256=hashlib.sha256(content).hexdigest(), **fields)
    target = folder / "MODEL"
    target.mkdir()
    (target / "spec.json").write_text(FaceSpec.of(part).to_json())
    (target / f"{part.sha256[:16]}.onnx").write_bytes(content)
    return target


def test_a_copied_model_is_tried_before_it_runs_and_only_once(tmp_path, monkeypatch):
    model = network(1, middle=BURNT_IN)
    folder = copied(tmp_path, model)
    faces = samples.drawn(3, SIDE)
    vectors = Embedder(store.open_model(str(folder)), F32)(faces)
    assert (vectors * expected(model, faces)).sum(1).min() >= 0.999999
    monkeypatch.setattr(onnx_check, "run_apart", lambda *_, **__: pytest.fail("tried again"))
    assert np.array_equal(Embedder(store.open_model(str(folder)), F32)(faces), vectors)


def test_a_network_is_tried_again_as_it_is_fed_now(tmp_path, monkeypatch):
    part = fetch.import_file(saved(network(), tmp_path), "mine", None, None, BOX)
    files = store.open_model("mine").files
    fed: list[onnx_check.Trial] = []
    monkeypatch.setattr(onnx_check, "check", lambda _, __, trial: fed.append(trial) or found)
    found = onnx_check.Finding(SIDE, DIMENSION, together=True, pictures="")
    for other in (part, replace(part, mean=0.0), replace(part, scale=2.0)):
        Embedder(store.Model(FaceSpec.of(other), files), F32).load()
    assert [(trial.mean, trial.scale) for trial in fed] == [(0.0, 50.0), (100.0, 2.0)]


def test_a_hostile_copied_model_is_refused(tmp_path):
    model = network()
    model.graph.node[0].domain = "com.example"
    for few in (False, True):
        with pytest.raises(ModelError, match="custom operator"):
            Embedder(store.open_model(str(copied(tmp_path / str(few), model))), F32, few=few).load()


def test_a_copied_model_with_another_dimension_or_changed_bytes_is_refused(tmp_path):
    folder = copied(tmp_path, network(), dimension=25)
    with pytest.raises(ModelError, match="dimension 25"):
        Embedder(store.open_model(str(folder)), F32).load()
    folder = copied(tmp_path / "other", network())
    with open(next(folder.glob("*.onnx")), "ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="damaged or was changed"):
        Embedder(store.open_model(str(folder)), F32).load()


# files that are refused -----------------------------------------------------


def external() -> onnx.ModelProto:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=__file__)
    return model


def external_in_an_attribute() -> onnx.ModelProto:
    tensor = TensorProto(name="a", data_type=1, dims=[4])
    tensor.external_data.add(key="location", value="/etc/passwd")
    model = network()
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    return model


def external_without_a_place() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return model


def external_in_a_branch() -> onnx.ModelProto:
    model = network()
    branch = onnx.GraphProto(name="b")
    branch.initializer.extend(external().graph.initializer[:1])
    model.graph.node.append(helper.make_node("If", ["x"], ["unused"], then_branch=branch, else_branch=branch))
    return model


def custom() -> onnx.ModelProto:
    model = network(last=[helper.make_node("Special", ["v"], ["y"], domain="com.example")])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def functions() -> onnx.ModelProto:
    model = network()
    model.functions.add(name="F", domain="com.example")
    return model


def loop() -> onnx.ModelProto:
    return network(last=[helper.make_node("Loop", ["", "", "v"], ["y"], body=onnx.GraphProto(name="b"))])


def two_outputs() -> onnx.ModelProto:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    return model


def two_inputs() -> onnx.ModelProto:
    model = network(last=[helper.make_node("Add", ["v", "more"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, DIMENSION]))
    return model


def last(*operators: str, inputs=("v",), **attributes) -> onnx.ModelProto:
    return network(last=[helper.make_node(operators[0], list(inputs), ["y"], **attributes)])


def grey() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


def oblong() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 48
    return model


def no_shape() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def deep() -> bytes:
    """Graphs within attributes of nodes within graphs, by hand."""
    graph = b""
    for _ in range(2000):
        for key in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            graph = key + encoded(len(graph)) + graph
    return b"\x3a" + encoded(len(graph)) + graph


def encoded(number: int) -> bytes:
    found = b""
    while number >= 128:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


@pytest.mark.parametrize(
    "model, words",
    [
        (external(), "another file"),
        (external_in_an_attribute(), "another file"),
        (external_in_a_branch(), "another file"),
        (external_without_a_place(), "another file"),
        (custom(), "custom operator .*com.example"),
        (functions(), "functions of its own"),
        (loop(), "a loop"),
        (last("Special"), "OpenVINO reads.*Special"),
        (two_outputs(), "one output of vectors, .* has 2"),
        (two_inputs(), "one input of images, .* has 2"),
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
        (grey(), r"channel count \(1\)"),
        (oblong(), "square"),
        (no_shape(), "OpenVINO reads.*rank"),
        (onnx.ModelProto(ir_version=8), "damaged or another .*no graph"),
        (b"", "damaged or another"),
        (b"no model", "damaged or another"),
        (b"<?xml version='1.0'?><net/>", "damaged or another"),
        (network().SerializeToString()[:-40], "damaged or another|OpenVINO reads"),
        (b"\x3a\x05" + b"\x0a\x03\x3a\x01a", "custom operator"),
        (b"\x3a\x04" + b"\x0a\x02\x38\x07", "damaged or another"),
        (deep(), "damaged or another"),
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


# options, and what other commands say ---------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": 4}, "8 to"),
        ({"size": 1025}, "8 to 1024"),
        ({"scale": 0.0}, "scale"),
        ({"mean": float("nan")}, "finite"),
    ],
)
def test_options_that_no_network_has_are_refused_before_the_file_is_read(options, words, tmp_path):
    (tmp_path / "mine.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=words):
        fetch.import_file(tmp_path / "mine.onnx", "mine", None, None, replace(BOX, **options))


def test_options_of_one_format_are_refused_for_another(tmp_path):
    (tmp_path / "mine.onnx").write_bytes(b"")
    (tmp_path / "mine.pt").write_bytes(b"")
    with pytest.raises(InputError, match="--standardisation.*leave"):
        fetch.import_file(tmp_path / "mine.onnx", "mine", "fixed")
    with pytest.raises(InputError, match="ONNX file for --crop, --mean"):
        fetch.import_file(tmp_path / "mine.pt", "mine", "fixed", None, Seen(crop="box", mean=1.0))
    with pytest.raises(InputError, match="--zoom with --crop box"):
        fetch.import_file(tmp_path / "mine.onnx", "mine", None, 1.2)


def test_the_size_is_the_files_own_unless_it_is_given(tmp_path):
    assert fetch.import_file(saved(network(side=48), tmp_path), "a", None, None, Seen()).size == 48
    assert fetch.import_file(saved(network(side="s"), tmp_path), "b", None, None, Seen()).size == 112


def test_int8_gpu_export_quantise_and_train_refuse_an_onnx_network(tmp_path, run, data):
    fetch.import_file(saved(network(), tmp_path), "mine", None, None, BOX)
    model = store.open_model("mine")
    with pytest.raises(InputError, match="precision auto, f32 or bf16 for mine"):
        Embedder(model, Compute("cpu", "int8"))
    with pytest.raises(InputError, match="mine.*runs on the CPU only: take --device cpu"):
        Embedder(model, Compute("GPU:0", "f32"))
    with pytest.raises(InputError, match="FaceNet to export, mine is another network"):
        export(model, tmp_path / "out.onnx")
    for command in (
        ("weights", "quantise", "mine", tmp_path),
        ("train", tmp_path, "--from", "mine", "--out", tmp_path / "out"),
    ):
        done = run(*command, FACEGALLERY_DATA=str(data))
        assert done.code == 2 and "mine is another network" in done.error


# SFace's own file -----------------------------------------------------------


def test_sfaces_own_file_searches_as_sface(archives, att, tmp_path, data, run):
    from facegallery.embedder.dataset.dataset import DataSet

    known = store.KNOWN["sface"].part
    folder = data / "models" / known.sha256[:16]
    shutil.copytree(DATA / "models" / known.sha256[:16], folder)
    onnx.save(as_shipped(archives["sface"], 1), tmp_path / "lens.onnx")
    environment = {"FACEGALLERY_DATA": str(data)}
    done = run("weights", "import", tmp_path / "lens.onnx", "--name", "lens", "--mean", 0, "--scale", 1, **environment)
    assert done.code == 0 and "--crop points --size 112 --colour rgb" in done.err
    photos = tmp_path / "photos"
    for person in ("s1", "s2", "s3"):
        (photos / person).mkdir(parents=True)
        shutil.copy(att / person / "1.pgm", photos / person)
    vectors = {}
    for name in ("sface", "lens"):
        done = run("embed", photos, "--model", name, "--out", tmp_path / name, "--precision", "f32", **environment)
        assert done.code == 0, done.err
        rows = [row for table in DataSet(tmp_path / name).shards() for row in table.to_pylist()]
        vectors[name] = np.array([row["vector"] for row in sorted(rows, key=lambda row: row["face_id"])])
    assert vectors["lens"].shape == (3, 128) and (vectors["sface"] * vectors["lens"]).sum(1).min() >= 0.9999
    assert run("build-index", tmp_path / "lens", "--name", "people", **environment).code == 0
    done = run("search", "people", att / "s2" / "2.pgm", "-k", 1, "--json", **environment)
    assert done.code == 0 and '"s2"' in json.dumps(json.loads(done.out)), done.err
