import shutil
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.errors import ModelError
from facegallery.embedder.faces import mtcnn_nets as nets
from facegallery.embedder.network.engines import OpenvinoEngine, TensorflowEngine

SHAPES = (2, 64, 64, 4), (3, 24, 24, 4), (3, 48, 48, 4)
each = pytest.mark.parametrize("net, shape", list(zip(nets.NETS, SHAPES, strict=True)), ids=["pnet", "rnet", "onet"])


def inputs(net: nets.MtcnnNet, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(4)
    photo = rng.integers(-128, 128, shape).astype(np.float32)
    gaps = (rng.random((shape[0], shape[1] - 2, shape[2] - 2, 1)) < 0.05).astype(np.float32) * 1e4
    return (photo, gaps) if "gaps" in net.layers else (photo,)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the package's own reader, on Python 3.13
@each
def test_the_answers_are_the_packages_own(net, shape):
    from mtcnn.stages import StageONet, StagePNet, StageRNet

    package = {nets.PNET: StagePNet, nets.RNET: StageRNet, nets.ONET: StageONet}[net]().model
    photo, *gaps = inputs(net, shape)
    gaps = [np.zeros_like(gap) for gap in gaps]
    *expected, classes = (answer.numpy() for answer in package((photo[..., :3] + 0.5) / 128))
    found = OpenvinoEngine(lambda: nets.in_openvino(net, nets.load(net), shape))([(photo, *gaps)])[0]
    assert np.abs(found[..., :-1] - np.concatenate(expected, axis=-1)).max() < 1e-4
    assert np.abs(1 / (1 + np.exp(-found[..., -1])) - classes[..., 1]).max() < 1e-4


@each
def test_openvino_and_tensorflow_agree(net, shape):
    arrays, batch = nets.load(net), inputs(net, shape)
    one = OpenvinoEngine(lambda: nets.in_openvino(net, arrays, shape))([batch, batch])
    other = TensorflowEngine(nets.in_tensorflow(net, arrays, shape), "CPU:0")([batch, batch])
    for ours, theirs in zip(one, other, strict=True):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_what_a_gap_covers_is_not_seen():
    """The last row of a level with an odd height pools one row of responses, whatever lies below it."""
    net, shape = nets.PNET, (1, 32, 32, 4)
    run = OpenvinoEngine(lambda: nets.in_openvino(net, nets.load(net), shape))
    photo, gaps = inputs(net, shape)
    gaps[:] = 0
    gaps[:, 31 - 2] = 1e4
    other = photo.copy()
    other[:, 31:] = -1 - other[:, 31:]
    answers = [answer[:, :11] for answer in run([(photo, gaps), (other, gaps), (other, np.zeros_like(gaps))])]
    assert np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[0], answers[2])


def test_weights_planted_in_the_working_folder_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for net in nets.NETS:
        Path(net.file).write_bytes(b"would run")
    assert [len(nets.load(net)) for net in nets.NETS] == [13, 16, 21]


def test_changed_package_weights_are_refused(tmp_path, monkeypatch):
    shutil.copytree(nets.package_folder(), tmp_path / "weights")
    monkeypatch.setattr(nets, "package_folder", lambda: tmp_path / "weights")
    assert len(nets.load(nets.ONET)) == 21
    (tmp_path / "weights" / "onet.lz4").write_bytes(b"x")
    with pytest.raises(ModelError, match="expected onet.lz4"):
        nets.load(nets.ONET)
    (tmp_path / "weights" / "onet.lz4").unlink()
    with pytest.raises(ModelError, match="no file"):
        nets.load(nets.ONET)
