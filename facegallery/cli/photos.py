"""The commands that turn photos into crops and vectors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegallery.cli.options import (
    PATH,
    PROBLEMS_SHOWN,
    Output,
    common,
    computing,
    detector_option,
    level_option,
    photo_options,
    size_text,
    views_option,
)
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError

if TYPE_CHECKING:
    from facegallery.results import Duplicates, GalleryDuplicates


@click.command()
@click.argument("layout", type=click.Choice(["homework", "lfw", "att", "folders", "csv"]))
@click.argument("src", type=PATH)
@click.argument("dest", type=PATH)
@click.option(
    "--csv", "table", type=PATH, help="CSV `image,identity[,split][,more]`: photos, their people and their splits."
)
@level_option
@common
def prepare(out: Output, *, layout: str, src: Path, dest: Path, table: Path | None, level: int | None) -> None:
    """Lay out photos as one folder for each person.

    Writes DEST/<split>/<identity>/<photo> as hard links or copies; SRC is only read. Without --csv, the first photo of
    a person goes to the gallery and the others are probes (homework: N_1 and N_2).
    """
    from facegallery.embedder.photos.prepare import prepare as run

    done = run(layout, src, dest, table, level)
    for note in done.notes:
        out.say(note)
    counts = ", ".join(f"{n} {split}" for split, n in done.splits.items())
    out.result(asdict(done), f"{done.folder}: {done.people} people; photos: {counts}")


@click.command()
@click.argument("photos", type=PATH)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Longest time from one photo of a burst to the next; 0: no bursts.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 where some photos could not be read.")
@common
def dedupe(out: Output, *, photos: Path, seconds: float, strict: bool) -> None:
    """Find copies of photos and bursts, and which photo to keep.

    PHOTOS may be the name of a gallery, too: near-identical photos among those it has are found by their vectors and
    crops, and the commands that drop the others are printed.

    PHOTOS is a folder of photos, a photo or a CSV. A set is of the `same file` (the same bytes), the `same picture`
    (saved again, resized, converted or turned), or a `burst` (nearly the same scene within seconds, by EXIF; without
    it, by the times of files whose numbers follow each other). Below each set stand its photos, the one to keep first.
    No file is changed. Exits with 3 where no photo could be read.
    """
    from facegallery.results import as_document
    from facegallery.workflows.dedupe import dedupe as run

    if _is_gallery(out, photos):
        _dedupe_gallery(out, str(photos))
        return
    with out.progress("dedupe") as tick:
        found = run(photos, seconds=seconds, progress=tick)
    for photo in found.unread[:PROBLEMS_SHOWN]:
        out.say(f"{photo.image}: {photo.outcome}: {photo.why}")
    if len(found.unread) > PROBLEMS_SHOWN:
        out.say(f"and {len(found.unread) - PROBLEMS_SHOWN} more: --json lists them in `unread`")
    out.result(as_document(found), duplicate_lines(found))
    if len(found.unread) == found.photos:
        sys.exit(DataError.exit_code)
    sys.exit(1 if strict and found.unread else 0)


def _is_gallery(out: Output, photos: Path) -> bool:
    """Return whether a plain name is that of a gallery; a file or folder of that name comes first, with a note."""
    from facegallery.indexer.store.database import FILE
    from facegallery.workflows.probes import indexes_root

    given = str(photos)
    if photos.name != given or not (indexes_root() / given / FILE).is_file():
        return False
    if photos.exists():
        out.say(f"{given} is a gallery, too: for that, run the command in another folder, with FACEGALLERY_INDEXES set")
        return False
    return True


def _dedupe_gallery(out: Output, name: str) -> None:
    from facegallery.results import as_document
    from facegallery.workflows.dedupe_gallery import dedupe_gallery

    found = dedupe_gallery(name)
    if not found.by_crops:
        out.say(f"{name} keeps no crops: photos are compared by vectors alone, look at each before you remove it")
    out.result(as_document(found), gallery_lines(found))


def gallery_lines(found: GalleryDuplicates) -> Iterator[str]:
    """Yield a line for each set, lines for its photos and for what drops the others, and one with the counts."""
    for one in found:
        yield f"keep {one.keep.image}: {one.why}"
        for photo in one.photos:
            unnamed = [f"{photo.unnamed} unnamed"] if photo.unnamed else []
            yield f"  {photo.image}  {photo.width} x {photo.height}, {', '.join([*photo.people, *unnamed])}"
        yield from (f"  facegallery {command}" for command in one.commands)
    spare = sum(len(one.others) for one in found)
    sets = f"{len(found)} sets; not to be kept: {spare}" if found else "no two are near-identical"
    yield f"{found.name}: {found.photos} photos: {sets}"


def duplicate_lines(found: Duplicates) -> Iterator[str]:
    """Yield a line for each set, lines for its photos, and one with the counts."""
    for one in found:
        yield f"{one.kind}: keep {one.keep.image}: {one.why}"
        for photo in one.photos:
            yield f"  {photo.image}  {photo.width} x {photo.height}, {size_text(photo.bytes)}"
    spare = {
        "of the same file": found.spare("same file"),
        "of the same picture": found.spare("same picture"),
        "in bursts": found.spare("burst"),
    }
    counts = [f"{n} {what}" for what, n in spare.items() if n]
    unread = f"; {len(found.unread)} could not be read" if found.unread else ""
    copies = f"{len(found)} sets; not to be kept: {', '.join(counts)}, {size_text(found.spare_bytes)}"
    yield f"{found.photos} photos: {copies if counts else 'no copies and no bursts'}{unread}"


@click.command()
@click.argument("photos", type=PATH)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@click.option(
    "--margin", default="0.25", show_default=True, help="Margin around the box: a share of it, or pixels such as 32px."
)
@click.option(
    "--border",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Pixels kept beyond 160 on each side, for training's jitter.",
)
@click.option(
    "--no-face",
    type=click.Choice(["skip", "whole"]),
    default="skip",
    show_default=True,
    help="What to do with a photo without a face; whole: take the whole photo as the crop.",
)
@click.option("--min-face", default=20, show_default=True, type=click.IntRange(min=1), help="Smallest face in pixels.")
@click.option(
    "--max-side",
    default=1024,
    show_default=True,
    type=click.IntRange(min=64),
    help="Find the faces of larger photos on a copy of this size.",
)
@detector_option
@photo_options
@click.option("--sheet", type=PATH, help="Draw photos with boxes beside their crops.")
@computing
@common
def align(
    out: Output,
    *,
    photos: Path,
    folder: Path,
    margin: str,
    border: int,
    no_face: str,
    all_faces: bool,
    min_face: int,
    max_side: int,
    detector: str | None,
    metadata: Path | None,
    prune: bool,
    retry: tuple[str, ...],
    strict: bool,
    sheet: Path | None,
    level: int | None,
    names_from: str,
    compute: Compute,
) -> None:
    """Find the faces of photos and crop them.

    A detector finds the faces. The crops go into a Parquet data set, with a row for every photo.
    """
    from facegallery.embedder.replaceable import check_replaceable
    from facegallery.embedder.spec import CropRule, canonical_margin
    from facegallery.workflows.photos import AlignOptions
    from facegallery.workflows.photos import align as run

    rule = CropRule(margin=canonical_margin(margin), border=border, no_face=no_face)
    if sheet:
        check_replaceable(sheet, "picture")
    options = AlignOptions(
        all_faces=all_faces,
        prune=prune,
        retry=frozenset(retry),
        metadata=metadata,
        level=level,
        names_from=names_from,
        rule=rule,
        min_face=min_face,
        max_side=max_side,
        algorithm=detector,
    )
    with out.progress("align") as tick:
        summary = run(photos, folder, options, compute=compute, progress=tick)
    if sheet:
        from facegallery.workflows.pictures import contact_sheet

        contact_sheet(photos, folder, sheet)
        out.say(f"sheet: {sheet}")
    out.summary(summary, strict=strict)


@click.command()
@click.argument("source", type=PATH)
@click.option(
    "--model",
    default="sface",
    show_default=True,
    help="sface, msceleb, casia, duo, several as A+B, or the folder of a trained model.",
)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@views_option
@click.option("--no-crops", is_flag=True, help="Leave the crops out of the rows.")
@detector_option
@click.option(
    "--turned", is_flag=True, help="Where no face is sure, look at the photo turned by 90, 180 and 270 degrees."
)
@photo_options
@computing
@common
def embed(
    out: Output,
    *,
    source: Path,
    model: str,
    folder: Path,
    views: str,
    all_faces: bool,
    no_crops: bool,
    detector: str | None,
    turned: bool,
    metadata: Path | None,
    prune: bool,
    retry: tuple[str, ...],
    strict: bool,
    level: int | None,
    names_from: str,
    compute: Compute,
) -> None:
    """Turn photos or crops into unit vectors.

    SOURCE is a folder of photos, a photo, a CSV, or a data set of crops from `align`. The vectors go into a Parquet
    data set, with a row for every photo.
    """
    from facegallery.workflows.photos import EmbedOptions, make_embedder
    from facegallery.workflows.photos import embed as run

    options = EmbedOptions(
        all_faces=all_faces,
        keep_crops=not no_crops,
        prune=prune,
        retry=frozenset(retry),
        metadata=metadata,
        level=level,
        names_from=names_from,
        algorithm=detector,
        turned=turned,
    )
    embedder = make_embedder(model, compute, views)
    with out.progress("embed") as tick:
        summary = run(source, folder, embedder, options, progress=tick)
    out.summary(summary, strict=strict)
