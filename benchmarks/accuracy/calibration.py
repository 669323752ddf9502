"""Does `calibrate` hold its rate? Enrol half of the people, ask about all others as strangers, a hundred times.

    python benchmarks/accuracy/calibration.py VECTORS... [--splits 100] [--seed 0] [--json FILE]

VECTORS are data sets that `embed` made of LFW's folders (identities with several photos and with one). `A,B` is the
unit-length concatenation of two. Of a person with two photos or more, the first is enrolled; where the person is in
the other half, the second is a stranger's photo. The only photo of a person is a stranger's photo, too. Thresholds
are fitted on the enrolled photos alone. `strangers.py` asks strangers unlike the gallery, and relatives.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import vectors_of
from facegallery.indexer.calibrate import Enrolled, fit, leave_own_out
from facegallery.indexer.metrics import nearest_people

RATES = (0.1, 0.01, 0.003)


@dataclass(frozen=True)
class Faces:
    """Hold the first and second photos of the same people, float32 (p, d), and the only photos of others (s, d)."""

    first: np.ndarray
    second: np.ndarray
    single: np.ndarray


def read_faces(folders: str) -> Faces:
    """Read a data set, or the concatenation of several of the same photos; a person's photos are in order of name."""
    sets = [by_image(Path(folder)) for folder in folders.split(",")]
    photos: dict[str, list[np.ndarray]] = defaultdict(list)
    for image in sorted(set.intersection(*map(set, sets))):
        identity = sets[0][image][0]
        photos[identity].append(np.concatenate([s[image][1] for s in sets]) / np.float32(len(sets) ** 0.5))
    several = [x for x in photos.values() if len(x) > 1]
    single = [x[0] for x in photos.values() if len(x) == 1]
    return Faces(np.stack([x[0] for x in several]), np.stack([x[1] for x in several]), np.stack(single))


def by_image(folder: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Return photo -> (identity, vector float32 (d,)) of the photos that have both."""
    data = DataSet(folder)
    table = data.table(["face_id", "image", "identity", "outcome", "vector"])
    table = table.filter(table["vector"].is_valid())
    columns = zip(
        table["image"].to_pylist(), table["identity"].to_pylist(), vectors_of(table, data.spec.dimension), strict=True
    )
    return {image: (identity, vector) for image, identity, vector in columns}


def one_split(faces: Faces, rng: np.random.Generator, rates: Sequence[float]) -> list[dict[str, float]]:
    """Enrol a random half; return for each rate what was promised and what came."""
    order = rng.permutation(len(faces.first))
    enrolled, others = np.split(order, [len(order) // 2])
    xb, yb = faces.first[enrolled], np.arange(len(enrolled))
    strangers = nearest_people(xb, yb, np.concatenate([faces.second[others], faces.single]), 1)[1][:, 0]
    ranked, scores = nearest_people(xb, yb, faces.second[enrolled], 1)
    genuine = np.where(ranked[:, 0] == yb, scores[:, 0], -np.inf)
    own = leave_own_out(xb, yb, np.arange(len(xb)))
    lines = []
    for rate in rates:
        calibration = fit(own, np.empty(0), rate, Enrolled(len(xb), len(xb), ""), genuine)
        low, high = calibration.interval(len(strangers))
        realised, detection = float((strangers >= calibration.threshold).mean()), calibration.detection
        assert detection is not None
        lines.append(
            {
                "held": low <= realised <= high,
                "low": low,
                "high": high,
                "realised": realised,
                "threshold": calibration.threshold,
            }
            | {
                "effect": calibration.effect,
                "detection": detection[0],
                "strangers": len(strangers),
                "enrolled": len(xb),
            }
        )
    return lines


def experiment(faces: Faces, splits: int, seed: int = 0, rates: Sequence[float] = RATES) -> dict[float, dict[str, Any]]:
    """Return for each rate the numbers of `one_split`, each a float array (splits,)."""
    rng = np.random.default_rng(seed)
    runs = [one_split(faces, rng, rates) for _ in range(splits)]
    return {
        rate: {key: np.array([run[i][key] for run in runs], float) for key in runs[0][i]}
        for i, rate in enumerate(rates)
    }


def summary(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Summarise one line of the table."""
    return {
        "held": int(found["held"].sum()),
        "splits": len(found["held"]),
        "mean_low": float(found["low"].mean()),
        "mean_high": float(found["high"].mean()),
        "max_high": float(found["high"].max()),
        "mean_realised": float(found["realised"].mean()),
        "median_threshold": float(np.median(found["threshold"])),
        "mean_effect": float(found["effect"].mean()),
        "mean_detection": float(found["detection"].mean()),
        "strangers": int(found["strangers"][0]),
        "enrolled": int(found["enrolled"][0]),
    }


def row_of(cells: Sequence[str]) -> str:
    """Write a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", nargs="+", metavar="VECTORS")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines = []
    columns = ["vectors", "FPIR", "interval holds", "mean interval", "widest upper end", "mean realised"]
    columns += ["median threshold", "effect", "DIR", "s"]
    print(row_of(columns))
    print(row_of(["---"] * len(columns)).replace(" ", ""))
    for folders in given.vectors:
        name, start = "+".join(Path(f).name for f in folders.split(",")), time.perf_counter()
        found = experiment(read_faces(folders), given.splits, given.seed)
        seconds = time.perf_counter() - start
        for rate, arrays in found.items():
            s = summary(arrays)
            lines.append({"vectors": name, "fpir": rate, **s})
            cells = [name, f"{rate:g}", f"{s['held']} of {s['splits']}", f"{s['mean_low']:.4f}..{s['mean_high']:.4f}"]
            cells += [f"{s[key]:.4f}" for key in ("max_high", "mean_realised", "median_threshold")]
            cells += [f"{s['mean_effect']:.2f}", f"{s['mean_detection']:.4f}", f"{seconds:.0f}"]
            print(row_of(cells), flush=True)
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
