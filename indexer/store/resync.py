"""Photos that were changed, moved or deleted: their faces are replaced, and what the user said of them is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import GalleryError
from facegallery.indexer.store.checksums import FACE_COLUMNS, checksum, face_checksum
from facegallery.indexer.store.photos import PhotoRow, Photos
from facegallery.indexer.store.reader import AMONG, FACES
from facegallery.indexer.store.unnamed import ENROLLED_FACES, UNNAMED_FACES, Place, Rejection, Tables

FACE_TABLES = ("faces", "unnamed")
NOBODY = ""  # the identity of an unnamed face in the trash


class Moved(NamedTuple):
    """A photo whose faces get another name for it."""

    sha256: str
    old: str
    new: str


@dataclass
class Resync:
    """What became of photos.

    drop: face_ids of faces that are gone. rows: new faces, and where each is to be. kept: face_id of a dropped face ->
    that of the new face which is the same one. paths: of photos whose rows are gone. photos: rows of photos as they are
    now.
    """

    drop: list[str] = field(default_factory=list)
    rows: list[tuple[Row, Place]] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    moved: list[Moved] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    photos: list[PhotoRow] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything is to be done."""
        return any((self.drop, self.rows, self.moved, self.paths, self.photos))


class Resyncing(Photos):
    """Steps of a change of photos, each within a transaction of `writing`."""

    def faces_of_photos(self, hashes: Iterable[str]) -> dict[str, list[tuple[Row, Place]]]:
        """Return the faces of photos, enrolled and unnamed, and where each is, by the hashes of the photos."""
        found: dict[str, list[tuple[Row, Place]]] = {}
        among = (json.dumps(list(hashes)),)
        ids = [id for (id,) in self.execute(f"SELECT id FROM faces WHERE image_sha256 {AMONG} ORDER BY id", among)]
        for row in self.table_rows(ids, crops=False):
            found.setdefault(row.image_sha256 or "", []).append((row, Place(row.identity)))
        unnamed = {one.face_id: one.place for one in self._unnamed(f"WHERE image_sha256 {AMONG}", among)}
        for face_id, row in self.unnamed_rows(unnamed).items():
            found.setdefault(row.image_sha256 or "", []).append((row, unnamed[face_id]))
        return found

    def images_of(self, hashes: Iterable[str]) -> list[tuple[str, str]]:
        """Return the hashes of photos with what their faces call them."""
        among = (json.dumps(list(hashes)),)
        sql = " UNION ".join(f"SELECT image_sha256, image FROM {t} WHERE image_sha256 {AMONG}" for t in FACE_TABLES)
        return self.execute(sql, among * len(FACE_TABLES))

    def said_again(self, wanted: Resync) -> list[Rejection]:
        """Return what the user said of dropped faces, as said of the new ones."""
        there = set(self.rejections())
        said = (one._replace(face_id=wanted.kept[one.face_id]) for one in there if one.face_id in wanted.kept)
        return [one for one in said if one not in there]

    def _detail(self, wanted: Resync, places: Mapping[str, Place], said: Sequence[Rejection]) -> dict[str, Any]:
        """Return what the log keeps for `undo`."""
        ids = [row.face_id for row, _ in wanted.rows]
        there = {*self.known(ids), *self.kept(ids), *self.forgotten().refused(ids)} - set(wanted.drop)
        paths = [*wanted.paths, *(photo.path for photo in wanted.photos if photo.path is not None)]
        before = self.photos_at(paths)
        return {
            "faces": [row.face_id for row, at in wanted.rows if at.identity is not None and row.face_id not in there],
            "unnamed": [row.face_id for row, at in wanted.rows if at.identity is None and row.face_id not in there],
            "gone": places,
            "said": said,
            "moved": wanted.moved,
            "photos": [astuple(photo) for photo in before.values()],
            "paths": [photo.path for photo in wanted.photos if photo.path is not None],
        }

    def _resync(self, wanted: Resync, line: int, said: Sequence[Rejection]) -> None:
        dropped = json.dumps(wanted.drop)
        known = self.known(wanted.drop)
        self._to_trash([face for id in known for face in self.find(face_id=id)], line)
        unnamed = [face.columns | {"identity": NOBODY} for face in self.unnamed_faces(wanted.drop)]
        self._to_trash(unnamed, line, UNNAMED_FACES)
        self.offer(self.persons(known.values()))
        self._drop_all(dropped, line)
        self._rename_images({one.sha256: one.new for one in wanted.moved})
        self.enrol(replace(row, identity=at.identity) for row, at in wanted.rows if at.identity is not None)
        self.offer({})
        kept = self.keep([replace(row, identity=None) for row, at in wanted.rows if at.identity is None])
        places = {row.face_id: at for row, at in wanted.rows}
        self._set_groups({face_id: places[face_id] for face_id in kept})
        self.reject(said)
        self.drop_paths(wanted.paths)
        self.put_photos(wanted.photos)

    def _undo_sync(self, line: int, detail: Mapping[str, Any]) -> None:
        self.unreject(Rejection(*one) for one in detail["said"])
        self._drop_all(json.dumps([*detail["faces"], *detail["unnamed"]]))
        self._rename_images({sha256: old for sha256, old, _ in detail["moved"]})
        rows = self._from_trash(line)
        self.enrol(row for row in rows if row.identity != NOBODY)
        unnamed = {row.face_id: replace(row, identity=None) for row in rows if row.identity == NOBODY}
        self._insert_unnamed(unnamed)
        self._set_groups({face_id: Place(*detail["gone"][face_id]) for face_id in unnamed})
        self.drop_paths(detail["paths"])
        self.put_photos(PhotoRow(*values) for values in detail["photos"])

    def _rename_images(self, images: Mapping[str, str]) -> None:
        """Give the faces of photos, by the hashes of these, other names for them."""
        if not images:
            return
        among = (json.dumps(list(images)),)
        for row in self.execute(f"{FACES} WHERE image_sha256 {AMONG}", among):
            face = self._columns(row) | {"image": images[row[FACE_COLUMNS.index("image_sha256")]]}
            stored = face_checksum(face["identity"], [face[name] for name in FACE_COLUMNS])
            self.execute("UPDATE faces SET image=?, checksum=? WHERE id=?", (face["image"], stored, face["id"]))
        for one in list(self._unnamed(f"WHERE image_sha256 {AMONG}", among)):
            columns = one.columns | {"image": images[one.columns["image_sha256"]]}
            update = (columns["image"], checksum(*columns.values()), one.id)
            self.execute("UPDATE unnamed SET image=?, checksum=? WHERE id=?", update)

    # the trash

    def _to_trash(self, faces: Iterable[Mapping[str, Any]], line: int, tables: Tables = ENROLLED_FACES) -> None:
        fingerprint = self.spec.fingerprint
        for face in faces:
            found = self.execute(f"SELECT vector, checksum FROM {tables.vectors} WHERE id=?", (face["id"],))
            ((vector, stored),) = found or [(None, None)]
            if checksum(face["id"], vector) != stored:
                raise self._changed(face["face_id"], face["image"])
            png = self.crop_of(face["id"], face["face_id"], face["image"], tables.crops)
            values = (line, fingerprint, face["identity"], *(face[name] for name in FACE_COLUMNS[1:]), vector, png)
            marks = ",".join("?" * (len(values) + 1))
            self.execute(f"INSERT INTO trash VALUES ({marks})", (*values, checksum(*values)))

    def _from_trash(self, line: int) -> list[Row]:
        removed = self.removed_by(line)
        if any(fingerprint != self.spec.fingerprint for fingerprint, _ in removed):
            raise GalleryError(
                f"expected removed faces of the model that {self.folder.name} uses now, "
                "they were removed under another model: switch back with `reembed` first"
            )
        return [row for _, row in removed]
