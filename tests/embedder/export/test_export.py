"""Exported files, opened by programs that know nothing of ours, give the vectors that `embed` gives."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.export.export import INPUTS, export, inputs_of
from facegallery.embedder.faces.picture import seen_by
from facegallery.embedder.network.engines import core
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import store
from tests.conftest import ROOT, close

LEAST_COSINE = 0.99999
MODELS = {"msceleb": "plain", "duo": "all"}  # and their views: both standardisations, batch norm live and folded
CUT = {"msceleb": "close", "duo": "box"}  # what msceleb sees in each: as it is now, and by contracts of before
LOAD_KERAS = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
given = np.load(sys.argv[2])
first, others = ({name: given[name][some] for name in given.files} for some in (slice(1), slice(1, None)))
np.save(sys.argv[3], np.concatenate([model(first), model.predict(others, verbose=0)]))
assert not {"facegallery", "embedder"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def images(crops) -> np.ndarray:
    """Five faces, one in the dark, one crop of even grey."""
    return np.concatenate([crops[:5], crops[5:6] // 32, np.full((1, 160, 160, 3), 90, np.uint8)])


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> store.Model:
    found = store.open_model(request.param)
    first, *others = found.spec.parts
    spec = replace(found.spec, parts=(replace(first, crop=CUT[request.param]), *others))
    return replace(found, spec=spec.with_views(MODELS[request.param]))


@pytest.fixture(scope="module")
def ours(model, images) -> np.ndarray:
    return Embedder(model, Compute("cpu", "f32"))(images)


@pytest.fixture(scope="module")
def given(model, images) -> dict[str, np.ndarray]:
    """The inputs of the exported file for these images."""
    return {"close": close(images)} if model.spec.parts[0].crop == "close" else {"crops": images}


def by_openvino(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    """In two batches, of one and of the others."""
    network = core().compile_model(core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (vectors,) = network.outputs
    assert sorted(crops.any_name for crops in network.inputs) == sorted(given) and vectors.names == {"vectors"}
    assert {crops.element_type for crops in network.inputs} == {openvino.Type.u8}
    batches = ({name: images[some] for name, images in given.items()} for some in (slice(1), slice(1, None)))
    return np.concatenate([network(batch)[0] for batch in batches])


def by_keras(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    """In a process of its own, far from our code."""
    np.savez(path.parent / "images.npz", **given)
    arguments = [str(path), str(path.parent / "images.npz"), str(path.parent / "vectors.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_KERAS, *arguments], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.load(path.parent / "vectors.npy")


def contract(path: Path) -> str:
    match path.suffix:
        case ".onnx":
            return {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}[
                "facegallery.spec"
            ]
        case ".xml":
            return core().read_model(path).get_rt_info(["facegallery.spec"]).astype(str)
        case _:
            return zipfile.ZipFile(path).read("facegallery.spec.json").decode()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, while it saves
@pytest.mark.parametrize(
    "model, name",
    [
        *((model, name) for model in MODELS for name in ("m.onnx", "m.xml")),
        ("msceleb", "m.keras"),
        pytest.param("duo", "m.keras", marks=pytest.mark.slow),
    ],
    indirect=["model"],
)
def test_the_vectors_are_those_of_embed(model, ours, given, tmp_path, name):
    files = export(model, tmp_path / "out" / name)
    assert sorted(files) == sorted((tmp_path / "out").iterdir()) and {f.stat().st_mode & 0o777 for f in files} == {
        0o600
    }
    theirs = (by_keras if name == "m.keras" else by_openvino)(files[0], given)
    assert theirs.shape == ours.shape and theirs.dtype == np.float32
    assert np.abs(np.linalg.norm(theirs, axis=1) - 1).max() < 1e-5
    cosines = (theirs * ours).sum(1)
    assert (
        cosines[:-1].min() >= LEAST_COSINE and cosines[-1] >= 0.9999
    )  # whitening makes much of rounding where there is nothing else
    assert FaceSpec.from_json(contract(files[0])) == model.spec


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, while it saves
@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.keras"])
@pytest.mark.parametrize(
    ("reference", "views", "inputs"),
    [("sface", "mirror", {"aligned": 112}), ("sface+msceleb:0.7", "plain", {"aligned": 112, "close": 160})],
)
def test_sface_takes_faces_that_were_moved_to_its_template(windows, tmp_path, reference, views, inputs, name):
    model, (pictures, rule) = store.open_model(reference).with_views(views), windows
    ours = Embedder(model, Compute("cpu", "f32"))(pictures, rule)
    given = {INPUTS[part.crop]: seen_by(part, pictures, rule) for part in model.spec.parts}
    assert {input: images.shape[1] for input, images in given.items()} == inputs == inputs_of(model.spec)
    files = export(model, tmp_path / name)
    theirs = (by_keras if name == "m.keras" else by_openvino)(files[0], given)
    assert np.abs(np.linalg.norm(theirs, axis=1) - 1).max() < 1e-5 and (theirs * ours).sum(1).min() >= LEAST_COSINE
    assert FaceSpec.from_json(contract(files[0])) == model.spec
    if name == "m.onnx":
        onnx.checker.check_model(files[0], full_check=True)


@pytest.mark.parametrize("change", [{"network": "onnx"}, {"colour": "BGR"}])
def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, change):
    model = store.open_model("sface")
    other = replace(model, spec=FaceSpec.of(replace(model.spec.parts[0], **change)))
    with pytest.raises(InputError, match="export") as caught:
        export(other, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_several_zooms_of_close_crops_are_refused(tmp_path):
    margins = store.open_model("msceleb").with_views("margins")
    msceleb, casia = store.open_model("duo").spec.parts
    model = store.open_model("duo")
    two = replace(model, spec=replace(model.spec, parts=(msceleb, replace(casia, crop="close", zoom=1.07))))
    for refused in (margins, two):
        with pytest.raises(InputError, match="one zoom"):
            export(refused, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_is_sound_by_its_own_checker(model, tmp_path):
    (file,) = export(model, tmp_path / "m.onnx")
    onnx.checker.check_model(file, full_check=True)


def test_a_file_that_is_there_and_an_unknown_suffix_are_refused(tmp_path):
    model = store.open_model("msceleb")
    (tmp_path / "m.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"m.bin is there"):
        export(model, tmp_path / "m.xml")
    with pytest.raises(InputError, match=r"m\.tflite"):
        export(model, tmp_path / "m.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"] and (tmp_path / "m.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["m.bin", "m.xml"])
def test_a_file_that_appears_while_the_model_is_written_stays(tmp_path, monkeypatch, name):
    def save(make, vectors, text, path):
        for file in (path, path.with_suffix(".bin")):
            file.write_bytes(b"ours")
        (tmp_path / name).write_bytes(b"mine")

    monkeypatch.setattr("facegallery.embedder.export.to_openvino.OpenvinoFormat.save", save)
    monkeypatch.setattr("facegallery.embedder.export.export.lay", lambda make, model: None)
    with pytest.raises(InputError, match=rf"{name} is there"):
        export(store.open_model("msceleb"), tmp_path / "m.xml")
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"mine"


def test_the_command_takes_the_folder_of_a_model_too(run, tmp_path):
    store.write_model(tmp_path / "MODEL", store.open_model("casia").spec)
    done = run("weights", "export", tmp_path / "MODEL", "--views", "mirror", "--out", tmp_path / "m.onnx", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["files"] == [str(tmp_path / "m.onnx")] and said["spec"]["flip"] is True
    assert FaceSpec.from_json(contract(tmp_path / "m.onnx")).flip
    assert run("weights", "export", "casia", "--out", tmp_path / "m.onnx").code == 2


def test_without_onnx_the_extra_is_named(tmp_path):
    hidden = (
        "import sys; sys.modules['onnx'] = None; from facegallery.cli.main import main; "
        "sys.argv[1:] = sys.argv[2:]; sys.exit(main())"
    )
    command = [sys.executable, "-c", hidden, "-", "weights", "export", "casia", "--out", str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 6 and "pip install onnx" in done.stderr
