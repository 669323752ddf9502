"""SFace in training: its layers against the Keras twin and OpenVINO, its crops against `embed`, and whole runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.network import runtime_tensorflow, sface_keras
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder, on_openvino
from facegallery.embedder.spec import WINDOW, CropRule, FaceSpec, Part
from facegallery.embedder.weights import store
from facegallery.trainer import batches, recipe, sface_forward, stages
from facegallery.trainer.learner import Learner, Softmax
from facegallery.trainer.network import TrainableNetwork
from facegallery.trainer.train import TrainingOptions, train
from tests import crops as made
from tests.conftest import coloured

SFACE = Part("tiny", "", 128, "affine", network="sface", crop="arcface", size=112)
EXACT = Compute("cpu", "f32")
PEOPLE = 6
STAGES = "head", "bottleneck", "upper", "all"


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> dict[str, np.ndarray]:
    """The weights of an SFace of few channels, and a data folder of our own."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return made.tiny_sface(monkeypatch.setattr)


@pytest.fixture(scope="module")
def photos(att) -> dict[tuple[int, int], np.ndarray]:
    return {(p, f): coloured(att / f"s{p + 1}" / f"{f + 1}.pgm") for p in range(PEOPLE) for f in range(2)}


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory) -> Path:
    rows = made.face_rows(photos, CropRule(window=WINDOW))
    return made.write(tmp_path_factory.mktemp("w") / "windows", rows, window=WINDOW)


@pytest.fixture(scope="module")
def bordered(photos, tmp_path_factory) -> Path:
    return made.write(tmp_path_factory.mktemp("c") / "crops", made.face_rows(photos, CropRule(border=20)), border=20)


@pytest.fixture(scope="module")
def batch() -> tuple[tf.Tensor, np.ndarray]:
    return tf.constant(np.stack([made.picture(p, 0, 112) for p in range(PEOPLE)])), np.arange(PEOPLE, dtype=np.int32)


def moved(a: dict, b: dict) -> set[str]:
    return {name for name in a if not np.array_equal(a[name], b[name])}


# layers ---------------------------------------------------------------------


def test_vectors_are_those_of_the_keras_twin_and_of_openvino(crops):
    model = store.open_model("sface")
    (part,), arrays = model.spec.parts, model.arrays(0)
    faces = np.ascontiguousarray(crops[:8, 24:136, 24:136])
    net = TrainableNetwork(arrays, part)
    ours = unit(net.embed([faces]))
    for theirs in (runtime_tensorflow.compiled(arrays, part, "CPU:0"), on_openvino(arrays, part, "f32")):
        assert (ours * unit(theirs(faces))).sum(axis=1).min() >= 0.99999
    got = net.arrays()
    assert got.keys() == arrays.keys() and not moved(arrays, got), "stored as they were read"
    assert list(net.maps([faces]))[0].shape == (8, 7, 7, 512)


@pytest.mark.parametrize("live", [False, True])
def test_gradients_and_statistics_are_those_of_the_keras_twin(tiny, batch, live):
    ours, theirs = sface_keras.load(tiny), sface_keras.load(tiny)
    x = tf.cast(batch[0], tf.float32)
    found = []
    for net, run in (
        (theirs, lambda: theirs(x, training=live)),
        (ours, lambda: sface_forward.prelogits(ours, x, "f32", tf.identity, live=live)),
    ):
        with tf.GradientTape() as tape:
            y = run()
            loss = tf.reduce_sum(y * tf.constant(np.random.default_rng(1).normal(size=y.shape).astype(np.float32)))
        gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
        found.append([y.numpy(), *(g.numpy() for g in gradients), *(v.numpy() for v in net.non_trainable_variables)])
    for expected, got in zip(*found, strict=True):
        assert np.linalg.norm(got - expected) <= 2e-3 * np.linalg.norm(expected) + 1e-4


def test_the_parts_make_the_whole(tiny, batch):
    for precision, kept, far in (("f32", np.float32, 1e-5), ("bf16", np.float16, 0.02)):
        net = TrainableNetwork(tiny, SFACE, precision)
        whole = net.embed([batch[0]])
        maps = list(net.maps([batch[0]]))
        for trains, shape in (("upper", (7, 7, 8)), ("bottleneck", (8 * 49,)), ("head", (128,))):
            (below,) = net.below(trains, maps)
            assert below.shape == (PEOPLE, *shape) and (trains == "head" or below.dtype == kept)
            above = net.above(trains, tf.constant(below)).numpy()
            assert np.linalg.norm(above - whole) <= far * np.linalg.norm(whole)


@pytest.mark.parametrize("trains", STAGES)
def test_a_step_moves_what_the_stage_trains_and_no_statistics(tiny, batch, trains):
    stage = replace(
        recipe.read("margin").stages[1], trains=trains, optimiser="sgd", batch=PEOPLE, micro_batch=4, weight_decay=0.01
    )
    net = TrainableNetwork(tiny, SFACE)
    inputs = batch[0] if trains == "all" else tf.constant(next(iter(net.below(trains, net.maps([batch[0]])))))
    one = Learner(net, Softmax(128, PEOPLE, 0, 32.0, 0.35), stage, PEOPLE, 0, live=False)
    one.step(inputs, batch[1], 0, 0.01)
    starts = {
        "head": (),
        "bottleneck": ("pre_fc1_", "fc1_"),
        "upper": ("conv_13_c", "conv_13_b", "conv_13_r", "conv_14_", "bn1_", "pre_fc1_", "fc1_"),
        "all": ("conv_", "bn1_", "pre_fc1_", "fc1_"),
    }[trains]
    expected = {k for k in tiny if k.startswith(starts) and not k.endswith(("moving_mean", "moving_var"))}
    assert moved(tiny, net.arrays()) == expected
    assert all(k.endswith(("_weight", "head_kernel")) for k in _decayed(one)) and len(_decayed(one)) >= 1


def _decayed(one: Learner) -> list[str]:
    names = {id(v): name for name, v in sface_keras.variables_by_name(one.net.model).items()}
    return [names.get(id(one.variables[i]), one.variables[i].name) for i in one.kernels]


def test_the_average_is_delivered_in_the_layout_of_the_file(tiny, batch):
    stage = replace(recipe.read("distil").stages[1], trains="all", optimiser="sgd", average=0.5, micro_batch=PEOPLE)
    net = TrainableNetwork(tiny, SFACE)
    one = Learner(net, Softmax(128, PEOPLE, 0), stage, PEOPLE, 0, live=False)
    one.step(*batch, 0, 0.1)
    after, mean, decay = net.arrays(), one.network_weights(average=True), 2 / 11
    for name in moved(tiny, after):
        expected = tiny[name] + (1 - decay) * (after[name] - tiny[name])
        assert mean[name].shape == tiny[name].shape and np.abs(mean[name] - expected).max() < 1e-5


def test_a_solved_bottleneck_is_a_linear_map_of_the_prelogits(tiny, batch):
    chance = np.random.default_rng(2)
    kernel, bias = chance.normal(size=(128, 128)).astype(np.float32), chance.normal(size=128).astype(np.float32)
    net = TrainableNetwork(tiny, SFACE)
    expected = net.embed([batch[0]]) @ kernel + bias
    got = net.with_solved(kernel, bias).embed([batch[0]])
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


# crops ----------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["windows", "bordered"])
@pytest.mark.parametrize("name", ["sface", "msceleb"])
def test_plain_training_crops_give_the_vectors_of_embed(request, stored, name):
    faces = batches.read(request.getfixturevalue(stored)).train
    model = store.open_model(name)
    (part,) = model.spec.parts
    seen = faces.seen_by(part)
    assert (seen.size, seen.border) == (part.size, 20 if part.size == 160 else 14)
    expected = Embedder(model, EXACT)([face for block in faces.pictures() for face in block], faces.rule)
    got = unit(TrainableNetwork(model.arrays(0), part).embed(batches.plain_crops(seen)))
    assert np.abs(got - expected).max() < 1e-5


# runs -----------------------------------------------------------------------


def short(name: str, *changes: dict, **more) -> recipe.Recipe:
    rule = recipe.read(name)
    kept = {"batch": 6, "micro_batch": 4, "steps": 2, "epochs": 1, "views": 1}
    return replace(
        rule, stages=tuple(replace(s, **kept | c) for s, c in zip(rule.stages, changes, strict=True)), **more
    )


def stored_model(arrays: dict[str, np.ndarray]) -> str:
    return store.store_arrays(arrays, SFACE).sha256


@pytest.mark.traced
def test_a_trained_sface_is_a_model_like_any(tiny, windows, tmp_path):
    source, out = stored_model(tiny), tmp_path / "out"
    done = train(windows, short("quick", {}, {"learning_rate": 0.01}), source, out, TrainingOptions(compute=EXACT))
    model = store.open_model(str(out))
    (part,) = model.spec.parts
    assert replace(part, name="tiny", sha256="", parent=None) == SFACE and part.parent == source
    assert part.name == "tiny-quick" and model.spec.crop == CropRule(window=WINDOW)
    assert done["networks"][0]["sha256"] == part.sha256 != source
    faces = batches.read(windows).train
    pictures = [face for block in faces.pictures() for face in block]
    vectors = Embedder(model, EXACT)(pictures, faces.rule)
    crops = np.concatenate(list(batches.plain_crops(faces.seen_by(part))))
    on_gpus = unit(runtime_tensorflow.compiled(model.arrays(0), part, "CPU:0")(crops))
    assert vectors.shape == (2 * PEOPLE, 128) and (vectors * on_gpus).sum(axis=1).min() >= 0.99999
    assert store.open_model(part.sha256).spec == FaceSpec.of(part)


@pytest.mark.parametrize(
    "rule",
    [
        short("margin", {}, {"trains": "bottleneck", "epochs": 2, "views": 2}),
        pytest.param(short("margin", {}, {"trains": "upper", "epochs": 2, "views": 2}), marks=pytest.mark.slow),
        pytest.param(short("quick", {}, {"trains": "all", "epochs": 2}), marks=pytest.mark.slow),
        pytest.param(short("homework", {}, {"epochs": 2}), marks=pytest.mark.slow),
    ],
    ids=["bottleneck", "upper", "all", "homework"],
)
def test_a_stopped_run_goes_on_to_the_same_weights(tiny, windows, tmp_path, monkeypatch, rule):
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
    source, options = stored_model(tiny), TrainingOptions(compute=EXACT, keep_run=True)
    whole = train(windows, rule, source, tmp_path / "whole", options)
    old = stages.Learner.step
    steps = iter(range(100))

    def step(self, *args):
        if next(steps) == 4:  # the third batch of the second stage
            raise KeyboardInterrupt
        return old(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages.Learner, "step", step)
        train(windows, rule, source, tmp_path / "out", options)
    again = train(windows, rule, source, tmp_path / "out", options)
    assert again["networks"][0]["sha256"] == whole["networks"][0]["sha256"] != source


def test_the_homework_moves_the_statistics(tiny, windows, tmp_path):
    source = stored_model(tiny)
    train(windows, short("homework", {}, {"epochs": 0}), source, tmp_path / "out", TrainingOptions(compute=EXACT))
    got = store.open_model(str(tmp_path / "out")).arrays(0)
    assert moved(tiny, got) == {k for k in tiny if k.endswith(("moving_mean", "moving_var"))}


def test_each_part_of_a_model_trains_on_its_own_crops(tiny, windows, tmp_path, monkeypatch):
    made.tiny(monkeypatch.setattr)
    facenet = store.store_part(made.random_arrays(), "facenet", "fixed", zoom=1.1)
    parts = replace(store.open_model(stored_model(tiny)).spec.parts[0], weight=0.5), facenet
    store.write_model(tmp_path / "both", FaceSpec.of(*parts))
    sizes = []
    monkeypatch.setattr(
        stages, "Stream", lambda photos, *of, old=stages.Stream: sizes.append(photos.size) or old(photos, *of)
    )
    train(windows, short("quick", {}, {"learning_rate": 0.01}), str(tmp_path / "both"), tmp_path / "out")
    spec = store.open_model(str(tmp_path / "out")).spec
    assert [p.name for p in spec.parts] == ["tiny-quick", "facenet-quick"] and {*sizes} == {112, 160}
    assert [(p.weight, p.zoom, p.crop) for p in spec.parts] == [(0.5, 1.0, "arcface"), (1.0, 1.1, "close")]
    assert spec.crop.window == WINDOW and spec.dimension == 136


def test_a_network_of_an_onnx_file_is_refused(windows, tmp_path, monkeypatch):
    onnx = store.Model(FaceSpec.of(replace(SFACE, network="onnx", name="theirs")), (Path("x"),))
    monkeypatch.setattr(store, "open_model", lambda _: onnx)
    with pytest.raises(InputError, match="FaceNet to train, theirs is another network") as caught:
        train(windows, short("quick", {}, {}), "theirs", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_sface_learns_from_a_model_of_several_networks(tiny, windows, tmp_path, monkeypatch):
    """Its own 128 numbers are kept, and after the solved bottleneck it is nearer to the teacher than before."""
    made.tiny(monkeypatch.setattr)
    monkeypatch.setattr(stages.teacher, "LEAST_PHOTOS", 4)
    source = stored_model(tiny)
    store.store_part(made.random_arrays(), "facenet", "fixed")
    teacher = (f"{source}+facenet:0.7",)
    rule = short("distil", {"views": 2}, {"epochs": 1, "steps": 1}, teacher=teacher)
    done = train(windows, rule, source, tmp_path / "out", TrainingOptions(compute=EXACT, keep_run=True))
    spec = store.open_model(str(tmp_path / "out")).spec
    assert spec.dimension == 128 and spec.parts[0].name == "tiny-distil"
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["stage"] == 1 and lines[0]["loss"] < 0.5 and done["networks"][0]["delivered"]


def test_sface_is_not_taught_by_itself(tmp_path):
    with pytest.raises(InputError, match="teacher"):
        train(tmp_path, recipe.read("distil"), "sface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
