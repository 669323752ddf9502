"""What a gallery keeps of the last grouping of its unnamed faces."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from facegallery.indexer.store.store import Store

FACT = "grouped_at"
COMPARED = "grouped_alone"  # ids of single faces, int64


@dataclass(frozen=True)
class KeptCut:
    """A cut, the share of wrong pairs that it was chosen for, and the fingerprint of the vectors' contract."""

    cut: float
    error: float
    fingerprint: str


def read(store: Store) -> KeptCut | None:
    """Return the cut of the last grouping, or None where there was none by the gallery's present model."""
    if (text := store.fact(FACT)) is None:
        return None
    kept = KeptCut(**json.loads(text))
    return kept if kept.fingerprint == store.spec.fingerprint else None


def compared(store: Store, cut: float | None) -> np.ndarray | None:
    """Return the ids of the single faces that were compared with all others, int64 (n,); None for another cut."""
    last = read(store)
    found = store.fact(COMPARED) if last is not None and last.cut == cut else None
    return None if found is None else np.frombuffer(found, np.int64)


def write(store: Store, cut: float, error: float) -> None:
    """Keep a cut and what was compared by it, within a transaction of `writing`, after faces were moved."""
    store.set_fact(FACT, json.dumps(asdict(KeptCut(cut, error, store.spec.fingerprint))))
    store.set_fact(COMPARED, np.array(store.single_ids(), np.int64).tobytes())
    store.keep_group_sums()
