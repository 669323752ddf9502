import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import FaceGalleryError, GalleryError, InputError, SystemFault, from_os_error
from facegallery.indexer import opening
from facegallery.indexer.build import BuildOptions, build
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import create_store, open_store
from facegallery.indexer.search.searcher import Searcher
from facegallery.indexer.store import database
from facegallery.indexer.store.checksums import checksum
from facegallery.indexer.store.database import check_file_system, environment_key, file_system
from facegallery.indexer.store.errors import Replaced
from facegallery.indexer.store.migrations import MIGRATIONS
from facegallery.indexer.store.store import Store, versions
from facegallery.indexer.upkeep import transfer
from facegallery.indexer.upkeep.forget import forget
from facegallery.indexer.upkeep.pending import finish_pending
from facegallery.indexer.upkeep.receipt import receipt_of
from facegallery.indexer.upkeep.verify import verify
from tests import synthetic
from tests.conftest import ROOT
from tests.faults import files_of_at_most, sql

PEOPLE, PHOTOS = 12, 2
KEY = "a päss phrase"
QUERIES = synthetic.vectors(20, 1, seed=3)


def faces(people: int = PEOPLE, seed: int = 0) -> list[Row]:
    """With crops, and names, photos and columns that can be looked for."""
    rng, rows = np.random.default_rng(seed), synthetic.rows(people, PHOTOS, f"set{seed}", seed=seed)
    for i, row in enumerate(rows):
        row.crop, row.extra, row.identity = (
            synthetic.png(rng.bytes(300)),
            {"place": f"Łódź {i}"},
            f"Zoë number {seed}-{i // PHOTOS}",
        )
        row.split = None
    return rows


def make(folder: Path, rows: list[Row] | None = None, **options) -> Path:
    """folder/club, built from folder/vectors."""
    build(
        synthetic.write(folder / "vectors", rows or faces(), extra=["place"]), folder / "club", BuildOptions(**options)
    )
    return folder / "club"


def answers(folder: Path) -> list:
    with Searcher(folder) as searcher:
        return [searcher.search(QUERIES, 4), searcher.search(QUERIES, 4, faces=True, where=["place!=Łódź 3"])]


def files(folder: Path) -> set[str]:
    """But for SQLite's log, which readers leave behind."""
    return {path.name for path in folder.iterdir()} - {"gallery.db-wal", "gallery.db-shm"}


def picture(folder: Path) -> list:
    """What it holds and what it answers, but for what chance and the clock decide."""
    with open_store(folder) as gallery:
        people = gallery.list_people()
        held = [gallery.list_faces(name) for name, _ in people]
        crops = [gallery.crop(face["face_id"]) for of_person in held for face in of_person]
        log = [(line["verb"], line["faces"], line["people"]) for line in gallery.list_log()]
    hits = [[[replace(hit, person_id=None) for hit in of_q] for of_q in found] for found in answers(folder)]
    return [people, held, crops, log, hits]


# the key --------------------------------------------------------------------


@pytest.fixture
def no_key(monkeypatch):
    for name in ("FACEGALLERY_KEY", "FACEGALLERY_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(no_key, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_KEY", KEY)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> tuple[Path, Path]:
    """The same index twice, encrypted by KEY and plain; no test changes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEGALLERY_KEY", KEY)
        return make(tmp_path_factory.mktemp("secret"), encrypt=True), make(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def secret(originals, tmp_path) -> Path:
    return copied(originals[0], tmp_path / "secret")


@pytest.fixture
def plain(originals, tmp_path) -> Path:
    return copied(originals[1], tmp_path / "plain")


def copied(original: Path, into: Path) -> Path:
    """As it was when its writer had closed it."""
    return Path(
        shutil.copytree(original, into / "club", symlinks=True, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    )


def shown(folder: Path, rows: list[Row]) -> set[bytes]:
    """Names, photos, ids, columns and pieces of vectors and crops in files of the folder, and SQLite's mark."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    wanted = [b"SQLite format"]
    for row in rows:
        wanted += [
            text.encode() for text in (row.identity, row.image, row.face_id, row.image_sha256, row.extra["place"])
        ]
        wanted += [data[i : i + 16] for data in (row.vector.tobytes(), row.crop) for i in (0, len(data) // 2)]
    return {text for text in wanted if any(text in data for data in found)}


def test_what_is_looked_for_stands_in_a_plain_index(originals):
    found = shown(originals[1], faces())
    assert (
        len(found) > 24 * (3 + 2 + 2)
        and {b"SQLite format", "Zoë number 0-3".encode(), faces()[5].vector.tobytes()[:16]} <= found
    )


@pytest.mark.parametrize("place", ["variable", "file"])
def test_an_encrypted_index_answers_as_a_plain_one_and_shows_nothing(tmp_path, originals, no_key, monkeypatch, place):
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv(
        *(("FACEGALLERY_KEY", KEY) if place == "variable" else ("FACEGALLERY_KEY_FILE", str(tmp_path / "key")))
    )
    index = make(tmp_path / "i", encrypt=True)
    assert files(index) == {"gallery.db", "encrypted"} and shown(index, faces()) == set()
    assert picture(index) == picture(originals[1]) == picture(originals[0])
    assert files(index) == {"gallery.db", "encrypted"}
    with open_store(index) as gallery:
        assert gallery.encrypted and verify(gallery).problems == []


VERBS: list[Callable[[Store], object]] = [
    lambda g: g.add(faces(3, seed=1)),
    lambda g: g.remove("Zoë number 0-3"),
    lambda g: g.undo(),
    lambda g: g.rename("Zoë number 0-4", "Zoë number 0-renamed"),
    lambda g: g.merge("Zoë number 0-5", "Zoë number 0-6"),
    lambda g: g.split([faces()[0].face_id], "Zoë number 0-split"),
    lambda g: g.remove(image=faces()[3].image),
    derive.compact,
    lambda g: (forget(g, "Zoë number 0-7"), finish_pending(g)),
    lambda g: transfer.backup(g, g.folder.parent / "backup"),
    lambda g: g.remove("Zoë number 0-8"),
]


def test_every_verb_does_with_an_encrypted_index_what_it_does_with_a_plain_one(secret, plain, key):
    rows = faces() + faces(3, seed=1)
    for verb in VERBS:
        for folder in (plain, secret):
            with open_store(folder, write=True) as gallery:
                verb(gallery)
                if folder is secret:
                    assert shown(secret.parent, rows[::5]) == set()  # the write-ahead log is there
        assert picture(secret) == picture(plain)
        assert files(secret) == {"gallery.db", "encrypted"}
    for folder in (plain, secret):
        done = transfer.restore(folder.parent / "backup", folder, replace=True)
        new = transfer.restore(folder.parent / "backup", folder.parent / "new")
        assert (done.faces, new.faces) == (27, 27)
    assert picture(secret) == picture(plain) == picture(secret.parent / "new") == picture(plain.parent / "new")
    assert shown(secret.parent, rows) == set() and (secret.parent / "new" / "encrypted").exists()
    with open_store(secret, write=True) as gallery:
        assert receipt_of(gallery, forget(gallery, "Zoë number 0-8"), {}, pending=False).found == 0
        assert verify(gallery).problems == []


def test_an_open_searcher_follows_an_encrypted_index(secret, key):
    extra = faces(3, seed=1)
    with Searcher(secret) as searcher, open_store(secret, write=True) as gallery:
        for change in (
            lambda: gallery.add(extra),
            lambda: derive.compact(gallery),
            lambda: gallery.remove("Zoë number 0-3"),
        ):
            change()
            rows = [row for row in faces() + extra if gallery.enrolled([row.identity])]
            found = searcher.search(QUERIES, 3)
            got = [[(hit.identity, hit.score, hit.face_id) for hit in hits] for hits in found]
            assert got == [synthetic.nearest(rows, q, 3) for q in QUERIES]


def test_sqlite_keeps_what_does_not_fit_in_memory(plain):
    with open_store(plain) as gallery:
        options = {option for (option,) in gallery.execute("PRAGMA compile_options")}
    assert options & {"TEMP_STORE=2", "TEMP_STORE=3"}, "temporary files would not be encrypted"


def test_an_index_stays_what_it_is_when_it_is_built_again(tmp_path, monkeypatch, no_key):
    monkeypatch.setenv("FACEGALLERY_KEY", KEY)
    secret, plain = make(tmp_path / "s", encrypt=True), make(tmp_path / "p")
    assert build(tmp_path / "s" / "vectors", secret).changed is False
    assert (
        build(tmp_path / "s" / "vectors", secret, BuildOptions(replace=True)).encrypted
        and shown(secret, faces()) == set()
    )
    with pytest.raises(GalleryError, match="--encrypt"):
        build(tmp_path / "p" / "vectors", plain, BuildOptions(encrypt=True, replace=True))
    assert not (plain / "encrypted").exists()


def unset(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("FACEGALLERY_KEY")


def wrong(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("FACEGALLERY_KEY", KEY + "?")


def empty_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("FACEGALLERY_KEY")
    (folder.parent / "key").write_text("\n")
    patch.setenv("FACEGALLERY_KEY_FILE", str(folder.parent / "key"))


def no_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("FACEGALLERY_KEY")
    patch.setenv("FACEGALLERY_KEY_FILE", str(folder.parent / "nowhere"))


def no_marker(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "encrypted").unlink()


@pytest.mark.parametrize(
    "damage, kind, words",
    [
        (
            unset,
            GalleryError,
            "key of club",
        ),
        (wrong, GalleryError, "encrypted with"),
        (empty_file, InputError, "empty"),
        (
            no_file,
            InputError,
            "nowhere (FACEGALLERY_KEY_FILE)",
        ),
        (no_marker, GalleryError, "or it is encrypted and lost its file `encrypted`"),
    ],
)
def test_a_key_that_does_not_open_is_one_clear_line(
    secret, originals, tmp_path, monkeypatch, no_key, damage, kind, words
):
    monkeypatch.setenv("FACEGALLERY_KEY", KEY)
    damage(secret, monkeypatch)
    data, before = originals[0].parent / "vectors", (secret / "gallery.db").read_bytes()
    ways: list[Callable[[], object]] = [
        lambda: open_store(secret),
        lambda: open_store(secret, write=True),
        lambda: create_store(secret),
        lambda: Searcher(secret),
        lambda: build(data, secret),
    ]
    if damage is not no_marker:  # a damaged file is replaced, one that cannot be read for want of a key is not
        ways.append(lambda: build(data, secret, BuildOptions(replace=True)))
    for way in ways:
        with pytest.raises(kind) as caught:
            way()
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert (secret / "gallery.db").read_bytes() == before


def test_nothing_is_begun_without_a_key(tmp_path, no_key):
    with pytest.raises(GalleryError, match="key of club"):
        make(tmp_path, encrypt=True)
    assert not (tmp_path / "club").exists()
    assert make(tmp_path).exists()


def test_where_the_key_comes_from(tmp_path, monkeypatch, no_key):
    assert environment_key() is None
    (tmp_path / "key").write_bytes(b" from a file \r\n")
    monkeypatch.setenv("FACEGALLERY_KEY_FILE", str(tmp_path / "key"))
    assert environment_key() == b" from a file "
    monkeypatch.setenv("FACEGALLERY_KEY", "from a variable")
    assert environment_key() == b"from a variable"


def test_a_key_given_in_code_is_enough(secret, no_key):
    with (
        open_store(secret, key=KEY.encode()) as gallery,
        gallery.another(write=True) as other,
        Searcher(secret, KEY.encode()) as searcher,
    ):
        assert gallery.faces == other.faces == 24 and len(searcher.search(QUERIES, 2)) == 20


def test_flipped_bits_of_an_encrypted_index_are_noticed_or_harmless(originals, tmp_path, key):
    rng, before, noticed = np.random.default_rng(5), answers(originals[0]), 0
    data = (originals[0] / "gallery.db").read_bytes()
    places = [*range(0, 32, 5), *rng.integers(len(data), size=20), len(data) - 1]
    for i, place in enumerate(places):
        copy = copied(originals[0], tmp_path / str(i))
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        (copy / "gallery.db").write_bytes(damaged)
        try:
            assert answers(copy) == before
            with open_store(copy) as gallery:
                noticed += bool(verify(gallery).problems)
        except GalleryError as error:
            noticed += 1
            assert "gallery.db" in str(error) and "\n" not in str(error)
        shutil.rmtree(copy)
    assert noticed > 15


# where it lies --------------------------------------------------------------


def mountinfo(path: Path, *mounts: tuple[str, str]) -> Path:
    """As the kernel writes it: (mount point, type), newest last."""
    lines = [
        f"{20 + i} 1 8:{i} / {octal(point)} rw,relatime shared:{i} master:2 - {kind} server:/x rw\n"
        for i, (point, kind) in enumerate(mounts)
    ]
    path.write_text("".join(lines))
    return path


def octal(text: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


@pytest.mark.parametrize(
    "path, kind",
    [
        ("data/club", "ext4"),
        ("home", "nfs4"),
        ("home/ann/club", "nfs4"),
        ("home/ann/local disk", "xfs"),
        ("home/ann/local disk/club", "xfs"),
        ("home/ann/local", "nfs4"),
        ("homes/club", "ext4"),
        ("over/club", "cifs"),
        ("Fotos – Übung/club", "fuse.sshfs"),
        ("a - b/club", "btrfs"),
        ("tab\tback\\slash/club", "zfs"),
        ("wide\u3000line\u2028end/club", "ceph"),
    ],
)
def test_the_file_system_of_a_path(tmp_path, path, kind):
    root = tmp_path / "root"
    mounts = mountinfo(
        tmp_path / "mountinfo",
        ("/", "overlay"),
        (f"{root}", "ext4"),
        (f"{root}/home", "nfs4"),
        (f"{root}/home/ann/local disk", "xfs"),
        (f"{root}/over", "ext3"),
        (f"{root}/over", "cifs"),
        (f"{root}/Fotos – Übung", "fuse.sshfs"),
        (f"{root}/a - b", "btrfs"),
        (f"{root}/tab\tback\\slash", "zfs"),
        (f"{root}/wide\u3000line\u2028end", "ceph"),
    )
    assert file_system(root / path, mounts) == kind


names = st.text("ab \\é", min_size=1, max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(names, max_size=3), st.sampled_from(["ext4", "nfs", "tmpfs"])), max_size=6),
    st.lists(names, max_size=4),
)
def test_the_innermost_mount_counts(tmp_path_factory, mounts, path):
    folder = tmp_path_factory.getbasetemp() / "mounts"
    folder.mkdir(exist_ok=True)
    points = [("/" + "/".join(["no such folder", *parts]), kind) for parts, kind in mounts]
    by_point = dict(points)
    at = Path("/no such folder", *path)
    want = next((by_point[str(p)] for p in (at, *at.parents) if str(p) in by_point), "")
    assert file_system(at, mountinfo(folder / "mountinfo", *points)) == want


def test_a_link_into_a_network_counts_as_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert (
        file_system(tmp_path / "link" / "club", mountinfo(tmp_path / "m", ("/", "ext4"), (f"{tmp_path}/real", "nfs")))
        == "nfs"
    )


def test_a_system_that_does_not_say(tmp_path):
    assert file_system(tmp_path, tmp_path / "nowhere") == ""
    (tmp_path / "odd").write_bytes(b"\xff\xfe no mounts here\n\n")
    assert file_system(tmp_path, tmp_path / "odd") == "" and file_system(Path("/proc")) in ("proc", "")


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse", "ceph", "lustre"]
)
def test_a_network_is_refused_before_anything_is_made(plain, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(database, "file_system", lambda path: kind)
    data, backup = plain.parent.parent / "v", tmp_path / "backup"
    synthetic.write(data, faces(1), extra=["place"])
    shutil.copyfile(plain / "gallery.db", backup)
    for way in (
        lambda: open_store(plain),
        lambda: create_store(tmp_path / "new"),
        lambda: build(data, tmp_path / "new"),
        lambda: transfer.restore(backup, tmp_path / "new"),
    ):
        with pytest.raises(
            SystemFault,
            match=rf"local disk .*\({kind}\)",
        ):
            way()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuse", "fuseblk", ""])
def test_local_disks_are_taken(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(database, "file_system", lambda path: kind)
    check_file_system(tmp_path)


# a folder that can only be read ---------------------------------------------


@pytest.fixture
def view(plain, tmp_path, monkeypatch) -> Iterator[Path]:
    """The plain index again, in a place where it can only be read."""
    parent = tmp_path / "read only, 100%41 #1?"
    parent.mkdir()
    if subprocess.run(["mount", "--bind", plain.parent, parent], capture_output=True).returncode:
        parent.rmdir()
        parent.symlink_to(plain.parent)
        access = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and str(parent) in str(path))
        )
        yield parent / "club"
        return
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", parent], check=True)
        yield parent / "club"
    finally:
        subprocess.run(["umount", "--lazy", parent], check=True)


WRITER = """
import json, sys
from pathlib import Path
from facegallery.indexer.derived import derive
from facegallery.indexer.opening import open_store
for line in sys.stdin:
    verb, *about = json.loads(line)
    with open_store(Path(sys.argv[1]), write=True) as gallery:
        derive.compact(gallery) if verb == "compact" else getattr(gallery, verb)(*about)
        print(flush=True)
        sys.stdin.readline()
    print(flush=True)
"""


@pytest.fixture
def written(plain) -> Iterator[Callable]:
    """Change the index in another process, which keeps it open: this one would share the reader's view."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, plain], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )

    @contextlib.contextmanager
    def verb(*line: str) -> Iterator[None]:
        print(json.dumps(line), file=process.stdin, flush=True)
        assert process.stdout.readline() == "\n"
        yield
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "\n"

    with process:
        yield verb
        process.stdin.close()


def test_an_index_that_can_only_be_read_answers_and_leaves_nothing(view, plain, tmp_path):
    assert answers(view) == answers(plain)
    with open_store(view) as gallery:
        assert gallery.list_people() and gallery.list_log() == [] and verify(gallery).problems == []
        assert (
            transfer.backup(gallery, tmp_path / "backup").faces
            == transfer.export(gallery, tmp_path / "data").faces
            == 24
        )
    assert transfer.restore(tmp_path / "backup", tmp_path / "new").faces == 24
    assert files(plain) == {"gallery.db", "index.faiss", "built-1"}


def test_no_verb_writes_where_it_cannot(view, plain, tmp_path):
    if os.path.islink(view.parent):
        pytest.skip("a file system that can only be read needs root")
    with open_store(plain) as gallery:
        transfer.backup(gallery, tmp_path / "backup")
    data = synthetic.write(tmp_path / "v", faces(1))
    with open_store(plain, write=True) as gallery:
        gallery.add(faces(1, seed=2))  # something to undo
    before = picture(plain)

    def opened(verb: Callable[[Store], object]) -> Callable[[], object]:
        def call() -> None:
            with open_store(view, write=True) as gallery:
                verb(gallery)

        return call

    ways = [opened(verb) for verb in VERBS]
    ways += [
        lambda: build(data, view, BuildOptions(replace=True)),
        lambda: build(data, view.parent / "new"),
        lambda: transfer.restore(tmp_path / "backup", view, replace=True),
    ]
    ways.append(lambda: transfer.restore(tmp_path / "backup", view.parent / "new"))
    with open_store(view) as reader:
        ways += [lambda: reader.remove("Zoë number 0-1"), lambda: transfer.backup(reader, view.parent / "backup")]
        for way in ways:
            with pytest.raises(SystemFault) as caught:
                way()
            assert str(view.parent) in str(caught.value) and "\n" not in str(caught.value)
            assert "permission denied" in str(caught.value) or "read-only" in str(caught.value)
    assert picture(plain) == before


def test_an_old_answer_never_comes_after_the_file_behind_it_was_changed(view, written):
    """The reader's SQLite looked at no lock and no log when it was opened: nobody seemed to write."""
    rows = faces()
    with Searcher(view) as searcher, open_store(view) as gallery:
        assert gallery._frozen and searcher.search(rows[0].vector[None], 1)[0][0].identity == "Zoë number 0-0"
        for verb, name in [
            (("rename", "Zoë number 0-0", "Ann"), "Ann"),
            (("rename", "Ann", "Eve"), "Eve"),
            (("undo",), "Ann"),
            (("compact",), "Ann"),
        ]:
            with written(*verb):  # and the log is there
                assert searcher.search(rows[0].vector[None], 1)[0][0].identity == name
                assert gallery.known([rows[0].face_id]) == {rows[0].face_id: name}
            assert searcher.search(rows[0].vector[None], 1)[0][0].identity == name
            assert gallery.known([rows[0].face_id]) == {rows[0].face_id: name}
        with open_store(view) as later, Searcher(view) as other:
            assert later.list_people() == gallery.list_people() and other.search(QUERIES, 3) == searcher.search(
                QUERIES, 3
            )


def test_a_reader_notices_what_was_written_and_closed_between_its_questions(view, written):
    with open_store(view) as gallery:
        for name in ("Ann", "Eve", "Ida"):
            old = gallery.known([faces()[0].face_id])[faces()[0].face_id]
            with written("rename", old, name):
                pass
            assert gallery.enrolled([old, name]) == {name} and (name, 2) in gallery.list_people()


def test_a_file_that_has_gone_is_one_line(view, plain):
    with open_store(view) as gallery:
        shutil.rmtree(plain)
        with pytest.raises(SystemFault, match=r"gallery\.db: No such file"):
            gallery.list_people()


# others who write -----------------------------------------------------------


@pytest.mark.parametrize("write", [False, True])
def test_a_file_that_went_before_it_was_opened_counts_as_replaced(plain, write):
    """As between the check that there is an index and the opening, while another process builds it anew."""
    (plain / "gallery.db").rename(plain / "elsewhere.db")
    with pytest.raises(Replaced, match="run the same command again"):
        Store(plain, writable=write)


def test_a_second_writer_waits_for_the_first(plain):
    begun, order = threading.Event(), []

    def first() -> None:
        with open_store(plain, write=True) as gallery, gallery.writing():
            begun.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with open_store(plain, write=True) as gallery:
        gallery.rename("Zoë number 0-0", "Ann")
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_second_writer_gives_up_in_one_line(plain, monkeypatch):
    monkeypatch.setattr(database, "WAIT_MS", 40)
    before = picture(plain)
    with open_store(plain, write=True) as first, open_store(plain, write=True) as second, first.writing():
        for verb in VERBS:
            if verb not in (VERBS[9],):  # a backup is a reader
                began = time.monotonic()
                with pytest.raises(GalleryError, match="another process"):
                    verb(second)
                assert 0.03 < time.monotonic() - began < 5
        VERBS[9](second)
    assert picture(plain) == before


# a full disk ----------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, 16 MiB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system needs root; limits on the size of files stand in")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def free(folder: Path, size: int) -> Iterator[None]:
    """A disk on which that many bytes are left."""
    status = os.statvfs(folder)
    with open(folder / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_bsize - size))
    try:
        yield
    finally:
        (folder / "filler").unlink()


GROWING: dict[str, Callable[[Path], object]] = {}


def growing(name: str):
    def enter(verb: Callable[[Store], object]) -> Callable[[Store], object]:
        def call(folder: Path) -> None:
            with open_store(folder, write=True) as gallery:
                verb(gallery)

        GROWING[name] = call
        return verb

    return enter


growing("add")(lambda g: g.add(faces(3, seed=1)))
growing("remove")(lambda g: g.remove("Zoë number 0-3"))
growing("rename")(lambda g: g.rename("Zoë number 0-4", "Ann"))
growing("compact")(derive.compact)
growing("forget")(lambda g: (forget(g, "Zoë number 0-7"), finish_pending(g)))
growing("backup")(lambda g: transfer.backup(g, g.folder.parent / "backup"))
GROWING["restore"] = lambda folder: transfer.restore(folder.parent / "before", folder, replace=True)
GROWING["restore anew"] = lambda folder: transfer.restore(folder.parent / "before", folder.parent / "new")


def holds(folder: Path, verb: str) -> list:
    """The index, and what else the verb makes."""
    backup, new = folder.parent / "backup", folder.parent / "new"
    return [
        picture(folder),
        backup.exists(),
        picture(new) if (new / "gallery.db").exists() and verb == "restore anew" else None,
    ]


def until_there_is_room(folder: Path, verb: str, room: Callable[[int], contextlib.AbstractContextManager]) -> int:
    """Does the verb with more and more room until it succeeds; how often it did not."""
    before, failed = picture(folder), 0
    for size in range(0, 8 << 20, 160 << 10):
        try:
            with room(size):
                GROWING[verb](folder)
        except (FaceGalleryError, OSError) as error:
            line = from_os_error(error) if isinstance(error, OSError) else error
            assert isinstance(line, SystemFault) and str(folder.parent) in str(line) and "\n" not in str(line), repr(
                line
            )
            failed += 1
        else:
            return failed
        assert not list(folder.parent.rglob("_tmp-*")) and not (folder.parent / "backup").exists()
        with open_store(folder, write=True) as gallery:
            done = verify(gallery)
            assert done.problems == [] and done.rebuilt == []
        assert verb == "forget" or picture(folder) == before
    raise AssertionError("it never succeeded")


@pytest.mark.parametrize("verb", GROWING)
def test_a_full_disk_is_one_line_and_nothing_is_lost(originals, disk, tmp_path, verb):
    damaged, whole = (copied(originals[1], at) for at in (disk, tmp_path / "whole"))
    for folder in (damaged, whole):
        with open_store(folder) as gallery:
            transfer.backup(gallery, folder.parent / "before")
    failed = until_there_is_room(damaged, verb, lambda size: free(disk, size))
    GROWING[verb](whole)
    assert failed > 0 and holds(damaged, verb) == holds(whole, verb)


@pytest.mark.parametrize("verb", GROWING)
def test_files_that_may_not_grow_are_one_line_and_nothing_is_lost(originals, tmp_path, verb):
    damaged, whole = (copied(originals[1], at) for at in (tmp_path / "limited", tmp_path / "whole"))
    for folder in (damaged, whole):
        with open_store(folder) as gallery:
            transfer.backup(gallery, folder.parent / "before")
    failed = until_there_is_room(damaged, verb, files_of_at_most)
    GROWING[verb](whole)
    assert failed > 0 and holds(damaged, verb) == holds(whole, verb)


# older versions -------------------------------------------------------------


def version_1(folder: Path, rows: list[Row], data: Path | None = None, centre: bool = False) -> Path:
    """What `build` of version 0.1.0 made of rows."""
    folder.mkdir(parents=True)
    db = apsw.Connection(str(folder / "gallery.db"))
    for pragma in ("page_size=65536", "journal_mode=WAL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute(MIGRATIONS[0])
    db.execute("PRAGMA user_version=1")
    people: dict[str, int] = {}
    for id, row in enumerate(rows, 1):
        if row.identity not in people:
            people[row.identity] = len(people) + 1
            db.execute("INSERT INTO people VALUES (?, ?)", (people[row.identity], row.identity))
        vector = row.vector.astype("<f4").tobytes()
        columns = (
            id,
            row.face_id,
            people[row.identity],
            row.image,
            row.image_sha256,
            row.split,
            row.face,
            np.asarray(row.box, "<f4").tobytes(),
            None,
            row.confidence,
            row.sharpness,
            json.dumps(row.extra, ensure_ascii=False, sort_keys=True),
            checksum(id, row.face_id, row.identity, row.image, vector),
        )
        db.execute(f"INSERT INTO faces VALUES ({','.join('?' * len(columns))})", columns)
        db.execute("INSERT INTO vectors VALUES (?, ?)", (id, vector))
        if row.crop is not None:
            db.execute("INSERT INTO crops VALUES (?, ?)", (id, row.crop))
    xb = np.stack([row.vector for row in rows])
    facts: dict[str, object] = (
        {} if not centre else {"mean": xb.astype(np.float64).mean(axis=0).astype("<f8").tobytes()}
    )
    facts |= {
        "generation": 1,
        "spec": synthetic.spec().to_json(),
        "inputs": inputs_1(rows, centre),
        "build": json.dumps({"split": None, "left_out": {}}),
        "source": str(data or "/data/vectors of Ann"),
        "versions": json.dumps(versions()),
    }
    for key, value in facts.items():
        db.execute("INSERT INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))
    db.close()
    built_1(folder, xb, np.array([people[row.identity] for row in rows]), facts)
    return folder


def inputs_1(rows: list[Row], centre: bool) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([synthetic.spec().fingerprint, None, centre]).encode() + b"\n")
    for row in rows:
        digest.update(
            json.dumps([row.face_id, row.identity, row.split, row.image, row.extra], sort_keys=True).encode() + b"\n"
        )
        digest.update(row.vector.tobytes())
    return digest.hexdigest()


def built_1(folder: Path, xb: np.ndarray, owners: np.ndarray, facts: dict) -> None:
    ids = np.arange(1, len(xb) + 1)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(xb.shape[1]))
    index.add_with_ids(derive.centred(xb, np.frombuffer(facts["mean"]) if "mean" in facts else None), ids)
    (folder / "built-1").mkdir()
    faiss.write_index(index, str(folder / "built-1" / "index.faiss"))
    report = {
        "generation": 1,
        "kind": "exact",
        "reason": "inner product with every vector: no recall is lost",
        "n": len(xb),
        "d": xb.shape[1],
        "people": len(set(owners.tolist())),
        "split": None,
        "left_out": {},
        "centred": "mean" in facts,
        "fingerprint": synthetic.spec().fingerprint,
        "inputs": facts["inputs"],
        "sha256": hashlib.sha256((folder / "built-1" / "index.faiss").read_bytes()).hexdigest(),
        "owners": checksum(ids.tobytes(), owners.tobytes()).hex(),
        "versions": versions(),
    }
    (folder / "built-1" / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "index.faiss").symlink_to("built-1/index.faiss")


@pytest.mark.parametrize("crops", [True, False])
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("write", [True, False])
def test_an_index_of_version_1_opens_as_if_it_were_built_today(tmp_path, crops, centre, write, caplog):
    rows = faces()
    for row in rows:
        row.crop = row.crop if crops else None
    today = make(tmp_path / "today", rows, centre=centre)
    old = version_1(tmp_path / "old" / "club", rows, tmp_path / "today" / "vectors", centre)
    open_store(old, write=write).close()
    assert sql(old, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert picture(old) == picture(today)
    left_out = "'salt', 'totals', 'totals_since', 'generation', 'report', 'mean'"
    keys = f"SELECT key, value FROM meta WHERE key NOT IN ({left_out}) ORDER BY key"
    assert sql(old, keys) == sql(today, keys)
    assert [len(sql(index, "SELECT 1 FROM meta WHERE key = 'totals_since'")) for index in (old, today)] == [1, 0]
    columns = (
        "id, face_id, person, image, image_sha256, split, face, box, landmarks, confidence, sharpness, extra, "
        "faces.checksum"
    )
    for query in (
        f"SELECT {columns} FROM faces ORDER BY id",
        "SELECT * FROM vectors ORDER BY id",
        "SELECT * FROM crops ORDER BY id",
    ):
        assert sql(old, query) == sql(today, query)
    with open_store(old) as gallery:
        assert (gallery.generation, gallery.keeps_crops, len(gallery.needed_fact("salt"))) == (2, crops, 32)
        assert verify(gallery).problems == []
    assert files(old) == {"built-2", "gallery.db", "index.faiss"}
    assert os.readlink(old / "index.faiss") == "built-2/index.faiss"
    before = sql(old, "SELECT value FROM meta WHERE key = 'salt'")
    assert picture(old) == picture(today) and sql(old, "SELECT value FROM meta WHERE key = 'salt'") == before, (
        "migrated once"
    )
    assert caplog.records == []
    assert build(tmp_path / "today" / "vectors", old, BuildOptions(centre=centre)).changed is False


def test_what_version_1_did_not_have_works_in_an_index_of_it(tmp_path):
    old = version_1(tmp_path / "club", faces())
    with Searcher(old) as searcher:
        assert {hit.face_id for hit in searcher.search(QUERIES[:1], 9, where=["place=Łódź 3"])[0]} == {
            faces()[3].face_id
        }
    with open_store(old, write=True) as gallery:
        assert gallery.add(faces(1, seed=1)).added == 2 and [change.verb for change in gallery.undo()] == ["add"]
        traces = forget(gallery, "Zoë number 0-7")
        assert finish_pending(gallery) and (done := receipt_of(gallery, traces, {}, pending=False)).found == 0
        assert "data set or photos: /data/vectors of Ann" in done.not_cleaned
        assert gallery.add(faces()).forgotten == 2
        forget(gallery, "Zoë number 0-8")
        transfer.backup(gallery, tmp_path / "backup")
    assert transfer.restore(tmp_path / "backup", old, replace=True).faces == 20


def test_a_version_1_of_someone_is_forgotten_with_the_folder_that_bears_their_name(tmp_path):
    old = version_1(tmp_path / "club", faces(), Path("/data/Zoë number 0-7"))
    with open_store(old, write=True) as gallery:
        traces = forget(gallery, "Zoë number 0-7")
        assert finish_pending(gallery) and receipt_of(gallery, traces, {}, pending=False).found == 0
    assert not any(b"0-7" in path.read_bytes() for path in old.rglob("*") if path.is_file())


def test_a_builder_migrates_too(tmp_path):
    old = version_1(tmp_path / "old" / "club", faces())
    today = make(tmp_path / "today")
    assert build(tmp_path / "today" / "vectors", old).changed is False
    assert picture(old) == picture(today)
    with open_store(old) as gallery:
        assert verify(gallery).problems == []


def test_a_migration_that_was_stopped_before_its_rebuild_is_sound(tmp_path, monkeypatch, caplog):
    old, today = version_1(tmp_path / "old" / "club", faces()), make(tmp_path / "today")
    with monkeypatch.context() as patch:
        patch.setattr(opening, "compact_if_due", lambda gallery: False)
        assert picture(old) == picture(today)
    assert all("missing or damaged" in record.getMessage() for record in caplog.records)
    with open_store(old, write=True) as gallery:
        done = verify(gallery)
        assert done.problems == [] and done.rebuilt == [str(old / "built-1" / "report.json")]
    caplog.clear()
    assert picture(old) == picture(today) and caplog.records == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vectors SET vector = zeroblob(64) WHERE id = 5",
        "DELETE FROM vectors WHERE id = 5",
        "UPDATE people SET name = 'x' WHERE id = 3",
        "UPDATE faces SET person = 7 WHERE id = 5",
        "UPDATE faces SET image = 'other.jpg' WHERE id = 5",
    ],
)
def test_a_changed_row_of_version_1_is_refused_by_name(tmp_path, statement):
    old = version_1(tmp_path / "club", faces())
    sql(old, statement)
    before = sql(old, "SELECT * FROM faces"), sql(old, "SELECT * FROM meta")
    for write in (False, True):
        with pytest.raises(GalleryError, match=rf"gallery\.db is damaged \(face {faces()[4].face_id} was changed\)"):
            open_store(old, write=write)
    assert (
        sql(old, "PRAGMA user_version") == [(1,)]
        and (sql(old, "SELECT * FROM faces"), sql(old, "SELECT * FROM meta")) == before
    )
    with pytest.raises(GalleryError, match="was changed"):
        build(synthetic.write(tmp_path / "v", faces(), extra=["place"]), old)
    assert build(tmp_path / "v", old, BuildOptions(replace=True)).n == 24


def test_a_version_1_that_can_only_be_read_is_one_line(plain, view):
    shutil.rmtree(plain)
    version_1(plain, faces())
    if os.path.islink(view.parent):
        pytest.skip("a file system that can only be read needs root")
    with pytest.raises(SystemFault, match=r"gallery\.db: permission denied"):
        open_store(view)
