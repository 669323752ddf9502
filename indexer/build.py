"""Vectors in Parquet -> a gallery and the FAISS index built from it, in one commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedder.errors import DataError, GalleryError
from embedder.table import COLUMNS, DataSet, make_folder, sync_folder, vectors_of, write_atomic
from indexer.gallery import Gallery, check_name

INDEX, REPORT = "index.faiss", "report.json"
BATCH = 4096
EXAMPLES = 5


@dataclass
class Report:
    """What stands beside an index; it names nobody."""

    name: str
    generation: int
    faces: int
    people: int
    dimension: int
    model: str
    fingerprint: str
    kind: str = "exact"
    reason: str = "every vector is compared; compressed indexes pay off for larger galleries"
    centred: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    unchanged: bool = False
    notes: list[str] = field(default_factory=list)


def build(vectors: Path, folder: Path, split: str | None = None, centre: bool = False, replace: bool = False) -> Report:
    """Enrols the rows of `vectors` that have an identity and a vector, and builds the exact inner-product index.

    split: only its rows; where none is given, `gallery` if there are such rows, else all. centre: subtract the gallery's
    mean from both sides. The same inputs again change nothing; others need `replace`, and the old index answers until the
    new one is complete. Raises DataError where there is nobody to enrol, GalleryError where the name is taken.
    """
    check_name(folder.name)
    data = DataSet(vectors)
    if not data.spec.parts:
        raise DataError(f"expected vectors, {vectors} holds crops: run `embed {vectors} --out VECTORS` first")
    split = split or ("gallery" if _has_split(data, "gallery") else None)
    inputs = _digest(data, split, centre)
    with Gallery.create(folder) as gallery:
        same = gallery.get("inputs") == inputs
        if same and (report := _built_report(gallery)):
            _finish(folder, gallery.generation)
            return report
        if gallery.generation and not replace and not same:
            raise GalleryError(f"expected a new name, the index {folder.name} is there with other inputs: use --replace, or another --name")
        return _write(gallery, data, split, centre, inputs)


def _write(gallery: Gallery, data: DataSet, split: str | None, centre: bool, inputs: str) -> Report:
    """Rows, derived files, then the commit that names their generation."""
    with gallery.transaction():
        generation = gallery.generation + 1
        gallery.clear()
        gallery.put("spec", data.spec.to_json())
        left_out, notes = _enrol(gallery, data, split)
        faces, people = gallery.count()
        if not faces:
            reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "it is empty"
            raise DataError(f"expected faces to enrol in {data.folder}, found none ({reasons}): check --split and the photos' folders")
        mean = _mean(gallery) if centre else None
        gallery.put("centre", None if mean is None else mean.tobytes())
        report = Report(gallery.folder.name, generation, faces, people, data.spec.dimension, data.spec.model_name, data.spec.fingerprint,
                        centred=centre, left_out=left_out, versions=_versions(), notes=notes)  # fmt: skip
        write_derived(gallery, report, mean)
        gallery.put("generation", generation)
        gallery.put("inputs", inputs)
    _finish(gallery.folder, generation)
    return report


def write_derived(gallery: Gallery, report: Report, mean: np.ndarray | None) -> None:
    """`built-<generation>/`: index.faiss and report.json, complete and on disk."""
    folder = make_folder(built_folder(gallery.folder, report.generation))
    data = faiss.serialize_index(exact_index(gallery, report.dimension, mean)).tobytes()
    report.sha256 = hashlib.sha256(data).hexdigest()
    write_atomic(folder / INDEX, data)
    kept = {k: v for k, v in asdict(report).items() if k not in ("notes", "unchanged")}
    write_atomic(folder / REPORT, json.dumps(kept, indent=1).encode())
    sync_folder(gallery.folder)


def exact_index(gallery: Gallery, d: int, mean: np.ndarray | None) -> faiss.Index:
    """Flat inner product over all stored vectors; the ids are `faces.id`."""
    index = faiss.IndexIDMap(faiss.IndexFlatIP(d))
    for ids, xb in gallery.vectors(BATCH):
        index.add_with_ids(np.ascontiguousarray(centred(xb, mean)), ids)
    return index


def centred(x: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """(n, d) -> (x - mean) / |x - mean| in float32, or x itself where there is no mean."""
    if mean is None:
        return x
    moved = x.astype(np.float64) - mean
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def built_folder(folder: Path, generation: int) -> Path:
    return folder / f"built-{generation}"


def _finish(folder: Path, generation: int) -> None:
    """Swaps the link `index.faiss`, so that plain `faiss.read_index` opens the newest, and drops what no commit names."""
    link, target = folder / INDEX, Path(built_folder(folder, generation).name) / INDEX
    if not link.is_symlink() or link.readlink() != target:
        temporary = folder / f"_tmp-{os.getpid()}-link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, link)
        sync_folder(folder)
    for path in folder.glob("built-*"):
        if path != built_folder(folder, generation):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("_tmp-*"):
        path.unlink(missing_ok=True)


def _built_report(gallery: Gallery) -> Report | None:
    """The report of the index that the last commit names, or None where its files are gone or damaged."""
    folder = built_folder(gallery.folder, gallery.generation)
    try:
        report = Report(**json.loads((folder / REPORT).read_bytes()), unchanged=True)
        return report if hashlib.sha256((folder / INDEX).read_bytes()).hexdigest() == report.sha256 else None
    except (OSError, ValueError, TypeError):
        return None


# rows -----------------------------------------------------------------------


def _has_split(data: DataSet, split: str) -> bool:
    return any(split in table["split"].to_pylist() for table in data.shards(["split"]))


def _selected(data: DataSet, split: str | None, left_out: Counter[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Tables of the rows to enrol; the others are counted by the first reason that holds."""
    for table in data.shards(columns):
        if split is not None:
            table = _keep(table, pc.equal(table["split"], split), "of another split", left_out)
        table = _keep(table, pc.is_valid(table["vector"]), "without a vector", left_out)
        table = _keep(table, pc.is_valid(table["identity"]), "without an identity", left_out)
        if table.num_rows:
            yield table


def _keep(table: pa.Table, mask: pa.ChunkedArray, reason: str, left_out: Counter[str]) -> pa.Table:
    kept = table.filter(mask)
    left_out[reason] += table.num_rows - kept.num_rows
    return kept


def _enrol(gallery: Gallery, data: DataSet, split: str | None) -> tuple[dict[str, int], list[str]]:
    """Adds the selected rows; returns what was left out by reason, and lines about conflicts."""
    left_out: Counter[str] = Counter()
    conflicts = []
    for table in _selected(data, split, left_out):
        xb = vectors_of(table, data.spec.dimension)
        for row, vector in zip(table.drop_columns(["vector"]).to_pylist(), xb, strict=True):
            owner = gallery.owner(row["face_id"])
            if owner is None:
                own = {k: v for k, v in row.items() if k not in COLUMNS and v is not None}
                gallery.add(row, vector, json.dumps(own, ensure_ascii=False))
            elif owner == row["identity"]:
                left_out["the same face again"] += 1
            else:
                left_out["the same face under another person"] += 1
                conflicts.append(f"{row['image']} of {row['identity']} is a face that {owner} has already: not added")
    notes = conflicts[:EXAMPLES] + ([f"and {len(conflicts) - EXAMPLES} more such conflicts"] if len(conflicts) > EXAMPLES else [])
    return {reason: n for reason, n in left_out.items() if n}, notes


def _digest(data: DataSet, split: str | None, centre: bool) -> str:
    """Of everything that the index is made from: the contract, the options, each face, its person and vector."""
    state = hashlib.sha256(json.dumps([data.spec.fingerprint, centre]).encode())
    for table in _selected(data, split, Counter(), ["face_id", "identity", "split", "vector"]):
        for face, who in zip(table["face_id"].to_pylist(), table["identity"].to_pylist(), strict=True):
            state.update(f"{face}\0{who}\0".encode())
        state.update(vectors_of(table, data.spec.dimension).tobytes())
    return state.hexdigest()


def _mean(gallery: Gallery) -> np.ndarray:
    """float32 (d,): the mean of all stored vectors."""
    total, n = 0.0, 0
    for ids, xb in gallery.vectors(BATCH):
        total, n = total + xb.sum(axis=0, dtype=np.float64), n + len(ids)
    return np.asarray(total / n, dtype=np.float32)


def _versions() -> dict[str, str]:
    return {"faiss": faiss.__version__, "numpy": np.__version__, "apsw": version("apsw"), "pyarrow": pa.__version__}
