"""Run photos, or crops, through the stages into a data set, shard by shard.

Memory holds the crops of one shard and a few photos.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from facegallery.embedder.dataset.checks import damaged
from facegallery.embedder.dataset.dataset import SHARD_PHOTOS, DataSet, shard_path
from facegallery.embedder.dataset.row import Entry, Row, to_rows, to_table
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions, check_is_ours
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces import align
from facegallery.embedder.faces.drawn import DrawnFaces
from facegallery.embedder.files import locked, make_folder
from facegallery.embedder.machine import installed
from facegallery.embedder.outcomes import OK, PASSING
from facegallery.embedder.photo_stage import Options, PhotoStage, add_vectors, chunks
from facegallery.embedder.photos.decoder import Decoder
from facegallery.embedder.photos.listing import Listing, path_inside
from facegallery.embedder.photos.sidecars import has_sidecar, with_sidecars
from facegallery.embedder.progress import Progress

if TYPE_CHECKING:
    from facegallery.embedder.network.runtime import Embedder

__all__ = ["Options", "PhotoStage", "Summary", "chunks", "hash_of", "process_crops", "process_photos"]

# whose versions the marks of shards record
PACKAGES = ("facegallery", "openvino", "tensorflow", "tensorflow-cpu", "keras", "mtcnn", "numpy", "pillow", "pyarrow")


@dataclass
class Summary:
    """What a run did: inputs, rows by outcome, and the lines that the user should see."""

    folder: str
    photos: int  # inputs of the whole data set
    written: int  # inputs that this run wrote; the others were finished before
    outcomes: dict[str, int]  # rows of the whole data set by outcome
    seconds: float
    fingerprint: str
    problems: list[str] = field(default_factory=list)  # a line for each new photo whose outcome is not ok
    notes: list[str] = field(default_factory=list)
    understood: dict[str, Any] | None = None  # which person is in each photo; None where the input was crops
    unsure: list[str] = field(default_factory=list)  # new photos with a second face nearly as large as the person's

    @property
    def failed(self) -> int:
        """How many rows have another outcome than ok."""
        return sum(n for outcome, n in self.outcomes.items() if outcome != OK)


def process_photos(
    listing: Listing,
    out: Path,
    stage: PhotoStage,
    command: str,
    progress: Progress,
    per_shard: int = SHARD_PHOTOS,
) -> Summary:
    """Run `stage` over the photos of a listing that are not in the data set `out` yet.

    A kill loses at most the chunks in progress and the shard that is not full. The folder is locked: a second process
    waits until the first has finished. command: name of the command, which a resumed run must repeat. per_shard: photos
    of a shard. Raise DataError where `out` holds other files, or a data set of another contract or other options.
    """
    check_is_ours(out)
    with locked(make_folder(out)):
        return _process_photos(listing, _writer(listing, out, stage, command, per_shard), stage, progress)


def _writer(listing: Listing, out: Path, stage: PhotoStage, command: str, per_shard: int) -> DataSetWriter:
    options = {
        "command": command,
        "all faces": stage.options.all_faces,
        "crops kept": stage.options.keep_crops,
        "border": stage.spec.crop.border,
        **({"window": stage.spec.crop.window} if stage.spec.crop.window else {}),
        **({"drawn faces": True} if stage.options.regions else {}),
        "no face": stage.spec.crop.no_face,
        "detector": stage.spec.detector,
    }
    settings = WriterOptions(
        tuple(listing.extra),
        per_shard,
        prune=stage.options.prune,
        retry=PASSING | stage.options.retry,
        hash_of=lambda entry: _hash_of(listing.root, entry, stage.options),
    )
    entries = listing.entries
    if stage.options.regions:
        entries = [with_sidecars(listing.root, entry) for entry in entries]
    return DataSetWriter(out, stage.spec, options, entries, settings)


def _hash_of(root: Path, entry: Entry, options: Options) -> str | None:
    """Return the hash of a photo's bytes; None where its rows may be wrong although these are the same."""
    return None if options.regions and has_sidecar(root, entry) else hash_of(root, entry)


def _process_photos(listing: Listing, writer: DataSetWriter, stage: PhotoStage, progress: Progress) -> Summary:
    problems: list[str] = []
    several, drawn = Several(), DrawnFaces()
    retried: Counter[str] = Counter()
    made_now = 0
    pending = writer.pending()
    names = (e.path for shard, _ in pending for e in writer.todo(shard))
    every = {e.path: e for _, entries in pending for e in entries}
    regions = stage.options.regions
    with Decoder() as decoder, closing(stage.rows(decoder.stream(listing.root, names, drawn=regions), every)) as made:

        def make(shard: int, entries: list[Entry], tick: Callable[[int], None]) -> pa.Table:
            nonlocal made_now
            rows: list[Row] = []
            kept = writer.kept(shard)
            for entry in entries:
                of_photo = kept.get(entry.path)
                if of_photo is None:
                    photo, of_photo = next(made)
                    made_now += 1
                    several.add(of_photo[0])
                    drawn.add(photo)
                    if of_photo[0].outcome != OK:
                        problems.append(f"{photo.name}: {of_photo[0].outcome} ({photo.why})")
                    if entry.path in writer.retried:
                        retried[of_photo[0].outcome] += 1
                rows += of_photo
                tick(1)
            return to_table(rows, stage.spec, listing.extra)

        summary = run(writer, make, progress)
    summary.written, summary.problems = made_now, problems
    summary.notes = listing.notes + summary.notes + _retry_notes(writer.retried, retried[OK]) + several.notes
    summary.notes += drawn.notes
    summary.understood, summary.unsure = listing.understood().result(), several.unsure
    return summary


@dataclass
class Several:
    """Counts the photos of a person that show several faces."""

    count: int = 0
    unsure: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Count a photo by the row of its first face."""
        if row.identity is not None and (row.photo_faces or 0) > 1 and row.largest_other is not None:
            self.count += 1
            self.unsure += [row.image] if row.is_unsure else []

    @property
    def notes(self) -> list[str]:
        """The count as one line for the user; an empty list where it is 0."""
        if not self.count:
            return []
        line = f"photos of a person that show several faces: {self.count}; the largest, most central one was taken"
        if not self.unsure:
            return [line]
        shown = ", ".join(map(repr, self.unsure[:3]))
        return [
            f"warning: {line}, but in {len(self.unsure)} another is nearly as large, such as {shown}: "
            "look at these, and crop them if need be"
        ]


def _retry_notes(retried: Mapping[str, str], good: int) -> list[str]:
    """Return one line about the photos that failed in an earlier run and were tried again, or an empty list."""
    if not retried:
        return []
    before = ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(retried.values()).items()))
    return [f"{len(retried)} photos that failed before were tried again ({before}): {good} of them are ok now"]


def hash_of(root: Path, entry: Entry) -> str | None:
    """Return the sha256 of a photo's bytes; None where the photo cannot be read."""
    from facegallery.embedder.photos.kinds import PhotoRefused
    from facegallery.embedder.photos.pixels import read

    path = path_inside(root, entry.path)
    try:
        return None if path is None else read(path)[1]
    except PhotoRefused:
        return None


def process_crops(
    crops: DataSet, out: Path, embedder: Embedder, progress: Progress, *, keep_crops: bool = True
) -> Summary:
    """Embed the crops of a data set into the data set `out`, shard by shard.

    The folder is locked: a second process waits until the first has finished. keep_crops: copy the crops, too. Raise
    DataError where a row has no crop, and where `out` holds other files or was begun with another contract or option.
    """
    check_is_ours(out)
    with locked(make_folder(out)):
        return _process_crops(crops, out, embedder, progress, keep_crops=keep_crops)


def _process_crops(crops: DataSet, out: Path, embedder: Embedder, progress: Progress, *, keep_crops: bool) -> Summary:
    spec = embedder.spec.with_crop(crops.spec)
    entries = [_shard_entry(crops, shard) for shard in sorted(crops.marks)]
    extra = crops.extra
    options = {"command": "embed crops", "crops kept": keep_crops}
    writer = DataSetWriter(out, spec, options, entries, WriterOptions(tuple(extra), per_shard=1))

    def make(_: int, inputs: list[Entry], tick: Callable[[int], None]) -> pa.Table:
        rows = [row for e in inputs for row in to_rows(crops.shard(_shard_number(e)))]
        for row in rows:
            if row.outcome == OK and row.crop is None:
                raise DataError(
                    f"expected crops in {crops.folder}, {row.image} has none: "
                    "run `align`, or `embed` without --no-crops"
                )
            if row.crop is not None:
                row.pixels, row.region = align.read_crop(row.crop, spec.crop, row.image), align.region_of(row.crop)
            row.crop = row.crop if keep_crops else None
        add_vectors(rows, embedder, spec)
        tick(len(rows))
        return to_table(rows, spec, extra)

    return run(writer, make, progress, lambda entry: crops.marks.get(_shard_number(entry), {"rows": 0})["rows"])


def _shard_entry(crops: DataSet, shard: int) -> Entry:
    path = shard_path(crops.folder, shard)
    try:
        status = path.stat()
    except OSError as error:
        raise damaged(path, error) from None
    return Entry(path.name, status.st_size, status.st_mtime_ns)


def _shard_number(entry: Entry) -> int:
    return int(Path(entry.path).stem.removeprefix("part-"))


def run(
    writer: DataSetWriter,
    make: Callable[[int, list[Entry], Callable[[int], None]], pa.Table],
    progress: Progress,
    photos_in: Callable[[Entry], int] = lambda entry: 1,
) -> Summary:
    """Write the pending shards of a plan.

    make: called with a shard's number, its inputs and a function that counts finished inputs; returns the shard's rows.
    photos_in: how many photos an input stands for.
    """
    started = time.monotonic()
    pending = writer.pending()
    total = sum(map(photos_in, writer.entries))
    todo = sum(photos_in(entry) for _, entries in pending for entry in entries)
    done = total - todo

    def tick(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    tick(0)
    for shard, entries in pending:
        began = time.monotonic()
        writer.write(shard, make(shard, entries, tick), time.monotonic() - began, installed(PACKAGES))
    outcomes = DataSet(writer.folder).outcomes
    notes = _vanished(writer) + _relabelled(writer)
    seconds = time.monotonic() - started
    return Summary(str(writer.folder), total, todo, outcomes, round(seconds, 2), writer.spec.fingerprint, notes=notes)


def _vanished(writer: DataSetWriter) -> list[str]:
    """Return one line where inputs of earlier runs are not among those of this one, or an empty list."""
    if not writer.vanished:
        return []
    if writer.all_vanished:
        return [
            f"warning: {writer.folder} holds another folder's photos, none of its {len(writer.vanished)} inputs is "
            "among those given now; their rows are kept beside the new ones unless --prune, another --out keeps them "
            "apart"
        ]
    n = len(writer.vanished)
    return [f"{n} inputs of earlier runs are gone, or of another folder; their rows are kept unless --prune"]


def _relabelled(writer: DataSetWriter) -> list[str]:
    """Return one line where inputs of an earlier run now belong to another person, or an empty list."""
    if not writer.relabelled:
        return []
    before, now = writer.relabelled[0]
    return [
        f"{len(writer.relabelled)} photos now belong to another person and are processed again: {now.path!r} was "
        f"{before.identity!r}, is now {now.identity!r}"
    ]
