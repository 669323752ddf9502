"""Changes of an index that die or fail at each of their steps, and what must hold afterwards.

As a script: `python -m tests.crash --help`.

A fork of this process makes the changes of a scenario and acknowledges each. Another fork checks what is left and
resumes from there.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import apsw
import faiss
import numpy as np

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store import forgotten
from facegallery.indexer.store.database import Database
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.resync import Moved, Resync
from facegallery.indexer.store.store import Store
from facegallery.indexer.store.unnamed import Place
from facegallery.indexer.upkeep import forget, pending, receipt, switch, transfer
from facegallery.indexer.upkeep.verify import verify
from tests import steps, synthetic
from tests.indexer.forgetting import forgotten as forgotten_now
from tests.steps import FAIL, FULL, MODES, STEPS, TORN

PEOPLE, PHOTOS, CROP = 12, 2, 300
LANES = 2  # processes that try at once
OTHER = FaceSpec(parts=(Part("other", "cd" * 32, 24, "fixed"),))
KEY = b"a key"
VOLATILE = ("totals", "report", "generation", "built", "built_to", "changes", "switched", "forgetting", "salt")
QUERIES = synthetic.vectors(3, 1, seed=7)
Verb = Callable[[], object]


def rows(seed: int = 0, people: int = PEOPLE, photos: int = PHOTOS) -> list[Row]:
    """Faces with crops."""
    rng = np.random.default_rng(seed)
    made = synthetic.rows(people, photos, f"set{seed}", seed=seed)
    return [replace(row, split=None, crop=synthetic.png(rng.bytes(CROP)), extra={"place": "Łódź"}) for row in made]


# what an index holds --------------------------------------------------------


def content(folder: Path) -> dict[str, list] | None:
    """All that is true of people and faces, by SQL alone; None where no build was ever finished."""
    if not (folder / "gallery.db").exists():
        return None
    db = apsw.Connection(str(folder / "gallery.db"), flags=apsw.SQLITE_OPEN_READWRITE, vfs="multipleciphers-unix")
    try:
        if (folder / "encrypted").exists():
            db.execute("PRAGMA cipher='chacha20'")
            db.execute(f"PRAGMA hexkey='{KEY.hex()}'")
        if not list(db.execute("SELECT 1 FROM sqlite_schema WHERE name='meta'")):
            return None
        found = {
            "faces": "SELECT f.id, face_id, name, image, image_sha256, split, face, box, extra, "
            "v.vector, png, o.vector "
            "FROM faces f LEFT JOIN people p ON p.id = person LEFT JOIN vectors v USING (id) "
            "LEFT JOIN crops USING (id) "
            "LEFT JOIN other_vectors o USING (id) ORDER BY f.id",
            "people": "SELECT name FROM people ORDER BY 1",
            "log": "SELECT verb, detail FROM log ORDER BY id",
            "trash": "SELECT identity, face_id, vector, png FROM trash ORDER BY rowid",
            "forgotten": "SELECT count(*) FROM forgotten",
            "unnamed": "SELECT face_id, image, vector, png, number, state FROM unnamed JOIN unnamed_vectors USING (id) "
            "LEFT JOIN unnamed_crops USING (id) LEFT JOIN grouped USING (id) ORDER BY face_id",
            "photos": "SELECT image, path, sha256, outcome FROM photos ORDER BY path",
            "meta": f"SELECT key, value FROM meta WHERE key NOT IN ({','.join('?' * len(VOLATILE))}) ORDER BY 1",
        }
        held = {name: list(db.execute(sql, VOLATILE if name == "meta" else ())) for name, sql in found.items()}
        held["meta"] = [(key, os.path.basename(value) if key == "sources" else value) for key, value in held["meta"]]
        return held if held["meta"] else None
    finally:
        db.close()


def answers_are_right(folder: Path, held: dict[str, list]) -> None:
    """A search says what NumPy says of these faces."""
    faces = [
        synthetic.row(line[3], line[2], np.frombuffer(line[9], "<f4"), image_sha256=line[4]) for line in held["faces"]
    ]
    with Searcher(folder) as searcher:
        xq = (
            QUERIES
            if searcher.spec.dimension == synthetic.D
            else synthetic.vectors(3, 1, searcher.spec.dimension, seed=7)
        )
        for by_face in (False, True):
            for q, hits in zip(xq, searcher.search(xq, 3, faces=by_face), strict=True):
                want = synthetic.nearest(faces, q, 3, faces=by_face)
                assert [(hit.identity, hit.face_id) for hit in hits] == [(name, face_id) for name, _, face_id in want]
                assert all(abs(hit.score - score) < 1e-6 for hit, (_, score, _) in zip(hits, want, strict=True))


# scenarios ------------------------------------------------------------------


class Held:
    """One gallery for several verbs, opened at the first; a server's."""

    def __init__(self, folder: Path):
        self.folder, self.gallery = folder, None

    def verb(self, call: Callable[[Store], object]) -> Verb:
        def verb() -> None:
            self.gallery = self.gallery or open_store(self.folder, write=True)
            call(self.gallery)

        return verb

    def close(self) -> None:
        if self.gallery:
            self.gallery.close()
        self.gallery = None


def alone(folder: Path, call: Callable[[Store], object]) -> Verb:
    """A verb that opens the gallery for itself; the command line's."""

    def verb() -> None:
        with open_store(folder, write=True) as gallery:
            call(gallery)

    return verb


def one_by_one(folder: Path) -> list[Verb]:
    """Most verbs, each in a connection of its own."""
    more = rows(1, 3, 1)
    calls: list[Callable[[Store], object]] = [
        lambda g: g.add(more),
        lambda g: g.remove("person 3"),
        lambda g: g.rename("person 4", "Zoë"),
        lambda g: g.merge("person 5", "person 6"),
        lambda g: g.split([rows()[0].face_id], "person 7"),
        lambda g: g.undo(),
        lambda g: g.remove(face_id=more[0].face_id),
        lambda g: g.undo(),
        derive.compact,
    ]
    return [alone(folder, call) for call in calls]


def in_one(folder: Path) -> list[Verb]:
    """Verbs of one connection that compacts when it is due, which is soon."""
    derive.LEAST = 2
    held, more = Held(folder), rows(1, 4, 1)
    calls: list[Callable[[Store], object]] = [
        lambda g: g.add(more),
        lambda g: g.remove("person 3"),
        lambda g: g.remove(image=rows()[0].image),
        lambda g: g.undo(),
        lambda g: g.merge("person 5", "person 6"),
        lambda g: g.add(rows(2, 1, 2)),
    ]
    return [*map(held.verb, calls), held.close]


def forgetting(folder: Path) -> list[Verb]:
    """Someone is forgotten who had another name, and a face that was removed."""
    return [
        alone(folder, lambda g: g.merge("person 5", "person 6")),
        alone(folder, lambda g: g.rename("person 3", WANTED)),
        alone(folder, lambda g: g.remove(face_id=doomed()[0].face_id)),
        alone(folder, lambda g: g.split([rows()[0].face_id, doomed()[1].face_id], "person 7")),
        alone(folder, lambda g: g.undo()),
        lambda: forgets(folder),
    ]


def forgetting_while_read(folder: Path) -> list[Verb]:
    """The same, while another process reads an older state."""
    return [lambda: forgets(folder)]


def readmitting(folder: Path) -> list[Verb]:
    """Someone is forgotten, comes back, and is forgotten again under another name."""
    return [
        alone(folder, lambda g: forgotten_now(g, "person 3")),
        alone(folder, lambda g: g.add(doomed(), readmit=True)),
        alone(folder, lambda g: g.rename("person 3", WANTED)),
        lambda: forgets(folder),
    ]


def restoring(folder: Path) -> list[Verb]:
    """A backup is made, and restored over what came after it."""
    path = folder.parent / "backup.db"
    return [
        alone(folder, lambda g: path.exists() or transfer.backup(g, path)),
        alone(folder, lambda g: g.remove("person 3")),
        lambda: transfer.restore(path, folder, replace=True),
    ]


def restoring_anew(folder: Path) -> list[Verb]:
    """A backup becomes a new index."""
    return [lambda: transfer.restore(folder.parent / "backup.db", folder, replace=folder.exists())]


def syncing(folder: Path) -> list[Verb]:
    """Photos are noted, changed, moved and pruned, as `sync` does it, and it is taken back."""
    faces, loose = rows(), [replace(row, identity=None) for row in rows(6, 2, 2)]
    changed = [replace(row, image_sha256=f"{i:064x}") for i, row in enumerate((faces[0], loose[0]))]
    photos = [noted(row) for row in (*faces, *loose)]
    places = [Place("person 0"), Place(None, 1, "confirmed")]
    change = Resync(
        drop=[faces[0].face_id, loose[0].face_id],
        rows=list(zip(changed, places, strict=True)),
        kept={faces[0].face_id: changed[0].face_id},
        photos=[noted(row) for row in changed],
    )
    there = noted(faces[2])
    moved = replace(there, image="elsewhere.jpg", path="/a/elsewhere.jpg")
    move = Resync(moved=[Moved(there.sha256 or "", there.image, moved.image)], paths=[str(there.path)], photos=[moved])
    gone = Resync(drop=[faces[4].face_id, loose[1].face_id], paths=[f"/a/{faces[4].image}", f"/a/{loose[1].image}"])
    calls: list[Callable[[Store], object]] = [
        lambda g: g.add_unnamed(loose),
        lambda g: g.note_photos(photos),
        lambda g: g.resync(change),
        lambda g: g.undo(),
        lambda g: g.resync(move),
        lambda g: g.resync(gone),
        lambda g: g.undo(),
    ]
    return [alone(folder, call) for call in calls]


def noted(row: Row) -> PhotoRow:
    """The photo of a face."""
    return PhotoRow(row.image, f"/a/{row.image}", row.image_sha256, 1, 1, 9, 9, None, None, None, "ok")


def switching(folder: Path) -> list[Verb]:
    """Another model, and a face between its vectors."""
    xb = synthetic.vectors(PEOPLE + 1, PHOTOS, OTHER.dimension, seed=3)

    def fill(gallery: Store) -> None:
        faces = next(switch.pending(gallery))[:PEOPLE]
        switch.store_vectors(gallery, faces, xb[[face.id - 1 for face in faces]])

    def drop(gallery: Store) -> None:
        with gallery.writing():
            switch.drop_other(gallery)

    calls = [lambda g: switch.prepare(g, OTHER), fill, fill, switch.switch, lambda g: g.remove("person 3"), drop]
    return [alone(folder, call) for call in calls]


def building(folder: Path) -> list[Verb]:
    """Other vectors instead of these."""
    return [lambda: build(folder.parent / "vectors", folder, BuildOptions(replace=True))]


def building_first(folder: Path) -> list[Verb]:
    """An index where there was none."""
    return [lambda: build(folder.parent / "vectors", folder)]


SCENARIOS = {
    "one-by-one": one_by_one,
    "in-one": in_one,
    "encrypted": in_one,
    "forgetting": forgetting,
    "forgetting-while-read": forgetting_while_read,
    "readmitting": readmitting,
    "restoring": restoring,
    "restoring-anew": restoring_anew,
    "syncing": syncing,
    "switching": switching,
    "building": building,
    "building-first": building_first,
}


def prepare(name: str, folder: Path) -> None:
    """What the scenario begins with."""
    folder.mkdir(parents=True)
    first = synthetic.write(folder.parent / "first", rows(), extra=["place"])
    if name in ("building", "building-first"):
        synthetic.write(folder / "vectors", rows(5), extra=["place"])
    if name != "building-first":
        build(first, folder / "club", BuildOptions(encrypt=name == "encrypted"))
    if name == "forgetting-while-read":
        for verb in forgetting(folder / "club")[:-1]:
            verb()
    if name == "restoring-anew":
        with open_store(folder / "club") as gallery:
            transfer.backup(gallery, folder / "backup.db")
        shutil.rmtree(folder / "club")


# forgetting -----------------------------------------------------------------

WANTED = "Zacharias Quell"


def doomed() -> list[Row]:
    return rows()[3 * PHOTOS : 4 * PHOTOS]


def forgets(folder: Path) -> bool:
    """As the command does it; False where a reader holds it up."""
    with open_store(folder, write=True) as gallery:
        traces = forget.forget(gallery, WANTED)
        done = pending.finish_pending(gallery)
        receipt.receipt_of(gallery, traces, {}, pending=not done)
        return done


def is_forgotten(folder: Path) -> None:
    """Nothing is left once the gallery was opened again, nor after a second call, and no `undo` brings it back."""
    with open_store(folder) as gallery:
        assert gallery.fact(pending.PENDING) is None
    assert not remains(folder), remains(folder)
    listed = forgotten.read(folder)
    assert listed is not None and all(
        listed.holds(text) for text in (f"name:{WANTED}", *(row.face_id for row in doomed()))
    )
    forgets(folder)
    assert not remains(folder), remains(folder)
    with open_store(folder, write=True) as gallery:
        assert gallery.lines()
        while gallery.lines():
            gallery.undo()
    assert not remains(folder), remains(folder)
    assert not {row.face_id for row in doomed()} & {line[1] for line in (content(folder) or {})["faces"]}


def lists_agree(folder: Path) -> None:
    """Once a writer has opened the index, who was forgotten is the same by gallery.db and by its file."""
    if content(folder) is not None:
        with open_store(folder, write=True) as gallery:
            assert forgotten.read(folder, KEY) == gallery.forgotten()


def is_pending(folder: Path) -> None:
    """A second call waits for the reader, too, and others search meanwhile."""
    assert not forgets(folder)
    now = content(folder)
    assert now is not None
    answers_are_right(folder, now)
    with open_store(folder) as gallery:
        assert gallery.fact(pending.PENDING)


class Nobody:
    """No reader."""

    def end(self) -> bool:
        return False


class Reader(Nobody):
    """A process with an open snapshot, until `end`."""

    def __init__(self, folder: Path):
        ready, self._end = os.pipe(), os.pipe()
        self._pid = fork(lambda: self._read(folder, ready[1]))
        for end in (ready[1], self._end[0]):
            os.close(end)
        assert os.read(ready[0], 1) == b"."
        os.close(ready[0])

    def _read(self, folder: Path, ready: int) -> None:
        os.close(self._end[1])
        with open_store(folder) as gallery, gallery.reading():
            before = gallery.list_people()
            os.write(ready, b".")
            os.read(self._end[0], 1)
            assert gallery.list_people() == before

    def end(self) -> bool:
        os.close(self._end[1])
        assert os.waitpid(self._pid, 0)[1] == 0
        return True


def reader_of(scenario: str, folder: Path) -> Nobody:
    return Reader(folder) if scenario == "forgetting-while-read" else Nobody()


def remains(folder: Path) -> list[str]:
    """Where something of the forgotten stands in any file."""
    texts = [WANTED.encode(), b"person 3", *(row.face_id.encode() for row in doomed())]
    for row in doomed():
        assert row.vector is not None and row.crop is not None
        texts += [data[i : i + 32] for data in (row.vector.tobytes(), row.crop) for i in range(0, len(data) - 31, 32)]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [f"{path.name}: {text!r}" for path in files for text in texts if text in path.read_bytes()]


# after it ended -------------------------------------------------------------


def check(scenario: str, folder: Path, allowed: Sequence[int], states: list[dict[str, list] | None]) -> None:
    """Everything acknowledged is there, the rest whole or not at all, and the same changes lead to the same end."""
    now = content(folder)
    at = next((i for i in allowed if states[i] == now), None)
    assert at is not None, difference(now, [states[i] for i in allowed])
    if now is not None:
        is_sound(folder, now)
    if scenario == "forgetting-while-read":
        return is_pending(folder)
    if scenario == "forgetting" and at == len(states) - 1:
        return is_forgotten(folder)
    lists_agree(folder)
    for verb in SCENARIOS[scenario](folder)[at:]:
        verb()
    lists_agree(folder)
    assert content(folder) == states[-1], difference(content(folder), states[-1:])
    with open_store(folder, write=True) as gallery:
        assert derive.compact(gallery)
    is_sound(folder, states[-1])
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("gallery.db-wal", "gallery.db-shm"))
    built = [] if "encrypted" in names else [f"built-{generation(folder)}", "index.faiss"]
    assert names == sorted([*built, "gallery.db", *["encrypted"] * ("encrypted" in names)]), names
    assert not list(folder.parent.glob("_tmp-*")), list(folder.parent.glob("_tmp-*"))


def generation(folder: Path) -> int:
    with open_store(folder) as gallery:
        return gallery.generation


def is_sound(folder: Path, held: dict[str, list]) -> None:
    with open_store(folder, write=True) as gallery:
        found = verify(gallery)
    assert not found.problems and not found.rebuilt, found.text
    answers_are_right(folder, held)


def difference(now: dict[str, list] | None, wanted: Sequence[dict[str, list] | None]) -> str:
    """What no allowed state has."""
    lines = []
    for state in wanted:
        if now is None or state is None:
            lines.append(f"{now is None} {state is None}")
        else:
            lines += [
                f"{name}: {_less(now[name], state[name])} instead of {_less(state[name], now[name])}" for name in now
            ]
    return "\n".join(lines)


def _less(lines: list, others: list) -> list:
    return [
        [value[:4] if isinstance(value, bytes) else value for value in line] for line in lines if line not in others
    ]


# forks ----------------------------------------------------------------------


def warm_up() -> None:
    """Imports what each fork would, and what threads could upset."""
    derive.versions(), np.unique([0])
    faiss.omp_set_num_threads(1)
    forget.CUT_WAIT_MS = 20


def fork(work: Callable[[], object]) -> int:
    """The id of a fork that does the work; it exits with 0 where that raises nothing."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def forked(work: Callable[[], object]) -> int:
    """The wait status of a fork that did the work."""
    return os.waitpid(fork(work), 0)[1]


def changes(scenario: str, folder: Path, states: list[dict[str, list] | None], acknowledged: int) -> None:
    """Runs the verbs; where one fails it is tried again, but for a disk that stays full."""
    verbs, i = SCENARIOS[scenario](folder), 0
    while i < len(verbs):
        try:
            verbs[i]()
        except (FaceGalleryError, OSError) as error:
            assert str(error) and "\n" not in str(error) and STEPS.failed, error
            if STEPS.mode == FULL:
                break
            with STEPS.paused():
                now = content(folder)
            assert now in states[i : i + 2], difference(now, states[i : i + 2])
            i += now != states[i]
            continue
        i += 1
        os.write(acknowledged, b".")
    STEPS.finished()


def rehearse(scenario: str, folder: Path, out: Path) -> None:
    """The state before the first verb and after each, and the names of all steps."""
    states = [content(folder)]
    STEPS.arm(steps.KILL, 0)
    for verb in SCENARIOS[scenario](folder):
        verb()
        with STEPS.paused():
            states.append(content(folder))
    STEPS.finished()
    out.write_bytes(pickle.dumps((states, STEPS.names)))


def tolerant_close(gallery: Database) -> None:
    """SQLite says nothing of errors when it tidies up at the end; apsw does of those that a VFS of Python's raised."""
    try:
        gallery.connection.close(True)
    except apsw.Error:
        assert STEPS.failed


def attempt(scenario: str, base: Path, work: Path, mode: str, at: int, states: list) -> bool:
    """One end at one step; whether the verbs went on to the last."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work, symlinks=True)
    club = work / "club"
    reader = reader_of(scenario, club)
    receive, send = os.pipe()

    def run() -> None:
        os.close(receive)
        if mode in (FAIL, FULL):
            Database.close = tolerant_close  # type: ignore[method-assign]
            sys.unraisablehook = lambda _: None
        STEPS.arm(mode, at)
        changes(scenario, club, states, send)

    status = forked(run)
    os.close(send)
    done = len(os.read(receive, 1000))
    os.close(receive)
    expected = status == 0 if mode in (FAIL, FULL) else os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert expected, f"status {status}"
    allowed = range(done, min(done + 2, len(states)))
    assert forked(lambda: check(scenario, club, allowed, states)) == 0, f"after {done} verbs"
    if reader.end():
        assert forked(lambda: is_forgotten(club)) == 0, f"after {done} verbs and the reader"
    return done == len(states) - 1


def in_lanes(work: Callable[[int], Counter[str]]) -> Counter[str]:
    """Counts of a work that is done in LANES processes, each given its number."""
    pipes = [os.pipe() for _ in range(LANES)]
    pids = [fork(lambda lane=lane: os.write(pipes[lane][1], json.dumps(work(lane)).encode())) for lane in range(LANES)]
    total: Counter[str] = Counter()
    for pid, (receive, send) in zip(pids, pipes, strict=True):
        os.close(send)
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)
        total.update(json.loads(os.read(receive, 1 << 16)))
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--places", type=int, help="about so many steps of each mode instead of a stride")
    parser.add_argument("--only", type=int, help="this step alone")
    options = parser.parse_args()
    os.environ["FACEGALLERY_KEY"] = KEY.decode()
    warm_up()
    options.folder.mkdir(parents=True, exist_ok=True)
    steps.install(options.folder)
    base, rehearsal, out = (options.folder / name for name in ("base", "rehearsal", "states.pickle"))
    assert forked(lambda: prepare(options.scenario, base)) == 0
    shutil.copytree(base, rehearsal, symlinks=True)
    reader = reader_of(options.scenario, rehearsal / "club")
    assert forked(lambda: rehearse(options.scenario, rehearsal / "club", out)) == 0
    reader.end()
    states, names = pickle.loads(out.read_bytes())
    stride = max(1, len(names) // options.places) if options.places else options.stride
    plan = [
        (mode, at)
        for offset, mode in enumerate(options.modes.split(","))
        for at in ([options.only] if options.only else range(1 + stride * offset // len(MODES), len(names) + 1, stride))
        if mode != TORN or names[at - 1].startswith("write")
    ]

    def attempts(lane: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for mode, at in plan[lane::LANES]:
            try:
                ended = attempt(options.scenario, base, options.folder / f"work{lane}", mode, at, states)
            except AssertionError as error:
                print(
                    f"{options.scenario}, {mode} at step {at} of {len(names)}, about {names[at - 1]}: {error}",
                    file=sys.stderr,
                )
                raise
            counts[mode] += 1
            counts[f"{mode}: went on"] += ended and mode in (FAIL, FULL)
        return counts

    print(json.dumps({"steps": len(names), **in_lanes(attempts)}))


if __name__ == "__main__":
    main()
