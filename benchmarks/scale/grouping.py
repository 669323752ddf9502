"""What does grouping cost at scale? A gallery of unnamed faces, `group` as a process, and again with 1,000 new faces.

    python benchmarks/scale/grouping.py --n 1000000 --folder /tmp/bench --json benchmarks/results/grouping-1000000.json

Faces are made up, with the scores of `sface` (`benchmarks/common/synthetic.py`), so that it is known who is who.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import synthetic  # noqa: E402
from benchmarks.common.rounds import ROOT, whole_processes  # noqa: E402
from facegallery.embedder.dataset.row import Row  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.indexer.derived import derive  # noqa: E402
from facegallery.indexer.grouping.wrong_pairs import pairs_within, wrong_within  # noqa: E402
from facegallery.indexer.opening import create_store, open_store  # noqa: E402

NEW = 1000  # faces that join later


def fill(folder: Path, n: int, per_person: float) -> float:
    """Make a gallery of unnamed faces; return the seconds it took."""
    shutil.rmtree(folder, ignore_errors=True)
    with create_store(folder) as gallery:
        with gallery.writing():
            gallery._migrate()
            spec = open_model("sface").spec
            for key, value in {"spec": spec.to_json(), "salt": b"salt" * 8, "inputs": ""}.items():
                gallery.set_fact(key, value)
            gallery.set_fact("build", '{"split": null, "left_out": {}}')
            derive.derive(gallery)
        derive.tidy(gallery)
        began = time.perf_counter()
        for start in range(0, n, synthetic.PIECE):
            add(gallery, start, min(n, start + synthetic.PIECE), per_person)
        return time.perf_counter() - began


def add(gallery: Any, start: int, end: int, per_person: float) -> None:
    """Keep faces `start` to `end` without a name; their photos tell who they are."""
    xb, people = synthetic.faces(end - start, "sface", per_person=per_person, start=start)
    numbered = enumerate(zip(xb, people.tolist(), strict=True), start)
    gallery.add_unnamed([Row(f"p{who}/{i}.jpg", "ok", f"{i:064x}", face=0, vector=x) for i, (x, who) in numbered])


def quality(folder: Path) -> dict[str, float]:
    """Return what the groups are worth: wrong pairs, and precision, recall and F as BCubed counts them."""
    with open_store(folder, write=False) as gallery:
        rows = gallery.execute("SELECT image, coalesce(number, -unnamed.id) FROM unnamed LEFT JOIN grouped USING (id)")
    people = np.array([int(re.findall(r"\d+", image)[0]) for image, _ in rows])
    groups = np.unique([number for _, number in rows], return_inverse=True)[1]
    both = np.unique(groups.astype(np.int64) * (people.max() + 1) + people, return_inverse=True, return_counts=True)
    same = both[2][both[1]]
    precision, recall = (same / np.bincount(labels)[labels] for labels in (groups, people))
    p, r = float(precision.mean()), float(recall.mean())
    wrong = wrong_within(groups, people) / max(1, pairs_within(groups))
    return {"wrong_pairs": wrong, "precision": p, "recall": r, "f": 2 * p * r / (p + r)}


def grouped(folder: Path) -> dict[str, Any]:
    """Run `group` as a process: seconds, peak memory in MB, and what it said."""
    command = [sys.executable, str(ROOT / "cli.py"), "group", folder.name]
    return whole_processes({"group": command}, 1, warm=0)["group"]


@click.command()
@click.option("--n", default=100_000, show_default=True, help="Unnamed faces.")
@click.option("--per-person", default=5.0, show_default=True, help="Photos of a person, on average.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("data/bench"), show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(n: int, per_person: float, folder: Path, out: Path | None) -> None:
    folder = folder.resolve()
    os.environ["FACEGALLERY_INDEXES"] = str(folder)
    gallery = folder / f"grouping-{n}"
    answer: dict[str, Any] = {"n": n, "per_person": per_person, "fill_s": fill(gallery, n, per_person)}
    print(f"{n:,} faces kept in {answer['fill_s']:.0f} s", flush=True)
    answer |= {"group": grouped(gallery), "quality": quality(gallery)}
    print(json.dumps(answer["group"]), json.dumps(answer["quality"]), flush=True)
    with open_store(gallery, write=True) as store:
        add(store, n, n + NEW, per_person)
    answer["join"] = grouped(gallery)
    print(f"{NEW:,} new faces: {json.dumps(answer['join'])}")
    answer["load"] = os.getloadavg()
    if out:
        out.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
