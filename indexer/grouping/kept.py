"""The cut by which a gallery's unnamed faces were grouped last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from facegallery.indexer.store.store import Store

FACT = "grouped_at"


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


def write(store: Store, cut: float, error: float) -> None:
    """Keep a cut, within a transaction of `writing`."""
    store.set_fact(FACT, json.dumps(asdict(KeptCut(cut, error, store.spec.fingerprint))))
