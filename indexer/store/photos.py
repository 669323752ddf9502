"""Photos that a gallery has looked at: where each lies, when and where it was taken, and what came of it.

A photo and its faces are joined by the hash of its bytes. Photos without a face have a row, too, so that nothing looks
at them again while they are as they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from typing import Any

from facegallery.embedder.dataset.row import face_id
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import Damaged
from facegallery.indexer.store.migrations import PHOTOS
from facegallery.indexer.store.reader import AMONG, BLOCK, name_key
from facegallery.indexer.store.unnamed import Unnamed

FACES_ASKED = 32  # of a photo, whether they were forgotten
WITH_FACES = ("faces", "unnamed", "trash")


@dataclass(frozen=True)
class PhotoRow:
    """What is known of a photo; the fields are columns of the table `photos`.

    image: what its faces call it. path: absolute, as `filenames.to_text` writes it; None for what was no file. taken:
    ISO 8601, by the camera's clock. latitude, longitude: degrees. width, height: pixels, turned upright.
    """

    image: str
    path: str | None
    sha256: str | None
    bytes: int | None
    mtime_ns: int | None
    width: int | None
    height: int | None
    taken: str | None
    latitude: float | None
    longitude: float | None
    outcome: str


NAMES = tuple(one.name for one in fields(PhotoRow))
SELECT = f"SELECT id, {', '.join(NAMES)}, checksum FROM photos"


class Photos(Unnamed):
    """Reader and writer of photos; call the methods that write within a transaction of `writing`."""

    @property
    def has_photos(self) -> bool:
        """Whether the file has a table of photos; an older version's has none until its next change."""
        return self.version >= PHOTOS

    def photos(self, where: str = "", bindings: Sequence[Any] = ()) -> Iterator[PhotoRow]:
        """Yield photos, in the order in which they were noted. where: SQL; raises Damaged for a changed row."""
        if self.has_photos:
            for row in self.rows(f"{SELECT} {where} ORDER BY id", bindings):
                yield self._photo(row)

    def _photo(self, row: Sequence[Any]) -> PhotoRow:
        *values, stored = row
        if checksum(*values) != stored:
            raise Damaged(
                f"expected the photo {values[1]} as it was noted, {self.path} holds it changed: `restore` a backup"
            )
        return PhotoRow(*values[1:])

    def photos_at(self, paths: Iterable[str]) -> dict[str, PhotoRow]:
        """Return the photos at these paths."""
        found = self.photos(f"WHERE path {AMONG}", (json.dumps(list(paths)),))
        return {photo.path: photo for photo in found if photo.path is not None}

    def photos_below(self, folder: str) -> dict[str, PhotoRow]:
        """Return the photos in a folder and the folders below it, by path."""
        head = folder.rstrip("/") + "/"
        found = self.photos("WHERE path >= ? AND path < ?", (head, head[:-1] + "0"))  # 0 comes after /
        return {photo.path: photo for photo in found if photo.path is not None}

    def photos_of(self, hashes: Iterable[str]) -> dict[str, list[PhotoRow]]:
        """Return the photos with these hashes, those that were noted first first."""
        found: dict[str, list[PhotoRow]] = {}
        for photo in self.photos(f"WHERE sha256 {AMONG}", (json.dumps(list(hashes)),)):
            found.setdefault(photo.sha256 or "", []).append(photo)
        return found

    def syncs(self) -> dict[str, dict[str, Any]]:
        """Return the folders that are kept in step with the gallery, each with the options of `sync`."""
        return json.loads(self.fact("syncs") or "{}")

    def photo_problems(self) -> Iterator[str]:
        """Yield a line for each photo that is not as it was noted."""
        for row in self.rows(SELECT) if self.has_photos else ():
            try:
                self._photo(row)
            except Damaged as error:
                yield str(error)

    # writing

    def put_photos(self, photos: Iterable[PhotoRow]) -> None:
        """Note photos; each replaces what was noted of its path. Photos of forgotten people alone are left out."""
        photos = iter(photos)
        while block := list(islice(photos, BLOCK)):
            known = self._without_forgotten(block)
            self.drop_paths(photo.path for photo in known if photo.path is not None)
            loose = {photo.image for photo in known if photo.path is None}
            self.execute(f"DELETE FROM photos WHERE path IS NULL AND image {AMONG}", (json.dumps(list(loose)),))
            ((last,),) = self.execute("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name='photos'), 0)")
            lines = [(id, *astuple(photo)) for id, photo in enumerate(known, last + 1)]
            marks = ",".join("?" * (len(NAMES) + 2))
            self.execute_many(f"INSERT INTO photos VALUES ({marks})", [(*line, checksum(*line)) for line in lines])

    def _without_forgotten(self, photos: list[PhotoRow]) -> list[PhotoRow]:
        listed = self.forgotten()
        unique = {(photo.path, photo.image if photo.path is None else ""): photo for photo in photos}
        if not listed:
            return list(unique.values())
        is_named = named_by(lambda part: listed.holds(name_key(part)))

        def is_theirs(photo: PhotoRow) -> bool:
            ids = [face_id(photo.sha256, n) for n in range(FACES_ASKED)] if photo.sha256 else []
            return bool(listed.refused(ids)) or is_named(photo.path or photo.image)

        theirs = [photo for photo in unique.values() if is_theirs(photo)]
        with_face = self.with_face((p.sha256 for p in theirs if p.sha256), ("faces", "unnamed"))
        left_out = {(photo.path, photo.image) for photo in theirs if photo.sha256 not in with_face}
        return [photo for photo in unique.values() if (photo.path, photo.image) not in left_out]

    def with_face(self, hashes: Iterable[str], tables: Sequence[str] = WITH_FACES) -> set[str]:
        """Return those hashes of photos of which a face is here, or was removed and may come back."""
        among = (json.dumps(list(hashes)),)
        sql = " UNION ".join(f"SELECT image_sha256 FROM {t} WHERE image_sha256 {AMONG}" for t in tables)
        return {sha256 for (sha256,) in self.execute(sql, among * len(tables))}

    def set_syncs(self, syncs: dict[str, dict[str, Any]]) -> None:
        """Replace what `syncs` returns."""
        if syncs != self.syncs():
            self.set_fact("syncs", json.dumps(syncs, ensure_ascii=False, sort_keys=True) if syncs else None)

    def drop_paths(self, paths: Iterable[str]) -> None:
        """Delete what was noted of paths."""
        self.execute(f"DELETE FROM photos WHERE path {AMONG}", (json.dumps(list(paths)),))

    def drop_faceless(self, hashes: Iterable[str]) -> None:
        """Delete those photos with these hashes of which no face is left."""
        gone = {one for one in hashes if one}
        gone -= self.with_face(gone)
        self.execute(f"DELETE FROM photos WHERE sha256 {AMONG}", (json.dumps(list(gone)),))

    def drop_named(self, is_named: Callable[[str], bool]) -> None:
        """Delete photos of which no face is left, and whose path names somebody."""
        rows = self.rows("SELECT id, sha256, image, path FROM photos")
        named = {id: sha256 for id, sha256, image, path in rows if is_named(image) or (path and is_named(path))}
        left = self.with_face(sha256 for sha256 in named.values() if sha256)
        ids = [id for id, sha256 in named.items() if sha256 not in left]
        self.execute(f"DELETE FROM photos WHERE id {AMONG}", (json.dumps(ids),))

    def drop_faces(self, face_ids: Iterable[str]) -> None:
        """Delete faces, enrolled or unnamed, and the photos of which then none is left."""
        among = (json.dumps(list(face_ids)),)
        hashes = {
            sha256
            for table in ("faces", "unnamed")
            for (sha256,) in self.execute(f"SELECT image_sha256 FROM {table} WHERE face_id {AMONG}", among)
        }
        self._drop_all(among[0])
        self.drop_faceless(hashes)

    def _drop_all(self, face_ids: str, line: int | None = None) -> None:
        """Delete faces, given as a JSON list, wherever they are. line: as for `drop`."""
        self.drop_unnamed(json.loads(face_ids))
        self.drop([id for (id,) in self.execute(f"SELECT id FROM faces WHERE face_id {AMONG}", (face_ids,))], line)


def _parts(path: str) -> Iterator[str]:
    """Yield the parts of a path, with and without their endings."""
    for part in path.split("/"):
        if part:
            yield part
            stem, _, _ = part.rpartition(".")
            if stem:
                yield stem


def named_by(holds: Callable[[str], bool]) -> Callable[[str], bool]:
    """Return a function that says whether a part of a path is a name that `holds` accepts."""
    return lambda path: any(holds(part) for part in _parts(path))
