import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, InputError, ModelError, SystemFault
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import store, trained_on
from facegallery.trainer import checkpoints, recipe, stages
from facegallery.trainer.train import TrainingOptions, train
from tests import crops
from tests.conftest import ROOT
from tests.crops import said
from tests.doses import doses

PEOPLE = 6
# the epochs of the two stages, more than the kills let pass, and how many of them end before each kill
TWO_KILLS, TEN_KILLS = ((2, 12), (1, 4)), ((8, 40), (2, 3, 1, 2, 3, 3, 1, 1, 2, 3))


def short(name: str, *changes: dict, **more) -> recipe.Recipe:
    """A shipped recipe with small batches; `changes` for each stage."""
    rule = recipe.read(name)
    kept = {"batch": 8, "micro_batch": 5, "steps": 3}
    return replace(
        rule, stages=tuple(replace(s, **kept | c) for s, c in zip(rule.stages, changes, strict=True)), **more
    )


QUICK = short("quick", {"epochs": 2, "views": 2}, {"epochs": 2, "learning_rate": 0.01})
HOMEWORK = short("homework", {"epochs": 2}, {"epochs": 1})


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> str:
    """A stored model of four convolutions; its sha256."""
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return store.store_part(crops.random_arrays(), "tiny", "fixed").sha256


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    rows = [crops.row(p, f, split, side=200) for p in range(PEOPLE) for f, split in ((0, "gallery"), (1, "probe"))]
    return crops.write(tmp_path_factory.mktemp("t") / "crops", rows, border=20)


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def arrays(reference: str | Path, part: int = 0) -> dict[str, np.ndarray]:
    return store.open_model(str(reference)).arrays(part)


# one run --------------------------------------------------------------------


def test_a_run_leaves_a_model_a_record_metrics_and_curves(photos, tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    out = tmp_path / "out"
    done = train(photos, QUICK, tiny, out)
    lines = said(caplog)
    spec = FaceSpec.from_json((out / "spec.json").read_bytes())
    part = spec.parts[0]
    assert tree(out) == {
        "spec.json",
        f"{part.sha256[:16]}.safetensors",
        "people.json",
        "record.json",
        "metrics.jsonl",
        "curves.png",
    }
    assert (part.name, part.parent, part.standardisation, part.dimension) == ("tiny-quick", tiny, "fixed", 8)
    assert (
        spec.crop.border == 0
        and spec.crop.margin == "0.25"
        and spec.fingerprint != store.open_model(tiny).spec.fingerprint
    )
    assert json.loads((out / "record.json").read_text()) == done
    assert (
        done["arguments"]["seed"] == 0
        and done["arguments"]["recipe"]["stages"][1]["epochs"] == 2
        and done["versions"]["keras"]
    )
    network_ = done["networks"][0]
    assert [0 <= s["softmax_accuracy"] <= 1 and s["seconds"] > 0 for s in network_["stages"]] == [True, True]
    assert (
        done["data"]["photos"] == PEOPLE
        and "no validation" in done["data"]["validation"]
        and "micro-batches of 5" in done["micro_batches"][0]
    )
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(m["stage"], m["epoch"]) for m in metrics] == [(1, 1), (1, 2), (2, 1), (2, 2)] and all(
        m["loss"] > 0 for m in metrics
    )
    assert trained_on.history(spec) == trained_on.history(spec, out) == metrics
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    epochs = [line for line in lines if "epoch " in line]
    assert len(epochs) == 4 and all(
        word in epochs[0] for word in ("stage 1 of 2", "loss", "accuracy", "photos/s", "left")
    )
    assert (
        "CPU:0" in lines[0]
        and "cores" in lines[0]
        and f"{PEOPLE} photos of {PEOPLE} people" in lines[0]
        and any("pulled back" in line for line in lines[1:3])
    )


def test_nothing_that_is_left_names_people(photos, tiny, tmp_path):
    train(photos, QUICK, tiny, tmp_path / "out")
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "data").rglob("*")]:
        assert path.is_dir() or b"person 0" not in path.read_bytes()


def test_a_model_knows_whom_it_and_its_parents_were_trained_on(photos, tiny, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(photos, QUICK, tiny, first)
    others = crops.write(tmp_path / "others", [crops.row(p, f) for p in range(20, 70) for f in (0, 1)], per_shard=128)
    train(others, QUICK, str(first), second)
    names = [f"person {p:03d}" for p in range(80)]
    trained, validated = trained_on.known(names, trained_on.read(first))
    assert (trained, validated) == ({f"person {p:03d}" for p in range(PEOPLE)}, set())
    model = store.open_model(str(second)).spec
    for found in (trained_on.read(second), trained_on.of_model(model)):
        trained, validated = trained_on.known(names, found)
        assert len(validated) == 20 and trained | validated == {
            f"person {p:03d}" for p in (*range(PEOPLE), *range(20, 70))
        }
    assert trained_on.of_model(store.open_model(tiny).spec) == []
    stored = {
        part.name: trained_on.known(["person 003", "person 033"], found)[0] for part, found in trained_on.stored()
    }
    assert stored.keys() == {"tiny-quick", "tiny-quick-quick"} and stored["tiny-quick"] == {"person 003"}


def test_names_that_are_nearly_the_same_are_told(tiny, tmp_path, caplog):
    rows = [crops.row(p, f, identity=name) for p, name in enumerate(("Ann", "ann", "Bob")) for f in range(2)]
    given = crops.write(
        tmp_path / "given", [crops.row(p, f, identity=name) for p, name in ((3, "BOB"), (4, "Cy")) for f in range(2)]
    )
    caplog.set_level(logging.INFO, "facegallery")
    done = train(crops.write(tmp_path / "crops", rows), QUICK, tiny, tmp_path / "out", TrainingOptions(validate=given))
    (warning,) = said(caplog, logging.WARNING)
    assert "'Ann' and 'ann', 'BOB' and 'Bob'" in warning and done["data"]["people"] == 3


def test_the_run_folder_is_kept_on_request(photos, tiny, tmp_path):
    out = tmp_path / "out"
    train(photos, QUICK, tiny, out, TrainingOptions(keep_run=True))
    assert json.loads((out / "run" / "people.json").read_text()) == [f"person {p:03d}" for p in range(PEOPLE)]
    after = [store.open_model(str(out / "run" / f"after-stage-{k}")) for k in (1, 2)]
    assert after[0].spec.parts[0].sha256 == tiny and after[1].spec.parts[0].name == "tiny-quick-stage2"
    start, last, got = after[0].arrays(0), after[1].arrays(0), arrays(out)
    assert all(np.abs(got[k] - (start[k] + 0.3 * (last[k] - start[k]))).max() < 1e-6 for k in got)
    assert {"head-1.safetensors", "head-2.safetensors"} <= {p.name for p in (out / "run" / "part-0").iterdir()}


def test_the_same_again_is_a_no_op_and_another_is_refused_by_name(photos, tiny, tmp_path, caplog):
    out = tmp_path / "out"
    done = train(photos, QUICK, tiny, out)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    caplog.set_level(logging.INFO, "facegallery")
    assert train(photos, QUICK, tiny, out) == done
    assert len(said(caplog)) == 1 and "complete" in said(caplog)[0]
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    other = crops.write(tmp_path / "other", [crops.row(p, 0, "gallery") for p in range(3)])
    for call, words in (
        (lambda: train(photos, QUICK, tiny, out, TrainingOptions(seed=1)), ["seed was 0 and is now 1"]),
        (
            lambda: train(photos, QUICK, tiny, out, TrainingOptions(epochs=(2, 3))),
            ["recipe stages 2 epochs was 2 and is now 3"],
        ),
        (lambda: train(photos, HOMEWORK, tiny, out), ["recipe name was quick and is now homework"]),
        (lambda: train(other, QUICK, tiny, out), ["training data was"]),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(photos, tiny, tmp_path):
    shas = [
        train(photos, QUICK, tiny, tmp_path / str(i), TrainingOptions(seed=seed))["networks"][0]["sha256"]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert shas[0] == shas[1] != shas[2]


def test_several_networks_become_one_model(photos, tiny, tmp_path, monkeypatch):
    second = store.store_part(crops.random_arrays(16, folded=True, seed=1), "second", "per_image")
    monkeypatch.setitem(store.COMPOSED, "both", {"tiny": 1.0, "second": 1.0})
    both = FaceSpec(parts=(store.open_model(tiny).spec.parts[0], second))
    store.write_model(tmp_path / "both", both)
    done = train(photos, QUICK, str(tmp_path / "both"), tmp_path / "out")
    spec = FaceSpec.from_json((tmp_path / "out" / "spec.json").read_bytes())
    assert [p.name for p in spec.parts] == ["tiny-quick", "second-quick"] and spec.dimension == 24
    assert [p.standardisation for p in spec.parts] == ["fixed", "per_image"] and [
        n["parent"] for n in done["networks"]
    ] == [
        tiny,
        second.sha256,
    ]
    changed = arrays(tmp_path / "out", 1)
    assert not np.array_equal(
        changed["Conv2d_1a_3x3/bias"], store.open_model(second.sha256).arrays(0)["Conv2d_1a_3x3/bias"]
    )
    metrics = [json.loads(line)["network"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert metrics == ["tiny"] * 4 + ["second"] * 4
    with pytest.raises(InputError, match="second has it folded"):
        train(photos, HOMEWORK, str(tmp_path / "both"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_validation_people_choose_the_epoch(tiny, tmp_path, caplog):
    folder = crops.write(tmp_path / "crops", [crops.row(p, f) for p in range(44) for f in range(2)], per_shard=64)
    caplog.set_level(logging.INFO, "facegallery")
    done = train(folder, short("quick", {"epochs": 1, "views": 1}, {"epochs": 2}), tiny, tmp_path / "out")
    scores = done["networks"][0]["validation_top1"]
    assert (
        "20 people held out" in done["data"]["validation"]
        and done["data"]["people"] == 24
        and len(scores["epochs"]) == 3
    )
    assert (
        scores["best"]["top1"] == max([scores["epochs"][0], *scores["epochs"]])
        and sum("validation top-1" in line for line in said(caplog)) >= 4
    )


def test_homework_runs_in_both_stages(photos, tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    done = train(photos, HOMEWORK, tiny, tmp_path / "out")
    assert (
        done["networks"][0]["delivered"] == "the last weights"
        and "batch norm sees 5 photos at a time, not 8" in done["micro_batches"][1]
    )
    start, got = arrays(tiny), arrays(tmp_path / "out")
    assert all(not np.array_equal(start[k], got[k]) for k in start)


# refusals -------------------------------------------------------------------


def test_refusals_are_one_line_and_leave_nothing(photos, tiny, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    one = crops.write(tmp_path / "one", [crops.row(0, f) for f in range(3)])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    for kind, words, call in (
        (DataError, "other files", lambda: train(photos, QUICK, tiny, tmp_path / "full")),
        (DataError, "two people", lambda: train(one, QUICK, tiny, tmp_path / "out")),
        (DataError, "is not there", lambda: train(tmp_path / "none", QUICK, tiny, tmp_path / "out")),
        (ModelError, "expected a model", lambda: train(photos, QUICK, "nobody", tmp_path / "out")),
        (
            SystemFault,
            "expected a GPU",
            lambda: train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=Compute("gpu"))),
        ),
        (InputError, "seed", lambda: train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(seed=-1))),
        (
            InputError,
            "to train in",
            lambda: train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=Compute("cpu", "int8"))),
        ),
        (InputError, "epochs", lambda: train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(epochs=(1,)))),
        (SystemFault, "another path", lambda: train(photos, QUICK, tiny, tmp_path / "full" / "a.txt" / "out")),
    ):
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and (tmp_path / "full" / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("mine", ["notes.txt", "people.json", "deep/photo.jpg", None])
def test_a_users_own_run_folder_is_refused_and_left_as_it_is(photos, tiny, tmp_path, mine):
    own = tmp_path / "out" / "run" / mine if mine else tmp_path / "out" / "run"
    own.parent.mkdir(parents=True), own.write_text("mine")
    with pytest.raises(DataError, match="other files") as caught:
        train(photos, QUICK, tiny, tmp_path / "out")
    assert "\n" not in str(caught.value) and own.read_text() == "mine"
    assert tree(tmp_path / "out") == {
        str(p.relative_to(tmp_path / "out")) for p in (own, *own.parents) if p.is_relative_to(tmp_path / "out")
    } - {"."}


def test_a_users_run_folder_beside_a_complete_run_stays(photos, tiny, tmp_path):
    done = train(photos, QUICK, tiny, tmp_path / "out")
    own = tmp_path / "out" / "run" / "notes.txt"
    own.parent.mkdir(), own.write_text("mine")
    assert train(photos, QUICK, tiny, tmp_path / "out") == done and own.read_text() == "mine"


def test_one_process_a_run(photos, tiny, tmp_path, monkeypatch):
    def second(self):
        with pytest.raises(DataError, match="train alone"):
            train(photos, QUICK, tiny, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.Run, "train", second)
    with pytest.raises(KeyboardInterrupt):
        train(photos, QUICK, tiny, tmp_path / "out")


# stopping and going on ------------------------------------------------------


def stopped(at: int):
    """A `Learner.step` that is interrupted at its n-th call."""
    calls = iter(range(1, 10**6))
    old = stages.Learner.step

    def step(self, *args):
        if next(calls) == at:
            raise KeyboardInterrupt
        return old(self, *args)

    return step


@pytest.mark.traced
@pytest.mark.parametrize(
    "rule, precision",
    [
        (QUICK, "f32"),
        pytest.param(QUICK, "bf16", marks=pytest.mark.slow),
        pytest.param(HOMEWORK, "f32", marks=pytest.mark.slow),
        pytest.param(HOMEWORK, "bf16", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_result(photos, tiny, tmp_path, monkeypatch, rule, precision, caplog):
    monkeypatch.setattr(stages, "CHECKPOINT_SECONDS", 0.0)
    compute = Compute("cpu", precision)
    whole = train(photos, rule, tiny, tmp_path / "whole", TrainingOptions(compute=compute))
    total = 3 * sum(s.epochs for s in rule.stages)
    caplog.set_level(logging.INFO, "facegallery")
    for at in (1, 2, 4, total - 4):  # the last is the last step of all
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stages.Learner, "step", stopped(at))
            train(photos, rule, tiny, tmp_path / "out", TrainingOptions(compute=compute))
    done = train(photos, rule, tiny, tmp_path / "out", TrainingOptions(compute=compute))
    assert any("resuming in stage" in line for line in said(caplog))
    assert done["networks"][0]["sha256"] == whole["networks"][0]["sha256"]
    metrics = [
        [{**json.loads(m), "photos_per_second": 0} for m in (tmp_path / o / "metrics.jsonl").read_text().splitlines()]
        for o in ("whole", "out")
    ]
    assert metrics[0] == metrics[1]


def test_a_stopped_run_with_other_arguments_is_refused(photos, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages.Learner, "step", stopped(3))
        train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=Compute("cpu", "f32")))
    with pytest.raises(DataError, match="seed was 0 and is now 2"):
        train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(seed=2, compute=Compute("cpu", "f32")))
    with pytest.raises(DataError, match="precision was f32 and is now bf16"):
        train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=Compute("cpu", "bf16")))


def test_a_run_from_before_precisions_were_recorded_was_f32(photos, tiny, tmp_path):
    compute, path = Compute("cpu", "f32"), tmp_path / "out" / "record.json"
    train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=compute))
    old = json.loads(path.read_text())
    assert old["arguments"].pop("precision") == "f32"
    path.write_text(json.dumps(old))
    assert train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=compute)) == old
    with pytest.raises(DataError, match="precision was f32 and is now bf16"):
        train(photos, QUICK, tiny, tmp_path / "out", TrainingOptions(compute=Compute("cpu", "bf16")))


@pytest.mark.traced
def test_precisions_move_the_weights_the_same_way(photos, tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "facegallery")
    start, ways = arrays(tiny), []
    for precision in ("f32", "bf16"):
        out = tmp_path / precision
        done = train(photos, QUICK, tiny, out, TrainingOptions(compute=Compute("cpu", precision)))
        assert done["arguments"]["precision"] == precision
        ways.append(np.concatenate([(a - start[k]).ravel() for k, a in sorted(arrays(out).items())]))
    assert "f32, " in said(caplog)[0] and any("bf16, " in line for line in said(caplog))
    a, b = (way / np.linalg.norm(way) for way in ways)
    assert 0.8 < a @ b < 1 - 1e-6


CHILD = """
import logging, sys, time
from facegallery.embedder.network import quiet
quiet.import_tensorflow()
from tests import crops
from tests.trainer.test_train import kill_recipe
from facegallery.trainer import learner, stages
from facegallery.trainer.train import TrainingOptions, train
from pathlib import Path
crops.tiny()
stages.CHECKPOINT_SECONDS = 0.03
old = learner.Learner.step
def slow(self, *args):
    time.sleep(0.01)
    return old(self, *args)
learner.Learner.step = slow
folder, source, out, *epochs = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
train(Path(folder), kill_recipe(*map(int, epochs)), source, Path(out), TrainingOptions(keep_run=True))
"""


def kill_recipe(first: int, second: int) -> recipe.Recipe:
    """So many epochs of the stages."""
    stages = {"epochs": first, "steps": 25, "views": 2}, {"epochs": second, "steps": 8, "learning_rate": 0.001}
    return short("quick", *stages)


def child(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.traced
@pytest.mark.parametrize("dose", doses(TWO_KILLS, TEN_KILLS))
def test_killed_again_and_again_gives_the_weights_of_an_uninterrupted_run(tiny, tmp_path, dose):
    """kill -9 at random moments, in both stages, while checkpoints are written; with people to validate."""
    folder = crops.write(tmp_path / "crops", [crops.row(p, f) for p in range(41) for f in range(2)], per_shard=128)
    stages, kills = dose
    whole = child(folder, tiny, tmp_path / "whole", *stages)
    chance, said = random.Random(5), ""
    for ended in kills:
        process = child(folder, tiny, tmp_path / "out", *stages)
        for _ in range(ended):
            while line := process.stdout.readline():
                said += line
                if "photos/s" in line:
                    break
        time.sleep(chance.uniform(0.0, 0.15))
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        said += process.communicate()[0]
    last = child(folder, tiny, tmp_path / "out", *stages)
    said += last.communicate()[0]
    whole.communicate()
    assert last.returncode == whole.returncode == 0
    assert "resuming in stage 1" in said and "resuming in stage 2" in said
    a, b = (arrays(tmp_path / o / "run" / "after-stage-2") for o in ("whole", "out"))
    assert all(np.abs(a[k] - b[k]).max() < 1e-5 for k in a) and any(
        np.abs(a[k] - v).max() > 1e-3 for k, v in arrays(tiny).items()
    )
    heads = [checkpoints.read(tmp_path / o / "run" / "part-0" / "head-2.safetensors")[0] for o in ("whole", "out")]
    assert all(np.abs(heads[0][k] - heads[1][k]).max() < 1e-5 for k in heads[0])
    records = [json.loads((tmp_path / o / "record.json").read_text())["networks"][0] for o in ("whole", "out")]
    assert (
        records[0]["validation_top1"] == records[1]["validation_top1"]
        and records[0]["delivered"] == records[1]["delivered"]
    )
    epochs = [
        (json.loads(m)["stage"], json.loads(m)["epoch"])
        for m in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == [(stage, e) for stage, n in enumerate(stages, 1) for e in range(1, n + 1)]
    assert not list((tmp_path / "out").rglob("_tmp*"))


# the network itself ---------------------------------------------------------


@pytest.mark.slow
def test_inception_resnet_trains_in_both_stages(photos, tmp_path, monkeypatch):
    """The real network with random weights: 22.8 million numbers, one small step of all layers."""
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    source = store.store_part(crops.random_arrays(128), "random", "per_image").sha256
    rule = short("quick", {"epochs": 2, "views": 1}, {"epochs": 1, "steps": 1, "micro_batch": 8})
    done = train(photos, rule, source, tmp_path / "out", TrainingOptions(keep_run=True))
    before, after = arrays(source), arrays(tmp_path / "out" / "run" / "after-stage-2")
    still = {n for n in before if n.endswith(("moving_mean", "moving_variance"))}
    assert {n for n in before if np.array_equal(before[n], after[n])} == still and done["networks"][0][
        "name"
    ] == "random-quick"
