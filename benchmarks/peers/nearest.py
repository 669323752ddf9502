"""Find the nearest vectors by one engine: build once, tune to a recall on half of the queries, time the others.

Arguments: engine, .npz with xq and gt (the exact nearest rows), .npy of the vectors, folder for the engine's files,
recall@5 to reach, queries in a batch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402
from facegallery.indexer.derived.codes import lists_of, milliseconds  # noqa: E402

K, THREADS, SINGLE, BLOCK = 5, 2, 40, 1 << 16
EFFORTS = (64, 128, 256, 512, 1024, 2048, 4096)
Search = Callable[[np.ndarray, int], np.ndarray]  # xq (n, d), effort -> int64 (n, K)


def flat(xb: np.ndarray, folder: Path) -> Search:
    import faiss

    index = faiss.IndexFlatIP(xb.shape[1])
    for i in range(0, len(xb), BLOCK):
        index.add(np.ascontiguousarray(xb[i : i + BLOCK]))
    return lambda xq, effort: index.search(xq, K)[1]


def facegallery_index(xb: np.ndarray, folder: Path) -> Search:
    """Return candidates and their exact scores, like the other engines."""
    searcher = _searcher(folder)  # it owns what its candidates are scored by
    return lambda xq, effort: searcher.candidates.codes.search(xq, K)[1]


def facegallery(xb: np.ndarray, folder: Path) -> Search:
    """Run `Searcher.search`: a snapshot, hits read from the gallery, checksums checked."""
    searcher = _searcher(folder)
    return lambda xq, effort: np.array(
        [[int(Path(h.image).stem) for h in hits] for hits in searcher.search(xq, K, faces=True)]
    )


def _searcher(folder: Path) -> Any:
    from facegallery.indexer.search.searcher import Searcher

    return Searcher(folder)


def hnswlib(xb: np.ndarray, folder: Path) -> Search:
    import hnswlib

    index, file = hnswlib.Index("ip", xb.shape[1]), folder / "hnswlib"
    if file.exists():
        index.load_index(str(file))
    else:
        index.init_index(len(xb), M=16, ef_construction=200)
        index.set_num_threads(THREADS)
        index.add_items(xb, np.arange(len(xb)))
        index.save_index(str(file))
    index.set_num_threads(THREADS)

    def search(xq: np.ndarray, effort: int) -> np.ndarray:
        index.set_ef(effort)
        return index.knn_query(xq, K)[0].astype(np.int64)

    return search


def usearch(xb: np.ndarray, folder: Path) -> Search:
    from usearch.index import Index

    index, file = Index(ndim=xb.shape[1], metric="ip", dtype="f16"), folder / "usearch"
    if file.exists():
        index.load(str(file))
    else:
        for i in range(0, len(xb), BLOCK):
            index.add(np.arange(i, min(i + BLOCK, len(xb))), np.ascontiguousarray(xb[i : i + BLOCK]), threads=THREADS)
        index.save(str(file))

    def search(xq: np.ndarray, effort: int) -> np.ndarray:
        index.expansion_search = effort
        return np.asarray(index.search(xq, K, threads=THREADS).keys).reshape(len(xq), K).astype(np.int64)

    return search


def lancedb(xb: np.ndarray, folder: Path) -> Search:
    import lancedb
    import pyarrow as pa

    db, lists = lancedb.connect(folder / "lancedb"), lists_of(len(xb))
    if "faces" in db.list_tables().tables:
        table = db.open_table("faces")
    else:

        def blocks() -> Any:
            for i in range(0, len(xb), BLOCK):
                x = np.ascontiguousarray(xb[i : i + BLOCK])
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
                yield pa.record_batch([pa.array(np.arange(i, i + len(x))), vectors], names=["id", "vector"])

        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), xb.shape[1]))])
        table = db.create_table("faces", blocks(), schema=schema)
        table.create_index(metric="dot", num_partitions=lists, num_sub_vectors=xb.shape[1] // 8, index_type="IVF_PQ")

    def search(xq: np.ndarray, effort: int) -> np.ndarray:
        found = []
        for q in xq:
            asked = (
                table.search(q, vector_column_name="vector")
                .distance_type("dot")
                .nprobes(min(lists, effort))
                .refine_factor(max(8, effort // 16))
            )
            found.append(asked.limit(K).select(["id"]).to_arrow()["id"].to_numpy())
        return np.stack(found)

    return search


def milvus_lite(xb: np.ndarray, folder: Path) -> Search:
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    if not client.has_collection("faces"):
        client.create_collection("faces", dimension=xb.shape[1], metric_type="IP")
        for i in range(0, len(xb), 1000):
            client.insert("faces", [{"id": j, "vector": xb[j].tolist()} for j in range(i, min(i + 1000, len(xb)))])
        client.flush(
            "faces"
        )  # else it answers from what it wrote down to be built in later, which takes a hundred times as long
        client.release_collection("faces")
    client.load_collection("faces")
    return lambda xq, effort: np.array(
        [[hit["id"] for hit in hits] for hits in client.search("faces", xq.tolist(), limit=K)]
    )


def qdrant_local(xb: np.ndarray, folder: Path) -> Search:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("faces", VectorParams(size=xb.shape[1], distance=Distance.DOT))
    client.upload_collection("faces", np.asarray(xb), ids=range(len(xb)))
    return lambda xq, effort: np.array([[p.id for p in client.query_points("faces", q, limit=K).points] for q in xq])


ENGINES = {
    engine.__name__: engine
    for engine in (flat, facegallery_index, facegallery, hnswlib, usearch, lancedb, milvus_lite, qdrant_local)
}
ALWAYS = ("flat", "facegallery_index", "facegallery", "milvus_lite", "qdrant_local")  # that have no effort to be tuned


def anonymous_mb() -> float:
    """Return the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def main() -> None:
    name, folder, wanted, few = sys.argv[1], Path(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
    truth, vectors = np.load(sys.argv[2]), np.load(sys.argv[3], mmap_mode="r")
    xq, gt = truth["xq"], truth["gt"][:, :K]
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("facegallery", "facegallery_index", "flat"):
        import faiss  # noqa: F401  # not counted as memory of the index
    before = anonymous_mb()
    took, began, used = folder.parent / f"{name}.json", time.perf_counter(), time.process_time()
    search = ENGINES[name](vectors, folder)
    if not took.exists():
        took.write_text(json.dumps({"build_s": time.perf_counter() - began, "build_cpu_s": time.process_time() - used}))
    tuning, asked = slice(0, 200), slice(len(xq) // 2, len(xq) // 2 + few)

    def recall(which: slice, effort: int) -> float:
        found = search(xq[which], effort)
        return float((found[:, :, None] == gt[which][:, None, :]).any(axis=2).mean())

    effort = 0 if name in ALWAYS else next((e for e in EFFORTS if recall(tuning, e) >= wanted), EFFORTS[-1])

    def work() -> dict[str, Any]:
        single = milliseconds(lambda q: search(q, effort), xq[asked][:SINGLE])
        began = time.perf_counter()
        reached = recall(asked, effort)
        batch = time.perf_counter() - began
        return {
            "single_ms": single,
            "batch_ms": 1000 * batch / few,
            "recall": reached,
            "effort": effort,
            "queries": few,
            "anonymous_mb": anonymous_mb() - before,
            **json.loads(took.read_text()),
        }

    serve(work)


main()
