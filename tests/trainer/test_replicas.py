import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.weights import store
from facegallery.trainer import recipe, replicas
from tests import crops
from tests.conftest import ROOT

TRAIN = """
import logging, sys
from dataclasses import replace
from pathlib import Path
from facegallery.embedder.network import quiet
quiet.import_tensorflow()
import tensorflow as tf
cpu, *_ = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[4]))
from facegallery.embedder.compute import Compute
from tests import crops
from facegallery.trainer import recipe
from facegallery.trainer.train import TrainingOptions, train
crops.tiny()
chosen = recipe.read(sys.argv[5])
how = {"epochs": 2, "steps": 3, "batch": 12, "micro_batch": 6, "center_loss": 0.01, "views": 2}
stages = tuple(replace(stage, **how, learning_rate=0.01 / 10**i) for i, stage in enumerate(chosen.stages))
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
options = TrainingOptions(compute=Compute("cpu", "f32"))
train(Path(sys.argv[1]), replace(chosen, stages=stages), sys.argv[2], Path(sys.argv[3]), options)
"""


@pytest.mark.parametrize("n, most", [(64, 32), (64, 20), (7, 3), (5, 100)])
@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_shares_cover_a_batch_in_order_a_slice_for_each_device(n, most, devices):
    rounds = replicas.shares(n, most, devices)
    assert [i for each in rounds for s in each for i in range(n)[s]] == list(range(n))
    assert all(len(each) == devices and all(1 <= s.stop - s.start <= most for s in each) for each in rounds)


def test_even_shares_are_one_devices_micro_batches():
    assert [s for each in replicas.shares(96, 16, 3) for s in each] == [s for (s,) in replicas.shares(96, 16, 1)]


def test_every_device_of_a_kind_takes_part_but_no_more_than_a_batch_has_photos(monkeypatch):
    four = [SimpleNamespace(name=f"/device:GPU:{i}") for i in range(4)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: four if kind == "GPU" else [])
    quick, homework = recipe.read("quick"), recipe.read("homework")
    small = replace(quick, stages=(quick.stages[0], replace(quick.stages[1], batch=3)))
    assert replicas.devices("GPU:0", quick) == ["GPU:0", "GPU:1", "GPU:2", "GPU:3"]
    assert replicas.devices("GPU:0", small) == ["GPU:0", "GPU:1", "GPU:2"] and replicas.devices("GPU:0", homework) == [
        "GPU:0"
    ]


@pytest.fixture
def start(monkeypatch, tmp_path) -> str:
    """A stored model of four convolutions; its sha256."""
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    return store.store_part(crops.random_arrays(), "tiny", "fixed").sha256


@pytest.fixture
def data(tmp_path) -> Path:
    return crops.write(tmp_path / "crops", [crops.row(p, 0) for p in range(12)])


def trained(data: Path, start: str, out: Path, devices: int, chosen: str) -> tuple[str, dict[str, np.ndarray]]:
    """The devices that the run names, and the network's weights."""
    command = [sys.executable, "-c", TRAIN, data, start, out, devices, chosen]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    device = json.loads((out / "record.json").read_text())["device"]
    assert f" on {device} (" in done.stdout
    return device, store.open_model(str(out)).arrays(0)


@pytest.mark.traced
def test_two_devices_train_as_one_does(start, data, tmp_path):
    """Two logical CPUs share the micro-batches of one, so that only the order of sums differs; Adam enlarges that."""
    (_, one), (device, two) = (trained(data, start, tmp_path / str(n), n, "quick") for n in (1, 2))
    assert device == "CPU:0 CPU:1"
    begun = store.open_model(start).arrays(0)
    moved = max(np.abs(one[k] - begun[k]).max() for k in one)
    assert max(np.abs(one[k] - two[k]).max() for k in one) < 1e-3 * moved


@pytest.mark.slow
def test_live_batch_norm_keeps_to_the_first_device(start, data, tmp_path):
    assert trained(data, start, tmp_path / "out", 2, "homework")[0] == "CPU:0"
