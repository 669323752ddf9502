"""ONNX networks: their vectors against onnx's own reference, their contract, and what other commands say of them."""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.export.export import export
from facegallery.embedder.faces import samples
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.embedder.weights import fetch, onnx_check, store
from facegallery.embedder.weights.detectors import YUNET
from facegallery.embedder.weights.onnx_import import Seen
from tests.conftest import DATA
from tests.embedder.network.test_sface_network import as_shipped
from tests.onnx_networks import BOX, BURNT_IN, DIMENSION, SIDE, mixed, network, of_type, saved

F32 = Compute("cpu", "f32")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    """Models are stored in a folder of the test's own."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


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
    for sha256 in (known.sha256, YUNET.file_sha256):
        shutil.copytree(DATA / "models" / sha256[:16], data / "models" / sha256[:16])
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


def test_an_exported_facenet_comes_back_as_itself(windows, tmp_path, data):
    pictures, rule = windows
    sha256 = store.KNOWN["msceleb"].part.sha256
    shutil.copytree(DATA / "models" / sha256[:16], data / "models" / sha256[:16])
    model = store.open_model("msceleb")
    export(model, tmp_path / "msceleb.onnx")
    part = fetch.import_file(tmp_path / "msceleb.onnx", "back", None, 1.14, Seen(crop="box", mean=0.0, scale=1.0))
    assert (part.crop, part.zoom, part.size) == ("close", 1.14, 160)
    ours, back = (Embedder(one, Compute("cpu", "f32"))(pictures, rule) for one in (model, store.open_model("back")))
    assert (ours * back).sum(1).min() >= 0.9999
