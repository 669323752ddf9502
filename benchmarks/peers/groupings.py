"""Other ways to group unit vectors: each takes vectors, float32 (n, d), and its settings, and returns labels, (n,).

Packages that facegallery does not need (scikit-learn, igraph, leidenalg) are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

import numpy as np

BLOCK = 2048
ALBUM = 0.48  # InsightFace 2.1, gui/pages/album_page.py: DBSCAN on cosines, two faces make a group
ITERATIONS = 20  # of Chinese whispers
LEIDEN = 0.3  # pairs below this are no edges

Settings = tuple[float, ...]


@dataclass(frozen=True)
class Peer:
    """A way to group, the packages that it needs and the settings to choose from."""

    name: str
    run: Callable[..., np.ndarray]
    settings: tuple[Settings, ...]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def near(x: np.ndarray, score: float) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs with a cosine of `score` or more, int64 (m, 2), lower first, and their cosines."""
    pairs, cosines = [], []
    for start in range(0, len(x), BLOCK):
        s = x[start : start + BLOCK] @ x.T
        a, b = np.nonzero(s >= score)
        upper = a + start < b
        pairs.append(np.stack([a[upper] + start, b[upper]], axis=1))
        cosines.append(s[a[upper], b[upper]])
    return np.concatenate(pairs), np.concatenate(cosines)


def alone(labels: np.ndarray) -> np.ndarray:
    """Give each face that is noise (-1) a group of its own."""
    labels = np.asarray(labels, np.int64).copy()
    noise = labels < 0
    labels[noise] = labels.max(initial=0) + 1 + np.arange(noise.sum())
    return labels


def components(x: np.ndarray, score: float) -> np.ndarray:
    """Group all faces that a chain of pairs with this score joins."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs, _ = near(x, score)
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(x), len(x)))
    return connected_components(graph, directed=False)[1]


def upgma(x: np.ndarray, cut: float) -> np.ndarray:
    """Group by SciPy's average linkage."""
    from scipy.cluster.hierarchy import fcluster, linkage

    return fcluster(linkage(x, "average", metric="cosine"), 1 - cut, "distance")


def dbscan(x: np.ndarray, score: float, least: float) -> np.ndarray:
    """Group by scikit-learn's DBSCAN on cosines."""
    from sklearn.cluster import DBSCAN

    return alone(DBSCAN(eps=1 - score, min_samples=int(least), metric="cosine").fit_predict(x))


def hdbscan(x: np.ndarray, least: float, leaves: float) -> np.ndarray:
    """Group by scikit-learn's HDBSCAN: groups of two or more, by excess of mass or, with `leaves` 1, the leaves."""
    from sklearn.cluster import HDBSCAN

    method = "leaf" if leaves else "eom"
    found = HDBSCAN(min_cluster_size=2, min_samples=int(least), cluster_selection_method=method, copy=True)
    return alone(found.fit_predict(x))


def chinese_whispers(x: np.ndarray, score: float, seed: int = 0) -> np.ndarray:
    """Group by Chinese whispers: each face takes the label with the largest sum of cosines among its neighbours."""
    pairs, cosines = near(x, score)
    ends, weights = np.concatenate([pairs, pairs[:, ::-1]]), np.concatenate([cosines, cosines])
    order = np.argsort(ends[:, 0], kind="stable")
    others, weights = ends[order, 1], weights[order]
    starts = np.searchsorted(ends[order, 0], np.arange(len(x) + 1))
    labels, rng = np.arange(len(x)), np.random.default_rng(seed)
    for _ in range(ITERATIONS):
        for i in rng.permutation(len(x)):
            if (mine := slice(starts[i], starts[i + 1])).start < mine.stop:
                names, codes = np.unique(labels[others[mine]], return_inverse=True)
                labels[i] = names[np.bincount(codes, weights[mine]).argmax()]
    return labels


def leiden(x: np.ndarray, resolution: float) -> np.ndarray:
    """Group by the Leiden algorithm with the constant Potts model, edges weighted by cosines."""
    import igraph
    import leidenalg

    pairs, cosines = near(x, LEIDEN)
    graph, kind = igraph.Graph(n=len(x), edges=pairs.tolist()), leidenalg.CPMVertexPartition
    found = leidenalg.find_partition(graph, kind, weights=cosines.tolist(), resolution_parameter=resolution, seed=0)
    return np.array(found.membership)


def grid(low: float, high: float, step: float, *others: tuple[float, ...]) -> tuple[Settings, ...]:
    """Return all settings of scores from `low` to `high` and of other values."""
    scores = [round(float(score), 3) for score in np.arange(low, high + step / 2, step)]
    return tuple(product(scores, *others))


PEERS = (
    Peer("SciPy's average linkage", upgma, grid(0.36, 0.54, 0.01)),
    Peer("connected components", components, grid(0.44, 0.7, 0.01)),
    Peer("Chinese whispers", chinese_whispers, grid(0.44, 0.7, 0.02)),
    Peer("DBSCAN", dbscan, grid(0.44, 0.7, 0.02, (2, 3)), ("sklearn",)),
    Peer("HDBSCAN", hdbscan, tuple(product((1, 2, 3, 4, 5), (0, 1))), ("sklearn",)),
    Peer("Leiden, CPM", leiden, grid(0.36, 0.54, 0.01), ("igraph", "leidenalg")),
    Peer("InsightFace's album", dbscan, ((ALBUM, 2),), ("sklearn",)),
)


def installed() -> Iterator[Peer]:
    """Yield the peers whose packages are installed."""
    yield from (peer for peer in PEERS if not peer.missing)
