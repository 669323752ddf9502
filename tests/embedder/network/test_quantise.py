import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import openvino
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.faces.picture import warped
from facegallery.embedder.network import (
    architecture,
    int8,
    openvino_network,
    quantise,
    sface_int8,
    sface_network,
)
from facegallery.embedder.network.engines import OpenvinoEngine, core, has_vnni
from facegallery.embedder.network.int8 import FLOAT, Quantisation
from facegallery.embedder.network.preprocess import seen, standardise, unit
from facegallery.embedder.network.quantise import (
    best_range,
    calibrate,
    calibrate_sface,
    measure,
    read_people,
    read_pictures,
    split,
)
from facegallery.embedder.network.runtime import BATCH, Embedder, on_openvino
from facegallery.embedder.network.sface_layers import Layer
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import store
from facegallery.embedder.weights.detectors import YUNET
from tests import crops as made
from tests.conftest import DATA, coloured

needs_vnni = pytest.mark.skipif(not has_vnni(), reason="for CPUs with VNNI")


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    """The pinned weights in a data folder of the test's own, without exports."""
    for part in (store.KNOWN[name].part for name in ("msceleb", "casia")):
        folder = tmp_path / "data" / "models" / part.sha256[:16]
        folder.mkdir(parents=True)
        for file in (f"{part.sha256[:16]}.safetensors", "spec.json"):
            (folder / file).symlink_to(DATA / "models" / part.sha256[:16] / file)
    (tmp_path / "data" / "models" / YUNET.file_sha256[:16]).symlink_to(DATA / "models" / YUNET.file_sha256[:16])
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))


# the graph ------------------------------------------------------------------


def tiny(x: np.ndarray, arrays: dict[str, np.ndarray], q: Quantisation) -> np.ndarray:
    """`crops.tiny` in int8, in plain TensorFlow."""

    def conv(x, name, strides, in_int8=True, scale=1.0):
        w = arrays[f"{name}/kernel"] * scale
        b = arrays[f"{name}/bias"] * scale
        if in_int8:
            step = np.abs(w).max(axis=(0, 1, 2)) / 127
            w, b = np.rint(w / step) * step, b + np.array(q.shifts[name])
        return tf.nn.conv2d(x, w.astype(np.float32), strides, "VALID").numpy() + b

    def relu(x, name):
        return np.rint(np.clip(x, 0, q.ranges[name]) * 255 / q.ranges[name]) * q.ranges[name] / 255

    x = relu(conv(x, "Conv2d_1a_3x3", 8, in_int8=False), "Conv2d_1a_3x3")
    x = tf.nn.max_pool2d(x, 3, 2, "VALID").numpy()
    x = np.concatenate(
        [relu(conv(x, name, 2), name) for name in ("Mixed_7a_Branch_0", "Mixed_7a_Branch_1")], axis=-1
    ).astype(np.float32)
    x = relu(x + conv(x, "Block8_1_Conv2d_1x1", 1, scale=0.5), "Block8_1").mean(axis=(1, 2))
    return x @ arrays["Bottleneck/kernel"] / np.sqrt(1 + architecture.EPSILON)


@needs_vnni  # other CPUs saturate the sums of two products
def test_int8_computes_what_rounding_says(monkeypatch, crops):
    made.tiny(monkeypatch.setattr)
    arrays, x = made.random_arrays(folded=True), standardise(crops[:8], "fixed")
    rng = np.random.default_rng(3)
    arrays = {
        k: v + rng.normal(0, 0.1, v.shape).astype(np.float32) if k.endswith("bias") else v for k, v in arrays.items()
    }
    names = {"Mixed_7a_Branch_0": 8, "Mixed_7a_Branch_1": 8, "Block8_1_Conv2d_1x1": 16}
    shifts = {name: rng.normal(0, 0.05, n).tolist() for name, n in names.items()}
    q = Quantisation(
        {"Conv2d_1a_3x3": 0.9, "Mixed_7a_Branch_0": 0.8, "Mixed_7a_Branch_1": 0.8, "Block8_1": 1.1}, shifts
    )
    expected = tiny(x, arrays, q)
    found, exact = (
        OpenvinoEngine(lambda how=how: openvino_network.build(arrays, 8, how))([(x,)])[0] for how in (q, FLOAT)
    )
    assert np.abs(found - expected).max() < 0.02 * np.abs(exact - expected).max()


def test_shifts_keep_the_mean_of_every_convolution(crops):
    """With them, float32 activations times rounded weights give float32's means."""
    model = store.open_model("msceleb")
    arrays, x = model.arrays(0), standardise(crops[:BATCH], "per_image")
    graph = openvino_network.build_measuring(arrays, BATCH)
    given = list(core().compile_model(graph.graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x]).values())
    layers = dict(zip(graph.layers, given, strict=False))
    move = dict(zip(graph.convolutions, given[len(graph.layers) :], strict=True))["Conv2d_2b_3x3"]
    factor = 1 / np.sqrt(arrays["Conv2d_2b_3x3_BatchNorm/moving_variance"] + architecture.EPSILON)
    kernel = arrays["Conv2d_2b_3x3/kernel"] * factor
    step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    before, after = (
        tf.nn.conv2d(layers["Conv2d_2a_3x3"].transpose(0, 2, 3, 1), k, 1, "SAME").numpy().mean(axis=(0, 1, 2))
        for k in (kernel, np.rint(kernel / step) * step)
    )
    assert np.abs(move).max() > 1e-3 and np.abs(after - before - move).max() < 1e-4


def test_every_convolution_but_the_first_is_measured():
    arrays = store.open_model("casia").arrays(0)
    graph = openvino_network.build_measuring(arrays, BATCH)
    assert set(graph.convolutions) == {k.removesuffix("/kernel") for k in arrays if k.endswith("/kernel")} - {
        "Conv2d_1a_3x3",
        "Bottleneck",
    }
    assert all(len(group) > 1 and group <= set(graph.layers) for group in graph.joined)


# ranges ---------------------------------------------------------------------


def error(values: np.ndarray, most: float) -> float:
    return float(((np.rint(np.clip(values, 0, most) * 255 / most) * most / 255 - values) ** 2).mean())


@pytest.mark.parametrize("power", [0.2, 1, 3, 6])
def test_the_best_range_rounds_best(power):
    values = np.random.default_rng(0).random(50_000) ** power * 3
    values[::2] = 0  # what a ReLU cuts off costs nothing
    found = best_range(values)
    assert error(values, found) <= 1.02 * min(error(values, most) for most in np.linspace(0.3, 3.3, 200))


def test_rare_large_values_are_cut_off_and_dead_layers_have_a_range():
    values = np.abs(np.random.default_rng(0).normal(0, 1, 1_000_000))
    values[0] = 12
    assert 3 < best_range(values) < 8
    assert best_range(np.zeros(10)) > 0


# people ---------------------------------------------------------------------


def test_ranges_and_gate_share_no_face_and_the_gate_has_those_who_can_be_asked(tmp_path, monkeypatch):
    rows = [made.row(p, f) for p in range(40) for f in range(1 if p < 30 else 4)]
    rows += [made.row(90, 0, identity=None), made.row(91, 0, outcome="no_face", crop=None)]
    data = DataSet(made.write(tmp_path / "crops", rows))
    people = read_people(data)
    some, others = split(people)
    assert len(people) == 71 == len(some) + len(others) and not set(some) & set(others)
    asked = Counter(people[face] for face in others)
    assert len(asked) == 9 and set(asked.values()) == {
        4
    }  # whole people; 31 faces of people with one, and one of these, gave ranges
    assert all(people[f] is None or int(people[f][-3:]) < 30 for f in some[:31])
    monkeypatch.setattr(quantise, "FOR_RANGES", 20)
    monkeypatch.setattr(quantise, "FOR_GATE", 30)
    some, others = split(people)
    assert (len(some), len(others)) == (20, 30)
    images = {face: one.pixels for face, one in zip(others, read_pictures(data, others), strict=True)}
    for row in rows:
        if row.face_id in images:
            person, photo = map(int, row.image.removesuffix(".png").split("/"))
            assert np.array_equal(images[row.face_id], made.picture(person, photo))


def test_few_crops_and_crops_that_were_not_kept_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected 64 crops or more .* has 10"):
        read_people(DataSet(made.write(tmp_path / "few", [made.row(p, 0) for p in range(10)])))
    data = DataSet(made.write(tmp_path / "none", [made.row(p, 0, crop=None) for p in range(70)]))
    with pytest.raises(DataError, match="they were not kept"):
        read_pictures(data, list(read_people(data)))


def test_top1_is_judged_among_people_with_two_crops_where_there_are_enough():
    rng = np.random.default_rng(0)
    exact = unit(rng.normal(size=(50, 8))).repeat(2, axis=0)  # pairs
    names: list[str | None] = [f"p{i // 2}" for i in range(100)]
    names[98:] = [None, "alone"]
    fast = exact.copy()
    fast[0] = unit(rng.normal(size=(1, 8)))[0]
    gate = measure(exact, fast, names)
    assert (gate.crops, gate.probes, gate.right_f32) == (100, 98, 98)
    assert gate.right_int8 == 96 and gate.least_cosine == pytest.approx(
        exact[0] @ fast[0]
    )  # the first two miss each other
    few = measure(exact[:30], fast[:30], names[:30])
    assert (few.probes, few.right_f32, few.right_int8) == (0, 0, 0)


# real networks --------------------------------------------------------------


@needs_vnni
@pytest.mark.parametrize("name", ["msceleb", pytest.param("casia", marks=pytest.mark.slow)])
def test_int8_is_near_float32_and_faster(crops, name):
    model = store.open_model(name)
    arrays, part = model.arrays(0), model.spec.parts[0]
    q = calibrate(arrays, seen(crops, part))
    exact, fast = on_openvino(arrays, part, "f32"), on_openvino(arrays, part, "int8", q)
    mirrored = crops[:, :, ::-1]  # no range was taken from these
    cosines = np.einsum("ij,ij->i", unit(exact(mirrored)), unit(fast(mirrored)))
    assert cosines.mean() > 0.999 and cosines.min() > 0.995
    unshifted = Quantisation(q.ranges, {name: [0.0] * len(s) for name, s in q.shifts.items()})
    worse = unit(on_openvino(arrays, part, "int8", unshifted)(mirrored))
    assert cosines.mean() > np.einsum("ij,ij->i", unit(exact(mirrored)), worse).mean()
    seconds = np.array([[timed(run, crops) for run in (exact, fast)] for _ in range(3)]).min(axis=0)
    assert seconds[0] > 1.8 * seconds[1]  # 3.7 on two quiet cores


def timed(run, crops: np.ndarray) -> float:
    began = time.perf_counter()
    run(crops)
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def aligned(att) -> np.ndarray:
    """uint8 (40, 112, 112, 3): what SFace sees of 40 people."""
    photos = [coloured(att / f"s{i}" / "1.pgm") for i in range(1, 41)]
    faces = [found[0] for found in MtcnnDetector()(photos)]
    points = [np.reshape(face.landmarks, (5, 2)) for face in faces]
    return np.stack([warped(photo, of_face) for photo, of_face in zip(photos, points, strict=True)])


@needs_vnni
def test_int8_of_sface_is_near_float32_and_faster(aligned):
    model = store.open_model("sface")
    arrays, part = model.arrays(0), model.spec.parts[0]
    q = calibrate_sface(arrays, seen(aligned, part))
    exact, fast = on_openvino(arrays, part, "f32"), on_openvino(arrays, part, "int8", q)
    mirrored = aligned[:, :, ::-1]
    cosines = np.einsum("ij,ij->i", unit(exact(mirrored)), unit(fast(mirrored)))
    assert cosines.mean() > 0.998 and cosines.min() > 0.98  # of AT&T's few people; 0.9992 of people of all kinds
    seconds = np.array([[timed(run, aligned) for run in (exact, fast)] for _ in range(3)]).min(axis=0)
    assert seconds[0] > 1.2 * seconds[1]  # 1.7 on a quiet core
    graph = sface_network.build(arrays, BATCH, q)
    network = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(kind_of(node) for node in network.get_runtime_model().get_ops())
    assert kinds["Convolution", "I8"] == 9 == len(q.spans)


def test_a_moved_and_scaled_layer_is_the_same_layer_but_for_rounding():
    rng = np.random.default_rng(5)
    scales = np.exp(rng.normal(0, 1.5, 64))  # channels of very unequal size
    x = (rng.normal(0.5, 1, (4000, 64)) * scales).clip(-scales, None)
    layer = Layer("conv_4", rng.normal(0, 1, (32, 64, 1, 1)) / scales[:, None, None], *rng.normal(0, 1, (2, 32)), 1)
    before = Layer("conv_4_dw", rng.normal(0, 1, (64, 1, 3, 3)), *rng.normal(0, 1, (2, 64)), 1)
    low, high = sface_int8.spans_of(x)
    shifts = sface_int8.shifts(layer, x, low, high).tolist()
    most = np.abs(sface_int8.scaled(layer, x, low, high)).max()
    q = Quantisation({layer.name: most}, {layer.name: shifts}, {layer.name: [low, high]})
    (moved, same), rounded = sface_int8.equalised([before, layer], q)
    assert same is layer and list(rounded) == [layer.name]
    factor = before.kernel[:, 0, 0, 0] / moved.kernel[:, 0, 0, 0]
    assert (factor > 0).all() and np.allclose(moved.bias * factor, before.bias, atol=1e-5)
    one = rounded[layer.name]
    given = np.rint((x / factor - one.middle) / one.step).clip(-128, 127) * one.step
    expected = x @ layer.kernel[:, :, 0, 0].T + layer.bias
    found = given @ (one.kernel * one.steps[:, None].astype(float)).T + one.bias
    assert (found - expected).std() < 0.01 * expected.std()
    assert np.abs((found - expected).mean(axis=0)).max() < 1e-3 * expected.std()


def test_an_onnx_network_is_not_quantised(tmp_path):
    model = store.open_model("sface")
    other = replace(model, spec=FaceSpec.of(replace(model.spec.parts[0], network="onnx")))
    with pytest.raises(InputError, match="quantise"):
        quantise.quantise(other, tmp_path)


@needs_vnni
def test_all_convolutions_but_the_first_run_on_integers(crops):
    arrays = store.open_model("msceleb").arrays(0)
    q = calibrate(arrays, standardise(crops[:BATCH], "per_image"))
    network = core().compile_model(openvino_network.build(arrays, BATCH, q), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(kind_of(node) for node in network.get_runtime_model().get_ops())
    assert kinds["Convolution", "I8"] == 131 and kinds["Convolution", "f32"] == 1


def kind_of(node: openvino.Node) -> tuple[str, str]:
    info = node.get_rt_info()
    return info["layerType"].astype(str), info["primitiveType"].astype(str).rsplit("_", 1)[-1]


@needs_vnni
@pytest.mark.slow
def test_the_command_makes_what_auto_then_takes(own_models, att, run, tmp_path):
    crops, out = tmp_path / "crops", tmp_path / "vectors"
    assert run("align", att, "--out", crops, "--quiet").code == 0
    assert ", int8, " in run("embed", crops, "--model", "msceleb", "--out", tmp_path / "p", "--precision", "int8").err
    before = Embedder(store.open_model("duo"))
    assert before.compute.precision in ("bf16", "f32")
    done = run("weights", "quantise", "msceleb", crops, "--json")
    (found,) = json.loads(done.out)
    assert found["passed"] and found["probes"] >= 190 and found["crops"] == 200
    text = int8.file_of(store.KNOWN["msceleb"].part).read_text()
    assert not any(f'"s{i}"' in text for i in range(1, 41))
    assert ", int8, " in run("embed", crops, "--model", "msceleb", "--out", out).err
    assert DataSet(out).spec.precision == "int8"
    pair = att / "s1" / "1.pgm", att / "s1" / "2.pgm", "--model", "msceleb"
    assert f", {before.compute.precision}, " in run("compare", *pair).err  # two photos: sooner ready
    assert ", int8, " in run("compare", *pair, "--precision", "int8").err
    assert Embedder(store.open_model("msceleb"), Compute("cpu", "f32")).spec.precision == "f32"
    assert Embedder(store.open_model("duo")).compute == before.compute  # casia was not quantised here


@needs_vnni
@pytest.mark.lfw
def test_lfw_one_shot_in_int8(own_models, lfw_vectors, lfw_command, lfw_work):
    """The answers to 1,680 probes, in float32 and int8, by the pinned weights."""
    faces = lfw_vectors("msceleb")
    (found,) = lfw_command("weights", "quantise", "msceleb", faces)
    assert found["passed"] and found["probes"] > 2000
    top1 = {}
    for precision in ("f32", "int8"):
        lfw_command(
            "embed",
            faces,
            "--model",
            "msceleb",
            "--precision",
            precision,
            "--no-crops",
            "--out",
            lfw_work / f"in-{precision}",
        )
        lfw_command("build-index", lfw_work / f"in-{precision}", "--name", f"in-{precision}")
        top1[precision] = lfw_command("evaluate", f"in-{precision}", lfw_work / f"in-{precision}")["top1"]
    print(top1)
    assert top1["int8"] >= top1["f32"] - 0.0025
