import json
from pathlib import Path

import pytest
import tensorflow as tf

from facegallery.embedder.errors import DataError, SystemFault
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.weights import store
from facegallery.trainer import recipe, stages
from facegallery.trainer.events import EventLog
from facegallery.trainer.history import NetworkHistory
from facegallery.trainer.train import TrainingOptions, train
from tests import crops
from tests.trainer.test_train import short, stopped

LINES = [
    {"stage": 1, "epoch": 1, "loss": 2.0, "cross_entropy": 1.5, "accuracy": 0.25, "learning_rate": 0.125},
    {"stage": 2, "epoch": 1, "loss": 1.0, "cross_entropy": 0.5, "accuracy": 0.75, "learning_rate": 0.0625},
]
QUICK = short("quick", {"epochs": 2, "views": 2}, {"epochs": 2})
KEYS = {"loss": "loss", "cross_entropy": "cross_entropy", "accuracy": "accuracy", "learning_rate": "learning_rate"}
VALIDATED = KEYS | {"validation/top1": "validation_top1", "validation/tar": "validation_tar"}


def read(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value, by TensorFlow's own reader of records; fails where an event stands twice."""
    found: dict[tuple[str, int], float] = {}
    for path in folder.glob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
                kind = value.metadata.plugin_data.plugin_name
                assert kind in ("scalars", "")  # TensorFlow writes the kind with a tag's first value only
    return found


def told(metrics: list[dict], keys: dict[str, str]) -> dict[tuple[str, int], float]:
    return {(tag, step): pytest.approx(m[key]) for step, m in enumerate(metrics, 1) for tag, key in keys.items()}


def test_each_epoch_is_written_once_at_its_step(tmp_path):
    log = EventLog(tmp_path, ["first", "../second"], recipe.read("quick"), "ab12")
    log.write([NetworkHistory("first", {"top1": 0.5, "tar": 0.25}, LINES[:1])])
    assert read(tmp_path / "1-first") == told(LINES[:1], KEYS) | {
        ("validation/top1", 0): 0.5,
        ("validation/tar", 0): 0.25,
    }
    both = [NetworkHistory("first", {"top1": 0.5, "tar": 0.25}, LINES), NetworkHistory("../second", {}, LINES[1:])]
    log.write(both)
    log.write(both)
    log.close()
    assert read(tmp_path / "1-first") == told(LINES, KEYS) | {("validation/top1", 0): 0.5, ("validation/tar", 0): 0.25}
    assert {path.name for path in tmp_path.iterdir()} == {"1-first", "2-___second"}
    assert read(tmp_path / "2-___second") == told(LINES[1:], KEYS)


def test_the_same_run_begins_anew_and_another_is_refused(tmp_path):
    rule = recipe.read("quick")
    for _ in range(2):
        log = EventLog(tmp_path, ["n"], rule, "ab12")
        log.write([NetworkHistory("n", {}, LINES)])
        log.close()
    assert read(tmp_path / "1-n") == told(LINES, KEYS)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="another run") as caught:
        EventLog(tmp_path, ["n"], rule, "ab13")
    assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before


def test_tags_say_what_a_teacher_changes(tmp_path):
    log = EventLog(tmp_path, ["n"], recipe.read("distil"), "ab12")
    log.write([NetworkHistory("n", {}, LINES)])
    log.close()
    tags = {tag for tag, _ in read(tmp_path / "1-n")}
    assert tags == {"loss", "teacher_distance", "teacher_accuracy", "learning_rate"}


def test_what_cannot_be_written_is_a_line(tmp_path):
    with pytest.raises(SystemFault, match="events") as caught:
        EventLog(tmp_path, ["n"], recipe.read("quick"), "a" * 300)  # a name longer than file systems allow
    assert "\n" not in str(caught.value)


# of a run -------------------------------------------------------------------


def test_a_stopped_run_goes_on_with_events_that_are_those_of_metrics(tmp_path, monkeypatch):
    """Two networks with people to validate; stopped in each stage of each network."""
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    parts = tuple(store.store_part(crops.random_arrays(seed=i), f"tiny{i}", "fixed") for i in range(2))
    store.write_model(tmp_path / "both", FaceSpec(parts=parts))
    folder = crops.write(tmp_path / "crops", [crops.row(p, f) for p in range(42) for f in range(2)], per_shard=64)
    out, logs = tmp_path / "out", tmp_path / "logs"

    def run() -> dict:
        return train(folder, QUICK, str(tmp_path / "both"), out, TrainingOptions(log_dir=logs))

    for at in (5, 5, 5, 5):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stages.Learner, "step", stopped(at))
            run()
    done = run()
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for number, network in enumerate(done["networks"], 1):
        own = [m for m in metrics if m["network"] == f"tiny{number - 1}"]
        before = network["validation_top1"]["before"]
        assert len(own) == 4 and 0 < before["top1"] <= 1
        assert read(logs / f"{number}-tiny{number - 1}") == told(own, VALIDATED) | {
            ("validation/top1", 0): pytest.approx(before["top1"]),
            ("validation/tar", 0): pytest.approx(before["tar"]),
        }
    with pytest.raises(DataError, match="another run"):
        train(folder, QUICK, parts[0].sha256, tmp_path / "other", TrainingOptions(log_dir=logs, seed=1))
