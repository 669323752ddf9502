"""`forget` as the command runs it."""

from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.receipt import Receipt, receipt_of


def forgotten(gallery: Store, name: str) -> Receipt:
    """Forget a person, and search for what is left."""
    traces = forget(gallery, name)
    return receipt_of(gallery, traces, {}, pending=not finish_pending(gallery, 1000))
