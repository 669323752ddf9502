"""Eight readers search an index while a writer changes it; FACEGALLERY_SECONDS=300 makes it that long."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.doses import doses

SECONDS = float(os.environ.get("FACEGALLERY_SECONDS", "10"))


@pytest.mark.parametrize("seconds", doses(3.0, SECONDS))
def test_every_answer_is_that_of_a_commit_that_was_current(tmp_path, seconds):
    run = [sys.executable, "-m", "tests.many", tmp_path / "work", str(seconds)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["wrong"] == 0 and found["searches"] > 10 * seconds and found["fewest searches of a reader"] > 0
    assert found["changes"] > seconds and found["generations"] > 1 and found["verbs"]["compact"] > 0
