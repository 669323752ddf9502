"""Make galleries of made-up faces at any scale."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import synthetic
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import create_store

LIKE = {128: "msceleb", 512: "casia", 640: "duo"}
BUCKETS = 1000  # values of the column that filters ask for


def rows(n: int, d: int, start: int = 0, per_person: float = 2.0) -> Iterator[Row]:
    """Yield face `start` and those that follow, each with a column `bucket`."""
    i = start
    for xb, people in synthetic.blocks(n, LIKE.get(d, "casia"), d, per_person, start=start):
        for x, person in zip(xb, people.tolist(), strict=True):
            yield Row(
                f"p{person}/{i}.jpg",
                "ok",
                f"{i:064x}",
                f"person {person:07d}",
                "gallery",
                0,
                vector=x,
                extra={"bucket": str(i * 7919 % BUCKETS)},
            )
            i += 1


def make(folder: Path, n: int, d: int, spec: FaceSpec | None = None, per_person: float = 2.0) -> dict[str, float]:
    """Build a gallery with the contract `spec`; return seconds to fill and to build it, and CPU seconds to build it."""
    shutil.rmtree(folder, ignore_errors=True)
    with create_store(folder) as gallery:
        began = time.perf_counter()
        with gallery.writing():
            gallery._migrate()
            gallery.set_fact("spec", (spec or FaceSpec((Part("made-up", "ab" * 32, d, "fixed"),))).to_json())
            for key, value in {"salt": b"salt" * 8, "inputs": "", "build": '{"split": null, "left_out": {}}'}.items():
                gallery.set_fact(key, value)
            gallery.enrol(rows(n, d, per_person=per_person))
            filled, used = time.perf_counter(), time.process_time()
            derive.derive(gallery)
        derive.tidy(gallery)
        return {
            "fill_s": filled - began,
            "build_s": time.perf_counter() - filled,
            "build_cpu_s": time.process_time() - used,
        }
