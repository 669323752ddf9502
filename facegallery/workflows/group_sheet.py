"""Draw groups of unnamed faces: a row for each, with its number."""

from __future__ import annotations

from pathlib import Path

from facegallery import results
from facegallery.embedder import draw
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align as crops_of
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.text import printable
from facegallery.indexer.store import outputs
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import UnnamedFace
from facegallery.workflows.session import Where, session_of

ROWS, FACES = 40, 10  # of a sheet, and of a row
OF_EACH = 2  # faces of each person and group of a question


def draw_groups(where: Where, path: Path, number: int | None = None) -> None:
    """Draw the largest groups, ROWS at most, FACES of each; or all faces of one group.

    Raises DataError where there is no group, Unknown where there is none of that number.
    """
    check_replaceable(path, "picture")
    with session_of(where) as session, session.store() as store, store.reading():
        if number is None:
            rows = [_row(store, store.group(one.number)) for one in store.list_groups(ROWS)]
        else:
            faces = store.group(number)[: ROWS * FACES]
            rows = [_tiles(store, faces[i : i + FACES]) for i in range(0, len(faces), FACES)]
        if not rows:
            raise DataError(
                f"expected groups in {store.folder.name} to draw, it has none: run `group {store.folder.name}`"
            )
        draw.save(draw.grid(rows), path)
    with session_of(where) as session, session.store(write=True) as store:
        outputs.note(store.folder, "picture", path)


def draw_question(where: Where, path: Path, asked: results.Suggestion) -> None:
    """Draw what a question is about: a row for each person, with faces of theirs and of all that may be them."""
    check_replaceable(path, "picture")
    rows: dict[str | None, list[draw.Tile]] = {}
    with session_of(where) as session, session.store() as store, store.reading():
        for one in asked.likely:
            if one.person not in rows:
                rows[one.person] = [] if one.person is None else _person(store, one.person)
            faces = store.group(one.number) if one.number is not None else _face(store, one.face_id)
            tiles = _tiles(store, faces[:OF_EACH])
            chance = "" if one.chance is None else f"{100 * one.chance:.0f} % likely"
            tiles[0].caption = f"{one.number or printable(str(one.face_id))[:12]}\n{chance}"
            rows[one.person] += tiles
        draw.save(draw.grid(list(rows.values())), path)
    with session_of(where) as session, session.store(write=True) as store:
        outputs.note(store.folder, "picture", path)


def _person(store: Store, person: str) -> list[draw.Tile]:
    """Return tiles of a person's enrolled faces."""
    tiles = []
    for face in store.list_faces(person)[:OF_EACH]:
        png = store.crop(face["face_id"])
        tiles.append(draw.Tile(None if png is None else crops_of.from_png(png), printable(person), draw.GREEN))
    return tiles


def _face(store: Store, face_id: str | None) -> list[UnnamedFace]:
    return list(store.unnamed_faces([] if face_id is None else [face_id]))


def _row(store: Store, faces: list[UnnamedFace]) -> list[draw.Tile]:
    """Return the tiles of a group: of a large one faces from its whole length."""
    step = max(1, -(-len(faces) // FACES))
    tiles = _tiles(store, faces[::step])
    tiles[0].caption = f"group {faces[0].place.number}\n{len(faces)} faces"
    return tiles


def _tiles(store: Store, faces: list[UnnamedFace]) -> list[draw.Tile]:
    return [_tile(store, face) for face in faces]


def _tile(store: Store, face: UnnamedFace) -> draw.Tile:
    png = store.unnamed_crop(face.face_id)
    picture = None if png is None else crops_of.from_png(png)
    return draw.Tile(picture, f"{face.face_id[:12]}\n{printable(Path(face.image).name)}")
