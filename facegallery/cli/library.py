"""The commands for the photos of a gallery: find them, and keep the gallery in step with a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from facegallery.cli.options import NAME, PATH, Output, common, computing, level_option, model_option
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError
from facegallery.embedder.faces.names import NAMES_FROM
from facegallery.embedder.text import printable

SHOWN = 100


class PlaceType(click.ParamType):
    """A latitude and a longitude in degrees: 52.52,13.405."""

    name = "lat,lon"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Return both numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*,\s*([+-]?\d+(?:\.\d+)?)\s*", str(value), re.ASCII)
        if not found:
            self.fail(f"expected a latitude and a longitude, as 52.52,13.405, received {value!r}", param, ctx)
        return float(found[1]), float(found[2])


@click.command()
@NAME
@click.option("--identity", "identities", multiple=True, help="A person who is in the photo; of several, all are.")
@click.option("--without", multiple=True, help="A person who is not in the photo; may be repeated.")
@click.option("--unnamed", is_flag=True, help="Only photos with a face that is nobody's and not ignored.")
@click.option("--year", type=click.IntRange(1, 9999), help="Only photos taken in this year.")
@click.option("--from", "since", metavar="DATE", help="Taken on this date or later: 2019, 2019-05 or 2019-05-01.")
@click.option("--to", "until", metavar="DATE", help="Taken on this date or earlier.")
@click.option("--near", type=PlaceType(), help="Taken near this latitude and longitude, as 52.52,13.405.")
@click.option(
    "--within", type=click.FloatRange(0, min_open=True), metavar="KM", help="Kilometres from there. [default: 1]"
)
@click.option("--limit", default=SHOWN, show_default=True, type=click.IntRange(min=1), help="Photos at most.")
@click.option("--paths", is_flag=True, help="Print paths alone, one a line.")
@click.option("--pictures", type=PATH, help="Draw the photos into this PNG or JPEG.")
@common
def photos(
    out: Output,
    *,
    name: str,
    within: float | None,
    paths: bool,
    pictures: Path | None,
    **asked: Any,
) -> None:
    """Find the photos of people, of a time and of a place.

    Lists photos that index NAME knows, oldest first: path, date, place and people. All options must hold. Dates and
    places are those that cameras write into photos; photos that `add` took in before it noted them have none until it
    sees them again.
    """
    from facegallery.results import as_document
    from facegallery.workflows.library import WITHIN_KM, PhotoQuestion, draw_photos
    from facegallery.workflows.library import photos as run
    from facegallery.workflows.probes import open_store

    if within is not None and asked["near"] is None:
        raise InputError("expected --near with --within, received none: give the place")
    question = PhotoQuestion(within=WITHIN_KM if within is None else within, **asked)
    with open_store(name) as gallery, gallery.reading():
        found = run(gallery, question)
    if pictures is not None:
        draw_photos(name, pictures, found)
    lines = [photo.path or photo.image for photo in found] if paths else list(map(_line, found))
    out.result(as_document(found), lines if lines or paths else "there are no such photos")
    for line in _left_out(found):
        out.say(line)


def _line(photo: Any) -> str:
    place = "" if photo.latitude is None else f"{photo.latitude:.5f},{photo.longitude:.5f}"
    taken = "" if photo.taken is None else photo.taken[:16].replace("T", " ")
    unnamed = [f"{photo.unnamed} unnamed"] if photo.unnamed else []
    shown = (photo.path or photo.image, taken, place, ", ".join([*photo.people, *unnamed]))
    return "  ".join(part for part in shown if part)


def _left_out(found: Any) -> list[str]:
    lines = []
    if len(found) < found.total:
        lines.append(f"{len(found):,} of {found.total:,} photos are shown: --limit shows more")
    if found.undated:
        lines.append(f"{found.undated:,} photos were left out, since they do not say when they were taken")
    if found.unplaced:
        lines.append(f"{found.unplaced:,} photos were left out, since they do not say where they were taken")
    return lines


def sync_options(command: Any) -> Any:
    """Add the options of `sync` and `watch` that say how photos are taken in."""
    for option in (
        click.option("--prune", is_flag=True, help="Take out faces of photos that are gone; undo brings them back."),
        click.option(
            "--one-face/--all-faces",
            default=None,
            help="Of photos without a person, keep the largest face, or all. [default: as the last time, else all]",
        ),
        click.option(
            "--names-from",
            type=click.Choice(NAMES_FROM),
            help="What names the people, as for `add`. [default: as the last time, else folders]",
        ),
        level_option,
        click.option("--identity", help="The person in all these photos. [default: as the last time, else nobody]"),
    ):
        command = option(command)
    return command


@click.command()
@NAME
@click.argument("folder", type=PATH)
@sync_options
@model_option
@computing
@common
def sync(out: Output, *, name: str, folder: Path, model: str | None, compute: Compute, **given: Any) -> None:
    """Take in the new and changed photos of a folder.

    Photos of the same size and time as before are not read. A moved photo keeps its faces, one that is gone keeps them
    unless --prune, and faces of a changed photo stay who they were where they are the same. The options are kept for
    this folder, for the next `sync` and `watch`; one undo takes all back.
    """
    from facegallery.results import as_document
    from facegallery.workflows.session import GallerySession
    from facegallery.workflows.sync import SyncOptions
    from facegallery.workflows.sync import sync as run

    with out.progress("sync") as tick, GallerySession(name, model=model, compute=compute) as session:
        done = run(session, folder, SyncOptions(**given), progress=tick)
    _say_synced(out, done)
    out.result(as_document(done), done.text)


@click.command()
@NAME
@click.argument("folder", type=PATH)
@sync_options
@model_option
@computing
@common
def watch(out: Output, *, name: str, folder: Path, model: str | None, compute: Compute, **given: Any) -> None:
    """Take in the photos of a folder as they come.

    Begins with one `sync`, and ends with Ctrl-C. A file is taken once it is no longer written to; with --json, a line
    for each batch. Needs the package watchfiles: `pip install 'facegallery[watch]'`.
    """
    from facegallery.embedder.text import to_json
    from facegallery.results import as_document
    from facegallery.workflows.session import GallerySession
    from facegallery.workflows.sync import SyncOptions
    from facegallery.workflows.watch import watch as run

    try:
        with GallerySession(name, model=model, compute=compute) as session:
            for done in run(session, folder, SyncOptions(**given)):
                _say_synced(out, done)
                click.echo(to_json(as_document(done)) if out.as_json else printable(done.text))
    except KeyboardInterrupt:
        out.say(f"stopped watching {folder}: what was taken in is kept")


def _say_synced(out: Output, done: Any) -> None:
    for line in done.notes:
        out.say(line)
    if done.failed:
        out.say(f"without a face: {', '.join(f'{n} {why}' for why, n in done.failed.items())}")
