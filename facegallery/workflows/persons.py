"""Read and change what a gallery keeps of persons: id, note and metadata."""

from __future__ import annotations

from collections.abc import Mapping

from facegallery import results
from facegallery.indexer.store.store import Store


def listed(store: Store, after: str = "", limit: int = -1, containing: str = "") -> list[results.Person]:
    """Return people by name, with their records; the options are those of `Store.list_people`."""
    found = store.list_people(after, limit, containing)
    names = [name for name, _ in found]
    first, records = store.first_faces(names), store.persons(names)
    return [
        results.Person(name, n, first.get(name))
        if (record := records.get(name)) is None
        else results.Person(name, n, first.get(name), record.person_id, record.note, record.metadata)
        for name, n in found
    ]


def person(store: Store, identity: str) -> results.Person:
    """Return a person by name, or by id. Raises Unknown where there is nobody."""
    name, record = store.person(identity)
    faces, first = len(store.find(name)), store.first_faces([name]).get(name)
    if record is None:
        return results.Person(name, faces, first)
    return results.Person(name, faces, first, record.person_id, record.note, record.metadata)


def set_person(
    store: Store, identity: str, metadata: Mapping[str, object | None], note: str | None = None
) -> results.Change:
    """Change a person's metadata and note; the options are those of `Store.set_person`."""
    return store.set_person(identity, metadata, note)
