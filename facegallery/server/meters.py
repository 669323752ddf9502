"""Count what Prometheus reads, over all worker processes where there are several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)
NOT_READY = "/readyz"  # whose 503 is an answer to a probe, not a refused request
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's name for the folder that processes share
METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")


class Meters:
    """Request times, photos in progress, batch sizes, refused requests and closed connections."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "facegallery_request_seconds",
            "Time from a request to the end of its response.",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "facegallery_batch_photos",
            "Photos that went through detector and network together.",
            buckets=SIZES,
            registry=self.registry,
        )
        self.in_progress = Gauge(
            "facegallery_photos_in_progress",
            "Photos that are being decoded, wait for the networks or are in them.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._refused = Counter(
            "facegallery_refused", "Requests that were refused because the server was busy.", registry=self.registry
        )
        self._closed = Counter(
            "facegallery_connections_closed",
            "Connections that were closed because no whole request arrived in time (slow), or because their address "
            "had too many (many).",
            ["why"],
            registry=self.registry,
        )

    def closed(self, why: str) -> None:
        """Count a connection that the server closed. why: "slow" or "many"."""
        self._closed.labels(why).inc()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        labels = route, method if method in METHODS else "other", str(status)
        self._requests.labels(*labels).observe(seconds)
        if status == 503 and route != NOT_READY:
            self._refused.inc()

    def batch(self, size: int) -> None:
        """Count a batch of photos."""
        self._batches.observe(size)

    def text(self, indexes: Mapping[str, Mapping[str, int]]) -> bytes:
        """Write all numbers in Prometheus' format. indexes: faces, people and generation of each index by name."""
        registry = CollectorRegistry()
        if folder := os.environ.get(FOLDER):
            _drop_dead(Path(folder))
            MultiProcessCollector(registry)
        else:
            registry.register(_FunctionCollector(self.registry.collect))
        registry.register(_FunctionCollector(lambda: _gauges(indexes)))
        return generate_latest(registry)


def _drop_dead(folder: Path) -> None:
    """Delete the gauges of processes that were killed."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid)


class _FunctionCollector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]):
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return iter(self._collect())

    def describe(self) -> list[Metric]:
        return []


def _gauges(indexes: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    for what in ("faces", "people", "generation"):
        gauge = GaugeMetricFamily(f"facegallery_{what}", f"{what.capitalize()} of an index.", labels=["index"])
        for name, found in indexes.items():
            gauge.add_metric([name], found[what])
        yield gauge
