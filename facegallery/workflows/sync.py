"""Keep a gallery in step with a folder of photos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from facegallery import results
from facegallery.embedder.dataset.row import Row, face_id
from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.faces.names import FOLDERS, WITH_REGIONS, WITHOUT_FOLDERS
from facegallery.embedder.names import person_name
from facegallery.embedder.outcomes import OK, PASSING, READ
from facegallery.embedder.photos.filenames import to_file, to_text
from facegallery.embedder.photos.listing import Listing, list_photos, list_some
from facegallery.embedder.progress import Progress, unseen
from facegallery.indexer.store.log import new_command
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.resync import Moved, Resync
from facegallery.indexer.store.rows import Added
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import Place
from facegallery.workflows.adding import Adding, AddOptions, Batch, check_model
from facegallery.workflows.inputs import PhotoItem, items_of
from facegallery.workflows.looked_at import folder_text, known_rows, mtime_of, path_of, photo_row
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.probes import PROBE_BATCH, Probe
from facegallery.workflows.review import Review
from facegallery.workflows.same_faces import same_faces
from facegallery.workflows.session import GallerySession, Where, session_of

FOLDER = "expected a folder of photos to keep {} in step with, {} {}: check the path"


TOLD = 10  # people whom changed photos no longer show


@dataclass(frozen=True)
class SyncOptions:
    """How the photos of a folder are taken in; None: as the last `sync` of it, or as `add` does.

    prune: take out the faces of photos that are gone; this is not kept.
    """

    identity: str | None = None
    level: int | None = None
    names_from: str | None = None
    one_face: bool | None = None
    prune: bool = False

    def kept(self) -> dict[str, object]:
        """Return what the gallery keeps for the folder."""
        given = {name: getattr(self, name) for name in ("identity", "level", "names_from", "one_face")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class _Work:
    """Photos by what is to be done with them."""

    unchanged: int = 0
    touched: list[PhotoRow] = field(default_factory=list)
    new: list[PhotoItem] = field(default_factory=list)
    copies: list[tuple[PhotoItem, str]] = field(default_factory=list)  # other photos with bytes that are known
    moved: dict[str, PhotoItem] = field(default_factory=dict)  # by hash
    changed: list[tuple[PhotoItem, PhotoRow, str]] = field(default_factory=list)  # what it was, and its hash now
    gone: list[PhotoRow] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


def is_gone(path: str | None) -> bool:
    """Return whether nothing is at a path; a path that may not be looked at is not gone."""
    if path is None:
        return False
    try:
        os.lstat(to_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def sync(
    where: Where,
    folder: Path,
    options: SyncOptions = SyncOptions(),  # noqa: B008
    *,
    paths: Iterable[str] | None = None,
    progress: Progress = unseen,
) -> results.Synced:
    """Take the new and changed photos of a folder in; photos of the same size and time are not read.

    A moved photo keeps its faces; faces of a changed one stay who they were where they are the same. paths: relative
    ones of files and folders in `folder` to look at; None: all. Raises DataError where there is no such folder, or no
    photo in it.
    """
    folder = Path(folder)
    with session_of(where) as session, session.store(write=True) as store:
        check_folder(session.name, folder)
        options = _as_before(store, folder, options)
        adding = AddOptions(options.identity, level=options.level, names_from=options.names_from or FOLDERS)
        adding = replace(adding, one_face=bool(options.one_face))
        adding.check()
        syncing = _Syncing(session, store, folder, adding, prune=options.prune)
        return syncing.run(_listed(folder, adding, paths), paths, progress)


def check_folder(name: str, folder: Path) -> None:
    """Raise DataError where there is no such folder."""
    if not folder.is_dir():
        raise DataError(FOLDER.format(name, folder, "is no folder" if folder.exists() else "is not there"))


def _as_before(store: Store, folder: Path, given: SyncOptions) -> SyncOptions:
    """Return options with those that an earlier `sync` of the folder was given, and keep them."""
    if given.identity is not None:
        given = replace(given, identity=person_name(given.identity))
    syncs, key = store.syncs(), folder_text(folder)
    kept = syncs.get(key, {}) | given.kept()
    options = SyncOptions(**kept, prune=given.prune)
    if options.identity is not None and (options.level is not None or options.names_from not in (None, FOLDERS)):
        raise InputError(
            f"expected --identity, or folders or regions to name people, received both now and earlier: {kept}: "
            "give the other options anew"
        )
    if syncs.get(key) != kept:
        with store.writing():
            store.set_syncs(store.syncs() | {key: kept})
    return options


def _listed(folder: Path, options: AddOptions, paths: Iterable[str] | None) -> Listing:
    listing = list_photos(folder, None, options.level) if paths is None else list_some(folder, paths, options.level)
    return listing.nameless() if options.names_from in WITHOUT_FOLDERS else listing


class _Syncing:
    """One `sync`: what is done, under one command that `undo` takes back."""

    def __init__(self, session: GallerySession, store: Store, folder: Path, options: AddOptions, *, prune: bool):
        self.session, self.store, self.folder, self.options, self.prune = session, store, folder, options, prune
        self.command, self.done, self.left = new_command(), Added(), Counter[str]()
        self.review = Review(store, options.review)
        self.kept = self.pruned = 0
        self.lost: list[str] = []

    def run(self, listing: Listing, paths: Iterable[str] | None, progress: Progress) -> results.Synced:
        items = items_of(listing)
        if self.options.identity is not None:
            items = [item.labelled(identity=self.options.identity) for item in items]
        work = self._work(items, self._noted(paths))
        self._move(work)
        self._replace(work.changed, progress)
        self._take(work, listing, progress)
        if self.prune:
            self._drop(work.gone)
        if paths is None and not self.done.command:
            self.store.add(())  # for the log: `undo` takes back the last command, not an earlier one
        return self._result(work, listing)

    def _noted(self, paths: Iterable[str] | None) -> dict[str, PhotoRow]:
        """Return what is known of the photos that are looked at, by path."""
        root = folder_text(self.folder).rstrip("/")
        if paths is None:
            return self.store.photos_below(root)
        every = [f"{root}/{to_text(path)}" if path else root for path in paths]
        found = self.store.photos_at(every)
        for path in every:
            found |= self.store.photos_below(path)
        return found

    def _work(self, items: Sequence[PhotoItem], noted: dict[str, PhotoRow]) -> _Work:
        """Sort photos by what became of them; reads those whose size or time is another than before."""
        work, unread = _Work(), []
        for item in items:
            row = noted.get(path_of(item) or "")
            if row is not None and row.outcome not in PASSING and (row.bytes, row.mtime_ns) == _mark(item):
                work.unchanged += 1
            else:
                unread.append((item, row))
        there = {path_of(item) for item in items}
        gone = [row for path, row in noted.items() if path not in there and is_gone(path)]
        todo = iter(unread)
        while block := list(islice(todo, PROBE_BATCH)):
            self._sort(work, block)
        left = set(work.moved) | {sha256 for _, _, sha256 in work.changed}
        work.gone = [row for row in gone if row.sha256 is None or row.sha256 not in left]
        return work

    def _sort(self, work: _Work, block: Sequence[tuple[PhotoItem, PhotoRow | None]]) -> None:
        hashed = [(item, row, item.sha256()) for item, row in block]
        known = self.store.photos_of(sha256 for _, _, sha256 in hashed if sha256 is not None)
        for item, row, sha256 in hashed:
            if sha256 is None:
                work.new += [item] if row is None or row.outcome != OK else []
                work.failed.update(["unread"] if row is not None and row.outcome == OK else [])
            elif row is not None and row.outcome in PASSING:
                work.new.append(item)
            elif row is not None and row.sha256 == sha256:
                work.touched.append(replace(row, bytes=item.entry.size, mtime_ns=mtime_of(item)))
            elif row is not None and row.sha256 is not None:
                work.changed.append((item, row, sha256))
            elif sha256 not in known:
                work.new.append(item)
            elif sha256 not in work.moved and all(is_gone(one.path) for one in known[sha256]):
                work.moved[sha256] = item
            else:
                work.copies.append((item, sha256))

    # what is done

    def _write(self, wanted: Resync) -> None:
        if wanted:
            change = self.store.resync(wanted, command=self.command)
            self.done.command = change.command

    def _move(self, work: _Work) -> None:
        """Note photos that were touched or moved, and copies of known ones."""
        if work.touched:
            self.store.note_photos(work.touched)
        rows = known_rows(self.store, [(item, sha256) for sha256, item in work.moved.items()])
        before = [row for found in self.store.photos_of(work.moved).values() for row in found]
        now = {row.path for row in rows}
        wanted = Resync(photos=rows, paths=[row.path for row in before if row.path is not None and row.path not in now])
        self._rename(wanted, {*work.moved, *(row.sha256 for row in work.gone if row.sha256)})
        self._write(wanted)
        self.store.note_photos(known_rows(self.store, work.copies))

    def _replace(self, changed: Sequence[tuple[PhotoItem, PhotoRow, str]], progress: Progress) -> None:
        """Give changed photos the faces that they show now."""
        known = self.store.photos_of(sha256 for _, _, sha256 in changed)
        unread = [(item, row) for item, row, sha256 in changed if sha256 not in known]
        self._swap([(item, row, sha256) for item, row, sha256 in changed if sha256 in known])
        if not unread:
            return
        regions = self.options.names_from in WITH_REGIONS
        options = ReadOptions(one_face=False, keep_crops=self.store.keeps_crops, regions=regions)
        reader, spec, asked = self.session.reader(options), self.session.searcher.spec, 0
        probes = reader.of_photos([item for item, _ in unread])
        while batch := list(islice(probes, PROBE_BATCH)):
            check_model(self.store, spec)
            self._write(self._replaced(unread[asked : asked + len(batch)], batch))
            asked += len(batch)
            progress(asked, len(unread))

    def _swap(self, changed: Sequence[tuple[PhotoItem, PhotoRow, str]]) -> None:
        """Note changed photos that now have the bytes of other known ones."""
        if not changed:
            return
        rows = known_rows(self.store, [(item, sha256) for item, _, sha256 in changed])
        olds = {row.sha256 for _, row, _ in changed if row.sha256}
        news = {row.sha256 for row in rows if row.sha256}
        drop = self._dropped(olds, {path_of(item) for item, _, _ in changed}, rows)
        wanted, now = Resync(photos=rows, drop=drop), {row.path for row in rows}
        for found in self.store.photos_of(news).values():
            wanted.paths += [r.path for r in found if r.path is not None and r.path not in now and is_gone(r.path)]
        self._rename(wanted, olds | news)
        self._write(wanted)

    def _rename(self, wanted: Resync, hashes: set[str]) -> None:
        """Add to `wanted` new names of photos for faces whose photo now lies only elsewhere."""
        now = {row.path for row in wanted.photos} | set(wanted.paths)
        names: dict[str | None, list[str]] = {}
        for row in wanted.photos:
            names.setdefault(row.sha256, []).append(row.image)
        for sha256, rows in self.store.photos_of(hashes).items():
            names.setdefault(sha256, []).extend(r.image for r in rows if r.path not in now and not is_gone(r.path))
        for sha256, image in self.store.images_of(hashes):
            if names.get(sha256) and image not in names[sha256]:
                wanted.moved.append(Moved(sha256, image, names[sha256][0]))

    def _dropped(self, hashes: Iterable[str], paths: Iterable[str | None], now: Sequence[PhotoRow]) -> list[str]:
        """Return the faces of photos that are nowhere any more. paths: where their bytes are others now."""
        paths, left = set(paths), {row.sha256 for row in now}
        noted = self.store.photos_of(hashes)
        nowhere = [
            sha256
            for sha256, rows in noted.items()
            if sha256 not in left and all(row.path in paths or is_gone(row.path) for row in rows)
        ]
        return [row.face_id for faces in self.store.faces_of_photos(nowhere).values() for row, _ in faces]

    def _replaced(self, photos: Sequence[tuple[PhotoItem, PhotoRow]], probes: Sequence[Probe]) -> Resync:
        wanted = Resync()
        read = [(item, old, probe) for (item, old), probe in zip(photos, probes, strict=True) if _is_read(probe)]
        self.left.update(probe.outcome for probe in probes if probe.outcome != OK)
        hashes = {old.sha256 for _, old, _ in read if old.sha256}
        doomed = set(self._dropped(hashes, [path_of(item) for item, _, _ in read], ()))
        faces = self.store.faces_of_photos(hashes)
        for item, old, probe in read:
            assert probe.photo is not None
            new = photo_row(item, probe.photo)
            before = [one for one in faces.get(old.sha256 or "", ()) if one[0].face_id in doomed]
            self._carry(wanted, item, (old, new), before, [row for row in probe.rows if row.vector is not None])
            wanted.photos.append(new)
        self._rename(wanted, hashes)
        return wanted

    def _carry(
        self,
        wanted: Resync,
        item: PhotoItem,
        photos: tuple[PhotoRow, PhotoRow],
        before: Sequence[tuple[Row, Place]],
        after: Sequence[Row],
    ) -> None:
        """Add to `wanted` what becomes of the faces of a changed photo."""
        sizes = [None if p.width is None or p.height is None else (p.width, p.height) for p in photos]
        same = same_faces([row for row, _ in before], after, sizes[0], sizes[1])
        wanted.drop += [row.face_id for row, _ in before]
        taken = {before[j][1].identity for j in same.values()}
        for i, row in enumerate(after):
            if (j := same.get(i)) is not None:
                wanted.rows.append((row, before[j][1]))
                wanted.kept[before[j][0].face_id] = row.face_id
                self.kept += 1
            elif row.identity is not None and row.identity not in taken:
                wanted.rows.append((row, Place(row.identity)))
            elif item.entry.identity is None and row.identity is None and (row.face <= 0 or not self.options.one_face):
                wanted.rows.append((row, Place()))
        now = {at.identity for _, at in wanted.rows}
        self.lost += [
            f"{at.identity} ({photos[1].image})"
            for j, (_, at) in enumerate(before)
            if at.identity is not None and j not in same.values() and at.identity not in now
        ]

    def _take(self, work: _Work, listing: Listing, progress: Progress) -> None:
        """Enrol the faces of new photos, as `add` does; of moved ones, note whom their folder names now."""
        first = {face_id(sha256, 0): item for sha256, item in work.moved.items()}
        there = {*self.store.known(first), *self.store.kept(first)}
        items = work.new + [item for one, item in first.items() if one in there]
        if not items:
            return
        labels = [(item.entry.path, item.entry.identity) for item in items]
        batch = Batch(items, labels, [], listing.source, listing.by_folders)
        adding = Adding(self.session, self.store, self.options, self.command, self.done, self.left, self.review)
        adding.photos(batch, progress)

    def _drop(self, gone: Sequence[PhotoRow]) -> None:
        """Take out the faces of photos that are gone."""
        for i in range(0, len(gone), PROBE_BATCH):
            block = gone[i : i + PROBE_BATCH]
            paths = [row.path for row in block if row.path is not None]
            drop = self._dropped({row.sha256 for row in block if row.sha256}, paths, ())
            self.pruned += len(drop)
            wanted = Resync(drop=drop, paths=paths)
            self._rename(wanted, {row.sha256 for row in block if row.sha256})
            self._write(wanted)

    def _result(self, work: _Work, listing: Listing) -> results.Synced:
        gone = {row.path for row in work.gone}
        names = (
            [f"warning: changed photos no longer show {', '.join(sorted(set(self.lost))[:10])}"] if self.lost else []
        )
        conflicts = [
            f"face {c.face_id} ({c.image}) is {c.kept}'s already and was not added as {c.refused}'s"
            for c in self.done.conflicts
        ]
        return results.Synced(
            index=self.session.name,
            folder=str(self.folder),
            new=len(work.new) + len(work.copies),
            changed=len(work.changed),
            moved=len(work.moved),
            unchanged=work.unchanged + len(work.touched),
            gone=len(gone),
            pruned=self.pruned,
            added=self.done.added,
            unnamed=self.done.unnamed,
            kept=self.kept,
            lost=tuple(sorted(set(self.lost))),
            forgotten=self.done.forgotten,
            failed={why: n for why, n in (self.left + work.failed).items() if n},
            conflicts=tuple(self.done.conflicts),
            command=self.done.command,
            notes=(*listing.notes, *names, *conflicts, *self.review.notes),
        )


def _is_read(probe: Probe) -> bool:
    return probe.photo is not None and probe.outcome in READ


def _mark(item: PhotoItem) -> tuple[int | None, int | None]:
    return item.entry.size, mtime_of(item)
