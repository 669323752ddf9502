"""Tables of gallery.db, made by numbered migrations."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from facegallery.indexer.store.checksums import FACE_COLUMNS, SALT_BYTES, checksum, face_checksum
from facegallery.indexer.store.errors import damaged
from facegallery.indexer.store.kinds import Counts

if TYPE_CHECKING:
    from facegallery.indexer.store.database import Database


def migrate_checksums(db: Database) -> None:
    """Check the one checksum that version 1 kept of a face and its vector, and write those of version 2."""
    names = dict(db.rows("SELECT id, name FROM people"))
    last = 0
    while block := db.execute(
        f"SELECT {', '.join(FACE_COLUMNS)}, person, vector, checksum, png FROM faces "
        "LEFT JOIN (SELECT id, vector FROM vectors) USING (id) LEFT JOIN (SELECT id, png FROM crops) USING (id) "
        "WHERE id > ? ORDER BY id LIMIT 1024",
        (last,),
    ):
        for *columns, person, vector, stored, png in block:
            last, face_id, image = columns[:3]
            name = names.get(person)
            if checksum(last, face_id, name, image, vector) != stored:
                raise damaged(db.path, f"face {face_id} was changed")
            db.execute("UPDATE faces SET checksum=? WHERE id=?", (face_checksum(name, columns), last))
            db.execute("UPDATE vectors SET checksum=? WHERE id=?", (checksum(last, vector), last))
            if png is not None:
                db.execute("UPDATE crops SET checksum=? WHERE id=?", (checksum(last, png), last))


def migrate_facts(db: Database) -> None:
    """Add the salt, the columns, the sources and the build's extent, which version 1 did not keep."""
    if db.fact("generation") is None or db.fact("salt") is not None:
        return
    ((built, built_to),) = db.execute("SELECT count(*), coalesce(max(id), 0) FROM faces")
    columns = [column for (column,) in db.execute("SELECT DISTINCT key FROM faces, json_each(extra) ORDER BY key")]
    sources = [source] if (source := db.fact("source")) is not None else []
    facts = {
        "salt": os.urandom(SALT_BYTES),
        "columns": json.dumps(columns),
        "sources": json.dumps(sources),
        "built": built,
        "built_to": built_to,
        "source": None,
        "versions": None,
    }
    for key, value in facts.items():
        db.set_fact(key, value)


def migrate_kinds(db: Database) -> None:
    """Count how many values of each column are numbers, dates or text; kept since version 5."""
    db.set_fact("kinds", Counts.over(db.rows("SELECT extra FROM faces")).to_json())


def migrate_persons(db: Database) -> None:
    """Add the records of persons, each with a new id, and those of persons who left."""
    db.execute(
        """
        CREATE TABLE persons(
            id INTEGER PRIMARY KEY REFERENCES people(id),
            person_id TEXT NOT NULL UNIQUE,
            note TEXT NOT NULL,
            extra TEXT NOT NULL,  -- JSON object: the user's own metadata
            checksum BLOB NOT NULL  -- over the name, too
        ) STRICT;
        CREATE INDEX persons_extra ON persons(extra) WHERE extra != '{}';
        -- until their line of the log is dropped
        CREATE TABLE persons_trash(
            line INTEGER NOT NULL REFERENCES log(id),
            identity TEXT NOT NULL,
            person_id TEXT NOT NULL,
            note TEXT NOT NULL,
            extra TEXT NOT NULL,
            checksum BLOB NOT NULL
        ) STRICT;
        CREATE INDEX persons_trash_line ON persons_trash(line);
        """
    )
    people = db.execute("SELECT id, name FROM people")
    records = ((name, id, new_person_id(), "", "{}") for id, name in people)
    rows = ((*record, checksum(name, *record)) for name, *record in records)
    db.execute_many("INSERT INTO persons VALUES (?, ?, ?, ?, ?)", rows)


def new_person_id() -> str:
    """Return a new id of a person: `p` and 15 letters and digits, 75 random bits."""
    return "p" + secrets.token_bytes(15).translate(LETTERS).decode()


LETTERS = b"0123456789abcdefghjkmnpqrstvwxyz" * 8  # for each of 256 bytes; no i, l, o, u
UNNAMED = 6  # since this version faces without a person are kept: facegallery.indexer.store.unnamed
GROUP_SUMS = 7  # since this version sums of vectors are kept: facegallery.indexer.store.group_sums
PHOTOS = 8  # since this version photos are rows, too: facegallery.indexer.store.photos
PERSONS = 9  # since this version persons have records: facegallery.indexer.store.persons
READABLE = 4  # galleries of this version are read as they are, and migrated at their next change
COUNTED = 5  # since this version the rows of each table are counted: facegallery.indexer.store.totals

# Append only: user_version is the number of migrations that an index has seen.
MIGRATIONS: tuple[str | Callable[[Database], None], ...] = (
    """
    CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL, checksum BLOB NOT NULL) STRICT;
    CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE faces(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        face_id TEXT NOT NULL UNIQUE,
        person INTEGER NOT NULL REFERENCES people(id),
        image TEXT NOT NULL,
        image_sha256 TEXT,
        split TEXT,
        face INTEGER NOT NULL,
        box BLOB,        -- float32: x0 y0 x1 y1
        landmarks BLOB,  -- float32: x, y of five points
        confidence REAL,
        sharpness REAL,
        extra TEXT NOT NULL,  -- JSON object: the user's own columns
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX faces_person ON faces(person);
    CREATE TABLE vectors(id INTEGER PRIMARY KEY REFERENCES faces(id), vector BLOB NOT NULL) STRICT;  -- float32
    CREATE TABLE crops(id INTEGER PRIMARY KEY REFERENCES faces(id), png BLOB NOT NULL) STRICT;
    """,
    """
    ALTER TABLE vectors ADD COLUMN checksum BLOB NOT NULL DEFAULT x'';
    ALTER TABLE crops ADD COLUMN checksum BLOB NOT NULL DEFAULT x'';
    -- vectors of the same faces by another model, while a switch is prepared and after it
    CREATE TABLE other_vectors(
        id INTEGER PRIMARY KEY REFERENCES faces(id), vector BLOB NOT NULL, checksum BLOB NOT NULL DEFAULT x''
    ) STRICT;
    -- one line a change, newest last; the lines of one command share `command`
    CREATE TABLE log(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        command TEXT NOT NULL,
        time REAL NOT NULL,    -- seconds since 1970
        verb TEXT NOT NULL,
        detail TEXT NOT NULL,  -- JSON: what `undo` needs
        checksum BLOB NOT NULL
    ) STRICT;
    -- removed faces, until their line of the log is dropped
    CREATE TABLE trash(
        line INTEGER NOT NULL REFERENCES log(id),
        fingerprint TEXT NOT NULL,  -- of the contract that the vector was made by
        identity TEXT NOT NULL,
        face_id TEXT NOT NULL,
        image TEXT NOT NULL,
        image_sha256 TEXT,
        split TEXT,
        face INTEGER NOT NULL,
        box BLOB,
        landmarks BLOB,
        confidence REAL,
        sharpness REAL,
        extra TEXT NOT NULL,
        vector BLOB NOT NULL,
        png BLOB,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX trash_line ON trash(line);
    -- faces that were removed or given to another person since the built generation, in order
    CREATE TABLE changed(seq INTEGER PRIMARY KEY AUTOINCREMENT, face INTEGER NOT NULL) STRICT;
    -- salted hashes of face_ids that must not come back
    CREATE TABLE forgotten(hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
    """,
    migrate_checksums,
    migrate_facts,
    migrate_kinds,
    """
    CREATE TABLE unnamed(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        face_id TEXT NOT NULL UNIQUE,
        image TEXT NOT NULL,
        image_sha256 TEXT,
        split TEXT,
        face INTEGER NOT NULL,
        box BLOB,
        landmarks BLOB,
        confidence REAL,
        sharpness REAL,
        extra TEXT NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE unnamed_vectors(
        id INTEGER PRIMARY KEY REFERENCES unnamed(id), vector BLOB NOT NULL, checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE unnamed_crops(
        id INTEGER PRIMARY KEY REFERENCES unnamed(id), png BLOB NOT NULL, checksum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE other_unnamed_vectors(
        id INTEGER PRIMARY KEY REFERENCES unnamed(id), vector BLOB NOT NULL, checksum BLOB NOT NULL
    ) STRICT;
    -- where unnamed faces are: a row for each that is in a group, or that the user spoke of
    CREATE TABLE grouped(
        id INTEGER PRIMARY KEY REFERENCES unnamed(id), number INTEGER, state TEXT NOT NULL, checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX grouped_number ON grouped(number);
    -- the user's word that a face is not of a group, or not of a person
    CREATE TABLE rejected(face_id TEXT NOT NULL, number INTEGER, identity TEXT, checksum BLOB NOT NULL) STRICT;
    CREATE INDEX rejected_face ON rejected(face_id);
    """,
    """
    CREATE INDEX unnamed_photo ON unnamed(coalesce(image_sha256, image));
    -- derived: the sums of the vectors of groups that did not change since; float32
    CREATE TABLE group_sums(
        number INTEGER PRIMARY KEY, faces INTEGER NOT NULL, sum BLOB NOT NULL, checksum BLOB NOT NULL
    ) STRICT;
    """,
    """
    -- photos that were looked at, those without a face too; `image` is what their faces call them
    CREATE TABLE photos(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        image TEXT NOT NULL,
        path TEXT,         -- absolute; NULL for what was no file
        sha256 TEXT,       -- of its bytes; NULL where they could not be read
        bytes INTEGER,
        mtime_ns INTEGER,
        width INTEGER,     -- in pixels, turned upright
        height INTEGER,
        taken TEXT,        -- ISO 8601, by the camera's clock, without a zone
        latitude REAL,     -- degrees, north and east positive
        longitude REAL,
        outcome TEXT NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX photos_path ON photos(path);
    CREATE INDEX photos_sha256 ON photos(sha256);
    """,
    migrate_persons,
)
