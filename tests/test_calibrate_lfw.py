"""What a calibration promises about strangers, held against strangers: half of LFW's people enrolled, a hundred times over."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.calibration import Faces, experiment, read_faces, summary
from tests.conftest import ROOT

pytestmark = pytest.mark.lfw

SINGLE = 700  # of the 2,653 people with one photo


@pytest.fixture(scope="module")
def faces(lfw, tmp_path_factory) -> Faces:
    """Vectors of `msceleb`: two photos of each person who has them, and one of SINGLE others."""
    work = tmp_path_factory.mktemp("calibrate")
    people = [sorted(folder.glob("*.jpg")) for folder in sorted(lfw.iterdir()) if folder.is_dir()]
    single = [photos for photos in people if len(photos) == 1]
    chosen = [single[i] for i in np.random.default_rng(0).permutation(len(single))[:SINGLE]]
    for path in [path for photos in people if len(photos) > 1 for path in photos[:2]] + [path for photos in chosen for path in photos]:
        (work / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / "photos" / path.parent.name / path.name)
    command = [sys.executable, str(ROOT / "cli.py"), "embed", str(work / "photos"), "--out", str(work / "vectors"), "--no-crops", "--quiet"]
    done = subprocess.run([*command, "--model", "msceleb"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return read_faces(str(work / "vectors"))


def test_the_interval_holds_the_rate_at_which_strangers_are_taken_for_somebody(faces):
    assert len(faces.first) == len(faces.second) == 1680 and len(faces.single) >= SINGLE - 1
    found = {fpir: summary(splits) for fpir, splits in experiment(faces, splits=100).items()}
    print(found)
    assert found[0.01]["held"] >= 90 and found[0.003]["held"] >= 90
    assert found[0.01]["max_high"] <= 0.03
    assert found[0.01]["mean_detection"] >= 0.75
