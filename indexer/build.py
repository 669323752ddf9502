"""Vectors -> a gallery and the FAISS index derived from it, in one transaction.

The index and its report are written and on disk before the commit that names their generation; the link
`index.faiss` follows it. Killed anywhere, the same call again ends in the same index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder.errors import DataError, GalleryError, from_os_error
from embedder.table import DataSet, Row, drop_stale_temporaries, sync_folder, to_rows, vectors_of, write_atomic
from indexer.gallery import FILE, LINK, Damaged, Gallery, check_name, checksum, normal, versions

REPORT = "report.json"
KIND, REASON = "exact", "inner product with every vector: no recall is lost"
NO_VECTOR, NO_IDENTITY, OTHER_SPLIT = "without a vector", "without an identity", "of another split"
AGAIN, CONFLICT = "the same face again", "the same face under another person"
NOTES = 20  # conflicts that are spelt out
FLAT = 1e-6  # a vector that close to the mean has no direction of its own


@dataclass(frozen=True)
class Conflict:
    """A face that the data set gives to two people; the first one kept it."""

    face_id: str
    image: str
    kept: str
    refused: str


@dataclass
class Report:
    """What a build did. `conflicts` and `notes` name people; the report.json beside the index does not."""

    index: str
    changed: bool  # False: the index was there already, from the same inputs
    generation: int
    n: int
    d: int
    people: int
    kind: str
    reason: str
    split: str | None
    centred: bool
    left_out: dict[str, int]
    fingerprint: str
    inputs: str
    sha256: str  # of index.faiss
    owners: str  # a hash of whose each face is
    versions: dict[str, str]
    conflicts: list[Conflict] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """A line for each of the first conflicts."""
        lines = [
            f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not enrolled as {c.refused}'s: correct one of them"
            for c in self.conflicts[:NOTES]
        ]
        more = len(self.conflicts) - len(lines)
        return lines + [f"and {more} more such faces"] * (more > 0)

    @property
    def text(self) -> str:
        """One line for the terminal."""
        done = "built" if self.changed else "already there, from the same vectors and options; nothing was done"
        left = ", ".join(f"{n} {why}" for why, n in self.left_out.items())
        return (
            f"{self.index}: {self.n} faces of {self.people} people, {self.d} dimensions, {self.kind}{', centred' if self.centred else ''}: "
            + done
            + (f"; rows left out: {left}" if left else "")
        )


def build(vectors: Path, folder: Path, split: str | None = None, centre: bool = False, replace: bool = False) -> Report:
    """The index `folder` of the rows in the data set `vectors` that have outcome ok, a vector and an identity.

    Rows of `split`, or of `gallery` where there are such rows, or all. Raises InputError for a name that cannot be,
    DataError where no row is left, GalleryError where the index holds other inputs and `replace` was not given, or is
    damaged; SystemFault where the disk refuses.
    """
    folder = Path(folder)
    check_name(folder.name)
    selection = Selection(DataSet(vectors), split)
    try:
        try:
            return _build(selection, folder, centre, replace)
        except Damaged:
            if not replace:
                raise
            _remove_gallery(folder)
            return _build(selection, folder, centre, replace)
    except OSError as error:
        raise from_os_error(error) from None


def _build(selection: Selection, folder: Path, centre: bool, replace: bool) -> Report:
    conflicts: list[Conflict] = []
    with Gallery.create(folder) as gallery:
        with gallery.writing():
            changed = replace or gallery.generation == 0 or not _is_same(gallery, selection, centre)
            if changed:
                conflicts = _fill(gallery, selection, centre)
                _derive(gallery)
            elif not is_sound(gallery):
                gallery.set_fact("generation", gallery.generation + 1)  # readers may still use the damaged folder
                _derive(gallery)
        _finish(gallery)
        return _report(gallery, changed, conflicts)


# choosing rows --------------------------------------------------------------


class Selection:
    """The rows of a data set that are to be enrolled, and how many are left out for which reason."""

    def __init__(self, data: DataSet, split: str | None):
        """Raises DataError where the data set holds crops only, or no row of `split`."""
        self.data, self.spec = data, data.spec
        if not self.spec.dimension:
            raise DataError(f"expected vectors, {data.folder} holds crops: run `embed {data.folder} --out VECTORS` first")
        splits = {s for table in data.shards(["split"]) for s in pc.unique(table["split"]).to_pylist()}
        if split is not None and split not in splits:
            known = ", ".join(sorted(s for s in splits if s)) or "no splits at all"
            raise DataError(f"expected rows of split {split!r} in {data.folder}, it has {known}: check --split")
        self.split = split if split is not None else "gallery" if "gallery" in splits else None
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        """The chosen rows with their vectors, float32 (d,), in order; counts the others anew."""
        self.left_out.clear()
        for table in self.data.shards():
            yield from self._rows(self._chosen(table))

    def _chosen(self, table: pa.Table) -> pa.Table:
        if self.split is not None:
            table = self._keep(table, pc.equal(table["split"], self.split), OTHER_SPLIT)
        usable = pc.and_(pc.equal(table["outcome"], "ok"), pc.is_valid(table["vector"]))
        table = self._keep(table, usable, NO_VECTOR)
        return self._keep(table, pc.not_equal(table["identity"], ""), NO_IDENTITY)

    def _keep(self, table: pa.Table, mask: pa.ChunkedArray, why: str) -> pa.Table:
        kept = table.filter(pc.fill_null(mask, False))
        self.left_out[why] += len(table) - len(kept)
        return kept

    def _rows(self, table: pa.Table) -> Iterator[Row]:
        xb = vectors_of(table, self.spec.dimension)
        at = table.schema.get_field_index("vector")
        bare = table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type))
        for row, vector in zip(to_rows(bare), xb, strict=True):
            row.vector, row.identity = vector, normal(row.identity or "")
            yield row


def digest_rows(selection: Selection, centre: bool) -> Digest:
    """What two builds must share to be the same."""
    digest = Digest(selection, centre)
    for row in selection:
        digest.update(row)
    return digest


class Digest:
    """A hash over the contract, the options, and each row that is enrolled, in order."""

    def __init__(self, selection: Selection, centre: bool):
        self._hash = hashlib.blake2b(digest_size=16)
        self._line([selection.spec.fingerprint, selection.split, centre])

    def update(self, row: Row) -> None:
        assert row.vector is not None
        self._line([row.face_id, row.identity, row.split, row.image, row.extra])
        self._hash.update(row.vector.astype("<f4").tobytes())

    def _line(self, fields: list[Any]) -> None:
        self._hash.update(json.dumps(fields, sort_keys=True).encode() + b"\n")

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _is_same(gallery: Gallery, selection: Selection, centre: bool) -> bool:
    """Whether the gallery was built from these inputs; raises GalleryError where it was built from others."""
    if gallery.needed_fact("inputs") == digest_rows(selection, centre).hexdigest():
        return True
    raise GalleryError(
        f"expected the inputs that the index {gallery.folder.name} was built from, received others: use --replace, or another --name"
    )


# filling the gallery --------------------------------------------------------


def _fill(gallery: Gallery, selection: Selection, centre: bool) -> list[Conflict]:
    """Puts the chosen rows in the place of all that there was; returns the faces that two people claim."""
    generation = gallery.generation + 1
    gallery.clear()
    digest, conflicts, again, total = Digest(selection, centre), [], 0, np.zeros(selection.spec.dimension)
    for row in selection:
        digest.update(row)
        kept = gallery.add(row)
        if kept is None:
            total += np.asarray(row.vector)
        elif kept == row.identity:
            again += 1
        else:
            conflicts.append(Conflict(row.face_id, row.image, kept, row.identity or ""))
    left_out = {**selection.left_out, AGAIN: again, CONFLICT: len(conflicts)}
    n = gallery.faces
    if not n:
        raise DataError(f"expected rows with a vector and an identity in {selection.data.folder}, {_reasons(left_out)}: check it")
    if centre:
        gallery.set_fact("mean", (total / n).astype("<f8").tobytes())
    facts: dict[str, str | int] = {
        "generation": generation, "spec": selection.spec.to_json(), "inputs": digest.hexdigest(),
        "build": json.dumps({"split": selection.split, "left_out": {why: n for why, n in left_out.items() if n}}),
        "source": str(selection.data.folder.resolve()), "versions": json.dumps(versions()),
    }  # fmt: skip
    for key, value in facts.items():
        gallery.set_fact(key, value)
    return conflicts


def _reasons(left_out: dict[str, int]) -> str:
    return ", ".join(f"{n} rows are {why}" for why, n in left_out.items() if n) or "it has no rows"


def centred(x: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """float32 (n, d): (x - mean) at unit length, zeros where x is the mean itself; x unchanged where mean is None."""
    if mean is None:
        return x
    moved = x.astype(np.float64) - mean
    norms = np.sqrt(np.sum(moved * moved, axis=1, keepdims=True))
    return np.where(norms > FLAT, moved / np.maximum(norms, FLAT), 0).astype(np.float32)


# derived files --------------------------------------------------------------


def built_folder(folder: Path, generation: int) -> Path:
    return folder / f"built-{generation}"


def make_index(gallery: Gallery):
    """The exact FAISS index of a gallery's faces, `faces.id` as FAISS id; raises GalleryError naming a face that was changed."""
    import faiss

    gallery.check_owners()
    index = faiss.IndexIDMap(faiss.IndexFlatIP(gallery.spec.dimension))
    mean = gallery.mean
    for ids, xb in gallery.vectors():
        xb = centred(xb, mean)
        if mean is not None and not xb.any(axis=1).all():
            raise DataError("expected faces that differ from their mean for --centre, received one that does not: build without it")
        index.add_with_ids(xb, ids)
    return index


def _derive(gallery: Gallery) -> None:
    """Writes index.faiss and report.json of the transaction's rows, all on disk when it returns."""
    folder = built_folder(gallery.folder, gallery.generation)
    if folder.exists():  # a killed build's, of a generation that was never committed
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    try:
        sha256 = _write_index(make_index(gallery), folder / LINK)
        write_atomic(folder / REPORT, json.dumps(_facts(gallery, sha256), indent=1).encode())
        sync_folder(gallery.folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _facts(gallery: Gallery, sha256: str) -> dict[str, Any]:
    spec = gallery.spec
    return {
        "generation": gallery.generation, "kind": KIND, "reason": REASON, "n": gallery.faces, "d": spec.dimension, "people": gallery.people,
        **json.loads(gallery.needed_fact("build")), "centred": gallery.mean is not None, "fingerprint": spec.fingerprint,
        "inputs": gallery.needed_fact("inputs"), "sha256": sha256,
        "owners": checksum(*(part.tobytes() for part in gallery.owners())).hex(), "versions": json.loads(gallery.needed_fact("versions")),
    }  # fmt: skip


class _Sink:
    """Takes FAISS's bytes into a file and a hash; keeps an error of the disk until FAISS has returned."""

    def __init__(self, file: Any):
        self.file, self.hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def __call__(self, data: bytes) -> None:
        try:
            if self.error is None:
                self.hash.update(data)
                self.file.write(data)
        except OSError as error:
            self.error = error


def _write_index(index: Any, path: Path) -> str:
    """The file's sha256."""
    import faiss

    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        sink = _Sink(file)
        faiss.write_index(index, faiss.PyCallbackIOWriter(sink))  # type: ignore[attr-defined]
        if sink.error:
            raise OSError(sink.error.errno, sink.error.strerror, str(path))
        file.flush()
        os.fsync(file.fileno())
    return sink.hash.hexdigest()


def read_report(gallery: Gallery) -> dict[str, Any] | None:
    """report.json of the current generation, or None where it is missing, damaged or another gallery's."""
    try:
        report = json.loads((built_folder(gallery.folder, gallery.generation) / REPORT).read_bytes())
        return report if report == _facts(gallery, report["sha256"]) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def is_sound(gallery: Gallery) -> bool:
    """Whether the derived files of the current generation are as they were written; reads all of index.faiss."""
    report = read_report(gallery)
    try:
        with open(built_folder(gallery.folder, gallery.generation) / LINK, "rb") as file:
            return report is not None and hashlib.file_digest(file, "sha256").hexdigest() == report["sha256"]
    except (FileNotFoundError, NotADirectoryError):
        return False


def _finish(gallery: Gallery) -> None:
    """Points index.faiss at the committed generation and removes all others."""
    with gallery.writing():  # so that no other build is between writing its folder and its commit
        folder, current = gallery.folder, built_folder(gallery.folder, gallery.generation)
        target = f"{current.name}/{LINK}"
        if not (folder / LINK).is_symlink() or os.readlink(folder / LINK) != target:
            temporary = folder / f"_tmp-{os.getpid()}-{LINK}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            os.replace(temporary, folder / LINK)
            sync_folder(folder)
        for other in folder.glob("built-*"):
            if other != current:
                shutil.rmtree(other)
        drop_stale_temporaries(folder)


def _remove_gallery(folder: Path) -> None:
    """A damaged gallery's files; the folders derived from it go when the new one is finished."""
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{FILE}{suffix}").unlink()


def _report(gallery: Gallery, changed: bool, conflicts: list[Conflict]) -> Report:
    facts = read_report(gallery)
    if facts is None:
        raise GalleryError(f"expected {gallery.folder} to stay as it was built, it changed meanwhile: run the same command again")
    return Report(index=gallery.folder.name, changed=changed, conflicts=conflicts, **facts)
