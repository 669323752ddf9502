"""Forget a person for good, and look again for what is left of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.redact import IsDoomed, count_rows, drop_rows
from facegallery.embedder.names import spelling
from facegallery.embedder.replaceable import check_replaceable, write_own
from facegallery.embedder.text import unescaped
from facegallery.embedder.weights import trained_on
from facegallery.indexer.store.reader import normal
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import forget as forgetting
from facegallery.indexer.upkeep.pending import CUT_WAIT_MS, finish_pending
from facegallery.indexer.upkeep.receipt import Receipt, earlier_ids, folders_of, look_again, receipt_of
from facegallery.indexer.upkeep.traces import Traces
from facegallery.workflows.photos import Say
from facegallery.workflows.probes import indexes_root, open_store


def forget(name: str, identity: str, also: Sequence[Path], receipt: Path | None, say: Say) -> tuple[Receipt, Path]:
    """Takes a person out of an index, and of data sets, for good; returns the receipt and where it lies."""
    for folder in also:
        DataSet(folder)  # raises before anything is done
    if receipt is not None:
        check_replaceable(receipt, "receipt")
    models = trained_on.stored()
    with open_store(name, write=True) as gallery:
        traces = forgetting.forget(gallery, _as_spelt(gallery, identity))
        for face_id in earlier_ids(gallery, traces):
            traces.add_face(face_id, [], None)
        finished = finish_pending(gallery, CUT_WAIT_MS)
        cleaned = {str(folder): drop_rows(folder, _doomed(gallery, traces)) for folder in also}
        done = receipt_of(gallery, traces, cleaned, pending=not finished)
        done.not_cleaned += [
            f"model {part.name} ({part.sha256[:16]}): finetuned, or its best epoch chosen, on this person"
            for part, trainings in models
            if any(trained_on.known(traces.names, trainings))
        ]
    text = done.to_json().encode()
    path = (
        receipt
        or indexes_root() / f"{name}-forgotten-{done.time.replace(':', '')}-{hashlib.sha256(text).hexdigest()[:8]}.json"
    )
    write_own(path, "receipt", text)
    return done, path


def _as_spelt(gallery: Store, identity: str) -> str:
    """The name that the user means: this one where it is known, else the one that is written so where it cannot be printed."""
    if forgetting.is_known(gallery, identity):
        return identity
    plain = unescaped(identity)
    return plain if plain != identity and forgetting.is_known(gallery, plain) else identity


def _doomed(gallery: Store, traces: Traces) -> IsDoomed:
    """What goes from data sets: all faces that were ever forgotten, and the person's names where nobody else has them by now."""
    listed = gallery.forgotten()

    @functools.cache
    def is_named(identity: str) -> bool:
        return traces.is_named(identity) and (normal(identity) in traces.names or not gallery.enrolled([identity]))

    def is_doomed(face: str | None, identity: str | None) -> bool:
        return (face is not None and listed.holds(face)) or (identity is not None and is_named(identity))

    return is_doomed


def verify_forgotten(name: str, receipt: Path, identity: str | None) -> dict[str, int]:
    """How often what a receipt's ids, and a name, stand for is found in each file of the index, and in how many rows of data sets."""
    done = Receipt.read(receipt)
    with open_store(name, write=True) as gallery:
        found, ids = look_again(gallery, done, identity), set(done.face_ids)
        for folder in folders_of(done, identity):
            found[str(folder)] = count_rows(
                folder,
                lambda face, who: (
                    face in ids or (who is not None and identity is not None and spelling(who) == spelling(identity))
                ),
            )
    return found
