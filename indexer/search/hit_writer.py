"""Writing the answers to many probes to one Parquet file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import from_os_error
from facegallery.embedder.files import hold, make_folder, sync_folder, temporary_beside
from facegallery.embedder.replaceable import check_replaceable, place_own
from facegallery.indexer.search.searcher import Hit

ROWS = 1 << 16  # written at once
SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("face", pa.int16()),
        ("face_id", pa.string()),
        ("identity", pa.string()),
        ("outcome", pa.string()),
        ("known", pa.bool_()),
        ("chance", pa.float64()),
        ("margin", pa.float32()),
        ("rank", pa.int32()),
        ("hit_identity", pa.string()),
        ("score", pa.float32()),
        ("hit_face_id", pa.string()),
        ("hit_image", pa.string()),
        ("chance_limit", pa.float64()),
        ("weak", pa.string()),
        ("stale", pa.string()),
        ("hit_person_id", pa.string()),
    ]
)


class HitWriter:
    """Writer of a row for each hit, and of one without a hit for a probe that has none.

    The file appears complete, at the end of the context manager.
    """

    def __init__(self, path: Path):
        """Open a temporary file beside `path`.

        Raises SystemFault for a disk error, InputError where `path` is a file that is not a hit file of ours.
        """
        self._path = Path(path)
        check_replaceable(self._path, "hits")
        self._temporary = temporary_beside(self._path)
        self._waiting: list[dict[str, Any]] = []
        self.rows = 0
        try:
            make_folder(self._path.parent)
            self._file = os.fdopen(os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
            hold(self._file.fileno())
        except OSError as error:
            raise from_os_error(error) from None
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="ZSTD")

    def add(self, row: Row, hits: Sequence[Hit], verdict: dict[str, Any]) -> None:
        """Write the hits of one face. verdict: as in `facegallery.workflows.search.Answer`."""
        probe = {
            "image": row.image,
            "face": row.face,
            "face_id": row.face_id,
            "identity": row.identity,
            "outcome": row.outcome,
            **verdict,
        }
        self._waiting += [
            probe
            | {
                "rank": h.rank,
                "hit_identity": h.identity,
                "score": h.score,
                "hit_face_id": h.face_id,
                "hit_image": h.image,
                "hit_person_id": h.person_id,
            }
            for h in hits
        ] or [probe]
        self.rows += len(hits)
        if len(self._waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        except OSError as error:
            raise from_os_error(OSError(error.errno, error.strerror or str(error), str(self._path))) from None
        self._waiting = []

    def __enter__(self) -> HitWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                place_own(self._temporary, self._path, "hits")
                sync_folder(self._path.parent)
        except OSError as error:
            raise from_os_error(OSError(error.errno, error.strerror or str(error), str(self._path))) from None
        finally:
            self._writer.is_open = False  # after a failure it would close its file later, which is then closed
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)
