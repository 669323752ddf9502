"""The commands for the photos of a gallery: find them, and keep the gallery in step with a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from facegallery.cli.options import NAME, PATH, Output, common
from facegallery.embedder.errors import InputError

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
