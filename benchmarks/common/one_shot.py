"""Read crops with the splits gallery and probe, and the group of each probe, for one-shot identification."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import to_rows
from facegallery.embedder.faces import align


def read(crops: Path, people: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read crops uint8 (n, 160, 160, 3), names (n,), splits (n,), and each probe's role (m,) from `identity,role`."""
    data = DataSet(crops)
    rows = [row for table in data.shards() for row in to_rows(table) if row.crop]
    pixels = np.stack([align.plain(row.crop, data.spec.crop) for row in rows if row.crop])
    with open(people) as file:
        roles = {line["identity"]: line["role"] for line in csv.DictReader(file)}
    names, splits = (np.array([getattr(row, field) for row in rows]) for field in ("identity", "split"))
    return pixels, names, splits, np.array([roles[name] for name in names[splits == "probe"]])
