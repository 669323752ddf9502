"""Writers that are killed, or whose disk fails: at random moments, and at their writes, fsyncs, renames and removals.

A small dose takes a few moments and steps, a full one 200 moments and one step in STRIDE. FACEGALLERY_EVERY_STEP=1
makes the full dose every step: an hour.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.crash import SCENARIOS
from tests.doses import doses

MEMORY = Path("/dev/shm")
EVERY_STEP = bool(os.environ.get("FACEGALLERY_EVERY_STEP"))
STRIDE, SLOW = 29, {"encrypted": 73}  # where each opening derives the key anew
FEW = 2  # steps of each mode
KILLS = 200


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a disk: it is the tests that lose what was not synced."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield Path(name) / "work"


def counts(module: str, *arguments: object) -> dict[str, int]:
    """What a script of checks has counted; fails with what it says where one did not hold."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(arguments[1], found)
    return found


@pytest.mark.parametrize("few", doses(FEW, None))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_step_is_the_last_everything_acknowledged_is_there_and_nothing_half(folder, scenario, few):
    stride = 1 if EVERY_STEP else SLOW.get(scenario, STRIDE)
    found = counts("tests.crash", folder, scenario, *(["--places", few] if few else ["--stride", stride]))
    assert found["steps"] > 50
    for mode in ("kill", "power", "fail", "full"):
        assert found[mode] >= (few or found["steps"] // stride), mode


@pytest.mark.parametrize("kills", doses(KILLS // 10, KILLS))
def test_a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged(folder, kills):
    found = counts("tests.writer", folder, kills)
    assert found["kills"] == kills and found["acknowledged"] > kills // 5
    assert sum(n for what, n in found.items() if what.startswith("during")) > kills // 5
