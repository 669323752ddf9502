import os
import subprocess
import sys

from facegallery.server.meters import FOLDER
from tests.conftest import ROOT

BEGIN = """
from facegallery.server.meters import Meters
meters = Meters()
meters.batch(3)
meters.request("/v1/x", "POST", 503, 0.1)
meters.request("/v1/x", "TRACE", 200, 0.1)
meters.request("/readyz", "GET", 503, 0.1)
meters.in_progress.inc()
"""
TELL = "import sys; sys.stdout.write(meters.text({'att': {'faces': 2, 'people': 1, 'generation': 7}}).decode())"


def told(folder, code: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {FOLDER: str(folder)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_what_processes_counted_is_summed_and_what_dead_ones_had_in_progress_is_not(tmp_path):
    told(tmp_path, BEGIN + "import os; os._exit(0)")
    found = told(tmp_path, BEGIN + TELL)
    assert found["facegallery_photos_in_progress"] == 1 and found["facegallery_refused_total"] == 2
    assert found["facegallery_batch_photos_count"] == 2 and found["facegallery_batch_photos_sum"] == 6
    assert (
        found['facegallery_batch_photos_bucket{le="2.0"}'] == 0
        and found['facegallery_batch_photos_bucket{le="4.0"}'] == 2
    )
    assert found['facegallery_request_seconds_count{method="other",route="/v1/x",status="200"}'] == 2
    assert [found[f'facegallery_{what}{{index="att"}}'] for what in ("faces", "people", "generation")] == [2, 1, 7]
