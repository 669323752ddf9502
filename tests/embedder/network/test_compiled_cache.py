import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import ModelError
from facegallery.embedder.faces import mtcnn_nets as nets
from facegallery.embedder.network import compiled_cache
from facegallery.embedder.network.compiled_cache import CompiledCache
from facegallery.embedder.network.engines import OpenvinoEngine
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.weights import store
from tests.conftest import ROOT

SHAPE = (4, 24, 24, 4)
PATCHES = np.random.default_rng(0).uniform(0, 255, SHAPE).astype(np.float32)


def lay():
    return nets.in_openvino(nets.RNET, nets.load(nets.RNET), SHAPE)


def never():
    raise AssertionError("laid, where it should have been kept")


def answers(engine):
    return engine([(PATCHES,)])[0]


@pytest.fixture
def kept(tmp_path) -> CompiledCache:
    return CompiledCache(tmp_path / "models" / "ab", "one", "ab" * 32)


@pytest.fixture
def first(kept):
    """What the network answers that is kept."""
    return answers(OpenvinoEngine(lay, kept=kept))


def only_file(kept: CompiledCache) -> Path:
    assert [*kept.folder.iterdir()] == [kept.path]
    return kept.path


def test_a_kept_network_answers_the_same_without_being_laid(kept, first):
    assert np.array_equal(answers(OpenvinoEngine(never, kept=kept)), first)
    assert np.array_equal(answers(OpenvinoEngine(lay)), first) and np.abs(first).max() > 0.1


def test_it_is_for_its_owner_alone(kept, first):
    assert only_file(kept).stat().st_mode & 0o777 == 0o600 and kept.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other"])
def test_a_damaged_one_is_made_again(kept, first, harm):
    path = only_file(kept)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-1000], "empty": b"", "other": b"not a network"}[harm])
    assert np.array_equal(answers(OpenvinoEngine(lay, kept=kept)), first)
    assert np.array_equal(answers(OpenvinoEngine(never, kept=kept)), first)


def test_what_made_it_must_be_the_same(kept, first, monkeypatch):
    for other in (
        lambda: OpenvinoEngine(never, kept=replace(kept, weights="cd" * 32)),
        lambda: OpenvinoEngine(never, "f32", 1, kept=kept),
    ):
        with pytest.raises(AssertionError, match="laid"):
            other()
    for name in ("_makers", "_machine"):
        with monkeypatch.context() as patch, pytest.raises(AssertionError, match="laid"):
            patch.setattr(compiled_cache, name, lambda *_: "another")
            OpenvinoEngine(never, kept=kept)
    OpenvinoEngine(lay, kept=replace(kept, weights="cd" * 32))
    only_file(kept)  # instead of the first


def test_one_that_others_could_have_written_is_not_trusted(kept, first):
    os.chmod(only_file(kept), 0o620)
    with pytest.raises(AssertionError, match="laid"):
        OpenvinoEngine(never, kept=kept)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, first):
    (tmp_path / "file").touch()
    nowhere = CompiledCache(tmp_path / "file", "one", "ab" * 32)
    assert np.array_equal(answers(OpenvinoEngine(lay, kept=nowhere)), first)


def test_several_processes_at_once(kept):
    """Each writes, as none was there when it began; what is left is whole."""
    code = (
        "import sys; from tests.embedder.network.test_compiled_cache import *; "
        "OpenvinoEngine(lay, kept=CompiledCache(Path(sys.argv[1]), 'one', 'ab' * 32))"
    )
    command = [sys.executable, "-c", code, str(kept.folder)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    only_file(kept)
    assert np.array_equal(answers(OpenvinoEngine(never, kept=kept)), answers(OpenvinoEngine(lay)))


@pytest.mark.parametrize("name", ["msceleb", "casia"])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_few_crops_get_the_vectors_of_many(crops, name, precision):
    compute = Compute("cpu", precision)
    many, few = (Embedder(store.open_model(name), compute, few=few) for few in (False, True))
    expected = many(crops)
    assert np.array_equal(few(crops[:7]), expected[:7])
    assert all(np.array_equal(few(crops[i : i + 1])[0], expected[i]) for i in range(7))
    assert few(crops[:0]).shape == (0, few.spec.dimension)


def test_damaged_weights_are_refused_though_their_network_is_kept(tmp_path, monkeypatch):
    source = store.stored_file(store.KNOWN["msceleb"].part)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))
    target = store.stored_file(store.KNOWN["msceleb"].part)
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    Embedder(store.open_model("msceleb"), few=True).load()
    assert len([*target.parent.glob("one-*.blob")]) == 1
    with open(target, "r+b") as file:
        file.seek(10_000_000)
        file.write(b"damage")
    with pytest.raises(ModelError, match="damaged or was changed"):
        Embedder(store.open_model("msceleb"), few=True).load()
