"""Facts about a whole gallery: the contract, counts, the users' own columns, and who was forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import FaceSpec
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import damaged
from facegallery.indexer.store.forgotten import Forgotten
from facegallery.indexer.store.kinds import Counts, kind_of
from facegallery.indexer.store.log import Log


class Facts(Log):
    """Reader of facts, each checked against its checksum."""

    _counted: tuple[object, Counts] | None = None  # `kinds` by `mark`

    @property
    def generation(self) -> int:
        """Number of the last finished build; 0 before the first."""
        return self.fact("generation") or 0

    @property
    def spec(self) -> FaceSpec:
        """The contract of the vectors."""
        try:
            return FaceSpec.from_json(self.needed_fact("spec"))
        except DataError as error:
            raise damaged(self.path, str(error)) from None

    @property
    def mean(self) -> np.ndarray | None:
        """The vector that centring subtracts, float64 (d,); None without centring."""
        data = self.fact("mean")
        return None if data is None else np.frombuffer(data, "<f8")

    @property
    def faces(self) -> int:
        """Number of enrolled faces."""
        return self.execute("SELECT count(*) FROM faces")[0][0]

    def faces_since(self, newest: int, faces: int) -> tuple[int, int]:
        """Return how many faces were added and removed since an earlier state.

        newest: the highest id in that state; 0 where it is unknown, which counts by numbers alone. faces: how many
        there were.
        """
        now = self.faces
        added = (
            self.execute("SELECT count(*) FROM faces WHERE id > ?", (newest,))[0][0] if newest else max(0, now - faces)
        )
        return added, max(0, faces - (now - added))

    @property
    def people(self) -> int:
        """Number of people with an enrolled face."""
        return self.execute("SELECT count(DISTINCT person) FROM faces")[0][0]

    @property
    def columns(self) -> list[str]:
        """Names of the users' own columns, of every face that was ever added."""
        return json.loads(self.fact("columns") or "[]")

    @property
    def kinds(self) -> Counts:
        """Number of values of each kind in the users' own columns."""
        if (text := self.fact("kinds")) is not None:
            return Counts.from_json(text)
        mark = self.mark
        if self._counted is None or self._counted[0] != mark:  # an older version kept no counts
            self._counted = mark, Counts.over(self.rows("SELECT extra FROM faces"))
        return self._counted[1]

    def example(self, column: str, wanted: Callable[[str], bool]) -> str | None:
        """Return a value of a user's column whose kind `wanted` accepts, or None."""
        path = f"$.{json.dumps(column, ensure_ascii=False)}"
        rows = self.rows("SELECT json_extract(extra, ?) FROM faces", (path,))
        return next((str(value) for (value,) in rows if (kind := kind_of(value)) and wanted(kind)), None)

    @property
    def keeps_crops(self) -> bool:
        """Whether some face has a stored crop, or nobody is enrolled."""
        return bool(self.execute("SELECT 1 FROM crops LIMIT 1")) or not self.execute("SELECT 1 FROM faces LIMIT 1")

    def forgotten(self) -> Forgotten:
        """Return the list of forgotten people; raises Damaged where the list was changed or lost."""
        salt, text = self.fact("salt"), self.fact("forgotten_list")
        if salt is None:
            return Forgotten()
        try:
            listed = Forgotten() if text is None else Forgotten.from_json(text)
        except ValueError as error:
            raise damaged(self.path, f"its list of forgotten people: {error}") from None
        marks = listed.by_salt.get(salt, {})
        return Forgotten({**listed.by_salt, salt: {hash: marks.get(hash, b"") for hash in self.forgotten_hashes()}})

    def forgotten_hashes(self) -> set[bytes]:
        """Return the hashes made with this gallery's salt; raises Damaged where one was changed or lost."""
        hashes = [hash for (hash,) in self.execute("SELECT hash FROM forgotten ORDER BY hash")]
        if (wanted := self.fact("forgotten")) is not None and wanted != checksum(*hashes):
            raise damaged(self.path, "its list of forgotten people was changed")
        return set(hashes)
