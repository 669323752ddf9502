"""What does a gallery cost at scale: adding, removing, opening, searching, filtering, compacting?

    python benchmarks/scale/gallery.py --n 1000000 --folder /tmp/bench --json benchmarks/results/gallery.json

Faces are made up (`benchmarks/common/synthetic.py`). Searches run on a fresh index, and on one with a tail of new
faces and with removed ones. Peers run in the same process, in turns: plain SQLite inserts of the same rows, plain
faiss.IndexFlatIP over the same vectors. Times are medians in milliseconds.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import synthetic  # noqa: E402
from benchmarks.common.galleries import BUCKETS, LIKE, make, rows  # noqa: E402
from facegallery.embedder.dataset.row import Row  # noqa: E402
from facegallery.indexer.derived import derive  # noqa: E402
from facegallery.indexer.opening import open_store  # noqa: E402
from facegallery.indexer.search import candidates  # noqa: E402
from facegallery.indexer.search.searcher import Searcher  # noqa: E402
from facegallery.indexer.store.store import Store  # noqa: E402
from facegallery.indexer.upkeep.verify import verify  # noqa: E402

K = 5
OPEN = """
import json, sys, time
import faiss, numpy as np
from facegallery.indexer.search.searcher import Searcher
q = np.load(sys.argv[2])
began = time.perf_counter()
with Searcher(sys.argv[1]) as searcher:
    opened = time.perf_counter() - began
    searcher.search(q[None], 5)
    print(json.dumps([opened, time.perf_counter() - began]))
"""


def median_ms(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the medians of calls that alternate, in milliseconds."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return [1000 * statistics.median(taken) for taken in seconds]


def add_and_raw(folder: Path, n: int, d: int, repeats: int) -> dict[str, float]:
    """Time `add` of 1,000 faces beside plain inserts of the same rows.

    The inserts go into the same tables, and into a table of vectors alone.
    """
    with open_store(folder, write=True) as gallery, pytest.MonkeyPatch.context() as patch:
        patch.setattr(derive, "LEAST", 10 * n)
        batches = iter([list(rows(1000, d, n + 1000 * i)) for i in range(2 * repeats)])
        plain = iter([_recorded(gallery, next(batches), 10 * n + 10_000 * i) for i in range(repeats)])
        with gallery.writing():
            gallery.execute("CREATE TABLE bare(id INTEGER PRIMARY KEY, vector BLOB) STRICT")
        last: list[list] = []

        def insert() -> None:
            with gallery.writing():
                for sql, lines in next(plain):
                    gallery.execute_many(sql, lines)
                    last.append(lines) if "vectors" in sql else None

        def insert_vectors() -> None:
            with gallery.writing():
                gallery.execute_many("INSERT INTO bare VALUES (?, ?)", [line[:2] for line in last[-1]])

        add, same, bare = median_ms([lambda: gallery.add(next(batches)), insert, insert_vectors], repeats)
        with gallery.writing():
            gallery.execute("DROP TABLE bare")
    return {
        "add_1000_ms": add,
        "same_rows_plain_ms": same,
        "times_plain": add / same,
        "vectors_alone_ms": bare,
        "times_vectors": add / bare,
    }


def _recorded(gallery: Store, batch: list[Row], first: int) -> list[tuple[str, list]]:
    """Return the inserts that `add` would make of a batch, with ids from `first`; insert its people only."""
    inserts: list[tuple[str, list]] = []
    with pytest.MonkeyPatch.context() as patch, gallery.writing():
        gallery._people(row.identity or "" for row in batch)
        patch.setattr(gallery, "_next_id", lambda: first)
        patch.setattr(gallery, "execute_many", lambda sql, lines: inserts.append((sql, list(lines))))
        gallery._insert({row.face_id: row for row in batch}, gallery.spec.dimension)
    return inserts


def remove(folder: Path, repeats: int) -> dict[str, float]:
    """Time the removal of a person, with the line in the log and the faces kept for `undo`."""
    with open_store(folder, write=True) as gallery:
        names = iter([name for name, _ in gallery.list_people("person 0000100", repeats)])
        return {"remove_person_ms": median_ms([lambda: gallery.remove(identity=next(names))], repeats)[0]}


def opened(folder: Path, q: np.ndarray, repeats: int) -> dict[str, float]:
    """Time opening, and opening with the first answer, in a new process."""
    np.save(folder.parent / "q.npy", q)
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder), str(folder.parent / "q.npy")],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        runs.append(json.loads(done.stdout))
    return {
        "open_s": statistics.median(r[0] for r in runs),
        "open_and_first_answer_s": statistics.median(r[1] for r in runs),
    }


def flat_index(searcher: Searcher) -> Any:
    """Make a faiss.IndexFlatIP of the current faces."""
    index, held = faiss.IndexFlatIP(searcher.spec.dimension), searcher.candidates
    for _, xb in searcher.store.vectors():
        index.add(xb)
    assert index.ntotal == held.enrolled
    return index


def queries(folder: Path, xq: np.ndarray, repeats: int) -> dict[str, float]:
    """Time whole answers beside a new IndexFlatIP over the same faces."""
    with Searcher(folder) as searcher:
        index = flat_index(searcher)
        i = iter(range(10 * repeats))

        def one(search: Callable) -> Callable:
            return lambda: search(xq[next(i) % len(xq)][None], K)

        single, single_flat = median_ms([one(searcher.search), one(index.search)], repeats)
        batch, batch_flat = median_ms([lambda: searcher.search(xq, K), lambda: index.search(xq, K)], 3)
        D, _ = index.search(xq, 1)
        right = np.mean([hits[0].score >= d - 1e-5 for hits, (d,) in zip(searcher.search(xq, K), D, strict=True)])
    return {
        "single_ms": single,
        "single_flat_ms": single_flat,
        "single_times_flat": single / single_flat,
        "batch_ms": batch,
        "batch_flat_ms": batch_flat,
        "batch_times_flat": batch / batch_flat,
        "batch": len(xq),
        "first_answer_right": float(right),
    }


def fall_behind(folder: Path, n: int, d: int) -> dict[str, int]:
    """Add a tail of 1 % and remove 5 % without a rebuild."""
    with open_store(folder, write=True) as gallery:
        with gallery.writing():
            gallery.enrol(rows(n // 100, d, 4 * n))
            ids = [
                id
                for (id,) in gallery.execute(
                    "SELECT id FROM faces WHERE id <= ? ORDER BY (id * 7919) % 1000003 LIMIT ?", (n, n // 20)
                )
            ]
            gallery.drop(ids)
        built, added, changed = derive.behind(gallery)
        return {"built": built, "added": added, "removed": changed}


def filtered(folder: Path, xq: np.ndarray) -> list[dict[str, Any]]:
    """Time filters that keep several shares of the faces, and take their recall against an exact scan."""
    found = []
    with Searcher(folder) as searcher:
        searcher.search(xq[:1], K)
        held = searcher.candidates
        image = searcher.search(xq[:1], 1, faces=True)[0][0].image
        for name, where in [
            ("50 %", f"bucket<{BUCKETS // 2}"),
            ("5 %", f"bucket<{BUCKETS // 20}"),
            ("0.1 %", "bucket=7"),
            ("one face", f"image={image}"),
        ]:
            began = time.perf_counter()
            searcher.search(xq[:1], K, where=[where])
            first = time.perf_counter() - began
            answers = searcher.search(xq, K, faces=True, where=[where])
            kept = np.flatnonzero(searcher._kept[1])
            exact = exact_filtered(held, kept, xq)
            shares = [
                len({h.face_id for h in hits} & truth) / len(truth)
                for hits, truth in zip(answers, _face_ids(searcher, exact), strict=True)
            ]
            i = iter(range(1000))
            (single,) = median_ms([lambda w=where, i=i: searcher.search(xq[next(i) % len(xq)][None], K, where=[w])], 15)
            found.append(
                {
                    "kept": name,
                    "faces": len(kept),
                    "recall": float(np.mean(shares)),
                    "answers": sorted({len(hits) for hits in answers}),
                    "first_ms": 1000 * first,
                    "next_ms": single,
                }
            )
    return found


def exact_filtered(held: candidates.Candidates, kept: np.ndarray, xq: np.ndarray) -> list[np.ndarray]:
    """Return the positions of the K best kept faces of each query, by a plain product in blocks."""
    scores = np.concatenate([xq @ held.rows(kept[i : i + 50_000]).T for i in range(0, len(kept), 50_000)], axis=1)
    return [kept[at] for at in np.argsort(-scores, axis=1, kind="stable")[:, :K]]


def _face_ids(searcher: Searcher, positions: list[np.ndarray]) -> list[set[str]]:
    faces = searcher.store.fetch(np.unique(searcher.candidates.ids[np.concatenate(positions)]))
    return [{faces[int(id)].face_id for id in searcher.candidates.ids[at]} for at in positions]


def crossover(folder: Path, xq: np.ndarray, repeats: int) -> list[dict[str, float]]:
    """Time a scan of the kept faces beside FAISS with a selector, for one query and for 100 at once."""
    table, rng = [], np.random.default_rng(0)
    with Searcher(folder) as searcher:
        held = searcher.candidates
        for share in (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7):
            kept = (rng.random(held.count) < share) & held.alive[: held.count]

            def ask(limit: float, n: int, kept: np.ndarray = kept) -> Callable[[], Any]:
                def call() -> None:
                    candidates.SCAN_SHARE, candidates.MANY = limit, 10**9
                    list(held.nearest(xq[:n], 26, kept))

                return call

            times = median_ms([ask(2.0, 1), ask(-1.0, 1)], repeats) + median_ms([ask(2.0, 100), ask(-1.0, 100)], 2)
            table.append(
                {
                    "share": share,
                    **dict(zip(("scan_ms", "selector_ms", "scan_100_ms", "selector_100_ms"), times, strict=True)),
                }
            )
    return table


def timed(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


@click.command()
@click.option("--n", default=1_000_000, show_default=True)
@click.option("--d", default=512, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("data/bench"), show_default=True)
@click.option("--repeats", default=15, show_default=True)
@click.option("--keep", is_flag=True, help="Use the gallery that an earlier run made there.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(n: int, d: int, folder: Path, repeats: int, *, keep: bool, out: Path | None) -> None:
    """Measure a gallery of n made-up faces with d dimensions."""
    results: dict[str, Any] = {"n": n, "d": d, "machine": platform.machine(), "cores": faiss.omp_get_max_threads()}
    index = folder / f"faces-{n}-{d}"
    xq = synthetic.probes(np.arange(1000, 1256), LIKE.get(d, "casia"), d)

    def note(key: str, value: Any) -> None:
        results[key] = value
        click.echo(f"{key}: {json.dumps(value)}")
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(results, indent=1) + "\n")

    if not (keep and (index / "index.faiss").exists()):
        note("make", make(index, n, d))
    note("open", opened(index, xq[0], 5))
    note("fresh", queries(index, xq, repeats))
    note("filters", filtered(index, xq))
    note("crossover", crossover(index, xq, max(3, repeats // 3)))
    note("remove", remove(index, repeats))
    note("add", add_and_raw(index, n, d, max(3, repeats // 2)))
    with open_store(index, write=True) as gallery:
        note("compact_s", timed(lambda: derive.compact(gallery)))
    note("behind", fall_behind(index, n, d))
    note("open_behind", opened(index, xq[0], 5))
    note("behind_queries", queries(index, xq, repeats))
    with open_store(index, write=True) as gallery:
        note("verify_s", timed(lambda: results.__setitem__("problems", verify(gallery).problems)))
    note("bytes", {p.name: p.stat().st_size for p in index.rglob("*") if p.is_file() and not p.is_symlink()})


if __name__ == "__main__":
    main()
