"""The commands for the people of an index: list, correct and forget them."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegallery.cli.options import NAME, PATH, Output, common, size_text
from facegallery.embedder.errors import InputError

if TYPE_CHECKING:
    from facegallery.indexer.store.store import Store
    from facegallery.workflows.indexes import IndexEntry

PEOPLE_NAMED = 10  # in the line about a change


@click.command("list")
@click.argument("name", required=False)
@click.option("--identity", help="List the faces of this person, with the ids that `split` and `remove` take.")
@click.option("--log", is_flag=True, help="List the last changes, newest first, as `undo` takes them back.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Lines at most.")
@click.option("--after", default="", help="List people whose names follow this one.")
@common
def list_(out: Output, *, name: str | None, identity: str | None, log: bool, limit: int, after: str) -> None:
    """List the indexes, the people of one, or a person's faces.

    Without NAME: each index with its people, faces, model and size on disk. With NAME: the people and how many faces
    each has; with --identity their faces; with --log the last changes.
    """
    if name is None:
        if identity is not None or log or after:
            raise InputError("expected NAME with --identity, --log and --after, received none: name an index")
        _list_indexes(out, limit)
        return
    from facegallery.workflows.probes import open_store

    with open_store(name) as gallery, gallery.reading():
        if log:
            _list_log(out, gallery, limit)
        elif identity is not None:
            _list_faces(out, gallery, identity, limit)
        else:
            _list_people(out, gallery, after, limit)


def _list_indexes(out: Output, limit: int) -> None:
    from facegallery.workflows.indexes import list_indexes
    from facegallery.workflows.probes import indexes_root

    every = list_indexes()
    shown = every[:limit]
    none = f"there are no indexes in {indexes_root().absolute()}: set FACEGALLERY_INDEXES to use another folder"
    width = max((len(entry.index) for entry in shown), default=0)
    out.result([asdict(entry) for entry in shown], [index_line(entry, width) for entry in shown] or none)
    _say_shown(out, len(shown), len(every), "indexes")


def index_line(entry: IndexEntry, width: int = 0) -> str:
    """Return one line about an index, its name padded to a width."""
    size = size_text(entry.bytes)
    if entry.problem is not None:
        return f"{entry.index:<{width}}  {size:>8}  {entry.problem}"
    encrypted = ", encrypted" if entry.encrypted else ""
    return (
        f"{entry.index:<{width}}  {size:>8}  {entry.people:,} people, {entry.faces:,} faces, {entry.model}{encrypted}"
    )


def _list_log(out: Output, gallery: Store, limit: int) -> None:
    lines = gallery.list_log(limit)
    text = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(line['time']))}  "
        + change_text(line["verb"], line["faces"], line["people"])
        for line in lines
    ]
    out.result(lines, text or "no changes are kept")
    _say_shown(out, len(lines), gallery.count_log(), "changes")


def _list_faces(out: Output, gallery: Store, identity: str, limit: int) -> None:
    every = gallery.list_faces(identity)
    faces = every[:limit]
    out.result(faces, [f"{face['face_id']}  {face['image']}" for face in faces])
    _say_shown(out, len(faces), len(every), "faces")


def _list_people(out: Output, gallery: Store, after: str, limit: int) -> None:
    from facegallery.results import as_document
    from facegallery.workflows.persons import listed

    people = listed(gallery, after, limit)
    lines = [f"{one.faces:>6}  {one.person_id or '':<16}  {one.identity}" for one in people]
    out.result(as_document(people), lines or "nobody is enrolled")
    _say_shown(out, len(people), gallery.count_people(after), "people")


def _say_shown(out: Output, shown: int, total: int, what: str) -> None:
    if shown < total:
        out.say(f"{shown:,} of {total:,} {what} are shown: --limit shows more")


# changes --------------------------------------------------------------------


@click.command()
@NAME
@click.option("--identity", help="Remove all faces of this person.")
@click.option("--face", "face_id", help="Remove the face with this id.")
@click.option("--image", help="Remove the faces of this photo, by its path in the gallery.")
@common
def remove(out: Output, *, name: str, identity: str | None, face_id: str | None, image: str | None) -> None:
    """Remove faces; undo brings them back.

    `forget` removes a person for good.
    """
    from facegallery.workflows.probes import open_store

    if sum(option is not None for option in (identity, face_id, image)) != 1:
        raise InputError("expected one of --identity, --face and --image, received none or several: give one")
    with open_store(name, write=True) as gallery:
        show_change(out, gallery.remove(identity, face_id, image))


@click.command()
@NAME
@click.argument("old")
@click.argument("new")
@common
def rename(out: Output, *, name: str, old: str, new: str) -> None:
    """Give a person another name."""
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        show_change(out, gallery.rename(old, new))


@click.command("set")
@NAME
@click.option("--identity", required=True, help="The person, by name or by id.")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--unset", multiple=True, metavar="KEY", help="Delete this key.")
@click.option("--note", help="A text about the person; '' for none.")
@common
def set_(
    out: Output, *, name: str, identity: str, pairs: tuple[str, ...], unset: tuple[str, ...], note: str | None
) -> None:
    """Keep a note and your own metadata of a person.

    `list NAME --json` shows them, and `search --where person.KEY=VALUE` takes them as filters.
    """
    from facegallery.workflows.persons import set_person
    from facegallery.workflows.probes import open_store

    if not pairs and not unset and note is None:
        raise InputError("expected KEY=VALUE, --unset or --note, received none: say what to keep of the person")
    metadata = _metadata(pairs, unset)
    with open_store(name, write=True) as gallery:
        show_change(out, set_person(gallery, identity, metadata, note))


def _metadata(pairs: tuple[str, ...], unset: tuple[str, ...]) -> dict[str, str | None]:
    """Return values by key, None for a key to delete; raise InputError for what is no pair, or a key given twice."""
    found: dict[str, str | None] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"expected KEY=VALUE, received {pair!r}: write as born=1990")
        if key.strip() in found:
            raise InputError(f"expected each key once, received {key.strip()!r} twice: leave one out")
        found[key.strip()] = value
    if both := next((key for key in unset if key in found), None):
        raise InputError(f"expected {both!r} to be set or unset, received both: give one")
    return found | dict.fromkeys(unset)


@click.command()
@NAME
@click.argument("source")
@click.argument("into")
@common
def merge(out: Output, *, name: str, source: str, into: str) -> None:
    """Give all faces of one person to another.

    SOURCE is the person who has the faces, INTO the one who gets them.
    """
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        show_change(out, gallery.merge(source, into))


@click.command()
@NAME
@click.argument("face_ids", nargs=-1, required=True)
@click.option("--to", required=True, help="The person who gets them: an enrolled one or a new one.")
@common
def split(out: Output, *, name: str, face_ids: tuple[str, ...], to: str) -> None:
    """Give chosen faces to another person.

    `list NAME --identity P` and `search --faces` show the FACE_IDS.
    """
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        show_change(out, gallery.split(face_ids, to))


def show_change(out: Output, change: Any) -> None:
    """Print a change."""
    out.result(asdict(change), change_text(change.verb, change.faces, change.people))


def change_text(verb: str, faces: int, people: Any) -> str:
    """Return one line about a change: its verb, the number of faces and the people."""
    if not (len(set(people)) > 1 if verb == "rename" else people if verb == "set" else faces):
        return f"{verb}: nothing changed"
    if verb == "set":
        return f"{verb}: {people[0]}"
    names = ", ".join(people[:PEOPLE_NAMED])
    more = f" and {len(people) - PEOPLE_NAMED} more" if len(people) > PEOPLE_NAMED else ""
    return f"{verb}: {faces} faces" + (f" ({names}{more})" if names else "")


@click.command()
@NAME
@click.option("--identity", required=True, help="The person to forget.")
@click.option("--also", type=PATH, multiple=True, help="Remove the person from this Parquet data set, too.")
@click.option("--receipt", type=PATH, help="Where to write the receipt. [default: beside the index]")
@click.option("--unnamed", is_flag=True, help="Forget the unnamed faces that look like the person, too.")
@common
def forget(
    out: Output, *, name: str, identity: str, also: tuple[Path, ...], receipt: Path | None, unnamed: bool
) -> None:
    """Remove a person for good, and write a receipt.

    Removes rows, vectors, crops and names, then looks for what is left; `undo` cannot bring the person back. Exits
    with 1 where something of the person is left in the index or in a data set of --also, or the end is pending. Give a
    name that cannot be typed as `list` shows it, such as 'Ann\\x00'.
    """
    from facegallery.results import as_document
    from facegallery.workflows.forget import forget as run

    done = run(name, identity, also=also, receipt=receipt, unnamed=unnamed)
    lines = [f"found {n} times in {file}" for file, n in done.files.items() if n]
    lines += [f"not cleaned: {what}" for what in done.not_cleaned] + [f"note: {note}" for note in done.notes]
    if done.pending:
        lines.append(
            "pending: another process still reads, or builds, an older state; "
            "the next command that opens the index finishes it"
        )
    lines.append(
        f"{name}: {len(done.face_ids)} faces forgotten; {len(done.files)} files searched, "
        f"{done.found} traces left; {done.receipt}"
    )
    out.result(as_document(done), lines)
    sys.exit(1 if done.found or done.pending else 0)
