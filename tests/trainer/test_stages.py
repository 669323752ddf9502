import contextlib
import logging
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network import keras_network
from facegallery.embedder.spec import Part
from facegallery.embedder.weights import store
from facegallery.trainer import batches, checkpoints, delivery, recipe, stages
from facegallery.trainer.delivery import pulled_back
from facegallery.trainer.gate import Judged
from facegallery.trainer.learner import Distilled, Learner, NotFinite, Softmax, _optimiser
from facegallery.trainer.network import TrainableNetwork, dropout
from facegallery.trainer.stages import Run, RunSettings
from tests import crops
from tests.crops import said

QUICK, HOMEWORK, MARGIN = (recipe.read(name) for name in ("quick", "homework", "margin"))
PLAIN = replace(
    QUICK.stages[1],
    optimiser="sgd",
    learning_rate=0.5,
    keep=1.0,
    weight_decay=0.01,
    center_loss=0.5,
    average=0.0,
    batch=12,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A network of four convolutions in place of Inception-ResNet-v1, and a data folder of our own."""
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return batches.read(
        crops.write(tmp_path_factory.mktemp("s") / "crops", [crops.row(p, f) for p in range(6) for f in range(2)])
    )


@pytest.fixture(scope="module")
def batch():
    x = np.stack([crops.picture(p, f) for p in range(6) for f in range(2)])
    return tf.constant(x), np.repeat(np.arange(6, dtype=np.int32), 2)


def learner(stage, live=False, folded=False, seed=0, precision="f32") -> Learner:
    net = TrainableNetwork(crops.random_arrays(8, folded), Part("tiny", "", 8, "fixed"), precision)
    return Learner(net, Softmax(8, 6, seed), stage, 6, seed, live=live)


def moved(a: dict, b: dict) -> set[str]:
    return {name for name in a if not np.array_equal(a[name], b[name])}


# one step -------------------------------------------------------------------


def test_micro_batches_add_up_to_one_batch(batch):
    results = []
    for micro in (12, 5, 1):
        one = learner(replace(PLAIN, micro_batch=micro))
        sums = [one.step(*batch, position, 0.5) for position in (0, 12)]
        results.append((sums, one.net.arrays() | one.state()))
    (sums, arrays), *others = results
    for other_sums, other in others:
        assert all(
            a.loss == pytest.approx(b.loss, rel=1e-5) and a.correct == b.correct and a.photos == 12
            for a, b in zip(sums, other_sums, strict=True)
        )
        assert all(np.abs(arrays[k] - other[k]).max() < 2e-6 for k in arrays)


def test_one_step_against_the_formulas(batch):
    """SGD without dropout: loss and head by hand from the features of a frozen network."""
    stage = replace(PLAIN, trains="head", micro_batch=7)
    one = learner(stage)
    x, y = np.asarray(one.net.embed(iter([batch[0]]))), batch[1]
    kernel, bias = (v.numpy().astype(np.float64) for v in one.head.variables)
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    cross_entropy, center, l2 = (
        -np.log(p[np.arange(12), y]).mean(),
        (x**2).mean(),
        0.01 * (kernel**2).sum() / 2,
    )  # centres begin at 0
    sums = one.step(tf.constant(x), y, 0, 0.5)
    assert sums.loss == pytest.approx(
        cross_entropy + 0.5 * center + l2, rel=1e-5
    ) and sums.cross_entropy == pytest.approx(cross_entropy, rel=1e-5)
    gradient = (p - np.eye(6)[y]) / 12
    assert np.abs(one.head.kernel.numpy() - (kernel - 0.5 * (x.T @ gradient + 0.01 * kernel))).max() < 1e-6
    assert np.abs(one.head.bias.numpy() - (bias - 0.5 * gradient.sum(0))).max() < 1e-6
    centres = np.stack([0.5 * x[y == i].sum(0) / 3 for i in range(6)])  # Wen: two photos, divided by three
    assert np.abs(one.state()["centres"] - centres).max() < 1e-6


def test_adagrad_starts_at_a_tenth():
    variable = keras.Variable([1.0, 2.0])
    optimiser = _optimiser(replace(PLAIN, optimiser="adagrad", learning_rate=0.1))
    optimiser.build([variable])
    optimiser.apply([tf.constant([0.5, 0.0])], [variable])
    assert variable.numpy() == pytest.approx([1 - 0.1 * 0.5 / np.sqrt(0.1 + 0.25), 2.0], abs=1e-7)
    optimiser.apply([tf.constant([0.5, 0.0])], [variable])
    assert variable.numpy()[0] == pytest.approx(1 - 0.05 / np.sqrt(0.35) - 0.05 / np.sqrt(0.6), abs=1e-7)


def test_the_moving_average_by_hand(batch):
    one = learner(replace(PLAIN, trains="head", average=0.9999))
    start, x = one.head.bias.numpy(), np.asarray(one.net.embed(iter([batch[0]])))
    one.step(tf.constant(x), batch[1], 0, 0.5)
    first = one.head.bias.numpy()
    one.step(tf.constant(x), batch[1], 12, 0.5)
    mean = start + (1 - 2 / 11) * (first - start)
    mean = mean + (1 - 3 / 12) * (one.head.bias.numpy() - mean)
    assert np.abs(one.state()["average/0001"] - mean).max() < 1e-6


def test_l2_is_on_kernels_only():
    for folded in (False, True):
        one = learner(PLAIN, folded=folded)
        names = {
            name
            for name, v in keras_network.variables_by_name(one.net.model).items()
            for i in one.kernels
            if v is one.variables[i]
        }
        layers = ("Conv2d_1a_3x3", "Mixed_7a_Branch_0", "Mixed_7a_Branch_1", "Block8_1_Conv2d_1x1", "Bottleneck")
        assert names == {f"{layer}/kernel" for layer in layers} and len(one.kernels) == 6  # and the head's


@pytest.mark.parametrize("folded", [False, True])
def test_all_layers_train_but_not_the_statistics(batch, folded):
    one = learner(PLAIN, folded=folded)
    before = one.net.arrays()
    one.step(*batch, 0, 0.5)
    still = {name for name in before if name.endswith(("moving_mean", "moving_variance"))}
    assert moved(before, one.net.arrays()) == before.keys() - still
    assert not folded or "Conv2d_1a_3x3/bias" in moved(before, one.net.arrays())


def test_the_upper_layers_train_from_maps_as_they_do_from_crops(batch):
    upper, whole = (learner(replace(PLAIN, trains=trains, weight_decay=0.0, keep=0.5)) for trains in ("upper", "all"))
    before = upper.net.arrays()
    for position in (0, 12):
        maps = np.concatenate(list(upper.net.maps([batch[0]])))
        one = upper.step(tf.constant(maps), batch[1], position, 0.5)
        other = whole.step(*batch, position, 0.5)
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
        lower = {k: before[k] for k in before if k.startswith("Conv2d_1a")}
        whole.net.assign(whole.net.arrays() | lower)
    got, expected = upper.net.arrays(), whole.net.arrays()
    kernels = {k for k in before if k.endswith(("kernel", "bias", "beta")) and k not in lower}
    assert moved(before, got) == kernels
    for k in kernels:
        assert np.linalg.norm(got[k] - expected[k]) < 0.01 * np.linalg.norm(expected[k] - before[k]), k


def test_dropout_is_stateless_and_keeps_the_mean():
    x, seed = tf.ones([4, 10_000]), tf.constant([1, 2], tf.int64)
    y = dropout(x, 0.5, seed).numpy()
    assert set(np.unique(y)) == {0.0, 2.0} and y.mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(y, dropout(x, 0.5, seed).numpy()) and not np.array_equal(y, dropout(x, 0.5, seed + 1).numpy())
    assert dropout(x, 1.0, seed) is x


def test_the_homework_drops_before_and_after_the_bottleneck(batch):
    """With live batch norm each step depends on both draws: the same position twice is the same, another is not."""
    stage = replace(HOMEWORK.stages[0], micro_batch=12, weight_decay=0.0, center_loss=0.0)
    losses = [learner(stage, live=True).step(*batch, position, 0.0).loss for position in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    one = learner(stage, live=True)
    features, _ = one._accumulate(*map(tf.constant, batch), tf.constant(0, tf.int64), tf.constant(1 / 12))
    assert 0.3 < (features.numpy() == 0).mean() < 0.7


def test_nan_changes_nothing(batch):
    one = learner(PLAIN)
    one.head.bias.assign(np.full(6, np.nan, np.float32))
    before = one.net.arrays()
    with pytest.raises(NotFinite):
        one.step(*batch, 0, 0.5)
    assert not moved(before, one.net.arrays())


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_state_is_all_that_moves(batch, precision):
    stage = replace(QUICK.stages[1], micro_batch=5, learning_rate=0.01)
    whole, half = learner(stage, precision=precision), learner(stage, precision=precision)
    for position in (0, 12, 24):
        whole.step(*batch, position, 0.01)
    half.step(*batch, 0, 0.01)
    other = learner(stage, precision=precision)
    other.net.assign(half.net.arrays())
    other.restore(half.state())
    for position in (12, 24):
        other.step(*batch, position, 0.01)
    assert not moved(whole.net.arrays() | whole.state(), other.net.arrays() | other.state())


# a run ----------------------------------------------------------------------


def run(folder, data, rule, keep=False) -> Run:
    start = crops.random_arrays()
    part = store.store_part(start, "tiny", "fixed")
    return Run(folder, part, start, rule, data, RunSettings(keep=keep))


def with_stages(rule, *changes, **more):
    return replace(
        rule,
        stages=tuple(replace(s, batch=8, micro_batch=5, **c) for s, c in zip(rule.stages, changes, strict=True)),
        **more,
    )


ONE_THEN_NONE = with_stages(QUICK, {"epochs": 2, "views": 2}, {"epochs": 0})


def test_stage_1_of_quick_changes_only_the_head(tmp_path, data):
    one = run(tmp_path / "run", data, ONE_THEN_NONE)
    before, head = one.net.arrays(), one.head.kernel.numpy()
    done = one.train()
    assert not moved(before, one.net.arrays()) and not np.array_equal(head, one.head.kernel.numpy())
    assert (
        done.part.sha256 == one.part.sha256
        and "no stage trained the network" in done.delivered
        and not done.progress.moved
    )


def test_stage_1_of_the_homework_moves_statistics_besides(tmp_path, data):
    rule = with_stages(HOMEWORK, {"epochs": 1, "steps": 2}, {"epochs": 0})
    one = run(tmp_path / "run", data, rule)
    before = one.net.arrays()
    done = one.train()
    assert moved(before, one.net.arrays()) == {n for n in before if n.endswith(("moving_mean", "moving_variance"))}
    assert (
        done.part.name == "tiny-homework"
        and done.part.parent == one.part.sha256
        and done.delivered == "the last weights"
    )
    stored = store.open_model(done.part.sha256).arrays(0)
    assert not moved(stored, one.net.arrays())


def test_stage_2_begins_with_weights_and_head_only(tmp_path, data, monkeypatch):
    begun = []
    monkeypatch.setattr(
        Run, "_run_stage", lambda self, one, old=Run._run_stage: (begun.append(one.state()), old(self, one))[1]
    )
    one = run(tmp_path / "run", data, with_stages(HOMEWORK, {"epochs": 1, "steps": 3}, {"epochs": 1, "steps": 1}))
    head = []
    monkeypatch.setattr(
        Softmax, "accuracy", lambda self, *of, old=Softmax.accuracy: head.append(self.kernel.numpy()) or old(self, *of)
    )
    one.train()
    second = begun[1]
    assert np.array_equal(second["head/kernel"], head[0]) and not second["centres"].any() and second["steps"] == 0
    slots = [v for k, v in second.items() if k.startswith("optimiser/") and v.ndim]
    assert len(slots) == len(keras_network.variables_by_name(one.net.model)) - 8 + 2 and all(
        (v == np.float32(0.1)).all() for v in slots
    )


def test_without_validation_the_last_weights_are_pulled_back(tmp_path, data, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    rule = with_stages(
        QUICK, {"epochs": 1, "views": 1}, {"epochs": 2, "learning_rate": 0.01}, delivered="raw", pull_back=0.25
    )
    one = run(tmp_path / "run", data, rule)
    done = one.train()
    got, last = store.open_model(done.part.sha256).arrays(0), one.net.arrays()
    assert all(np.abs(got[k] - (one.start[k] + 0.25 * (last[k] - one.start[k]))).max() < 1e-6 for k in got) and moved(
        got, one.start
    )
    assert "0.25 of their way" in done.delivered and said(caplog)[-1].endswith(done.delivered)
    assert pulled_back(one.start, last, 1.0) is last


def test_margin_trains_the_head_then_the_bottleneck_alone(tmp_path, data):
    """Features of the frozen layers; the network then retrieves better with those that a margin kept apart."""
    one = run(
        tmp_path / "run",
        data,
        with_stages(MARGIN, {"epochs": 30}, {"epochs": 30, "views": 2, "learning_rate": 0.01}),
        keep=True,
    )
    done = one.train()
    after = [store.open_model(part.sha256).arrays(0) for part in done.after]
    assert not moved(after[0], one.start) and moved(after[1], one.start) == {
        "Bottleneck/kernel",
        "Bottleneck_BatchNorm/beta",
    }
    assert [v.name for v in one.head.variables] == ["head_kernel"]
    stage_2 = [line["loss"] for line in done.progress.history if line["stage"] == 2]
    assert stage_2[-1] < 0.8 * stage_2[0] and done.progress.softmax[1] == 1.0


@pytest.mark.parametrize(
    "trains", ["head", "all", *(pytest.param(trains, marks=pytest.mark.slow) for trains in ("bottleneck", "upper"))]
)
def test_the_score_of_a_stage_is_that_of_the_photos_as_they_are(tmp_path, data, trains):
    """Whether it comes from kept features, of the head, the bottleneck or the upper layers, or from the crops."""
    more = {"learning_rate": 0.01 if trains != "head" else 0.1, "decay": 1.0, "trains": trains}
    one = run(tmp_path / trains, data, with_stages(MARGIN, {"epochs": 1}, {"epochs": 30, "views": 2, **more}))
    score = one.train().progress.softmax[1]
    assert score == one.head.accuracy(one.net.embed(batches.plain_crops(one.photos)), one.photos.labels) > 0.2
    assert ("Conv2d_1a_3x3/kernel" in moved(one.net.arrays(), one.start)) == (trains == "all")


def test_margin_that_was_stopped_goes_on_to_the_same_weights(tmp_path, data):
    rule = with_stages(MARGIN, {"epochs": 2}, {"epochs": 3, "views": 2})
    whole = run(tmp_path / "whole", data, rule)
    whole.train()
    for stop in range(1, 5):
        half = run(tmp_path / "half", data, rule)

        def report(state, stop=stop):
            if len(state.history) == stop:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            half.report = report
            half.train()
    again = run(tmp_path / "half", data, rule)
    again.train()
    assert not moved(whole.net.arrays(), again.net.arrays())


def test_what_validation_judges_and_keeps_is_pulled_back(tmp_path, data, monkeypatch):
    scores, seen = iter([0.5, 0.6, 0.7]), []
    monkeypatch.setattr(delivery, "judged", lambda net, photos: seen.append(net.arrays()) or told(next(scores)))
    rule = with_stages(
        QUICK, {"epochs": 1, "views": 1}, {"epochs": 2, "learning_rate": 0.01}, delivered="raw", pull_back=0.25
    )
    one = run(tmp_path / "run", validated(data), rule)
    got = store.open_model(one.train().part.sha256).arrays(0)
    last = one.net.arrays()
    assert not moved(got, seen[2])
    assert all(np.abs(got[k] - (one.start[k] + 0.25 * (last[k] - one.start[k]))).max() < 1e-6 for k in got) and moved(
        got, last
    )


def told(tar: float, hits: int = 6) -> Judged:
    return Judged(np.arange(12) < hits, tar)


def validated(data):
    return replace(data, validation=data.train, why="validation: given")


def test_the_best_epoch_is_kept(tmp_path, data, monkeypatch):
    scores, seen = iter([0.5, 0.6, 0.9, 0.7]), []
    monkeypatch.setattr(delivery, "judged", lambda net, photos: seen.append(net.arrays()) or told(next(scores)))
    rule = with_stages(QUICK, {"epochs": 2, "views": 1}, {"epochs": 3, "learning_rate": 0.01})
    done = run(tmp_path / "run", validated(data), rule).train()
    assert done.progress.best == {"top1": 0.5, "tar": 0.9, "stage": 2, "epoch": 2}
    assert not moved(store.open_model(done.part.sha256).arrays(0), seen[2]) and moved(seen[2], seen[3])
    assert [line["validation_tar"] for line in done.progress.history] == [0.5, 0.5, 0.6, 0.9, 0.7]


def test_the_pretrained_weights_are_candidate_zero(tmp_path, data, monkeypatch):
    scores = iter([0.8, 0.8, 0.7])
    monkeypatch.setattr(delivery, "judged", lambda net, photos: told(next(scores)))
    one = run(tmp_path / "run", validated(data), with_stages(QUICK, {"epochs": 1, "views": 1}, {"epochs": 2}))
    done = one.train()
    assert done.part == one.part and "pretrained" in done.delivered and done.progress.moved


def test_the_average_is_judged_and_delivered_and_training_goes_on_raw(tmp_path, data, monkeypatch):
    scores, seen = iter([0.1, 0.9]), []
    monkeypatch.setattr(delivery, "judged", lambda net, photos: seen.append(net.arrays()) or told(next(scores)))
    rule = with_stages(
        QUICK, {"epochs": 0}, {"epochs": 1, "learning_rate": 0.01, "average": 0.9}, delivered="average", pull_back=1.0
    )
    one = run(tmp_path / "run", validated(data), rule)
    done = one.train()
    got = store.open_model(done.part.sha256).arrays(0)
    assert not moved(got, seen[1]) and moved(got, one.net.arrays())
    assert not moved(got, one._last.network_weights(average=True))


def test_a_network_is_judged_by_its_unit_vectors(data):
    class Fixed:
        def embed(self, batches):
            return (
                np.eye(6, 8, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 0]] * 3 + 0.01
            )  # the last is taken for person 0

    assert delivery.judged(Fixed(), data.train).top1 == pytest.approx(5 / 6)


def test_weights_that_miss_people_are_not_kept_for_their_tar(tmp_path, data, monkeypatch):
    """After a stop too: whom the pretrained network tells apart is kept on disk."""
    scores = iter([told(0.5, 10), told(0.6, 9), told(0.9, 2), told(0.8, 10)])
    monkeypatch.setattr(delivery, "judged", lambda net, photos: next(scores))
    rule = with_stages(QUICK, {"epochs": 1, "views": 1}, {"epochs": 3, "learning_rate": 0.01})
    first = run(tmp_path / "run", validated(data), rule)
    first.report = lambda state: (_ for _ in ()).throw(KeyboardInterrupt) if len(state.history) == 2 else None
    with pytest.raises(KeyboardInterrupt):
        first.train()
    done = run(tmp_path / "run", validated(data), rule).train()
    assert (
        done.progress.best == {"top1": 10 / 12, "tar": 0.8, "stage": 2, "epoch": 3}
        and "soft TAR 0.8000" in done.delivered
    )


def test_nan_stops_with_one_line_and_the_last_good_checkpoint(tmp_path, data):
    rule = with_stages(QUICK, {"epochs": 1, "views": 1}, {"epochs": 9, "learning_rate": 1e12, "optimiser": "sgd"})
    with pytest.raises(ModelError) as caught:
        run(tmp_path / "run", data, rule).train()
    text, good = str(caught.value), checkpoints.all_of(tmp_path / "run")[-1]
    assert "\n" not in text and "stage 2 of 2" in text and str(good) in text
    assert all(np.isfinite(v).all() for v in checkpoints.read(good)[0].values())


# checkpoints ----------------------------------------------------------------


def test_checkpoints_hold_arrays_and_state_and_two_are_kept(tmp_path):
    for number in (1, 2, 3):
        checkpoints.save_newest(
            tmp_path, number, {"a": np.arange(number), "b": np.array(number)}, {"number": number, "x": [0.1]}
        )
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "checkpoint-000000002.safetensors",
        "checkpoint-000000003.safetensors",
    ]
    arrays, state = checkpoints.newest(tmp_path)
    assert (
        state == {"number": 3, "x": [0.1]}
        and np.array_equal(arrays["a"], [0, 1, 2])
        and arrays["b"].shape == ()
        and arrays["b"] == 3
    )
    checkpoints.path_of(tmp_path, 3).write_bytes(checkpoints.path_of(tmp_path, 3).read_bytes()[:40])
    assert checkpoints.newest(tmp_path)[1]["number"] == 2
    checkpoints.path_of(tmp_path, 2).write_bytes(b"")
    assert checkpoints.newest(tmp_path) is None


def test_a_long_epoch_writes_checkpoints_inside_it(tmp_path, data, monkeypatch):
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
    saved = []
    monkeypatch.setattr(
        checkpoints,
        "save_newest",
        lambda folder, number, arrays, state: saved.append((number, state["epoch"], state["step"])),
    )
    run(
        tmp_path / "run", data, with_stages(QUICK, {"epochs": 1, "steps": 3, "views": 1}, {"epochs": 1, "steps": 2})
    ).train()
    assert saved == [(1, 0, 1), (2, 0, 2), (3, 1, 0), (4, 0, 1), (5, 1, 0)]


# learning from a teacher ----------------------------------------------------

DISTIL = with_stages(
    replace(recipe.read("distil"), teacher=("sface",)),
    {"views": 2},
    {"epochs": 3, "optimiser": "sgd", "learning_rate": 0.00003},
    augmentation=MARGIN.augmentation,
)


@pytest.fixture
def taught(monkeypatch) -> np.ndarray:
    """Vectors of an unseen teacher for the twelve photos, of twice the dimension."""
    targets = np.random.default_rng(3).normal(size=(12, 16)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    asked = []
    monkeypatch.setattr(stages.teacher, "LEAST_PHOTOS", 4)
    monkeypatch.setattr(stages.teacher, "vectors", lambda *_: asked.append(1) or targets)
    yield targets
    assert len(asked) == 1  # once, however often a run is begun


def test_a_distilled_networks_loss_is_its_distance_to_the_teacher():
    targets = np.eye(3, dtype=np.float32)
    head = Distilled(targets)
    features = tf.constant([[0.0, 5.0, 0.0], [3.0, 0.0, 4.0]])
    loss, right = head.judged(features, tf.constant([1, 0]))
    assert loss.numpy() == pytest.approx([0.0, 0.4]) and right.numpy().tolist() == [True, True]
    _, right = head.judged(tf.constant([[0.0, 1.0, 0.0], [0.0, 1.0, 0.1]]), tf.constant([1, 0]))
    assert right.numpy().tolist() == [True, False]
    assert head.accuracy(features.numpy(), np.array([1, 0])) == pytest.approx(0.8) and head.variables == []


def test_stage_1_solves_the_bottleneck_and_stage_2_comes_nearer(tmp_path, data, taught):
    one = run(tmp_path / "run", data, replace(DISTIL, augmentation=batches.NOTHING))
    before = one.net.arrays()
    done = one.train()
    solved, after = checkpoints.read(tmp_path / "run" / "solved.safetensors")[0], one.net.arrays()
    assert moved({k: v for k, v in before.items() if "Bottleneck" not in k}, solved) == set()
    assert (
        done.part.dimension == 16
        and done.part.parent == one.part.sha256
        and {k.partition("_Branch")[0] for k in moved(solved, after)}
        == {
            "Mixed_7a",
            "Block8_1_Conv2d_1x1/kernel",
            "Block8_1_Conv2d_1x1/bias",
            "Bottleneck/kernel",
            "Bottleneck_BatchNorm/beta",
        }
    )
    first, *_, last = done.progress.history
    assert first["stage"] == 1 and first["loss"] == pytest.approx(1 - done.progress.softmax[0], abs=1e-6)
    assert first["accuracy"] == 1.0  # twelve photos, learnt by heart
    assert last["stage"] == 2 and done.progress.softmax[1] > done.progress.softmax[0]


def test_both_stages_take_the_same_maps_which_are_computed_once(tmp_path, data, taught, monkeypatch):
    asked = []
    monkeypatch.setattr(
        TrainableNetwork, "maps", lambda self, crops, old=TrainableNetwork.maps: asked.append(1) or old(self, crops)
    )
    one = run(tmp_path / "run", data, with_stages(DISTIL, {"views": 3}, {"views": 2}))
    one.train()
    names = sorted(path.name for path in (tmp_path / "run").glob("*-view-*.npy"))
    assert len(asked) == 3 and names == [
        f"{name}-view-{i}.npy" for name, n in (("maps", 2), ("stage-1", 3)) for i in range(n)
    ]


def test_maps_are_not_used_once_the_lower_layers_have_moved(tmp_path, data):
    rule = with_stages(MARGIN, {"epochs": 1}, {"epochs": 1, "views": 1})
    _, bottleneck = rule.stages
    moving = [replace(bottleneck, trains=trains, learning_rate=0.1) for trains in ("upper", "all")]
    one = run(tmp_path / "run", data, replace(rule, stages=(*moving, replace(bottleneck, learning_rate=1e-9))))
    one.train()
    expected = np.concatenate(list(one.net.below("bottleneck", one.net.maps(batches.plain_crops(one.photos)))))
    assert np.abs(np.load(tmp_path / "run" / "stage-3-view-0.npy") - expected).max() < 1e-4


def test_a_distillation_that_was_stopped_goes_on_to_the_same_weights(tmp_path, data, taught):
    whole = run(tmp_path / "whole", data, DISTIL)
    for stop in range(1, 5):  # after each epoch: of stage 1, then of stage 2
        count = []
        half = run(tmp_path / "half", data, DISTIL)

        def report(state, count=count, stop=stop):
            count.append(1)
            if len(state.history) == stop and len(count) > (stop > 1):
                raise KeyboardInterrupt

        half.report = report
        with pytest.raises(KeyboardInterrupt):
            half.train()
    again = run(tmp_path / "half", data, DISTIL)
    again.train()
    whole.train()
    assert not moved(whole.net.arrays(), again.net.arrays()) and again.net.dimension == 16


def test_a_distilled_network_is_pulled_back_to_the_solved_one(tmp_path, data, taught):
    one = run(tmp_path / "run", data, replace(DISTIL, pull_back=0.25, delivered="raw"))
    got = store.open_model(one.train().part.sha256).arrays(0)
    solved, last = checkpoints.read(tmp_path / "run" / "solved.safetensors")[0], one.net.arrays()
    assert all(np.abs(got[k] - (solved[k] + 0.25 * (last[k] - solved[k]))).max() < 1e-6 for k in got)


def test_a_stage_1_alone_is_delivered_as_it_was_solved(tmp_path, data, taught):
    one = run(tmp_path / "run", data, with_stages(DISTIL, {}, {"epochs": 0}))
    got = store.open_model(one.train().part.sha256).arrays(0)
    assert not moved(got, checkpoints.read(tmp_path / "run" / "solved.safetensors")[0])
