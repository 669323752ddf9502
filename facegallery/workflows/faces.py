"""Find the faces of photos, and embed them, in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from facegallery import results
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces import quality
from facegallery.workflows.inputs import PhotoInputs, all_items, has_data_set, sources_of
from facegallery.workflows.networks import Networks, ReadOptions

if TYPE_CHECKING:
    from facegallery.embedder.dataset.row import Row
    from facegallery.embedder.photos.decoder import Photo


def find_faces(photos: PhotoInputs, networks: Networks, options: ReadOptions) -> results.Faces:
    """Find the faces of photos, with vectors where the networks have a model. Raises InputError for a data set."""
    sources = sources_of(photos)
    if (data := has_data_set(sources)) is not None:
        raise InputError(f"expected photos, {data} is a data set: give `out` to embed its crops to another")
    items = list(all_items(sources))
    read = networks.rows(items, replace(options, keep_pixels=True))
    return results.Faces(tuple(_photo_faces(photo, rows, crops=options.keep_pixels) for _, photo, rows in read))


def _photo_faces(photo: Photo, rows: list[Row], *, crops: bool) -> results.PhotoFaces:
    faces = tuple(_face(row, crops=crops) for row in rows if row.box is not None)
    return results.PhotoFaces(photo.name, photo.outcome, photo.why, faces)


def _face(row: Row, *, crops: bool) -> results.Face:
    x0, y0, x1, y1 = map(float, row.box or ())
    points = list(map(float, row.landmarks or ()))
    seen = quality.seen_in(row, quality.light_in(row))
    pose, light = seen.pose, seen.light
    return results.Face(
        image=row.image,
        face=row.face,
        face_id=row.face_id,
        box=(x0, y0, x1, y1),
        landmarks=tuple(zip(points[::2], points[1::2], strict=True)),
        confidence=float(row.confidence or 0),
        quality=quality.score_of(seen),
        sharpness=float(row.sharpness or 0),
        brightness=None if light is None else light.brightness,
        contrast=None if light is None else light.contrast,
        yaw=None if pose is None else pose.yaw,
        pitch=None if pose is None else pose.pitch,
        roll=None if pose is None else pose.roll,
        identity=row.identity,
        vector=row.vector,
        crop=row.pixels if crops else None,
    )
