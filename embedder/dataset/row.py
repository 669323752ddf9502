"""Define the rows of a data set, one for each face or photo without a face, and convert them to Arrow tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import SPEC_KEY, FaceSpec

UNIT_TOLERANCE = 1e-5
EARLIER_SPEC_KEY = b"facedb.spec"  # in data sets written when the package was called facedb

FIELDS = [
    pa.field("face_id", pa.string()),
    pa.field("image", pa.string()),
    pa.field("image_sha256", pa.string()),
    pa.field("identity", pa.string()),
    pa.field("split", pa.string()),
    pa.field("outcome", pa.string()),
    pa.field("face", pa.int16()),
    pa.field("box", pa.list_(pa.float32())),
    pa.field("landmarks", pa.list_(pa.float32())),
    pa.field("confidence", pa.float32()),
    pa.field("sharpness", pa.float32()),
    pa.field("crop", pa.binary()),
    pa.field("vector", pa.list_(pa.float32())),
]
LATER_FIELDS = [  # data sets of earlier versions lack them
    pa.field("photo_faces", pa.int16()),
    pa.field("largest_other", pa.float32()),
    pa.field("vector_length", pa.float32()),
]
LATER = frozenset(f.name for f in LATER_FIELDS)
COLUMNS = tuple(f.name for f in FIELDS + LATER_FIELDS)
# Share of a face's area from which another face may be the person's. Of 316 photos with several faces, 48 show another
# face so large; they include 13 of the 15 photos in which the wrong face was taken.
RIVAL = 0.8


@dataclass
class Row:
    """One face, or one photo without a usable face; the fields are the columns of a data set.

    pixels, region: the crop while a run lasts, uint8 RGB (h, w, 3), and what it shows of the photo; not columns.
    photo_faces: how many faces the detector found in the photo. largest_other: area of the photo's largest other face
    as a share of this face's; 0 where there is none, None where somebody drew and named faces of the photo.
    vector_length: of SFace's vector before it is scaled to 1; None for other models.
    """

    image: str
    outcome: str
    image_sha256: str | None = None
    identity: str | None = None
    split: str | None = None
    face: int = -1
    box: Sequence[float] | None = None
    landmarks: Sequence[float] | None = None
    confidence: float | None = None
    sharpness: float | None = None
    crop: bytes | None = None  # PNG
    vector: np.ndarray | None = None
    extra: dict[str, str] = field(default_factory=dict)
    pixels: np.ndarray | None = None
    region: tuple[int, int, int, int] | None = None  # left, top, right, bottom
    photo_faces: int | None = None
    largest_other: float | None = None
    vector_length: float | None = None

    @property
    def face_id(self) -> str:
        """The id of the face: 32 hex digits."""
        return face_id(self.image_sha256 or self.image, self.face)

    @property
    def is_unsure(self) -> bool:
        """Whether another face of the photo is nearly as large or larger, so that the wrong one may have been taken."""
        return self.face == 0 and (self.largest_other or 0) >= RIVAL


def face_id(image_sha256: str, face: int) -> str:
    """Return 32 hex digits: the same face of the same bytes has the same id."""
    return hashlib.blake2b(f"{image_sha256}:{face}".encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class GivenFace:
    """A face that a CSV places in a photo: x0, y0, x1, y1 in pixels of the upright photo, and the line's own columns.

    identity: None for a face of nobody. size: of the smaller or larger copy whose pixels the box counts.
    """

    box: tuple[float, float, float, float]
    identity: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    size: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """One input of a run: a photo, or a shard of crops."""

    path: str
    size: int
    mtime_ns: int
    identity: str | None = None
    split: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    inode: int | None = None  # None where the input is not a file of its own, or an older version planned it
    ctime_ns: int | None = None
    given: tuple[GivenFace, ...] = ()  # the faces that a CSV places in the photo

    @property
    def identities(self) -> tuple[str | None, ...]:
        """The people whom the photo's folder or lines name; None for nobody."""
        return tuple(face.identity for face in self.given) or (self.identity,)


def schema_of(spec: FaceSpec, extra: Sequence[str] = ()) -> pa.Schema:
    """Return the Arrow schema: our columns, the user's own as strings, the contract in the metadata.

    Raise DataError where a column of the user's has the name of one of ours.
    """
    clash = sorted(set(extra) & set(COLUMNS))
    if clash:
        raise DataError(
            f"expected metadata columns with names of their own, received {clash[0]!r}: rename it in the CSV"
        )
    fields = FIELDS + LATER_FIELDS + [pa.field(name, pa.string()) for name in extra]
    return pa.schema(fields, metadata={SPEC_KEY.encode(): spec.to_json().encode()})


def contract_of(schema: pa.Schema) -> bytes:
    """Return the contract, as JSON, in a shard's metadata; empty where there is none."""
    metadata = schema.metadata or {}
    return metadata.get(SPEC_KEY.encode(), metadata.get(EARLIER_SPEC_KEY, b""))


def to_table(rows: Sequence[Row], spec: FaceSpec, extra: Sequence[str] = ()) -> pa.Table:
    """Convert rows to an Arrow table of `schema_of`."""
    schema = schema_of(spec, extra)
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    columns += [[row.extra.get(name) for row in rows] for name in extra]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def to_rows(table: pa.Table) -> list[Row]:
    """Convert an Arrow table to rows; the inverse of `to_table`."""
    extra = [name for name in table.column_names if name not in COLUMNS]
    return [
        Row(**{k: d[k] for k in COLUMNS if k != "face_id"}, extra={k: d[k] for k in extra if d[k] is not None})
        for d in table.to_pylist()
    ]


def vectors_of(table: pa.Table, dimension: int) -> np.ndarray:
    """Return the vectors, float32 (n, d), of a table without null vectors.

    Raise DataError where a vector has another size or is not of unit length.
    """
    column = table["vector"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    if column.null_count or not (lengths == dimension).all():
        raise DataError(
            f"expected vectors of {dimension} numbers in every row, received others: embed the photos again"
        )
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension).astype(np.float32, copy=False)
    bad = first_not_unit(vectors)
    if bad is not None:
        length = np.linalg.norm(vectors[bad].astype(np.float64))
        raise DataError(
            f"expected vectors of length 1, received {length:.6g} in face {table['face_id'][bad]}: "
            "embed the photos again"
        )
    return vectors


def first_not_unit(vectors: np.ndarray) -> int | None:
    """Return the first row of float32 (n, d) whose length is not 1 within UNIT_TOLERANCE, or None."""
    with np.errstate(over="ignore", invalid="ignore"):
        # |x|^2 within the tolerance: |x| is within half of it, which leaves room for the errors of float32
        quick = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) <= UNIT_TOLERANCE
    doubtful = np.flatnonzero(~quick)
    lengths = np.linalg.norm(vectors[doubtful].astype(np.float64), axis=1)
    bad = doubtful[~(np.abs(lengths - 1) <= UNIT_TOLERANCE)]
    return int(bad[0]) if len(bad) else None


def to_bytes(table: pa.Table) -> bytes:
    """Encode a table as a Parquet file; the same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    compression = {name: "NONE" if name in ("crop", "vector") else "ZSTD" for name in table.column_names}
    plain = [name for name in table.column_names if name not in ("crop", "vector")]
    pq.write_table(table, sink, compression=compression, use_dictionary=plain)
    return sink.getvalue().to_pybytes()
