"""Tensors out of pickles that are never run."""

import pickle
import zipfile

import numpy as np
import pytest

from facegallery.embedder.errors import ModelError
from facegallery.embedder.weights.formats import read
from facegallery.embedder.weights.torch_file import read_state
from tests import torch_layout
from tests.torch_layout import named, number, pickled, text

LAYOUTS = pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "a.weight": draw.normal(size=(3, 4, 5, 2)).astype(np.float32).transpose(3, 2, 0, 1),
        "b.weight": np.asfortranarray(draw.normal(size=(6, 7)).astype(np.float32)),
        "b.half": draw.normal(size=(4,)).astype(np.float16),
        "b.num_batches_tracked": np.array(12),
        "ü": np.zeros((0, 3), np.float32),
    }


@LAYOUTS
def test_every_tensor_comes_with_its_shape_and_values(tmp_path, state, older):
    torch_layout.save(tmp_path / "w.pt", state, older)
    found = read_state(tmp_path / "w.pt")
    assert list(found) == list(state)
    for name, array in state.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], array)


@LAYOUTS
def test_a_cut_file_is_refused_in_one_line_wherever_it_was_cut(tmp_path, state, older):
    path = tmp_path / "w.pt"
    torch_layout.save(path, state, older)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 8, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


class Planted:
    def __reduce__(self):
        return (open, ("planted", "w"))


def in_zip(path, pickle_bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle_bytes)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (pickle.dumps({"a": Planted()}, 2), "open"),
        (pickle.dumps({"a": Planted()}, 4), "open"),
        (pickle.dumps({"a": Planted()}, 0), "the step"),
        (pickled(named("torch.nn.modules.linear", "Linear") + b")R"), "torch.nn.modules.linear.Linear"),
        (pickled(named("torch", "FloatStorage") + b")R"), "to call"),
        (pickled(text("system") + b")R"), "to call"),
        (pickled(b"(" + text("module") + text("x") * 4 + b"tQ"), "module of its own"),
        (pickle.dumps({"epoch": 3, "state_dict": {}}, 2), "holds epoch, state_dict"),
        (pickle.dumps([1, 2], 2), "holds list"),
    ],
)
def test_nothing_is_run(tmp_path, monkeypatch, content, word):
    monkeypatch.chdir(tmp_path)
    in_zip(tmp_path / "w.pt", content)
    with pytest.raises(ModelError, match=word):
        read(tmp_path / "w.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 9), (0, 0)), (3, (2,), (1,))],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, offset, size, stride):
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(4) + b"tQ"
    arguments = b"(" + storage + number(offset) + torch_layout.numbers(size) + torch_layout.numbers(stride) + b"\x89Nt"
    body = b"}(" + text("a") + named("torch._utils", "_rebuild_tensor_v2") + arguments + b"Ru"
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickled(body))
        archive.writestr("model/data/0", bytes(16))
    with pytest.raises(ModelError, match="inside its storage"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("layout", ["text", "zip"])
def test_what_torch_never_saved_is_told_from_damage(tmp_path, layout):
    path = tmp_path / "w.pt"
    if layout == "text":
        path.write_text("hello, this is no pickle")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    with pytest.raises(ModelError, match="model.state_dict"):
        read(path)


def test_a_storage_of_another_size_and_a_packed_one_are_refused(tmp_path, state):
    whole = tmp_path / "whole.pt"
    torch_layout.save(whole, state, older=False)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for change, packing in [
        ({"model/data/0": members["model/data/0"][:-4]}, zipfile.ZIP_STORED),
        ({}, zipfile.ZIP_DEFLATED),
    ]:
        with zipfile.ZipFile(tmp_path / "w.pt", "w", packing) as archive:
            for name, content in (members | change).items():
                archive.writestr(name, content)
        with pytest.raises(ModelError, match="another size"):
            read_state(tmp_path / "w.pt")
