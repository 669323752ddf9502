"""Changes of an index that die or fail at each of their steps, and what must hold afterwards. A script: `python -m tests.crash --help`.

A fork of this process makes the changes of a scenario, acknowledging each; another looks at what is left, and goes on from there.
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
from typing import Any

import apsw
import faiss
import numpy as np

from embedder.errors import FaceDBError, GalleryError
from embedder.spec import FaceSpec, Part
from embedder.table import Row
from indexer import derive, forget, switch, transfer
from indexer.build import build
from indexer.database import Database
from indexer.gallery import Gallery
from indexer.search import Searcher
from indexer.verify import verify
from tests import steps, synthetic
from tests.steps import FAIL, FULL, MODES, STEPS, TORN

PEOPLE, PHOTOS, CROP = 12, 2, 300
OTHER = FaceSpec(parts=(Part("other", "cd" * 32, 24, "fixed"),))
KEY = b"a key"
VOLATILE = ("report", "generation", "built", "built_to", "switched", "forgetting", "salt")
QUERIES = synthetic.vectors(3, 1, seed=7)
Verb = Callable[[], object]


def rows(seed: int = 0, people: int = PEOPLE, photos: int = PHOTOS) -> list[Row]:
    """Faces with crops."""
    rng = np.random.default_rng(seed)
    made = synthetic.rows(people, photos, f"set{seed}", seed=seed)
    return [replace(row, split=None, crop=rng.bytes(CROP), extra={"place": "Łódź"}) for row in made]


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
            "faces": "SELECT f.id, face_id, name, image, image_sha256, split, face, box, extra, v.vector, png, o.vector FROM faces f "
                     "LEFT JOIN people p ON p.id = person LEFT JOIN vectors v USING (id) LEFT JOIN crops USING (id) "
                     "LEFT JOIN other_vectors o USING (id) ORDER BY f.id",
            "people": "SELECT name FROM people ORDER BY 1",
            "log": "SELECT verb, detail FROM log ORDER BY id",
            "trash": "SELECT identity, face_id, vector, png FROM trash ORDER BY rowid",
            "forgotten": "SELECT count(*) FROM forgotten",
            "meta": f"SELECT key, value FROM meta WHERE key NOT IN ({','.join('?' * len(VOLATILE))}) ORDER BY 1",
        }  # fmt: skip
        held = {name: list(db.execute(sql, VOLATILE if name == "meta" else ())) for name, sql in found.items()}
        return held if held["meta"] else None
    finally:
        db.close()


def answers_are_right(folder: Path, held: dict[str, list]) -> None:
    """A search says what NumPy says of these faces."""
    faces = [synthetic.row(line[3], line[2], np.frombuffer(line[9], "<f4"), image_sha256=line[4]) for line in held["faces"]]
    with Searcher(folder) as searcher:
        xq = QUERIES if searcher.spec.dimension == synthetic.D else synthetic.vectors(3, 1, searcher.spec.dimension, seed=7)
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

    def verb(self, call: Callable[[Gallery], object]) -> Verb:
        def verb() -> None:
            self.gallery = self.gallery or Gallery.open(self.folder, write=True)
            call(self.gallery)

        return verb

    def close(self) -> None:
        if self.gallery:
            self.gallery.close()
        self.gallery = None


def alone(folder: Path, call: Callable[[Gallery], object]) -> Verb:
    """A verb that opens the gallery for itself; the command line's."""

    def verb() -> None:
        with Gallery.open(folder, write=True) as gallery:
            call(gallery)

    return verb


def one_by_one(folder: Path) -> list[Verb]:
    """Most verbs, each in a connection of its own."""
    more = rows(1, 3, 1)
    calls: list[Callable[[Gallery], object]] = [
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
    calls: list[Callable[[Gallery], object]] = [
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
        alone(folder, lambda g: g.rename("person 3", WANTED)),
        alone(folder, lambda g: g.remove(face_id=doomed()[0].face_id)),
        lambda: forgets(folder),
    ]


def restoring(folder: Path) -> list[Verb]:
    """A backup is made, and put in the place of what came after it."""
    path = folder.parent / "backup.db"
    return [
        alone(folder, lambda g: path.exists() or transfer.backup(g, path)),
        alone(folder, lambda g: g.remove("person 3")),
        lambda: transfer.restore(path, folder, replace=True),
    ]


def restoring_anew(folder: Path) -> list[Verb]:
    """A backup becomes a new index."""
    return [lambda: transfer.restore(folder.parent / "backup.db", folder, replace=folder.exists())]


def switching(folder: Path) -> list[Verb]:
    """Another model, and a face between its vectors."""
    xb = synthetic.vectors(PEOPLE + 1, PHOTOS, OTHER.dimension, seed=3)

    def fill(gallery: Gallery) -> None:
        for block in switch.pending(gallery):
            for half in (block[: len(block) // 2], block[len(block) // 2 :]):
                switch.store(gallery, [id for id, _ in half], xb[[id - 1 for id, _ in half]])

    def drop(gallery: Gallery) -> None:
        with gallery.writing():
            switch.drop_other(gallery)

    calls = [lambda g: switch.prepare(g, OTHER), fill, switch.switch, lambda g: g.remove("person 3"), drop]
    return [alone(folder, call) for call in calls]


def building(folder: Path) -> list[Verb]:
    """Other vectors in the place of these."""
    return [lambda: build(folder.parent / "vectors", folder, replace=True)]


def building_first(folder: Path) -> list[Verb]:
    """An index where there was none."""
    return [lambda: build(folder.parent / "vectors", folder)]


SCENARIOS = {
    "one-by-one": one_by_one, "in-one": in_one, "encrypted": in_one, "forgetting": forgetting, "restoring": restoring,
    "restoring-anew": restoring_anew, "switching": switching, "building": building, "building-first": building_first,
}  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    """What the scenario begins with."""
    folder.mkdir(parents=True)
    first = synthetic.write(folder.parent / "first", rows(), extra=["place"])
    if name in ("building", "building-first"):
        synthetic.write(folder / "vectors", rows(5), extra=["place"])
    if name != "building-first":
        build(first, folder / "club", encrypt=name == "encrypted")
    if name == "restoring-anew":
        with Gallery.open(folder / "club") as gallery:
            transfer.backup(gallery, folder / "backup.db")
        shutil.rmtree(folder / "club")


# forgetting -----------------------------------------------------------------

WANTED = "Zacharias Quell"


def doomed() -> list[Row]:
    return rows()[3 * PHOTOS : 4 * PHOTOS]


def forgets(folder: Path) -> bool:
    """As the command does it; False where a reader holds it up."""
    with Gallery.open(folder, write=True) as gallery:
        traces = forget.forget(gallery, WANTED)
        done = forget.finish_pending(gallery)
        forget.receipt_of(gallery, traces, {}, not done)
        return done


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
    for verb in SCENARIOS[scenario](folder)[at:]:
        verb()
    assert content(folder) == states[-1], difference(content(folder), states[-1:])
    with Gallery.open(folder, write=True) as gallery:
        assert derive.compact(gallery)
    is_sound(folder, states[-1])
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("gallery.db-wal", "gallery.db-shm"))
    built = [] if "encrypted" in names else [f"built-{generation(folder)}", "index.faiss"]
    assert names == sorted([*built, "gallery.db", *["encrypted"] * ("encrypted" in names)]), names
    assert not list(folder.parent.glob("_tmp-*")), list(folder.parent.glob("_tmp-*"))


def generation(folder: Path) -> int:
    with Gallery.open(folder) as gallery:
        return gallery.generation


def is_sound(folder: Path, held: dict[str, list]) -> None:
    with Gallery.open(folder) as gallery:
        assert gallery.fact(forget.PENDING) is None
    with Gallery.open(folder, write=True) as gallery:
        found = verify(gallery)
    assert not found.problems and not found.mended, found.text
    answers_are_right(folder, held)


def difference(now: dict[str, list] | None, wanted: Sequence[dict[str, list] | None]) -> str:
    """What no allowed state has."""
    lines = []
    for state in wanted:
        if now is None or state is None:
            lines.append(f"{now is None} {state is None}")
        else:
            lines.append("; ".join(f"{name}: {now[name]} instead of {state[name]}" for name in now if now[name] != state[name]))
    return "\n".join(lines)[:4000]


# forks ----------------------------------------------------------------------


def forked(work: Callable[[], object]) -> int:
    """Its wait status."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    try:
        faiss.omp_set_num_threads(1)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def changes(scenario: str, folder: Path, states: list[dict[str, list] | None], acknowledged: int) -> None:
    """Runs the verbs; where one fails it is tried again, but for a disk that stays full."""
    verbs, i = SCENARIOS[scenario](folder), 0
    while i < len(verbs):
        try:
            verbs[i]()
        except (FaceDBError, OSError) as error:
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
        gallery._db.close(True)
    except apsw.Error:
        assert STEPS.failed


def attempt(scenario: str, base: Path, work: Path, mode: str, at: int, states: list) -> bool:
    """One end at one step; whether the verbs went on to the last."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work, symlinks=True)
    receive, send = os.pipe()

    def run() -> None:
        os.close(receive)
        if mode in (FAIL, FULL):
            Database.close = tolerant_close
            sys.unraisablehook = lambda _: None
        STEPS.arm(mode, at)
        changes(scenario, work / "club", states, send)

    status = forked(run)
    os.close(send)
    done = len(os.read(receive, 1000))
    os.close(receive)
    expected = status == 0 if mode in (FAIL, FULL) else os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert expected, f"status {status}"
    allowed = range(done, min(done + 2, len(states)))
    assert forked(lambda: check(scenario, work / "club", allowed, states)) == 0, f"after {done} verbs"
    return done == len(states) - 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--only", type=int, help="this step alone")
    options = parser.parse_args()
    os.environ["FACEDB_KEY"] = KEY.decode()
    derive.versions()  # reads what lies on the disk once
    forget.CUT_WAIT_MS = 20
    options.folder.mkdir(parents=True, exist_ok=True)
    steps.install(options.folder)
    base, work, out = (options.folder / name for name in ("base", "work", "states.pickle"))
    assert forked(lambda: prepare(options.scenario, base)) == 0
    shutil.copytree(base, options.folder / "rehearsal", symlinks=True)
    assert forked(lambda: rehearse(options.scenario, options.folder / "rehearsal" / "club", out)) == 0
    states, names = pickle.loads(out.read_bytes())
    counts: Counter[str] = Counter()
    for offset, mode in enumerate(options.modes.split(",")):
        for at in [options.only] if options.only else range(1 + offset % options.stride, len(names) + 1, options.stride):
            if mode == TORN and not names[at - 1].startswith("write"):
                continue
            try:
                ended = attempt(options.scenario, base, work, mode, at, states)
            except AssertionError as error:
                raise SystemExit(f"{options.scenario}, {mode} at step {at} of {len(names)}, {names[at - 1]}: {error}") from None
            counts[mode] += 1
            counts[f"{mode}: went on"] += ended and mode in (FAIL, FULL)
    print(json.dumps({"steps": len(names), **counts}))


if __name__ == "__main__":
    main()
