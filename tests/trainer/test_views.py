import errno
import os

import numpy as np
import pytest

from facegallery.trainer import views
from facegallery.trainer.batches import samples
from facegallery.trainer.views import Views


def test_views_of_features_come_in_the_streams_order():
    features = np.arange(2 * 5 * 1, dtype=np.float32).reshape(2, 5, 1)  # 10 v + n
    some = Views(features, np.arange(5, dtype=np.int32) * 100, seed=1)
    x, y = (np.concatenate(a) for a in zip(*((x.numpy(), y) for x, y in some.batches(0, 5, 3)), strict=True))
    assert np.array_equal(y, samples(1, 5, 0, 15) * 100)
    assert np.array_equal(x[:, 0], samples(1, 5, 0, 15) + np.repeat([0, 5, 0], 5))
    assert np.array_equal(np.concatenate([x.numpy() for x, _ in some.batches(5, 4, 2)])[:, 0], x[5:13, 0])


def test_blocks_are_kept_whole_and_in_order(tmp_path):
    rows = np.random.default_rng(0).normal(size=(600, 2, 3)).astype(np.float16)
    views.keep(tmp_path / "view.npy", 600, views.blocks(rows))
    kept = views.kept(tmp_path / "view.npy")
    assert kept.dtype == np.float16 and np.array_equal(kept, rows) and isinstance(kept, np.memmap)
    assert (tmp_path / "view.npy").stat().st_mode & 0o777 == 0o600
    assert np.array_equal(np.load(tmp_path / "view.npy"), rows) and [p.name for p in tmp_path.iterdir()] == ["view.npy"]


def test_what_was_stopped_is_not_there(tmp_path):
    def stopped():
        yield np.zeros((2, 3), np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        views.keep(tmp_path / "view.npy", 4, stopped())
    assert not any(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device") as caught:
        views.keep(tmp_path / "view.npy", 2, [np.zeros((2, 3), np.float32)])
    assert caught.value.filename == str(tmp_path / "view.npy") and not any(tmp_path.iterdir())
