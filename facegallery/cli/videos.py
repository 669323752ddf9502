"""The command that says who appears when in videos."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegallery.cli.options import PATH, SCORE, Output, common, computing, detector_option
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, InputError

if TYPE_CHECKING:
    from facegallery.workflows.videos import Appearance, VideoTracks


@click.command()
@click.argument("videos", type=PATH)
@click.option("--index", help="Name the people by this index; its model and detector are used.")
@click.option("--out", "folder", type=PATH, help="Folder of a Parquet data set for the best faces of each track.")
@click.option("--rate", default=2.0, show_default=True, help="Frames a second that are looked at.")
@click.option("--max-side", default=1280, show_default=True, help="Pixels of a frame's longer side; others are scaled.")
@click.option("--faces", default=3, show_default=True, help="Faces that are kept of each track.")
@click.option(
    "--track-score",
    type=SCORE,
    default=0.4,
    show_default=True,
    help="Score from which a face near the last one of a track belongs to it.",
)
@click.option(
    "--join-score",
    type=SCORE,
    default=0.45,
    show_default=True,
    help="Mean score from which tracks that are never visible at once are one person's.",
)
@click.option("--min-score", type=SCORE, help="Score below which a person is a stranger. [default: by calibration]")
@click.option("--no-crops", is_flag=True, help="Leave the crops out of the rows of --out.")
@click.option("--model", help="A model's name or folder. [default: sface, or the model of --index]")
@detector_option
@computing
@common
def tracks(
    out: Output,
    *,
    videos: Path,
    index: str | None,
    folder: Path | None,
    rate: float,
    max_side: int,
    faces: int,
    track_score: float,
    join_score: float,
    min_score: float | None,
    no_crops: bool,
    model: str | None,
    detector: str | None,
    compute: Compute,
) -> None:
    """Say who appears when in videos.

    VIDEOS is a video or a folder of videos. Faces are followed from frame to frame, and a line for each track says from
    when to when, and who: the nearest person of --index, or the number of an unnamed person in the video. With --out,
    the best faces of each track become rows of a data set, and videos that are in it are not read again. Needs PyAV:
    `pip install 'facegallery[video]'`. Exits with 3 where no video could be read.
    """
    from facegallery.embedder.video.frames import FrameOptions
    from facegallery.embedder.video.tracks import TrackRules
    from facegallery.workflows.session import GallerySession
    from facegallery.workflows.videos import TrackOptions
    from facegallery.workflows.videos import tracks as run

    if index is not None and detector is not None:
        raise InputError("expected --index or --detector, received both: an index has a detector of its own")
    options = TrackOptions(
        FrameOptions(rate, max_side),
        TrackRules(track_score, best=faces),
        join_score,
        min_score,
        keep_crops=not no_crops,
        model=model,
        detector=detector,
    )
    with out.progress("tracks") as tick:
        if index is None:
            found = run(videos, options, out=folder, compute=compute, progress=tick)
        else:
            with GallerySession(index, model=model, compute=compute) as session:
                found = run(videos, options, where=session, out=folder, progress=tick)
    out.result({"index": index} | asdict(found), track_lines(found, named=index is not None))
    if found.videos and found.videos == len(found.unread):
        sys.exit(DataError.exit_code)


def track_lines(found: VideoTracks, *, named: bool) -> Iterator[str]:
    """Yield a line for each track, after the video's name where there are several, then the counts.

    named: whether an index was asked for names.
    """
    for one in found.appearances:
        video = f"{one.video}  " if found.videos > 1 else ""
        yield f"{video}{clock(one.start)}-{clock(one.end)}  {who(one, named=named)}"
    people = {(one.video, one.person) if one.identity is None else one.identity for one in found.appearances}
    unread = f"; {len(found.unread)} could not be read" if found.unread else ""
    counts = f"{counted(len(found.appearances), 'track')} of {counted(len(people), 'person', 'people')}"
    yield f"{counted(found.videos, 'video')}: {counts}{unread}"


def counted(n: int, one: str, several: str | None = None) -> str:
    """Return '1 video' or '2 videos'."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def who(one: Appearance, *, named: bool) -> str:
    """Return a person's name and score, or the number of an unnamed one in the video."""
    if one.identity is not None:
        return f"{one.identity}  {one.score:.2f}"
    return f"unknown (person {one.person})" if named else f"person {one.person}"


def clock(seconds: float) -> str:
    """Return a time as players show it, to a tenth of a second: 0:12.5, 1:02:03.0."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
