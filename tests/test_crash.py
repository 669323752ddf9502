"""Writers that are killed, or whose disk fails: at 200 random moments, and at every write, fsync, rename and removal.

FACEDB_EVERY_STEP=1 takes every step in the place of a few of them.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.crash import SCENARIOS

STRIDE = 1 if os.environ.get("FACEDB_EVERY_STEP") else 23
KILLS = 200


def counts(module: str, *arguments: object) -> dict[str, int]:
    """What a script of checks has counted; fails with what it says where one did not hold."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(arguments[1], found)
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_step_is_the_last_everything_acknowledged_is_there_and_nothing_half(tmp_path, scenario):
    found = counts("tests.crash", tmp_path / "work", scenario, "--stride", STRIDE)
    assert found["steps"] > 50
    for mode in ("kill", "power", "fail", "full"):
        assert found[mode] >= found["steps"] // STRIDE, mode


def test_a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged(tmp_path):
    found = counts("tests.writer", tmp_path / "work", KILLS)
    assert found["kills"] == KILLS and found["acknowledged"] > KILLS
    assert sum(n for what, n in found.items() if what.startswith("during")) > KILLS // 2
