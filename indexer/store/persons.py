"""What a gallery keeps of a person beside the name: an id that never changes, a note, and the user's own metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facegallery.embedder.errors import InputError
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.errors import Damaged, damaged
from facegallery.indexer.store.kinds import Counts
from facegallery.indexer.store.migrations import PERSONS, new_person_id
from facegallery.indexer.store.reader import AMONG, BLOCK, Faces
from facegallery.results import Change

PERSON_ID = re.compile(r"p[0-9a-z]{15}")
MOST_KEYS, LONGEST_KEY, LONGEST_VALUE, LONGEST_NOTE = 100, 100, 1000, 10_000
KEY = re.compile(r"[^<>=!:\"\x00-\x1f\x7f]+")  # what a filter can name
RECORDS = "SELECT name, persons.id, person_id, note, extra, checksum"
ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


@dataclass(frozen=True)
class PersonRecord:
    """The id of a person, a note, and metadata: texts, which filters compare by their kind."""

    person_id: str
    note: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, str, str]:
        """The columns of its row."""
        return self.person_id, self.note, ENCODE(self.metadata) if self.metadata else "{}"

    def changed(self, metadata: Mapping[str, object | None], note: str | None) -> PersonRecord:
        """Return the record with other metadata and another note, if one is given.

        metadata: a value for each key; None deletes the key. Raises InputError for what is too long, or no text.
        """
        own = dict(self.metadata)
        for key, value in metadata.items():
            if value is None:
                own.pop(key, None)
            else:
                own[key] = str(value).strip()
        return checked(replace(self, note=self.note if note is None else note.strip(), metadata=own))

    def joined(self, other: PersonRecord) -> PersonRecord:
        """Return the record with what only another one says: its keys, and its note after the own one.

        Raises InputError where that is too long.
        """
        notes = [self.note] + [other.note] * (other.note not in self.note)
        joined = replace(self, note="\n".join(filter(None, notes)), metadata=other.metadata | self.metadata)
        return joined if joined == self else checked(joined)


def checked(record: PersonRecord) -> PersonRecord:
    """Return the record; raises InputError for a note, key or value that cannot be stored."""
    if not PERSON_ID.fullmatch(record.person_id):
        raise InputError(f"expected the id of a person, received {record.person_id!r}: leave it out")
    if len(record.note) > LONGEST_NOTE or "\x00" in record.note or not _is_text(record.note):
        raise InputError(
            f"expected a note of at most {LONGEST_NOTE:,} characters without NUL, received {len(record.note):,}: "
            "shorten it"
        )
    if len(record.metadata) > MOST_KEYS:
        raise InputError(
            f"expected at most {MOST_KEYS} keys for a person, received {len(record.metadata)}: unset some first"
        )
    for key, value in record.metadata.items():
        if key != key.strip() or not KEY.fullmatch(key) or len(key) > LONGEST_KEY or not _is_text(key):
            raise InputError(
                f'expected a key of 1 to {LONGEST_KEY} characters without < > = ! : " and line ends, received '
                f"{key[: 2 * LONGEST_KEY]!r}: choose another"
            )
        if not value.strip() or len(value) > LONGEST_VALUE or "\x00" in value or not _is_text(value):
            raise InputError(
                f"expected a value of 1 to {LONGEST_VALUE} characters for {key}, received {len(value)}: change it, or "
                "unset the key"
            )
    return record


def _is_text(text: str) -> bool:
    """Return whether a text can be stored as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Persons(Faces):
    """Reader and writer of persons' ids, notes and metadata; `people` has their names."""

    _offered: Mapping[str, PersonRecord] = {}  # records that new people get, by name
    _own: tuple[object, Counts] | None = None  # `person_kinds` by `mark`

    @property
    def has_persons(self) -> bool:
        """Whether the file has records of persons; an older version's has none until its next change."""
        return self.version >= PERSONS

    # reading

    def persons(self, names: Iterable[str]) -> dict[str, PersonRecord]:
        """Return the records of people by name; raises Damaged where one was changed."""
        if not self.has_persons:
            return {}
        sql = f"{RECORDS} FROM people JOIN persons USING (id) WHERE name {AMONG}"
        rows = self.rows(sql, (json.dumps(list(dict.fromkeys(names))),))
        return {row[0]: self._record(*row) for row in rows}

    def person(self, identity: str) -> tuple[str, PersonRecord | None]:
        """Return the name of a person as it is stored, and their record; None in a gallery of an older version.

        identity: a name, or the id of a person whose name nobody else has. Raises Unknown where there is nobody.
        """
        if not self._is_called(self.spelled(identity)) and PERSON_ID.fullmatch(identity) and self.has_persons:
            sql = "SELECT name FROM people JOIN persons USING (id) WHERE person_id=?"
            identity = next((name for (name,) in self.execute(sql, (identity,))), identity)
        self.person_id(identity)
        name = self.spelled(identity)
        return name, self.persons([name]).get(name)

    def person_ids(self, names: Iterable[str]) -> dict[str, str]:
        """Return the ids of enrolled people by name; raises Damaged where the record of one was changed or lost."""
        wanted = set(names)
        found = {name: record.person_id for name, record in self.persons(wanted).items()}
        if self.has_persons and (lost := wanted - found.keys()):
            raise damaged(self.path, f"the record of {min(lost)!r} is lost")
        return found

    @property
    def person_kinds(self) -> Counts:
        """Number of values of each kind in the metadata of persons, by key."""
        mark = self.mark
        if self._own is None or self._own[0] != mark:
            rows = self.rows("SELECT extra FROM persons WHERE extra != '{}'") if self.has_persons else ()
            self._own = mark, Counts.over(rows)
        return self._own[1]

    def records(self) -> Iterator[tuple[str, PersonRecord]]:
        """Yield the name and the record of each person, by name."""
        if not self.has_persons:
            return
        for row in self.rows(f"{RECORDS} FROM people JOIN persons USING (id) ORDER BY name"):
            yield row[0], self._record(*row)

    def _record(self, name: str, id: int, person_id: str, note: str, extra: str, stored: bytes) -> PersonRecord:
        if checksum(name, id, person_id, note, extra) != stored:
            raise damaged(self.path, f"the record of the person {person_id} was changed")
        return PersonRecord(person_id, note, json.loads(extra))

    def departed(self, where: str, binding: object) -> list[tuple[str, PersonRecord]]:
        """Return names and records of people who left, and whom `undo` can bring back."""
        rows = self.execute(f"SELECT * FROM persons_trash WHERE {where} ORDER BY rowid", (binding,))
        for *values, stored in rows:
            if checksum(*values) != stored:
                raise damaged(self.path, f"the record of the person {values[2]}, who left, was changed")
        return [(name, PersonRecord(uid, note, json.loads(extra))) for _, name, uid, note, extra, _ in rows]

    def said_of(self, identity: str, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Return all ids of a person, and every note and value of metadata that the gallery holds of them.

        names: theirs, former ones too.
        """
        left = self.departed(f"identity {AMONG}", json.dumps(list(names)))
        records = [*self.persons([identity]).values(), *(record for _, record in left)]
        ids = {record.person_id for record in records}
        texts = {text for one in records for text in (one.note, *one.metadata.values())}
        for line in self.lines():
            if line.detail.get("person") in ids:
                for state in (line.detail["old"], line.detail["new"]):
                    texts |= {state["note"], *state["metadata"].values()}
        return ids, texts - {""}

    # writing

    def set_person(
        self, identity: str, metadata: Mapping[str, object | None] | None = None, note: str | None = None
    ) -> Change:
        """Change a person's metadata and note; `undo` takes it back.

        metadata: a value for each key; None deletes the key. note: empty for none; None leaves it. Raises Unknown for a
        person who is not here, InputError for what is too long, or a key to delete that is not there.
        """
        with self.writing():
            name, before = self.person(identity)
            assert before is not None  # `writing` has migrated
            missing = [key for key, value in (metadata or {}).items() if value is None and key not in before.metadata]
            if missing:
                there = ", ".join(sorted(before.metadata)) or "none"
                raise InputError(f"expected a key of {name!r} to unset ({there}), received {missing[0]!r}: correct it")
            line = self._set_logged(name, before, before.changed(metadata or {}, note))
        return line.change if not line.is_empty else Change("set", 0, ())

    def _set_logged(self, name: str, old: PersonRecord, new: PersonRecord, command: str | None = None) -> Any:
        """Write a record, and a line of the log about it."""
        self._replace(name, new)
        states = {"old": old, "new": new}
        detail = {key: {"note": one.note, "metadata": one.metadata} for key, one in states.items()}
        return self._log("set", {"person": new.person_id, "identity": name, **detail}, command)

    def _unset(self, detail: Mapping[str, Any]) -> None:
        """Give a person the record of before a line of the log."""
        sql = "SELECT name FROM people JOIN persons USING (id) WHERE person_id=?"
        for (name,) in self.execute(sql, (detail["person"],)):
            self._replace(name, PersonRecord(detail["person"], **detail["old"]))

    def _replace(self, name: str, record: PersonRecord) -> None:
        """Write another record of a person, or the same after a new name."""
        for (id,) in self.execute("SELECT id FROM people WHERE name=?", (name,)):
            self.execute("DELETE FROM persons WHERE id=?", (id,))
            self._write([(name, id, record)])

    def offer(self, records: Mapping[str, PersonRecord]) -> None:
        """Give these records, by name, to new people who are enrolled from now on; an id stays one person's."""
        self._offered = records

    def _give_records(self, names: Sequence[str]) -> None:
        """Give people who have no record one: that which was offered for the name, or one with a new id."""
        sql = f"SELECT id, name FROM people WHERE name {AMONG} AND id NOT IN (SELECT id FROM persons)"
        new = self.execute(sql, (json.dumps(list(names)),))
        offered = {name: self._offered[name] for _, name in new if name in self._offered}
        ids = (json.dumps([record.person_id for record in offered.values()]),)
        taken = {id for (id,) in self.execute(f"SELECT person_id FROM persons WHERE person_id {AMONG}", ids)}
        free = {name: record for name, record in offered.items() if record.person_id not in taken}
        self._write((name, id, free.get(name) or PersonRecord(new_person_id())) for id, name in new)

    def _write(self, records: Iterable[tuple[str, int, PersonRecord]]) -> None:
        lines = [(name, (id, *record.values)) for name, id, record in records]
        rows = [(*line, checksum(name, *line)) for name, line in lines]
        self.execute_many("INSERT INTO persons VALUES (?, ?, ?, ?, ?)", rows)

    def _drop_people(self, ids: Sequence[int], line: int | None) -> None:
        """Delete people who have no face. line: of the log; with it `undo` brings their records back."""
        for i in range(0, len(ids), BLOCK):
            among = (json.dumps(ids[i : i + BLOCK]),)
            if line is not None:
                names = [name for (name,) in self.execute(f"SELECT name FROM people WHERE id {AMONG}", among)]
                left = [(line, name, *record.values) for name, record in self.persons(names).items()]
                sql = "INSERT INTO persons_trash VALUES (?, ?, ?, ?, ?, ?)"
                self.execute_many(sql, [(*one, checksum(*one)) for one in left])
            self.execute(f"DELETE FROM persons WHERE id {AMONG}", among)
            self.execute(f"DELETE FROM people WHERE id {AMONG}", among)

    def _bring_back(self, line: int) -> None:
        """Give people who have left by a line of the log, and are here again, the records that they had."""
        for name, record in self.departed("line=?", line):
            self._replace(name, record)
        self.execute("DELETE FROM persons_trash WHERE line=?", (line,))

    # checking

    def person_problems(self) -> Iterator[str]:
        """Yield a line for each record of a person that is not as it was written."""
        if not self.has_persons:
            return
        for row in self.rows(f"{RECORDS} FROM people LEFT JOIN persons USING (id)"):
            try:
                if row[1] is None:
                    yield f"{self.path}: the record of {row[0]!r} is lost"
                else:
                    self._record(*row)
            except Damaged as error:
                yield str(error)
        if self.execute("SELECT 1 FROM persons WHERE id NOT IN (SELECT id FROM people) LIMIT 1"):
            yield f"{self.path}: a record without a person"
        try:
            self.departed("line > ?", 0)
        except Damaged as error:
            yield str(error)
        if self.execute("SELECT 1 FROM persons_trash WHERE line NOT IN (SELECT id FROM log) LIMIT 1"):
            yield f"{self.path}: the record of a person who left, without its line in the log"


def records_of(lines: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, PersonRecord]:
    """Return records by name from what a data set says of people; raises InputError for one that cannot be stored."""
    found = {}
    for name, said in lines:
        record = PersonRecord(str(said.get("person_id")), str(said.get("note", "")), dict(said.get("metadata", {})))
        found[name] = checked(record)
    return found
