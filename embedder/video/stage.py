"""Turn videos into rows: sample frames, find and embed their faces, follow them, and keep the best of each track."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from facegallery.embedder.dataset.row import Entry, Row, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions, check_is_ours
from facegallery.embedder.faces import align
from facegallery.embedder.files import locked, make_folder
from facegallery.embedder.outcomes import NO_FACE, OK, PASSING
from facegallery.embedder.photo_stage import Options, PhotoStage
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.listing import Listing
from facegallery.embedder.pipeline import Summary, run
from facegallery.embedder.progress import Progress
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.video.frames import FrameOptions, Frames
from facegallery.embedder.video.tracks import Track, Tracker, TrackRules, fewest_left_out

if TYPE_CHECKING:
    from facegallery.embedder.faces.mtcnn import Detector
    from facegallery.embedder.network.runtime import Embedder

COLUMNS = ("video", "track", "person", "start", "end", "time")  # of the rows, beside those of photos; all are text
MOST_FACES = 64  # of a frame that are followed
LEFT_OUT = 0.25  # share by which the tracks may exceed the limit before those with the fewest faces are left out
Join = Callable[[Sequence[Track]], Sequence[int]]


def _each_alone(tracks: Sequence[Track]) -> Sequence[int]:
    return range(1, len(tracks) + 1)


@dataclass(frozen=True)
class VideoOptions:
    """What is done with each video.

    join: the number of the person whom each track shows; by default each track is another's. keep_crops: keep the crops
    of the faces in the rows. retry: lasting outcomes of earlier runs whose videos are processed again.
    """

    frames: FrameOptions = FrameOptions()
    rules: TrackRules = TrackRules()
    join: Join = _each_alone
    joined_from: float | None = None  # the score of `join`, for the record of a data set
    keep_crops: bool = True
    retry: frozenset[str] = frozenset()
    prune: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """What a resumed run must repeat."""
        return {
            "command": "tracks",
            "frames a second": self.frames.rate,
            "longest side": self.frames.max_side,
            "faces of a track": self.rules.best,
            "followed from": self.rules.score,
            "joined from": self.joined_from,
            "crops kept": self.keep_crops,
        }


@dataclass
class VideoRows:
    """What a video gave: a row for each kept face, or one that says why there is none, and a note on what is lacking.

    frames: how many were looked at. tracks: how many were found.
    """

    name: str
    rows: list[Row]
    why: str = ""
    frames: int = 0
    tracks: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """The outcome of the video."""
        return self.rows[0].outcome


class _AnyEntry(dict[str, Entry]):
    """The labels of frames: none, whatever their names, so that no list of all frames is needed."""

    def __missing__(self, name: str) -> Entry:
        return Entry(name, 0, 0)


class VideoStage:
    """Makes the rows of videos, one video at a time; memory holds a few frames and the best faces of each track."""

    def __init__(self, spec: FaceSpec, detector: Detector, embedder: Embedder, options: VideoOptions):
        each = Options(all_faces=True, keep_crops=False, keep_pixels=True, most_faces=MOST_FACES)
        self._stage = PhotoStage(spec, detector, embedder, each)
        self.spec, self.options = self._stage.spec, options

    def of_video(self, root: Path, name: str) -> VideoRows:
        """Return the rows of the video `name` in the folder `root`."""
        frames = Frames(root, name, self.options.frames)
        tracks, dropped = self._tracks(frames, name)
        if frames.outcome != OK or not tracks:
            outcome = NO_FACE if frames.outcome == OK else frames.outcome
            why = frames.why or f"the detector finds none in {frames.count} frames"
            return VideoRows(name, [Row(name, outcome, extra={"video": name})], why, frames.count)
        notes = [f"{name}: {frames.why}"] if frames.why else []
        if dropped:
            notes.append(f"{name}: {dropped} tracks with the fewest faces are left out of {dropped + len(tracks)}")
        return VideoRows(name, self._rows(name, tracks), frames.why, frames.count, len(tracks), notes)

    def _tracks(self, frames: Frames, name: str) -> tuple[list[Track], int]:
        """Return the tracks of a video by their beginning, and how many were left out."""
        tracker, tracks, dropped = Tracker(self.options.rules), list[Track](), 0
        most = self.options.rules.most
        times: deque[float] = deque()
        photos = self._photos(frames, name, times)
        with closing(self._stage.rows(photos, _AnyEntry())) as made:
            for _, rows in made:
                ended = tracker.add(times.popleft(), [row for row in rows if row.vector is not None])
                tracks += [self._finished(track) for track in ended]
                if len(tracks) > most * (1 + LEFT_OUT):
                    dropped += len(tracks) - most
                    tracks = fewest_left_out(tracks, most)
        tracks += [self._finished(track) for track in tracker.end()]
        kept = fewest_left_out(tracks, most)
        return sorted(kept, key=lambda track: (track.start, track.end)), dropped + len(tracks) - len(kept)

    def _photos(self, frames: Frames, name: str, times: deque[float]) -> Iterator[Photo]:
        """Yield each frame as a photo of its own, and note its time."""
        for frame in frames:
            times.append(frame.time)
            digest = hashlib.sha256(f"#t={seconds(frame.time)}\0".encode())  # still frames differ by it alone
            digest.update(frame.pixels.data)
            yield Photo(fragment(name, frame.time), OK, sha256=digest.hexdigest(), pixels=frame.pixels)

    def _finished(self, track: Track) -> Track:
        """Encode the crops of a track that has ended, and let its pixels go."""
        for _, row in track.rows():
            if row.pixels is not None and self.options.keep_crops:
                row.crop = align.to_png(row.pixels, row.region)
            row.pixels = row.region = None
        return track

    def _rows(self, name: str, tracks: Sequence[Track]) -> list[Row]:
        """Return the rows of the kept faces, by track and time."""
        people, rows = self.options.join(tracks), []
        for number, (track, person) in enumerate(zip(tracks, people, strict=True), 1):
            for time, row in track.rows():
                values = name, str(number), str(person), seconds(track.start), seconds(track.end), seconds(time)
                row.extra, row.largest_other = dict(zip(COLUMNS, values, strict=True)), None
                rows.append(row)
        return rows


def seconds(time: float) -> str:
    """Return a time in seconds as text, to a millisecond: `12.5`."""
    return f"{time:.3f}".rstrip("0").rstrip(".")


def fragment(name: str, time: float) -> str:
    """Return how a frame is called: `clip.mp4#t=12.5` (W3C Media Fragments)."""
    return f"{name}#t={seconds(time)}"


def process_videos(listing: Listing, out: Path, stage: VideoStage, progress: Progress) -> Summary:
    """Write the rows of videos to the data set `out`, a shard for each; videos that are finished are not read again.

    The folder is locked: a second process waits until the first has finished. Raise DataError where `out` holds other
    files, or a data set of another contract or other options.
    """
    check_is_ours(out)
    with locked(make_folder(out)):
        options = stage.options
        record = options.record | {"detector": stage.spec.detector, "border": stage.spec.crop.border}
        settings = WriterOptions(COLUMNS, per_shard=1, prune=options.prune, retry=PASSING | options.retry)
        writer = DataSetWriter(out, stage.spec, record, listing.entries, settings)
        return _process(listing, writer, stage, progress)


def _process(listing: Listing, writer: DataSetWriter, stage: VideoStage, progress: Progress) -> Summary:
    problems, notes, written = list[str](), list[str](), 0

    def make(_: int, entries: list[Entry], tick: Callable[[int], None]) -> pa.Table:
        nonlocal written
        rows: list[Row] = []
        for entry in entries:
            made = stage.of_video(listing.root, entry.path)
            written += 1
            rows += made.rows
            notes.extend(made.notes)
            if made.outcome != OK:
                problems.append(f"{made.name}: {made.outcome} ({made.why})")
            tick(1)
        return to_table(rows, stage.spec, COLUMNS)

    summary = run(writer, make, progress)
    summary.written, summary.problems = written, problems
    summary.notes = listing.notes + summary.notes + notes
    return summary
