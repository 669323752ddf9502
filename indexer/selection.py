"""Choosing the rows of a data set to enrol, and telling two builds apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.people import read_people
from facegallery.embedder.dataset.row import Row, to_rows, vectors_of
from facegallery.embedder.errors import DataError
from facegallery.embedder.names import name_or_none

NO_VECTOR, NO_IDENTITY, OTHER_SPLIT = "without a vector", "without an identity", "of another split"
LABELS = ("image", "identity", "split", "face")
NO_NAME = "under an identity that cannot be a name"


class Selection:
    """Rows of a data set to enrol, and the number of rows left out for each reason."""

    def __init__(self, data: DataSet, split: str | None, *, named: bool = True):
        """Select the rows of `split`, or of `gallery` where there are such rows, or all.

        named: leave out rows without an identity. Raises DataError for a data set of crops, or without rows of `split`.
        """
        self.data, self.spec, self._named = data, data.spec, named
        if not self.spec.dimension:
            raise DataError(
                f"expected vectors, {data.folder} holds crops: run `embed {data.folder} --out VECTORS` first"
            )
        self._labels = data.table(LABELS)  # read once for both of its uses: a shard takes longer to open than to read
        splits = set(pc.unique(self._labels["split"]).to_pylist())
        if split is not None and split not in splits:
            known = ", ".join(sorted(s for s in splits if s)) or "no splits at all"
            raise DataError(f"expected rows of split {split!r} in {data.folder}, it has {known}: check --split")
        self.split = split if split is not None else "gallery" if "gallery" in splits else None
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        """Yield the chosen rows in order, with their vectors, float32 (d,); count the others again."""
        self.left_out.clear()
        for table in self.data.shards():
            yield from self._rows(self._chosen(table))

    def _chosen(self, table: pa.Table) -> pa.Table:
        if self.split is not None:
            table = self._keep(table, pc.equal(table["split"], self.split), OTHER_SPLIT)
        usable = pc.and_(pc.equal(table["outcome"], "ok"), pc.is_valid(table["vector"]))
        table = self._keep(table, usable, NO_VECTOR)
        return self._keep(table, pc.not_equal(table["identity"], ""), NO_IDENTITY) if self._named else table

    def _keep(self, table: pa.Table, mask: pa.ChunkedArray, why: str) -> pa.Table:
        kept = table.filter(pc.fill_null(mask, fill_value=False))
        self.left_out[why] += len(table) - len(kept)
        return kept

    def _rows(self, table: pa.Table) -> Iterator[Row]:
        xb = vectors_of(table, self.spec.dimension)
        at = table.schema.get_field_index("vector")
        bare = table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type))
        for row, vector in zip(to_rows(bare), xb, strict=True):
            row.vector, row.identity = vector, name_or_none(row.identity)
            if row.identity is None and self._named:
                self.left_out[NO_NAME] += 1
            else:
                yield row

    def people(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the data set says of people, by their names in the stored spelling."""
        return [(name_or_none(name) or name, said) for name, said in read_people(self.data.folder)]

    def labels(self) -> Iterator[tuple[str, str | None]]:
        """Yield (image, identity) of each photo of the split, with the name in the stored spelling."""
        for image, identity, split, face in zip(*(self._labels[name].to_pylist() for name in LABELS), strict=True):
            if face <= 0 and self.split in (None, split):
                yield image, name_or_none(identity)


def digest_rows(selection: Selection, *, centre: bool) -> Digest:
    """Return a digest of what two builds must share to be the same."""
    digest = Digest(selection, centre=centre)
    for _ in digest.over(selection):
        pass
    return digest


class Digest:
    """Hash of the contract, the options, and each enrolled row, in order."""

    def __init__(self, selection: Selection, *, centre: bool):
        self._hash = hashlib.blake2b(digest_size=16)
        self._line([selection.spec.fingerprint, selection.split, centre])

    def update(self, row: Row) -> None:
        """Add a row."""
        assert row.vector is not None
        self._line([row.face_id, row.identity, row.split, row.image, row.extra])
        self._hash.update(row.vector.astype("<f4").tobytes())

    def over(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows unchanged, adding each."""
        for row in rows:
            self.update(row)
            yield row

    def _line(self, fields: list[Any]) -> None:
        self._hash.update(json.dumps(fields, sort_keys=True).encode() + b"\n")

    def hexdigest(self) -> str:
        """Return the hash as hex digits."""
        return self._hash.hexdigest()
