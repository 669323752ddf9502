"""The commands for an index as a whole: fill it, look after it, copy it, delete it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegallery.cli.options import (
    NAME,
    PATH,
    Output,
    common,
    computing,
    level_option,
    model_option,
    names_option,
    size_text,
    views_option,
)
from facegallery.cli.people import change_text, index_line
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError

if TYPE_CHECKING:
    from facegallery.workflows.indexes import DeletedIndex

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@click.command()
@NAME
@click.argument("source", type=PATH)
@click.option("--create", is_flag=True, help="Begin the gallery NAME where it is not there.")
@click.option("--identity", help="The person in all these photos. [default: the name of each photo's folder]")
@click.option("--split", help="Photos or rows to add. [default: `gallery` where there are such, else all]")
@click.option("--metadata", type=PATH, help="CSV `image,...` whose columns are kept, for --where.")
@click.option("--readmit", is_flag=True, help="Add faces that were forgotten, too.")
@click.option(
    "--model",
    help="With --create: the gallery's model, sface unless given. Else: its folder, where it is not stored.",
)
@level_option
@names_option
@click.option(
    "--review",
    type=click.Choice(["off", "standard", "strict"]),
    default="standard",
    show_default=True,
    help="Faces that are likely wrong or poor: enrol them all the same, warn of them, or leave them out.",
)
@click.option("--one-face", is_flag=True, help="Of photos without a person, keep the largest face alone.")
@computing
@common
def add(
    out: Output,
    *,
    name: str,
    source: Path,
    create: bool,
    identity: str | None,
    split: str | None,
    metadata: Path | None,
    readmit: bool,
    model: str | None,
    level: int | None,
    names_from: str,
    review: str,
    one_face: bool,
    compute: Compute,
) -> None:
    """Enrol the faces of photos; --create begins a gallery.

    SOURCE is a folder with one folder for each person, a photo, a CSV, or a data set of vectors. Faces that index NAME
    has already are skipped. Faces of photos that are in no person's folder are kept unnamed: `group` groups them.
    """
    from facegallery.results import as_document
    from facegallery.workflows.enrol import AddOptions
    from facegallery.workflows.enrol import add as run
    from facegallery.workflows.indexes import begun
    from facegallery.workflows.session import GallerySession

    options = AddOptions(identity, split, metadata, readmit, level, names_from, one_face, review)
    with begun(name, source, model) if create else nullcontext(), out.progress("add") as tick:
        with GallerySession(name, model=model, compute=compute) as session:
            done = run(session, source, options, progress=tick)
    document = as_document(done) | {"understood": done.understood and done.understood.result()}
    for line in document.pop("notes"):
        out.say(line)
    out.result(document, done.text)


@click.command()
@NAME
@common
def undo(out: Output, *, name: str) -> None:
    """Take back the last change.

    The last add, remove, rename, merge or split of index NAME; one that changed nothing counts, too.
    """
    from facegallery.workflows.probes import open_store

    with open_store(name, write=True) as gallery:
        changes = gallery.undo()
    lines = [f"taken back: {change_text(change.verb, change.faces, change.people)}" for change in changes]
    out.result([asdict(change) for change in changes], lines)


# looking --------------------------------------------------------------------


@click.command()
@NAME
@common
def info(out: Output, *, name: str) -> None:
    """Show what an index holds and what state it is in.

    People, faces, model, how far it is behind its last build, and its calibration.
    """
    from facegallery.results import as_document
    from facegallery.workflows.upkeep import info as run

    found = as_document(run(name))
    kinds = found["column_kinds"].items()
    shown = {
        **found,
        "columns": ", ".join(f"{column} ({kind})" for column, kind in kinds) or "none",
        "column_kinds": None,
    }
    out.result(found, [f"{key.replace('_', ' '):>14}  {value}" for key, value in shown.items() if value is not None])


@click.command()
@NAME
@click.option("--forgotten", type=PATH, help="A receipt of `forget`: look for that person in every file again.")
@click.option("--identity", help="With --forgotten: the name to look for, too.")
@common
def verify(out: Output, *, name: str, forgotten: Path | None, identity: str | None) -> None:
    """Check every row and file of an index.

    Damaged files that are derived from others are made again. Exits with 5 where people's data is damaged.
    """
    from facegallery.workflows.forget import verify_forgotten
    from facegallery.workflows.upkeep import verify as run

    if forgotten is not None:
        found = verify_forgotten(name, forgotten, identity)
        total = sum(found.values())
        lines = [f"{path}: found {n} times" for path, n in found.items() if n]
        document = {"files": found, "found": total}
        out.result(document, [*lines, f"{len(found)} files searched, {total} traces found"])
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
    metavar="AGE",
    help="Delete what `undo` and the way back from `reembed` need, where it is older than this: 30d, 12h.",
)
@common
def compact(out: Output, *, name: str, keep_undo: str | None) -> None:
    """Rebuild an index from all changes.

    The new index is built beside the one in use, which it then replaces.
    """
    from facegallery.workflows.upkeep import compact as run

    done = run(name, keep_undo=seconds_of(keep_undo))
    dropped = f"; {done.dropped} old changes can no longer be taken back" if done.dropped else ""
    out.result(asdict(done), f"{name}: generation {done.generation}, {done.faces} faces{dropped}")


def seconds_of(text: str | None) -> float | None:
    """Return '30d' as seconds; raise InputError for another spelling."""
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d+)([dhms])", text)):
        raise InputError(f"expected a time such as 30d, 12h or 0s for --keep-undo, received {text!r}: fix it")
    return int(found[1]) * UNITS[found[2]]


@click.command()
@NAME
@click.option("--out", "path", type=PATH, required=True, help="The new file.")
@common
def backup(out: Output, *, name: str, path: Path) -> None:
    """Write a whole index to one file.

    Others may use the index meanwhile. The backup of an encrypted index is encrypted.
    """
    from facegallery.workflows.upkeep import backup as run

    done = run(name, path)
    out.result(asdict(done), f"{path}: {done.faces} faces of {done.people} people")


@click.command()
@click.argument("file", type=PATH)
@click.option("--name", required=True, help="Name of the index.")
@click.option(
    "--replace",
    is_flag=True,
    help="Replace the people of the index that is there, of which FILE must be a backup.",
)
@click.option("--readmit", is_flag=True, help="Enrol people who were forgotten since the backup, too.")
@common
def restore(out: Output, *, file: Path, name: str, replace: bool, readmit: bool) -> None:
    """Make an index from a backup.

    People who were forgotten since are left out, whichever index they were forgotten from.
    """
    from facegallery.workflows.upkeep import restore as run

    done = run(file, name, replace=replace, readmit=readmit)
    forgotten = f"; {done.forgotten} faces were forgotten since and stay so" if done.forgotten else ""
    out.result(asdict(done), f"{name}: {done.faces} faces of {done.people} people{forgotten}")


@click.command()
@NAME
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@click.option(
    "--crops", is_flag=True, help="Write the stored crops too, so that `train` and `embed` take the data set."
)
@click.option(
    "--xmp", is_flag=True, help="Write sidecars (PHOTO.xmp) with the names of faces for photo programs instead."
)
@click.option(
    "--photos", type=PATH, help="With --xmp: the folder of the photos. [default: those that they were added from]"
)
@common
def export(out: Output, *, name: str, folder: Path, crops: bool, xmp: bool, photos: Path | None) -> None:
    """Write an index as a data set, or as sidecars of photos.

    With corrected names. Run the same command again to write what has changed since.
    """
    from facegallery.workflows.upkeep import export as run

    if xmp:
        if crops:
            raise InputError("expected --crops or --xmp, received both: give one")
        _export_sidecars(out, name, folder, photos)
        return
    if photos is not None:
        raise InputError("expected --xmp with --photos, received --photos alone: add --xmp, or leave it out")

    done = run(name, folder, crops=crops)
    lacking = f"; {done.without_crop} faces have no stored crop" if done.without_crop else ""
    out.result(asdict(done), f"{folder}: {done.faces} faces of {done.people} people{lacking}")


def _export_sidecars(out: Output, name: str, folder: Path, photos: Path | None) -> None:
    from facegallery.workflows.sidecars import export_sidecars

    with out.progress("export") as tick:
        done = export_sidecars(name, folder, photos, progress=tick)
    for line in done.notes:
        out.say(line)
    left_out = f"; {done.left_out} photos left out" if done.left_out else ""
    out.result(asdict(done), f"{folder}: {done.written} sidecars with {done.faces} faces{left_out}")


@click.command()
@NAME
@click.option(
    "--model", required=True, help="sface, msceleb, casia, duo, several as A+B, or the folder of a trained model."
)
@views_option
@click.option("--report", type=PATH, help="Write whose answers change, as JSON.")
@click.option("--no-switch", is_flag=True, help="Stop after the report; the same command without it switches.")
@computing
@common
def reembed(
    out: Output, *, name: str, model: str, views: str, report: Path | None, no_switch: bool, compute: Compute
) -> None:
    """Give an index another model, from its stored crops.

    Run the same command with the old model to go back, or again to resume an interrupted one.
    """
    from facegallery.workflows.reembed import ReembedOptions
    from facegallery.workflows.reembed import reembed as run
    from facegallery.workflows.session import GallerySession

    options = ReembedOptions(views, report, switch=not no_switch)
    with out.progress("reembed") as tick, GallerySession(name, compute=compute) as session:
        done = run(session, model, options, progress=tick)
    out.result(done.result(), done.text)


@click.command()
@NAME
@click.option("--fpir", default=0.01, show_default=True, help="Share of strangers that may be taken for somebody.")
@click.option("--probes", type=PATH, multiple=True, help="Photos or vectors: of enrolled people, and of strangers.")
@click.option("--strangers-alone", is_flag=True, help="Fit on the strangers of --probes, not on enrolled people.")
@click.option("--split", help="Rows of --probes to use. [default: `probe` where there are such rows, else all]")
@model_option
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the choice of faces to ask about, in a large index.",
)
@computing
@common
def calibrate(
    out: Output,
    *,
    name: str,
    fpir: float,
    probes: tuple[Path, ...],
    strangers_alone: bool,
    split: str | None,
    model: str | None,
    seed: int,
    compute: Compute,
) -> None:
    """Fit the score from which a face counts as known.

    From then on `search`, `who` and `where` tell enrolled people from strangers.
    """
    from facegallery.results import as_document
    from facegallery.workflows.calibrate import CalibrationOptions
    from facegallery.workflows.calibrate import calibrate as run
    from facegallery.workflows.session import GallerySession

    with GallerySession(name, model=model, compute=compute) as session:
        done = run(session, CalibrationOptions(fpir, probes, split, seed, strangers_alone))
    document = as_document(done)
    for line in document.pop("warnings"):
        out.say(f"warning: {line}")
    out.result(document, done.text)


@click.command()
@NAME
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--readmit", is_flag=True, help="Delete even where the list of forgotten people cannot be read.")
@common
def delete(out: Output, *, name: str, yes: bool, readmit: bool) -> None:
    """Delete an index.

    Asks first, and deletes the folder of index NAME with all people in it. Keeps the list of forgotten people, so that
    they stay forgotten in a new index of the same name; receipts of `forget`; and files written elsewhere, such as
    backups.
    """
    from facegallery.workflows.indexes import delete_index, index_to_delete

    entry = index_to_delete(name)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("expected --yes where there is no terminal to ask on, received none: add it")
        click.echo(index_line(entry), err=True)
        if not click.confirm("Delete it for good?", err=True):
            out.result({"index": name, "deleted": False}, "nothing was deleted")
            return
    done = delete_index(name, readmit=readmit)
    out.result(asdict(done) | {"deleted": True}, deleted_lines(done))


def deleted_lines(done: DeletedIndex) -> Iterator[str]:
    """Return what was deleted, then what was kept."""
    yield f"{done.index}: deleted {done.folder}, {size_text(done.bytes)}"
    if done.forgotten:
        yield f"kept: {done.forgotten}, the list of forgotten people"
    yield from (f"kept: {path}, a receipt of `forget`" for path in done.receipts)
    yield from (f"kept: {path}, written with people of this index" for path in done.written)
