"""Building an index: vectors into a gallery, and the FAISS index derived from it, in one transaction.

After a kill at any point, the same call again ends in the same index.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.errors import DataError, GalleryError, from_os_error
from facegallery.embedder.names import spelling_notes
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.derived.choose import Wish, keep, wish_of
from facegallery.indexer.derived.derive import check_centring, compact, derive, gallery_mean, read_report, tidy, unsound
from facegallery.indexer.opening import create_store
from facegallery.indexer.selection import NO_IDENTITY, Digest, Selection, digest_rows
from facegallery.indexer.store import forgotten, lists
from facegallery.indexer.store.database import CIPHER_FILE, FILE, remove_file
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.persons import records_of
from facegallery.indexer.store.reader import check_name
from facegallery.indexer.store.rows import Added, Conflict
from facegallery.indexer.store.store import Store, versions
from facegallery.indexer.suspects import Looked, Suspect, look

AGAIN, CONFLICT, FORGOTTEN = "the same face again", "the same face under another person", "of a forgotten face"
IN_MEMORY = {"kind": "exact", "reason": "every vector of an encrypted gallery is read and compared"}
ENROLLED = "SELECT face_id, name FROM faces JOIN people ON people.id = person"
EMPTY = {  # facts of an index that was built from nothing
    "inputs": "none",
    "build": json.dumps({"split": None, "left_out": {}}),
    "sources": "[]",
}
NOTES = 20  # conflicts that are shown


@dataclass
class Report:
    """Result of a build. `conflicts`, `spellings`, `forgotten_elsewhere`, `suspects` and `notes` name people."""

    index: str
    changed: bool  # False: the index already existed, from the same inputs
    generation: int
    n: int
    d: int
    people: int
    kind: str  # exact, compressed
    reason: str
    recall: float  # requested
    memory: int | None
    split: str | None
    centred: bool
    left_out: dict[str, int]
    fingerprint: str
    inputs: str
    encrypted: bool
    versions: dict[str, str]
    conflicts: list[Conflict] = field(default_factory=list)
    spellings: list[str] = field(default_factory=list)
    forgotten_elsewhere: list[str] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    # photos in which another face is nearly as large as the enrolled one
    unsure: list[str] = field(default_factory=list)
    dropped: int = 0  # changes since the last build, which this build replaced
    warnings: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Return a line for each of the first conflicts, and one for each pair of nearly equal names."""
        lines = [
            f"face {c.face_id} ({c.image}) is already enrolled as {c.kept} and was not enrolled as {c.refused}: "
            "correct one of them"
            for c in self.conflicts[:NOTES]
        ]
        more = len(self.conflicts) - len(lines)
        lines += [f"and {more} more such faces"] * (more > 0)
        if self.dropped:
            lines.append(
                f"{self.dropped} changes since the last build (`add`, `rename`, ...) were replaced and cannot be undone"
            )
        return lines + self.spellings + self.forgotten_elsewhere + self.warnings

    @property
    def text(self) -> str:
        """One line for the terminal."""
        done = "built" if self.changed else "already there, from the same vectors and options; nothing was done"
        kind = f"{self.kind}, centred" if self.centred else self.kind
        left = ", ".join(f"{n} {why}" for why, n in self.left_out.items())
        return f"{self.index}: {self.n} faces of {self.people} people, {self.d} dimensions, {kind}: {done}" + (
            f"; rows left out: {left}" if left else ""
        )


@dataclass(frozen=True)
class BuildOptions:
    """How an index is built."""

    split: str | None = None  # rows to enrol; by default `gallery` where there are such rows, else all
    centre: bool = False  # subtract the mean of the gallery's vectors from gallery and probes
    replace: bool = False  # replace an existing index
    readmit: bool = False  # also enrol faces that were forgotten
    encrypt: bool = False
    recall: float | None = None  # as in `choose.Wish`; None keeps what was requested before
    memory: int | None = None  # bytes, as in `choose.Wish`; None keeps what was requested before

    @property
    def asked(self) -> dict[str, Any]:
        """The requested recall and memory, without those that stay as before."""
        return {k: v for k, v in {"recall": self.recall, "memory": self.memory}.items() if v is not None}


def build(vectors: Path | Selection, folder: Path, options: BuildOptions = BuildOptions()) -> Report:  # noqa: B008
    """Build the index `folder` from the rows of a data set that have outcome ok, a vector and an identity.

    vectors: the folder of a data set, or a selection of its rows, whose split then counts. Forgotten faces are left out
    unless `readmit`. With another `recall` or `memory`, the same vectors are only indexed again.

    Raises InputError for a name that an index cannot have, DataError where no row is left, SystemFault for a disk
    error. Raises GalleryError where the index is damaged or was built from other inputs, without `replace`.
    """
    folder = Path(folder)
    check_name(folder.name)
    Wish(**options.asked)  # fails before anything is done
    selection = vectors if isinstance(vectors, Selection) else Selection(DataSet(vectors), options.split)
    if not (folder / FILE).exists():
        _check_any(selection)
    options = dataclasses.replace(options, encrypt=options.encrypt or (folder / CIPHER_FILE).exists())
    try:
        with forgotten.locked(folder):
            try:
                return _build(selection, folder, options)
            except Damaged:
                if not options.replace:
                    raise
                _check_any(selection)
                lists.begin(folder, readmit=options.readmit, encrypted=options.encrypt)
                remove_file(folder)
                return _build(selection, folder, options)
    except OSError as error:
        raise from_os_error(error) from None


def _check_any(selection: Selection) -> None:
    """Raise DataError for a data set without a row that can be enrolled."""
    if next(iter(selection), None) is None:
        raise _nothing(selection, selection.left_out)


def _nothing(selection: Selection, left_out: Mapping[str, int]) -> DataError:
    """Return the error for a data set without a row that can be enrolled."""
    advice = (
        "embed the folder above, so that folders name people, or use `add --identity`"
        if left_out.get(NO_IDENTITY)
        else "check it"
    )
    return DataError(
        f"expected rows with a vector and an identity in {selection.data.folder}, {_reasons(left_out)}: {advice}"
    )


def _build(selection: Selection, folder: Path, options: BuildOptions) -> Report:
    if options.encrypt and (folder / FILE).exists() and not (folder / CIPHER_FILE).exists():
        raise GalleryError(
            f"expected a new name for --encrypt, {folder.name} exists and is not encrypted: choose another --name"
        )
    done, dropped = Added(), 0
    with _created(folder, readmit=options.readmit, encrypt=options.encrypt) as store:
        with store.changing_forgotten():
            others = options.replace or store.generation == 0 or not _is_same(store, selection, centre=options.centre)
            if others:
                dropped = sum(not line.is_empty for line in store.lines())
                done = _fill(store, selection, centre=options.centre, readmit=options.readmit)
            before = wish_of(store)
            wish = dataclasses.replace(before, **options.asked)
            changed = others or wish != before
            if changed:
                keep(store, wish)
                derive(store)
        if unsound(store):
            compact(store)
        tidy(store)
        return _report(store, changed=changed, done=done, looked=look(store) if others else Looked(), dropped=dropped)


@contextlib.contextmanager
def _created(folder: Path, *, readmit: bool, encrypt: bool) -> Iterator[Store]:
    """Open the gallery of a folder for writing; delete a new one where the block fails before its first commit."""
    if is_new := not (folder / FILE).exists():
        lists.begin(folder, readmit=readmit, encrypted=encrypt)
    with create_store(folder, encrypt=encrypt) as store:
        try:
            yield store
        except Exception:
            if is_new and store.generation == 0:
                remove_file(folder)
            raise


def create(folder: Path, spec: FaceSpec, *, encrypt: bool = False) -> None:
    """Create an index without people, for vectors of `spec`; it can be searched, and `add` fills it.

    Raises InputError for a name that an index cannot have, GalleryError where an index exists, SystemFault for a disk
    error.
    """
    folder = Path(folder)
    check_name(folder.name)
    try:
        with forgotten.locked(folder), _created(folder, readmit=False, encrypt=encrypt) as store:
            with store.changing_forgotten():
                if store.generation:
                    raise GalleryError(f"expected no index in {folder}, there is one: open it, or choose another name")
                store.clear()
                store.set_fact("spec", spec.to_json())
                _take_over(store, readmit=False)
                store.enrol(())
                for name, value in EMPTY.items():
                    store.set_fact(name, value)
                derive(store)
            tidy(store)
    except OSError as error:
        raise from_os_error(error) from None


# filling the gallery --------------------------------------------------------


def _is_same(store: Store, selection: Selection, *, centre: bool) -> bool:
    """Return whether the gallery was built from these inputs; raises GalleryError where it was built from others."""
    if store.needed_fact("inputs") == digest_rows(selection, centre=centre).hexdigest():
        return True
    raise GalleryError(
        f"expected the inputs that the index {store.folder.name} was built from, received others: "
        f"use `add {store.folder.name} {selection.data.folder}` to add faces, "
        "--replace to build the index again without the old ones, or another --name"
    )


def _fill(store: Store, selection: Selection, *, centre: bool, readmit: bool) -> Added:
    """Replace everything by the chosen rows."""
    store.clear()
    store.set_fact("spec", selection.spec.to_json())
    if store.fact("salt") is None:
        _take_over(store, readmit=readmit)
    digest = Digest(selection, centre=centre)
    store.offer(records_of(selection.people()))
    done, _ = store.enrol(digest.over(selection), readmit=readmit)
    left_out = {**selection.left_out, AGAIN: done.again, CONFLICT: len(done.conflicts), FORGOTTEN: done.forgotten}
    if not done.added:
        raise _nothing(selection, left_out)
    if centre:
        store.set_fact("mean", gallery_mean(store))
        check_centring(store)
    store.set_fact("inputs", digest.hexdigest())
    store.set_fact(
        "build", json.dumps({"split": selection.split, "left_out": {why: n for why, n in left_out.items() if n}})
    )
    store.set_fact("sources", json.dumps([str(selection.data.folder.resolve())]))
    return done


def _take_over(store: Store, *, readmit: bool) -> None:
    """Set, in a new gallery, the list of people forgotten from an earlier index of this name."""
    known = lists.begin(store.folder, readmit=readmit, encrypted=store.encrypted)
    store.set_fact("salt", max(known.salts, key=lambda salt: len(known.by_salt[salt])))
    if known:
        store.set_forgotten(known)


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{n} rows are {why}" for why, n in left_out.items() if n) or "it has no rows"


def _report(store: Store, *, changed: bool, done: Added, looked: Looked, dropped: int) -> Report:
    with store.reading():
        spec, wish, made = store.spec, wish_of(store), read_report(store) or IN_MEMORY
        return Report(
            store.folder.name,
            changed,
            store.generation,
            store.faces,
            spec.dimension,
            store.people,
            made["kind"],
            made["reason"],
            recall=wish.recall,
            memory=wish.memory,
            centred=store.mean is not None,
            fingerprint=spec.fingerprint,
            inputs=store.needed_fact("inputs"),
            encrypted=store.encrypted,
            versions=versions(),
            conflicts=done.conflicts,
            spellings=spelling_notes([], [name for name, _ in store.list_people()]),
            forgotten_elsewhere=lists.elsewhere(store.folder, store.rows(ENROLLED)) if changed else [],
            suspects=list(looked.suspects),
            unsure=done.unsure,
            dropped=dropped,
            warnings=done.unsure_notes + looked.notes(store.folder.name),
            **json.loads(store.needed_fact("build")),
        )
