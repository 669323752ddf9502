"""The main job on LFW's original photos, through the commands alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from facegallery.embedder.machine import cores
from tests.conftest import ROOT

pytestmark = pytest.mark.lfw

LEAST = {"msceleb": (0.950, 0.985), "casia": (0.940, 0.976), "duo": (0.967, 0.988)}


def recomputed(found: list[dict]) -> tuple[float, float]:
    """top-1 and top-5 from `search --json`, by nothing but its answers."""
    ranked = [[hit["identity"] for hit in probe["faces"][0]["hits"]] if probe["faces"] else [] for probe in found]
    truth = [probe["identity"] for probe in found]
    return tuple(sum(name in names[:k] for name, names in zip(truth, ranked, strict=True)) / len(truth) for k in (1, 5))


@pytest.mark.parametrize("model", LEAST)
def test_one_shot_accuracy(lfw_vectors, lfw_command, tmp_path, model):
    vectors, command = lfw_vectors(model), lfw_command
    command("build-index", vectors, "--name", model)
    result = command("evaluate", model, vectors, "--predictions", tmp_path / "predictions.txt")
    print(model, result)
    assert result["top1"] >= LEAST[model][0] and result["top5"] >= LEAST[model][1]
    assert (result["probes"], result["gallery"]) == (1680, 1680)
    found = [
        p
        for p in command("search", model, vectors, "--one-face", "--k", "5")["probes"]
        if p["image"].startswith("probe/")
    ]
    assert recomputed(found) == (result["top1"], result["top5"])
    xb = np.asarray(pyarrow.dataset.dataset(vectors).to_table(columns=["vector"])["vector"].to_pylist())
    assert np.abs(np.linalg.norm(xb, axis=1) - 1).max() < 1e-5


def nearest_others(vectors: Path) -> dict[str, str]:
    """photo -> whose the photo nearest to it is, itself left out, by plain NumPy."""
    table = pyarrow.dataset.dataset(vectors).to_table(columns=["image", "identity", "vector"])
    xb, names, images = (
        np.asarray(table["vector"].to_pylist(), np.float32),
        table["identity"].to_pylist(),
        table["image"].to_pylist(),
    )
    scores = xb @ xb.T
    np.fill_diagonal(scores, -np.inf)
    return {image: names[i] for image, i in zip(images, scores.argmax(axis=1), strict=True)}


def test_another_models_report_equals_a_recomputation(lfw_vectors, lfw_command, tmp_path):
    """Two photos of each of 1,680 people, embedded by casia, then from their stored crops by msceleb."""
    lfw_command("build-index", lfw_vectors("casia"), "--name", "switched")
    assert lfw_command("add", "switched", lfw_vectors("casia"), "--split", "probe")["added"] == 1680
    report = lfw_command("reembed", "switched", "--model", "msceleb", "--report", tmp_path / "report.json")
    before, after = nearest_others(lfw_vectors("casia")), nearest_others(lfw_vectors("msceleb"))
    own = {image: image.split("/")[1] for image in before}
    differ = [image for image in before if before[image] != after[image]]
    counts = {
        "faces": 3360,
        "asked": 3360,
        "same": 3360 - len(differ),
        "right_before": sum(before[i] == own[i] for i in own),
        "right_after": sum(after[i] == own[i] for i in own),
        "gained": sum(before[i] != own[i] == after[i] for i in own),
        "lost": sum(before[i] == own[i] != after[i] for i in own),
    }
    print(counts)
    assert {key: report[key] for key in counts} == counts and report["right_after"] > report["right_before"]
    listed = {
        (line["identity"], line["before"], line["after"])
        for line in json.loads((tmp_path / "report.json").read_text())["differently"]
    }
    assert listed == {(own[image], before[image], after[image]) for image in differ}
    assert lfw_command("info", "switched")["model"] == "msceleb"


PEAK = """
import resource, sys
sys.argv = ["cli.py", *sys.argv[1:]]
from facegallery.cli.main import main
from facegallery.embedder.machine import cores
code = main()
# not ru_maxrss: that has the peak of the process that started this one, too
own = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(own + cores() * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_mb(photos, out) -> float:
    """Peak resident memory of `embed` in MB without decoders, its processes on each core as large as the largest."""
    arguments = ["embed", str(photos), "--out", str(out), "--quiet", "--no-crops"]
    done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1]) / 1024


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
    assert large <= 1.1 * small and large < 300 + 600 * cores()
