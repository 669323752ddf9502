"""Forget a person for good, and look again for what is left of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegallery import results
from facegallery.accounts import drop_answers
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
from facegallery.workflows.session import Where, session_of


def forget(
    where: Where, identity: str, *, also: Sequence[Path] = (), receipt: Path | None = None, unnamed: bool = False
) -> results.Receipt:
    """Take a person out of a gallery, and of the data sets `also`, for good, and write a receipt.

    unnamed: also forget the unnamed faces that look like the person. receipt: where to write it; beside the index,
    unless given. Answers that a server has kept for its clients are dropped. Raises GalleryError for `unnamed` where
    the gallery is not calibrated.
    """
    for folder in also:
        DataSet(folder)  # raises before anything is done
    if receipt is not None:
        check_replaceable(receipt, "receipt")
    models = trained_on.stored()
    with session_of(where) as session:
        try:
            session.let_go()  # it holds files that are to be removed
            with session.store(write=True) as store:
                done = _forgotten(store, identity, also, unnamed=unnamed)
        finally:
            drop_answers()
        done.receipt.not_cleaned += [
            f"model {part.name} ({part.sha256[:16]}): finetuned, or its best epoch chosen, on this person"
            for part, trainings in models
            if any(trained_on.known(done.traces.names, trainings))
        ]
        text = done.receipt.to_json().encode()
        path = receipt or _beside(session.folder, done.receipt, text)
        write_own(path, "receipt", text)
        return _result(done.receipt, path)


@dataclass
class _Forgotten:
    """What was done, and what was looked for."""

    receipt: Receipt
    traces: Traces


def _forgotten(store: Store, identity: str, also: Sequence[Path], *, unnamed: bool) -> _Forgotten:
    traces = forgetting.forget(store, _as_spelt(store, identity), unnamed=unnamed)
    for face_id in earlier_ids(store, traces):
        traces.add_face(face_id, [], None)
    finished = finish_pending(store, CUT_WAIT_MS)
    cleaned = {str(folder): drop_rows(folder, _doomed(store, traces)) for folder in also}
    return _Forgotten(receipt_of(store, traces, cleaned, pending=not finished), traces)


def _beside(folder: Path, receipt: Receipt, text: bytes) -> Path:
    """Where a receipt is written unless the user says so."""
    mark = hashlib.sha256(text).hexdigest()[:8]
    return folder.parent / f"{folder.name}-forgotten-{receipt.time.replace(':', '')}-{mark}.json"


def _result(done: Receipt, path: Path) -> results.Receipt:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in results.fields_of(done).items()}
    return results.Receipt(**fields, found=done.found, receipt=str(path))


def _as_spelt(store: Store, identity: str) -> str:
    """The name that the user means: this one where it is known, else the one that is printed so."""
    if forgetting.is_known(store, identity):
        return identity
    plain = unescaped(identity)
    return plain if plain != identity and forgetting.is_known(store, plain) else identity


def _doomed(store: Store, traces: Traces) -> IsDoomed:
    """What goes from data sets: all faces that were ever forgotten, and the person's names that nobody else has now."""
    listed = store.forgotten()

    @functools.cache
    def is_named(identity: str) -> bool:
        return traces.is_named(identity) and (normal(identity) in traces.names or not store.enrolled([identity]))

    def is_doomed(face: str | None, identity: str | None) -> bool:
        return (face is not None and listed.holds(face)) or (identity is not None and is_named(identity))

    return is_doomed


def verify_forgotten(where: Where, receipt: Path, identity: str | None = None) -> dict[str, int]:
    """Count what a receipt's ids, and a name, stand for: in each file of the index, and in rows of data sets."""
    done = Receipt.read(receipt)
    ids = set(done.face_ids)

    def is_theirs(face: str | None, who: str | None) -> bool:
        named = who is not None and identity is not None and spelling(who) == spelling(identity)
        return face in ids or named

    with session_of(where) as session, session.store(write=True) as store:
        found = look_again(store, done, identity)
        return found | {str(folder): count_rows(folder, is_theirs) for folder in folders_of(done, identity)}
