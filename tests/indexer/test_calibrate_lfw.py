"""A calibration's promise about strangers, tested on strangers: half of LFW's people, a hundred times."""

import shutil

import numpy as np
import pytest

from benchmarks.accuracy.calibration import Faces, by_image, experiment, summary

pytestmark = pytest.mark.lfw

SINGLE = 700  # of the 2,653 people with one photo


@pytest.fixture(scope="module")
def faces(lfw, lfw_vectors, lfw_command, tmp_path_factory) -> Faces:
    """Vectors of `msceleb`: two photos of each person who has them, and one of SINGLE others."""
    work = tmp_path_factory.mktemp("calibrate")
    people = [sorted(folder.glob("*.jpg")) for folder in sorted(lfw.iterdir()) if folder.is_dir()]
    single = [photos[0] for photos in people if len(photos) == 1]
    for path in [single[i] for i in np.random.default_rng(0).permutation(len(single))[:SINGLE]]:
        (work / "photos" / path.parent.name).mkdir(parents=True)
        shutil.copyfile(path, work / "photos" / path.parent.name / path.name)
    lfw_command("embed", work / "photos", "--out", work / "vectors", "--no-crops", "--model", "msceleb")
    shots = sorted(by_image(lfw_vectors("msceleb")).items())  # gallery/..., then probe/..., each by person
    first, second = (
        np.stack([x for image, (_, x) in shots if image.startswith(split)]) for split in ("gallery", "probe")
    )
    return Faces(first, second, np.stack([x for _, x in by_image(work / "vectors").values()]))


def test_the_interval_holds_the_rate_at_which_strangers_are_taken_for_somebody(faces):
    assert len(faces.first) == len(faces.second) == 1680 and len(faces.single) >= SINGLE - 1
    found = {fpir: summary(splits) for fpir, splits in experiment(faces, splits=100).items()}
    print(found)
    assert found[0.01]["held"] >= 90 and found[0.003]["held"] >= 90
    assert found[0.01]["max_high"] <= 0.03
    assert found[0.01]["mean_detection"] >= 0.75
