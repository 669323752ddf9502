"""Serve the nearest faces by another engine over HTTP, by FastAPI and uvicorn as this project does.

Arguments: engine, .npz with vectors and the names of their people, folder for the engine's files, port. Questions and
answers are those of `search/vectors`, with three differences: no key is needed, hits are faces (ours are people), and
only the types of a question are checked. The engine runs in the event loop, which is faster than threads for all
three:

    milvus_lite   pymilvus over a local file, its default index (HNSW), loaded again after it is built: several times as
                  fast as before
    qdrant_local  qdrant-client without a server: NumPy, exact
    qdrant_edge   qdrant-edge-py, qdrant's engine in this process, optimized: HNSW for 10,000 faces of 512 dimensions

qdrant's server itself is in no package of PyPI, npm or Debian.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

BLOCK = 1000
Search = Callable[[list[list[float]], int], list[list[tuple[str, float]]]]  # vectors, k -> names and scores


def milvus_lite(xb: np.ndarray, names: Sequence[str], folder: Path) -> Search:
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    client.create_collection("faces", dimension=xb.shape[1], metric_type="IP")
    for i in range(0, len(xb), BLOCK):
        client.insert(
            "faces", [{"id": j, "vector": xb[j].tolist(), "name": names[j]} for j in range(i, min(i + BLOCK, len(xb)))]
        )
    client.flush("faces")
    client.release_collection("faces")
    client.load_collection("faces")

    def search(xq: list[list[float]], k: int) -> list[list[tuple[str, float]]]:
        found = client.search("faces", xq, limit=k, output_fields=["name"])
        return [[(hit["entity"]["name"], hit["distance"]) for hit in hits] for hits in found]

    return search


def qdrant_local(xb: np.ndarray, names: Sequence[str], folder: Path) -> Search:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("faces", VectorParams(size=xb.shape[1], distance=Distance.DOT))
    client.upload_collection("faces", xb, [{"name": name} for name in names], range(len(xb)))

    def search(xq: list[list[float]], k: int) -> list[list[tuple[str, float]]]:
        return [
            [((p.payload or {})["name"], p.score) for p in client.query_points("faces", q, limit=k).points] for q in xq
        ]

    return search


def qdrant_edge(xb: np.ndarray, names: Sequence[str], folder: Path) -> Search:
    from qdrant_edge import (
        Distance,
        EdgeConfig,
        EdgeShard,
        EdgeVectorParams,
        Point,
        Query,
        QueryRequest,
        UpdateOperation,
    )

    (folder / "edge").mkdir()
    shard = EdgeShard.create(str(folder / "edge"), EdgeConfig(vectors=EdgeVectorParams(xb.shape[1], Distance.Dot)))
    for i in range(0, len(xb), BLOCK):
        points = [Point(j, xb[j].tolist(), {"name": names[j]}) for j in range(i, min(i + BLOCK, len(xb)))]
        shard.update(UpdateOperation.upsert_points(points))
    shard.optimize()

    def search(xq: list[list[float]], k: int) -> list[list[tuple[str, float]]]:
        found = [shard.query(QueryRequest(k, query=Query.Nearest(q), with_payload=True)) for q in xq]
        return [[(hit.payload["name"], hit.score) for hit in hits] for hits in found]

    return search


ENGINES = {engine.__name__: engine for engine in (milvus_lite, qdrant_local, qdrant_edge)}


class Asked(BaseModel):
    vectors: list[list[float]]
    k: int = 5


def app(search: Search) -> FastAPI:
    made = FastAPI()

    @made.get("/readyz")
    async def is_ready() -> dict[str, str]:
        return {"status": "ok"}

    @made.post("/search")
    async def of_vectors(asked: Asked) -> JSONResponse:
        found = search(asked.vectors, asked.k)
        return JSONResponse(
            {"answers": [{"hits": [{"identity": name, "score": score} for name, score in hits]} for hits in found]}
        )

    return made


def main() -> None:
    engine, file, folder, port = sys.argv[1], np.load(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    search = ENGINES[engine](file["vectors"], file["names"].tolist(), folder)
    uvicorn.run(app(search), port=port, log_level="warning", access_log=False, loop="asyncio", http="h11")


main()
