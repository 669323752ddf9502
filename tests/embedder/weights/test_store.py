"""Models that are joined of several, and models whose weights are missing."""

import re

import numpy as np
import pytest

from facegallery.embedder.errors import ModelError
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.spec import WINDOW
from facegallery.embedder.weights.store import open_model


def test_a_joined_model_is_the_weighted_vectors_side_by_side(windows):
    joined = open_model("sface+msceleb:0.5")
    assert [(part.name, part.weight) for part in joined.spec.parts] == [("sface", 1.0), ("msceleb", 0.5)]
    assert joined.spec.crop.window == WINDOW
    each = [Embedder(open_model(name))(*windows) for name in ("sface", "msceleb")]
    expected = unit(np.concatenate([each[0], 0.5 * each[1]], axis=1))
    assert (Embedder(joined)(*windows) * expected).sum(1).min() > 0.99999


def test_trio_is_sface_and_both_facenets_that_see_whole_crops(windows):
    trio = open_model("trio")
    assert [(part.name, part.weight, part.zoom) for part in trio.spec.parts] == [
        ("sface", 1.0, 1.0),
        ("msceleb", 0.6, 1.0),
        ("casia", 0.3, 1.0),
    ]
    assert Embedder(trio)(*windows).shape == (4, 128 + 128 + 512)


def test_a_model_of_several_networks_counts_as_one_vector():
    weights = [part.weight for part in open_model("sface+duo:2").spec.parts]
    assert weights[0] == 1 and np.hypot(*weights[1:]) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    "reference", ["sface+sface", "sface+duo+casia", "sface+", "sface+msceleb:0", "sface+msceleb:x"]
)
def test_what_cannot_be_joined_is_one_line(reference):
    with pytest.raises(ModelError) as caught:
        open_model(reference)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_told_with_the_full_path_of_a_folder_that_is_not_given(tmp_path, monkeypatch):
    monkeypatch.delenv("FACEGALLERY_DATA")
    monkeypatch.chdir(tmp_path)
    for name in ("sface", "msceleb"):
        with pytest.raises(ModelError, match=re.escape(f"{tmp_path / 'data' / 'models'}, they are not there")):
            open_model(name)
