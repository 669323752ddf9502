"""`weights list` and `weights import` as a user sees them."""

import json
import shutil

import pytest

from facegallery.embedder.weights.detectors import YUNET
from tests.conftest import DATA
from tests.onnx_networks import SIDE, custom, network, saved


@pytest.fixture
def data(tmp_path):
    return {"FACEGALLERY_DATA": str(tmp_path / "data")}


def test_list_begins_with_what_a_newcomer_should_take(run, data):
    lines = run("weights", "list", **data).out.splitlines()
    assert lines[0].startswith("Take sface to search with") and "`weights fetch sface`" in lines[0]
    entries = json.loads(run("weights", "list", "--json", **data).out)
    assert [entry["name"] for entry in entries][:4] == ["sface", "trio", "msceleb", "duo"]
    assert all(entry["take it"] for entry in entries if "dimension" in entry)


def test_import_says_what_it_assumed_and_list_what_the_network_sees(run, data, tmp_path):
    path = saved(network(1), tmp_path)
    done = run("weights", "import", path, "--name", "mine", "--crop", "box", "--scale", 128, **data)
    assert done.code == 0 and f"assumed --size {SIDE} --colour rgb --mean 127.5;" in done.err
    assert "checked on 8 drawn faces" in done.err and "mine: ready, 24 dimensions" in done.out
    (entry,) = [entry for entry in json.loads(run("weights", "list", "--json", **data).out) if entry["name"] == "mine"]
    assert entry["sees"] == f"--crop box --size {SIDE} --colour rgb --mean 127.5 --scale 128"
    part = json.loads(run("weights", "import", path, "--name", "mine", "--json", **data).out)
    assert (part["network"], part["crop"], part["size"], part["dimension"]) == ("onnx", "arcface", SIDE, 24)


def test_import_says_what_a_model_needs_beside_its_weights(run, data, tmp_path):
    """Only where the detector is missing or damaged; `--quiet` says nothing."""
    path, command = saved(network(1), tmp_path), "weights fetch yunet"
    assert command in run("weights", "import", path, "--name", "mine", **data).err
    assert command not in run("weights", "import", path, "--name", "mine", "--quiet", **data).err
    stored = DATA / "models" / YUNET.file_sha256[:16]
    shutil.copytree(stored, tmp_path / "data" / "models" / stored.name)
    assert command not in run("weights", "import", path, "--name", "mine", **data).err
    next((tmp_path / "data" / "models" / stored.name).glob("*.onnx")).write_bytes(b"damaged")
    assert command in run("weights", "import", path, "--name", "mine", **data).err


@pytest.mark.parametrize(
    "model, options, code, words",
    [
        (custom(), (), 4, "custom operator"),
        (network(), ("--size", 48), 4, "--size 32"),
        (network(), ("--size", 4), 2, "8 to"),
        (network(), ("--standardisation", "fixed"), 2, "leave --standardisation out"),
    ],
)
def test_each_mistake_is_one_line(model, options, code, words, run, data, tmp_path):
    done = run("weights", "import", saved(model, tmp_path, "w.onnx"), "--name", "mine", *options, **data)
    assert done.code == code and words in done.error
