"""The main job on LFW's original photos, through the commands alone."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.dataset
import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.lfw

LEAST = {"msceleb": (0.950, 0.985), "casia": (0.940, 0.976), "duo": (0.967, 0.988)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def command(work):
    def call(*arguments):
        environment = os.environ | {"FACEDB_INDEXES": str(work / "indexes")}
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *map(str, arguments), "--json"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="module")
def photos(lfw, work, command):
    done = command("prepare", "lfw", lfw, work / "photos", "--csv", lfw / "lfw_one_shot.csv")
    assert done["splits"] == {"gallery": 1680, "probe": 1680} and done["people"] == 1680
    return work / "photos"


def recomputed(found: list[dict]) -> tuple[float, float]:
    """top-1 and top-5 from `search --json`, by nothing but its answers."""
    ranked = [[hit["identity"] for hit in probe["faces"][0]["hits"]] if probe["faces"] else [] for probe in found]
    truth = [probe["identity"] for probe in found]
    return tuple(sum(name in names[:k] for name, names in zip(truth, ranked, strict=True)) / len(truth) for k in (1, 5))


@pytest.mark.parametrize("model", LEAST)
def test_one_shot_accuracy(photos, work, command, model):
    vectors = work / model
    assert command("embed", photos, "--model", model, "--out", vectors)["outcomes"] == {"ok": 3360}
    command("build-index", vectors, "--name", model)
    result = command("evaluate", model, vectors, "--predictions", work / f"{model}.txt")
    print(model, result)
    assert result["top1"] >= LEAST[model][0] and result["top5"] >= LEAST[model][1]
    assert (result["probes"], result["gallery"]) == (1680, 1680)
    found = [p for p in command("search", model, vectors, "--one-face", "--k", "5")["probes"] if p["image"].startswith("probe/")]
    assert recomputed(found) == (result["top1"], result["top5"])
    xb = np.asarray(pyarrow.dataset.dataset(vectors).to_table(columns=["vector"])["vector"].to_pylist())
    assert np.abs(np.linalg.norm(xb, axis=1) - 1).max() < 1e-5


def peak_mb(photos, out) -> float:
    """Peak resident memory of `embed` and, apart, of its largest decoder, in MB."""
    script = "import resource, sys; sys.argv = ['cli.py'] + sys.argv[1:]; import cli; code = cli.main(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
    arguments = ["embed", str(photos), "--out", str(out), "--quiet", "--no-crops"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


def test_memory_of_embed_is_flat(lfw, tmp_path):
    every = sorted(lfw.glob("*/*.jpg"))[:10_000]
    assert len(every) == 10_000
    for n in (1_000, 10_000):
        for path in every[:n]:
            target = tmp_path / str(n) / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    small, large = (peak_mb(tmp_path / str(n), tmp_path / f"v{n}") for n in (1_000, 10_000))
    print(f"1,000 photos {small:.0f} MB, 10,000 photos {large:.0f} MB")
    assert large <= 1.1 * small
