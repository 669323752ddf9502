"""Find who appears when in videos: faces are followed, joined to people, and looked up in an index."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facegallery.embedder.compute import Compute
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import Row, to_rows
from facegallery.embedder.errors import InputError, SystemFault
from facegallery.embedder.outcomes import OK, READ
from facegallery.embedder.photos.listing import Listing
from facegallery.embedder.progress import Progress, unseen
from facegallery.embedder.video.frames import FrameOptions
from facegallery.embedder.video.listing import list_videos
from facegallery.embedder.video.tracks import Track, TrackRules
from facegallery.results import VectorResult
from facegallery.workflows.photos import ANYWHERE, DEFAULT_MODEL, load_embedder, make_detector, make_embedder
from facegallery.workflows.probes import Question
from facegallery.workflows.search import NO_ANSWER, Judge
from facegallery.workflows.session import GallerySession, Where, session_of

if TYPE_CHECKING:
    from facegallery.embedder.video.stage import VideoStage

JOINED_FROM = 0.45  # mean cosine of the faces of two tracks from which they are one person's
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackOptions:
    """How faces are followed through videos, and joined to people.

    join_score: the mean cosine from which tracks that are never visible at once are one person's. min_score: the score
    from which a person of the index counts; None: by its calibration. model, detector: without an index.
    """

    frames: FrameOptions = FrameOptions()
    rules: TrackRules = TrackRules()
    join_score: float = JOINED_FROM
    min_score: float | None = None
    keep_crops: bool = True
    model: str | None = None
    detector: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.join_score < 1:
            raise InputError(f"expected a --join-score between 0 and 1, received {self.join_score}")


@dataclass(frozen=True)
class Appearance:
    """A face in a video from `start` to `end`, in seconds, and who it is.

    track: its number in the video. person: the number of the person in the video, whom several tracks may show.
    identity, score: of the nearest person of the index; None without an index, and for a stranger. known: None without
    a calibration. images: the frames whose faces are kept, as `clip.mp4#t=12.5`; face_ids: of those faces.
    """

    video: str
    track: int
    person: int
    start: float
    end: float
    identity: str | None
    score: float | None
    known: bool | None
    images: tuple[str, ...]
    face_ids: tuple[str, ...]


@dataclass(frozen=True)
class UnreadVideo:
    """A video that could not be read."""

    video: str
    outcome: str


@dataclass(frozen=True)
class VideoTracks:
    """Who appears when in videos, by video and time."""

    videos: int
    unread: tuple[UnreadVideo, ...]
    appearances: tuple[Appearance, ...]


def tracks(
    source: Path,
    options: TrackOptions = TrackOptions(),  # noqa: B008
    *,
    where: Where | None = None,
    out: Path | None = None,
    compute: Compute = ANYWHERE,
    progress: Progress = unseen,
) -> VideoTracks:
    """Find who appears when in a video, or in the videos of a folder.

    where: an index, whose model and detector are used. out: a data set for the rows of the kept faces; videos that are
    in it already are not read again. Raise SystemFault where PyAV is not installed, DataError where there is no video.
    """
    if find_spec("av") is None:
        raise SystemFault("expected PyAV, it is not installed: run `pip install 'facegallery[video]'`")
    listing = list_videos(source)
    with ExitStack() as stack:
        session = None if where is None else stack.enter_context(session_of(where))
        judge = None if session is None else Judge(session.searcher, Question(k=1, min_score=options.min_score))
        for line in [] if judge is None else judge.notes:
            log.info(line)
        stage = _stage(session, options, compute)
        rows = _rows(listing, stage, progress) if out is None else _rows_kept(listing, stage, out, progress)
        return _answered(rows, judge)


def _stage(session: GallerySession | None, options: TrackOptions, compute: Compute) -> VideoStage:
    from facegallery.embedder.video.stage import VideoOptions, VideoStage

    if session is None:
        embedder = make_embedder(options.model or DEFAULT_MODEL, compute)
        settings = {} if options.detector is None else {"algorithm": options.detector}
    else:
        model = session.networks.model
        assert model is not None
        embedder, settings = load_embedder(model, session.compute), session.searcher.spec.detector
        session.searcher.check_spec(embedder.spec)
    each = VideoOptions(
        options.frames,
        options.rules,
        join=partial(people_of, cut=options.join_score),
        joined_from=options.join_score,
        keep_crops=options.keep_crops,
    )
    return VideoStage(embedder.spec, make_detector(settings, embedder.compute), embedder, each)


def _rows(listing: Listing, stage: VideoStage, progress: Progress) -> Iterator[Row]:
    """Yield the rows of videos, which are kept nowhere."""
    for number, entry in enumerate(listing.entries):
        progress(number, len(listing.entries))
        made = stage.of_video(listing.root, entry.path)
        for line in made.notes if made.outcome == OK else [f"{made.name}: {made.outcome} ({made.why})"]:
            log.info(line)
        yield from _without_crops(made.rows)
    progress(len(listing.entries), len(listing.entries))


def _rows_kept(listing: Listing, stage: VideoStage, out: Path, progress: Progress) -> Iterator[Row]:
    """Write the rows of videos to a data set, and yield them and those of the same videos that it has already."""
    from facegallery.embedder.video.stage import process_videos

    summary = process_videos(listing, out, stage, progress)
    for line in [*summary.problems, *summary.notes]:
        log.info(line)
    asked = {entry.path for entry in listing.entries}
    for table in DataSet(out).shards():
        yield from _without_crops(row for row in to_rows(table) if row.extra["video"] in asked)


def _without_crops(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        row.crop = None
        yield row


# people ---------------------------------------------------------------------


def people_of(found: Sequence[Track], cut: float = JOINED_FROM) -> list[int]:
    """Return the number of the person whom each track shows, from 1 by their first appearance.

    Tracks are joined by the average linkage of their kept faces from a score of `cut` on; never two that are visible at
    the same time.
    """
    from facegallery.indexer.grouping.linkage import Start, group

    if not found:
        return []
    vectors = [np.array([row.vector for _, row in track.rows()], np.float32) for track in found]
    starts, ends = np.array([one.start for one in found]), np.array([one.end for one in found])
    at_once = np.triu((starts[:, None] <= ends) & (starts <= ends[:, None]), 1)
    start = Start(sizes=np.array(list(map(len, vectors))), apart=np.argwhere(at_once))
    labels = group(np.stack([xb.mean(axis=0) for xb in vectors]), cut, start)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(label), len(numbers) + 1) for label in labels]


@dataclass
class _Video:
    """The rows of a video by track, and the vectors of its people."""

    tracks: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))
    people: dict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: Row) -> None:
        assert row.vector is not None
        self.tracks[int(row.extra["track"])].append(row)
        self.people[int(row.extra["person"])].append(np.asarray(row.vector, np.float32))


def _answered(rows: Iterable[Row], judge: Judge | None) -> VideoTracks:
    """Return the appearances in videos; each person of a video is asked about once, by the mean of their faces."""
    videos: dict[str, _Video] = {}
    unread = []
    for row in rows:
        video = videos.setdefault(row.extra["video"], _Video())
        if row.vector is not None:
            video.add(row)
        elif row.outcome not in READ:
            unread.append(UnreadVideo(row.extra["video"], row.outcome))
    people = [(name, person) for name, video in videos.items() for person in video.people]
    means = [np.mean(videos[name].people[person], axis=0) for name, person in people]
    answers = [NO_ANSWER] * len(people)
    if judge is not None and means:
        xq = np.stack(means)
        answers = judge.answers(xq / np.linalg.norm(xq, axis=1, keepdims=True))
    of_person = dict(zip(people, answers, strict=True))
    found = [
        _appearance(name, number, of_track, of_person)
        for name, video in sorted(videos.items())
        for number, of_track in sorted(video.tracks.items())
    ]
    return VideoTracks(len(videos), tuple(unread), tuple(found))


def _appearance(
    video: str, track: int, rows: Sequence[Row], answers: dict[tuple[str, int], VectorResult]
) -> Appearance:
    first = rows[0].extra
    answer = answers[video, int(first["person"])]
    best = answer.hits[0] if answer.hits and answer.known is not False else None
    return Appearance(
        video,
        track,
        int(first["person"]),
        float(first["start"]),
        float(first["end"]),
        None if best is None else best.identity,
        None if best is None else round(best.score, 4),
        answer.known,
        tuple(row.image for row in rows),
        tuple(row.face_id for row in rows),
    )
