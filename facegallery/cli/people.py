"""The commands that change a gallery or look after it; `cli` takes them in."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from facegallery.cli.options import PATH, Output, common, computing, level_option, views_option
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError

NAME = click.argument("name")
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@click.command()
@NAME
@click.argument("source", type=PATH)
@click.option("--identity", help="Whose all these photos are; without it, the folder's name of each.")
@click.option("--split", help="Photos or rows to add; `gallery` where there are such, else all.")
@click.option("--metadata", type=PATH, help="CSV `image,...` whose columns are kept, for --where.")
@click.option("--readmit", is_flag=True, help="Add faces that were forgotten, too.")
@click.option("--model", help="Where the gallery's model lies, if it is not stored.")
@level_option
@computing
@common
def add(
    out: Output,
    name: str,
    source: Path,
    identity: str | None,
    split: str | None,
    metadata: Path | None,
    readmit: bool,
    model: str | None,
    level: int | None,
    compute: Compute,
) -> None:
    """Enrol the faces of SOURCE (photos, or vectors) in index NAME; those it knows already are passed over."""
    from facegallery.workflows.enrol import add as run

    with out.progress("add") as tick:
        done = run(name, source, identity, split, metadata, readmit, model, compute, tick, out.say, level)
    for line in done.pop("notes"):
        out.say(line)
    out.result(done, done.pop("text"))


@click.command()
@NAME
@click.option("--identity", help="All faces of this person.")
@click.option("--face", "face_id", help="The face with this id.")
@click.option("--image", help="The faces of this photo, by its path in the gallery.")
@common
def remove(out: Output, name: str, identity: str | None, face_id: str | None, image: str | None) -> None:
    """Take faces out; `undo` brings them back, `forget` does not."""
    from facegallery.workflows.probes import open_store

    if sum(option is not None for option in (identity, face_id, image)) != 1:
        raise InputError("expected one of --identity, --face and --image, received none or several: give one")
    with open_store(name, write=True) as gallery:
        _changed(out, gallery.remove(identity, face_id, image))


@click.command()
@NAME
@click.argument("old")
@click.argument("new")
@common
def rename(out: Output, name: str, old: str, new: str) -> None:
    """Give the person OLD the name NEW."""
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        _changed(out, gallery.rename(old, new))


@click.command()
@NAME
@click.argument("source")
@click.argument("into")
@common
def merge(out: Output, name: str, source: str, into: str) -> None:
    """Give all faces of the person SOURCE to the person INTO."""
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        _changed(out, gallery.merge(source, into))


@click.command()
@NAME
@click.argument("face_ids", nargs=-1, required=True)
@click.option("--to", required=True, help="Whose they are: an enrolled person or a new one.")
@common
def split(out: Output, name: str, face_ids: tuple[str, ...], to: str) -> None:
    """Give chosen faces (see `list NAME --identity P`) to another person."""
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        _changed(out, gallery.split(face_ids, to))


@click.command()
@NAME
@common
def undo(out: Output, name: str) -> None:
    """Take back the last add, remove, rename, merge or split, and say what it was; one that changed nothing counts, too."""
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        changes = gallery.undo()
    out.result([asdict(c) for c in changes], [f"taken back: {_text(c)}" for c in changes])


def _changed(out: Output, change: Any) -> None:
    out.result(asdict(change), _text(change))


def _text(change: Any) -> str:
    if not (len(set(change.people)) > 1 if change.verb == "rename" else change.faces):
        return f"{change.verb}: nothing changed"
    people = ", ".join(change.people[:10]) + (f" and {len(change.people) - 10} more" if len(change.people) > 10 else "")
    return f"{change.verb}: {change.faces} faces" + (f" ({people})" if people else "")


# looking --------------------------------------------------------------------


@click.command("list")
@NAME
@click.option("--identity", help="The faces of this person, with their ids.")
@click.option("--log", is_flag=True, help="The last changes, newest first, as `undo` takes them back.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Lines at most.")
@click.option("--after", default="", help="People whose names follow this one.")
@common
def list_(out: Output, name: str, identity: str | None, log: bool, limit: int, after: str) -> None:
    """The people of an index and how many faces each has; or a person's faces, or the last changes."""
    from facegallery.workflows.probes import open_store

    with open_store(name) as gallery, gallery.reading():
        if log:
            lines = gallery.list_log(limit)
            text = [
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(line['time']))}  {_text(_Line(line))}"
                for line in lines
            ]
            out.result(lines, text or "no changes are kept")
            _say_shown(out, len(lines), gallery.count_log(), "changes")
        elif identity is not None:
            every = gallery.list_faces(identity)
            faces = every[:limit]
            out.result(faces, [f"{face['face_id']}  {face['image']}" for face in faces])
            _say_shown(out, len(faces), len(every), "faces")
        else:
            people = gallery.list_people(after, limit)
            out.result(
                [{"identity": p, "faces": n} for p, n in people],
                [f"{n:>6}  {p}" for p, n in people] or "nobody is enrolled",
            )
            _say_shown(out, len(people), gallery.count_people(after), "people")


def _say_shown(out: Output, shown: int, total: int, what: str) -> None:
    if shown < total:
        out.say(f"{shown:,} of {total:,} {what} are shown: --limit shows more")


class _Line:
    """A line of the log as a change."""

    def __init__(self, line: dict[str, Any]):
        self.verb, self.faces, self.people = line["verb"], line["faces"], line["people"]


@click.command()
@NAME
@common
def info(out: Output, name: str) -> None:
    """What an index holds, by which model, how far it is behind its last build, and its calibration."""
    from facegallery.workflows.upkeep import info as run

    found = run(name)
    kinds = found["column_kinds"].items()
    shown = {
        **found,
        "columns": ", ".join(f"{column} ({kind})" for column, kind in kinds) or "none",
        "column_kinds": None,
    }
    out.result(found, [f"{key.replace('_', ' '):>14}  {value}" for key, value in shown.items() if value is not None])


@click.command()
@click.argument("photos", type=PATH, nargs=2)
@click.option("--model", help="A model's name or folder; msceleb, unless --name is given.")
@click.option("--name", help="Use this index's model and crops.")
@computing
@common
def compare(out: Output, photos: tuple[Path, Path], model: str | None, name: str | None, compute: Compute) -> None:
    """How alike the faces of two PHOTOS are: their cosine."""
    from facegallery.workflows.compare import compare as run

    done = run(photos[0], photos[1], model, name, compute, out.say)
    out.result(done, f"{done['score']:.4f}")


@click.command()
@NAME
@click.option("--forgotten", type=PATH, help="A receipt of `forget`: look for that person in every file again.")
@click.option("--identity", help="With --forgotten: the name to look for, too.")
@common
def verify(out: Output, name: str, forgotten: Path | None, identity: str | None) -> None:
    """Check every row and file; damaged files that can be are made anew. Exits with 5 where people's data is damaged."""
    from facegallery.workflows.forget import verify_forgotten
    from facegallery.workflows.upkeep import verify as run

    if forgotten is not None:
        found = verify_forgotten(name, forgotten, identity)
        total = sum(found.values())
        lines = [f"{path}: found {n} times" for path, n in found.items() if n]
        out.result(
            {"files": found, "found": total}, [*lines, f"{len(found)} files looked through, {total} traces found"]
        )
        sys.exit(5 if total else 0)
    done = run(name)
    out.result(asdict(done), done.lines)
    sys.exit(5 if done.problems else 0)


# looking after --------------------------------------------------------------


@click.command()
@NAME
@click.option(
    "--keep-undo",
    default=None,
    help="Drop what `undo` and the way back from `reembed` need, where it is older than this: 30d, 12h.",
)
@common
def compact(out: Output, name: str, keep_undo: str | None) -> None:
    """Build the index anew from all changes, beside the one in use, and swap."""
    from facegallery.workflows.upkeep import compact as run

    done = run(name, seconds_of(keep_undo))
    dropped = f"; {done['dropped']} old changes can no longer be taken back" if done["dropped"] else ""
    out.result(done, f"{name}: generation {done['generation']}, {done['faces']} faces{dropped}")


@click.command()
@NAME
@click.option("--out", "path", type=PATH, required=True, help="The new file.")
@common
def backup(out: Output, name: str, path: Path) -> None:
    """Everything of an index in one file, while others use it; of an encrypted one, encrypted."""
    from facegallery.workflows.upkeep import backup as run

    done = run(name, path)
    out.result(asdict(done), f"{path}: {done.faces} faces of {done.people} people")


@click.command()
@click.argument("file", type=PATH)
@click.option("--name", required=True, help="Name of the index.")
@click.option(
    "--replace",
    is_flag=True,
    help="Replace the index's people by those of the backup, which must be one of this index; those forgotten since stay so.",
)
@click.option("--readmit", is_flag=True, help="Enrol people who were forgotten since the backup, too.")
@common
def restore(out: Output, file: Path, name: str, replace: bool, readmit: bool) -> None:
    """An index from the FILE of a backup; people who were forgotten since, from any index it may be of, are left out."""
    from facegallery.workflows.upkeep import restore as run

    done = run(file, name, replace, readmit)
    forgotten = f"; {done.forgotten} faces were forgotten since and stay so" if done.forgotten else ""
    out.result(asdict(done), f"{name}: {done.faces} faces of {done.people} people{forgotten}")


@click.command()
@NAME
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@click.option("--crops", is_flag=True, help="With the stored crops, so that `train` and `embed` accept it.")
@common
def export(out: Output, name: str, folder: Path, crops: bool) -> None:
    """The index as it is now as a data set, with corrected names; the same command again writes what has changed."""
    from facegallery.workflows.upkeep import export as run

    done = run(name, folder, crops)
    lacking = f"; {done.without_crop} faces have no stored crop" if done.without_crop else ""
    out.result(asdict(done), f"{folder}: {done.faces} faces of {done.people} people{lacking}")


@click.command()
@NAME
@click.option("--model", required=True, help="msceleb, casia, duo, or the folder of a trained model.")
@views_option
@click.option("--report", type=PATH, help="Write who would be answered differently, as JSON.")
@click.option("--no-switch", is_flag=True, help="Stop after the report; the same command without it switches.")
@computing
@common
def reembed(
    out: Output, name: str, model: str, views: str, report: Path | None, no_switch: bool, compute: Compute
) -> None:
    """Give an index another model, from its stored crops; the same command with the old one goes back."""
    from facegallery.workflows.reembed import reembed as run

    with out.progress("reembed") as tick:
        done, text = run(name, model, views, report, not no_switch, compute, tick, out.say)
    out.result(done, text)


@click.command()
@NAME
@click.option("--fpir", default=0.01, show_default=True, help="Share of strangers that may be taken for somebody.")
@click.option("--probes", type=PATH, multiple=True, help="Photos or vectors: of enrolled people, and of strangers.")
@click.option("--split", help="Rows of --probes to use; `probe` where there are such, else all.")
@click.option("--model", help="Where the gallery's model lies, if it is not stored.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Draws the faces that are asked, in a large index.",
)
@computing
@common
def calibrate(
    out: Output,
    name: str,
    fpir: float,
    probes: tuple[Path, ...],
    split: str | None,
    model: str | None,
    seed: int,
    compute: Compute,
) -> None:
    """Fit the score from which a hit counts; from then on `search` says known or unknown."""
    from facegallery.workflows.calibrate import calibrate as run

    done = run(name, fpir, probes, split, model, seed, compute, out.say)
    for line in done.pop("warnings"):
        out.say(f"warning: {line}")
    out.result(done, done.pop("text"))


@click.command()
@NAME
@click.option("--identity", required=True, help="Whom to forget.")
@click.option("--also", type=PATH, multiple=True, help="A Parquet data set to take them out of, too.")
@click.option("--receipt", type=PATH, help="Where to write the receipt; beside the index, unless given.")
@common
def forget(out: Output, name: str, identity: str, also: tuple[Path, ...], receipt: Path | None) -> None:
    """Remove a person for good: rows, vectors, crops, names; look for what is left, and write a receipt. There is no undo.

    Exits with 1 where something of the person is left in the index or in a data set of --also, or the end is pending. A name that cannot be
    typed is given as `list` shows it, such as 'Ann\\x00'.
    """
    from facegallery.accounts import drop_answers
    from facegallery.workflows.forget import forget as run

    try:
        done, path = run(name, identity, also, receipt, out.say)
    finally:
        drop_answers()
    lines = [f"found {n} times in {file}" for file, n in done.files.items() if n]
    lines += [f"not cleaned: {what}" for what in done.not_cleaned] + [f"note: {note}" for note in done.notes]
    if done.pending:
        lines.append(
            "pending: another process still reads, or builds, an older state; the next command that opens the index finishes it"
        )
    lines.append(
        f"{name}: {len(done.face_ids)} faces forgotten; {len(done.files)} files looked through, {done.found} traces left; {path}"
    )
    out.result(asdict(done) | {"found": done.found, "receipt": str(path)}, lines)
    sys.exit(1 if done.found or done.pending else 0)


def seconds_of(text: str | None) -> float | None:
    """'30d' -> seconds; raises InputError for another spelling."""
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d+)([dhms])", text)):
        raise InputError(f"expected a time such as 30d, 12h or 0s for --keep-undo, received {text!r}: mend it")
    return int(found[1]) * UNITS[found[2]]


def register(group: click.Group) -> None:
    """Adds these commands to the program's."""
    for command in (
        add,
        remove,
        rename,
        merge,
        split,
        undo,
        list_,
        info,
        compare,
        verify,
        compact,
        backup,
        restore,
        export,
        reembed,
        calibrate,
        forget,
    ):
        group.add_command(command)
