"""The command that lists the enrolled faces there is reason to doubt."""

from __future__ import annotations

from pathlib import Path

import click

from facegallery.cli.options import NAME, PATH, Output, common


@click.command()
@NAME
@click.option("--limit", default=40, show_default=True, type=click.IntRange(min=1), help="Faces at most.")
@click.option("--pictures", type=PATH, help="Draw the faces into this PNG, each beside the nearest of both people.")
@common
def doubtful(out: Output, *, name: str, limit: int, pictures: Path | None) -> None:
    """List enrolled faces that may be wrong.

    Likely wrong names come first: faces nearer to another person than to their own, then faces unlike all others of
    their person, then faces of low quality. Each has its reason and the person it looks like. Nothing is changed:
    `split` gives a face to another person, `remove` takes it out.
    """
    from facegallery.results import as_document
    from facegallery.workflows.doubtful import doubtful as run
    from facegallery.workflows.doubtful import draw_doubtful

    with out.progress("doubtful") as tick:
        found = run(name, limit, progress=tick)
    if pictures is not None and found.faces:
        draw_doubtful(name, pictures, found)
        out.say(f"{pictures}: a row for each face, beside the nearest of its person and of the other")
    lines = [f"{face.face_id}  {face.image} ({face.identity}): {face.reason}" for face in found]
    out.result(as_document(found), lines or f"none of {found.compared:,} faces is doubtful")
    if len(found) < found.total:
        out.say(f"{len(found):,} of {found.total:,} doubtful faces are shown: --limit shows more")
