"""An index with damaged files: no wrong answer, an error that names the damage, and rebuilt derived files.

FACEGALLERY_DAMAGES=20 damages it twenty times as often.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
import numpy as np
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import FaceGalleryError
from facegallery.embedder.spec import FaceSpec, Part
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.search import candidates
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.store import Store
from facegallery.indexer.upkeep import switch
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic

D, PAGE, STRIPE = 1024, 65536, 4096
TABLES = (
    "meta",
    "people",
    "faces",
    "vectors",
    "crops",
    "other_vectors",
    "log",
    "trash",
    "changed",
    "forgotten",
    "photos",
)
QUESTIONS = (
    {"k": 1},
    {"k": 3},
    {"k": 3, "faces": True},
    {"k": 1, "score": "mean"},
    {"k": 2, "score": "template"},
)
FILTERED = {"k": 2, "where": ["place=Łódź"]}
Damage = Callable[[bytearray, np.random.Generator], object]


def rows(name: str, people: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        replace(row, crop=synthetic.png(rng.bytes(300)), extra={"place": "Łódź"} if i % 2 else {})
        for i, row in enumerate(synthetic.rows(people, 2, name, D, seed))
    ]


def noted(row: Row, i: int) -> PhotoRow:
    """The photo of a face."""
    return PhotoRow(row.image, f"/a/{i}.jpg", f"{i:064x}", i, i, 640, 480, "2019-05-01T10:00:00", 1.5, 2.5, "ok")


@dataclass
class Index:
    """An index with something in each of its tables, in the list of free pages and behind the built generation."""

    folder: Path
    files: dict[Path, bytes]  # of the sound index
    older: list[bytes]  # gallery.db before each of the last commits
    answers: list
    tables: dict[str, list]
    pages: dict[str, list[int]]  # of each table and index of SQLite's, numbers from 0

    def path(self, name: str) -> Path:
        return (
            self.folder / name if name.startswith("gallery") else (self.folder / "index.faiss").resolve().parent / name
        )

    def repair(self) -> None:
        """Everything as it was."""
        shutil.rmtree(self.folder)
        for path, data in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        built = next(path.parent.name for path in self.files if path.name == "index.faiss")
        (self.folder / "index.faiss").symlink_to(f"{built}/index.faiss")


XQ = np.concatenate([synthetic.vectors(12, 2, D)[::5], synthetic.vectors(5, 2, D, seed=5)[:3]])


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    root = tmp_path_factory.mktemp("damage")
    folder = root / "club"
    first, more = rows("first", 12, 0), rows("more", 5, 5)
    first[20].crop = synthetic.png(os.urandom(2 * PAGE))
    build(synthetic.write(root / "vectors", first, synthetic.spec(D), extra=["place"]), folder)
    with open_store(folder, write=True) as gallery:
        forget(gallery, "person 11")
        finish_pending(gallery)
        gallery.remove("person 10")
        gallery.rename("person 3", "Zoë")
        gallery.add(more)
        gallery.note_photos(noted(row, i) for i, row in enumerate([*first, *more]))
        switch.prepare(gallery, FaceSpec(parts=(Part("other", "cd" * 32, 24, "fixed"),)))
        switch.store_vectors(gallery, next(switch.pending(gallery))[:20], synthetic.vectors(20, 1, 24))
    older = []
    for change in [
        free_pages,
        lambda gallery: gallery.merge("person 5", "person 6"),
        lambda gallery: gallery.remove(face_id=more[0].face_id),
        lambda gallery: gallery.split([first[0].face_id], "person 7"),
        lambda gallery: gallery.rename("person 8", "Łucja"),
        lambda gallery: gallery.split([more[3].face_id], "person 2"),
    ]:
        older.append((folder / "gallery.db").read_bytes())
        with open_store(folder, write=True) as gallery:
            change(gallery)
    return sound(folder, older)


def free_pages(gallery: Store) -> None:
    with gallery.writing():
        gallery.execute("DELETE FROM trash WHERE length(png) > 1000")


def sound(folder: Path, older: list[bytes]) -> Index:
    files = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".db-shm"
    }
    db = apsw.Connection(str(folder / "gallery.db"))
    pages: dict[str, list[int]] = {"header": [0], "free": []}
    for name, page in db.execute("SELECT name, pageno FROM dbstat"):
        pages.setdefault(name, []).append(page - 1)
    used = {page for numbers in pages.values() for page in numbers}
    pages["free"] = [page for page in range(db.execute("PRAGMA page_count").get) if page not in used]
    db.close()
    made = Index(folder, files, older, ask(folder), tables(folder), pages)
    made.repair()
    return made


@pytest.fixture(autouse=True)
def restored(index) -> Iterator[None]:
    yield
    index.repair()


def ask(folder: Path, questions=QUESTIONS) -> list:
    """The answer to each question about each face asked alone, or the error that came in its place."""

    def answer(searcher: Searcher, x: np.ndarray, question: dict) -> object:
        try:
            return searcher.search(x[None], **question)[0]
        except FaceGalleryError as error:
            return error

    try:
        with Searcher(folder) as searcher:
            return [answer(searcher, x, question) for question in questions for x in XQ]
    except FaceGalleryError as error:
        return [error] * (len(questions) * len(XQ))


def tables(folder: Path) -> dict[str, list] | str:
    """All that SQL gives, or its error."""
    db = apsw.Connection(str(folder / "gallery.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    except (apsw.Error, UnicodeDecodeError) as error:
        return str(error)
    finally:
        db.close()


def problems(folder: Path) -> str:
    """What `verify` says of an index that is not sound; nothing for a sound one."""
    try:
        with open_store(folder, write=True) as gallery:
            done = verify(gallery)
            return done.text if done.problems or done.rebuilt else ""
    except FaceGalleryError as error:
        return str(error)


def examine(index: Index, name: str = "gallery.db") -> bool:
    """Whether the damage was seen; fails for a wrong answer, an error without the file, or damage `verify` misses."""
    now = ask(index.folder)
    errors = [answer for answer in now if isinstance(answer, FaceGalleryError)]
    assert all(name in str(error) for error in errors), errors
    wrong = [
        i
        for i, (answer, right) in enumerate(zip(now, index.answers, strict=True))
        if answer not in errors and answer != right
    ]
    assert not wrong, [(QUESTIONS[i // len(XQ)], now[i], index.answers[i]) for i in wrong]
    held = tables(index.folder)
    found = problems(index.folder)
    if errors or held != index.tables:
        assert name in found, (errors[:1], found, difference(held, index.tables))
    return bool(found)


def difference(now, before: dict) -> object:
    return (
        now
        if isinstance(now, str)
        else {t: [line for line in now[t] if line not in before[t]] for t in now if now[t] != before[t]}
    )


def apply_damage(index: Index, name: str, damage: Damage, seed: int) -> str:
    """Damages one file; returns what was done."""
    data = bytearray(index.files[index.path(name)])
    done = damage(data, np.random.default_rng(seed))
    for suffix in ("-wal", "-shm"):
        index.path(f"gallery.db{suffix}").unlink(missing_ok=True)
    index.path(name).write_bytes(data)
    return f"{name}, seed {seed}: {done}"


# damages --------------------------------------------------------------------


def flip(pages: list[int], page: int = PAGE) -> Damage:
    """One bit of a page: mostly where something stands, and often in its header."""

    def damage(data: bytearray, rng: np.random.Generator) -> object:
        start = int(rng.choice(pages)) * page
        whole = np.frombuffer(data[start : start + page], np.uint8)
        used, way = np.flatnonzero(whole), rng.random()
        at = (
            rng.integers(min(40, len(whole)))
            if way < 0.15
            else rng.choice(used)
            if way < 0.9 and len(used)
            else rng.integers(len(whole))
        )
        bit = int(rng.integers(8))
        data[start + int(at)] ^= 1 << bit
        return f"bit {bit} of byte {at} of page {start // page}"

    return damage


def cut(data: bytearray, rng: np.random.Generator) -> object:
    length = int(rng.integers(len(data)))
    length -= length % PAGE * int(rng.random() < 0.3)
    del data[length:]
    return f"cut to {length}"


def zero(data: bytearray, rng: np.random.Generator) -> object:
    at = STRIPE * int(rng.integers(-(-len(data) // STRIPE)))
    data[at : at + STRIPE] = bytes(len(data[at : at + STRIPE]))
    return f"zeros at {at}"


def exchange(data: bytearray, rng: np.random.Generator) -> object:
    one, other = (PAGE * int(page) for page in rng.choice(len(data) // PAGE, 2, replace=False))
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]
    return f"pages {one // PAGE} and {other // PAGE} exchanged"


def older(versions: list[bytes], size: int) -> Damage:
    """A write that never came to the disk."""

    def damage(data: bytearray, rng: np.random.Generator) -> object:
        before = versions[rng.integers(len(versions))]
        length = min(len(before), len(data))
        changed = [at for at in range(0, length, size) if before[at : at + size] != data[at : at + size]]
        at = int(rng.choice(changed))
        data[at : at + size] = before[at : at + size]
        return f"{size} older bytes at {at}"

    return damage


# the truth ------------------------------------------------------------------

TIMES = int(os.environ.get("FACEGALLERY_DAMAGES", "1"))
FLIPS, OTHERS = 12 * TIMES, 24 * TIMES


def examine_each(index: Index, damage: Damage, times: int, name: str = "gallery.db") -> int:
    """How many of the damages were seen."""
    seen = 0
    for seed in range(times):
        what = apply_damage(index, name, damage, seed)
        try:
            seen += examine(index, name)
        except BaseException as error:
            error.add_note(what)
            raise
        index.repair()
    return seen


@pytest.mark.parametrize(
    "where",
    [
        "header",
        "free",
        *TABLES,
        "faces_person",
        "trash_line",
        "photos_path",
        "photos_sha256",
        "sqlite_autoindex_faces_1",
        "sqlite_autoindex_people_1",
        "sqlite_autoindex_meta_1",
        "sqlite_sequence",
    ],
)
def test_a_flipped_bit_is_named_or_harmless(index, where):
    examine_each(index, flip(index.pages[where]), FLIPS)


@pytest.mark.parametrize("damage", [cut, zero, exchange])
def test_torn_pages_are_named_or_harmless(index, damage):
    assert examine_each(index, damage, OTHERS) > OTHERS / 10


@pytest.mark.parametrize("size", [512, STRIPE, PAGE])
def test_writes_that_never_came_are_named_or_harmless(index, size):
    examine_each(index, older(index.older, size), OTHERS)


def test_a_lower_counter_of_faces_is_named(index):
    db = apsw.Connection(str(index.path("gallery.db")))
    db.execute("UPDATE sqlite_sequence SET seq = seq - 1 WHERE name = 'faces'")
    db.close()
    assert "its counter of faces was changed" in problems(index.folder)
    with (
        open_store(index.folder, write=True) as gallery,
        pytest.raises(FaceGalleryError, match="gallery.db is damaged"),
    ):
        gallery.add(rows("others", 1, 8))


def test_filters_over_damaged_rows_never_give_a_wrong_score(index):
    """A row that a filter no longer finds is not read, so that only `verify` can name it."""
    vectors = {row.face_id: row.vector for row in rows("first", 12, 0) + rows("more", 5, 5)}
    for seed in range(OTHERS):
        what = apply_damage(index, "gallery.db", flip(index.pages["faces"]), seed)
        now = ask(index.folder, [FILTERED])
        for i, hits in enumerate(now):
            if isinstance(hits, FaceGalleryError):
                assert "gallery.db" in str(hits), what
                continue
            scores = [np.dot(vectors[hit.face_id].astype(np.float64), XQ[i]) for hit in hits]
            assert np.allclose(scores, [hit.score for hit in hits], atol=1e-6), what
        held = tables(index.folder)
        assert held == index.tables or "gallery.db" in problems(index.folder), what
        index.repair()


# the write-ahead log --------------------------------------------------------


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> list[Index]:
    """An index before and after each of a few commits, the last with all of these in its write-ahead log alone."""
    folder, made = tmp_path_factory.mktemp("logged") / "club", []
    build(synthetic.write(folder.parent / "vectors", rows("first", 12, 0), synthetic.spec(D), extra=["place"]), folder)
    with open_store(folder, write=True) as gallery:
        for change in [
            lambda: None,
            lambda: gallery.remove("person 1"),
            lambda: gallery.add(rows("more", 5, 5)),
            lambda: gallery.merge("person 2", "person 3"),
        ]:
            change()
            copy = folder.with_name(f"after {len(made)}")
            made.append(
                sound(Path(shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("*-shm"))), [])
            )
    return made


def flip_anywhere(data: bytearray, rng: np.random.Generator) -> object:
    return flip(list(range(-(-len(data) // STRIPE))), STRIPE)(data, rng)


@pytest.mark.parametrize("damage", [flip_anywhere, cut, zero])
def test_a_damaged_write_ahead_log_ends_at_an_earlier_commit(logged, damage):
    """SQLite's own rule: what follows a frame that is not whole was never written."""
    last, ends = logged[-1], set()
    for seed in range(OTHERS):
        what = apply_damage(last, "gallery.db-wal", damage, seed)
        now, held = ask(last.folder), tables(last.folder)
        ends.add(next((i for i, state in enumerate(logged) if state.answers == now and state.tables == held), what))
        assert not problems(last.folder), what
        last.repair()
    assert ends <= {0, 1, 2, 3} and len(ends) > 1


# derived files --------------------------------------------------------------

DERIVED = ("index.faiss", "owners.npy", "report.json")


def overwrite(data: bytearray, rng: np.random.Generator) -> object:
    data[:] = rng.bytes(len(data) + 8 * int(rng.integers(-2, 3)))
    return "another file"


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("damage", [flip_anywhere, cut, zero, overwrite, None])
def test_a_damaged_derived_file_is_worked_around_and_made_anew(index, name, damage, caplog):
    path, seen = index.path(name), 0
    for seed in range(OTHERS // 6 if damage else 1):
        if damage:
            apply_damage(index, name, damage, seed)
        else:
            path.unlink()
        changed = not path.exists() or path.read_bytes() != index.files[path]
        caplog.clear()
        assert ask(index.folder) == index.answers
        assert ("is missing or damaged: searching an index made in memory" in caplog.text) == changed
        assert bool(restored := problems(index.folder)) == changed and (name in restored or not changed)
        caplog.clear()
        assert ask(index.folder) == index.answers and not caplog.text and not problems(index.folder)
        seen += changed
        index.repair()
    assert seen


# Larger files are not hashed when they are opened.


@pytest.fixture
def large(index, monkeypatch) -> Index:
    monkeypatch.setattr(candidates, "HASHED_AT_OPEN", len(index.files[index.path("owners.npy")]))
    return index


def test_flips_in_a_large_file_never_give_a_wrong_score(large):
    vectors = {row.face_id: row.vector for row in rows("first", 12, 0) + rows("more", 5, 5)}
    for seed in range(OTHERS):
        what = apply_damage(large, "index.faiss", flip_anywhere, seed)
        for i, hits in enumerate(ask(large.folder, QUESTIONS[:3])):
            scores = [np.dot(vectors[hit.face_id].astype(np.float64), XQ[i % len(XQ)]) for hit in hits]
            assert np.allclose(scores, [hit.score for hit in hits], atol=1e-6), what
        assert "index.faiss" in problems(large.folder), what
        large.repair()


@pytest.mark.parametrize("question", [*QUESTIONS, FILTERED])
def test_a_raised_score_makes_the_index_anew_in_memory(large, question, caplog):
    def damage(data: bytearray, rng: np.random.Generator) -> object:
        far = rows("first", 12, 0)[13].vector.tobytes()
        at = data.index(far)
        data[at : at + len(far)] = XQ[0].tobytes()
        return "a far face where a query is"

    want = ask(large.folder, [question])
    apply_damage(large, "index.faiss", damage, 0)
    with Searcher(large.folder) as searcher:  # one for all: what it keeps must fit the new one
        assert [searcher.search(x[None], **question)[0] for x in XQ] == want
    assert "gives scores that its faces do not have" in caplog.text
    assert "index.faiss" in problems(large.folder) and ask(large.folder, [question]) == want


def test_a_large_file_that_says_another_number_of_faces_is_not_read(large, caplog):
    path = large.path("index.faiss")
    n = len(rows("first", 12, 0)) - 2
    for number in (0, 1, n - 1, n + 1, 1 << 40, (1 << 63) + n):
        data = bytearray(large.files[path])
        data[-8 * n - 8 : -8 * n] = number.to_bytes(8, "little")
        path.write_bytes(data)
        caplog.clear()
        assert ask(large.folder) == large.answers and "damaged" in caplog.text
