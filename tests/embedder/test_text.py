"""What names, paths and file names hold never reaches a terminal as a control; ordinary Unicode stays."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import unicodedata

import apsw
import pytest

from facegallery.embedder import text
from facegallery.indexer.evaluation.evaluate import predictions
from facegallery.indexer.store.checksums import FACE_COLUMNS, checksum, face_checksum
from facegallery.indexer.store.database import FILE
from tests import synthetic
from tests.command import run_in_this_process
from tests.conftest import ROOT

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\nerror: b\t\x7f\x9b31m\u202egnp\u2066\u2028\u2029\x85[red]$x$&<b>"
RAW = [
    chr(i)
    for i in (*range(32), *range(127, 160), 0x200E, 0x200F, 0x202E, 0x2028, 0x2029, 0x2066, 0x61C)
    if chr(i) != "\n"
]


@pytest.mark.parametrize(
    "name", ["Ada Lovelace", "Zoë Ångström", "王小明", "محمد", "👩‍👩‍👧", "a\\b", "e\u0301", "", "100 % [red] $x$"]
)
def test_ordinary_unicode_stays(name):
    assert text.printable(name) == name and json.loads(text.to_json(name)) == name


def test_every_control_is_escaped_and_nothing_else():
    for code in range(0x110000):
        character, shown = chr(code), text.printable(chr(code))
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(character) in (
            "LRE",
            "RLE",
            "PDF",
            "LRO",
            "RLO",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        ):
            assert shown == (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
        assert shown.encode() and text.unescaped(shown) == character


@pytest.mark.parametrize("name", ["Ann\n", "Ann\r\t", "Ann\U000e0001", "Ann\x00", "Ann\u202e"])
def test_what_a_message_shows_of_a_name_is_read_back(name):
    assert text.unescaped(repr(name)[1:-1]) == name and text.unescaped(text.printable(name)) == name


def test_json_has_no_control_but_its_own_line_feeds_and_means_the_same():
    data = {HOSTILE: [HOSTILE, "\udce9", {"ü": 1}]}
    for indent in (None, 1):
        written = text.to_json(data, indent)
        assert not set(RAW) & set(written) and "ü" in written and written.encode()
        assert json.loads(written) == data


def test_predictions_keep_their_columns():
    answer = _answer()
    lines = predictions([answer], {"top1": 1.0, "top5": 1.0}).splitlines()
    assert len(lines) == 3 and lines[0].count("\t") == 2 and not set(RAW) - {"\t"} & set(lines[0])


def _answer():
    from types import SimpleNamespace

    return SimpleNamespace(image=HOSTILE, identity=HOSTILE, hits=[SimpleNamespace(identity=HOSTILE, score=0.5)])


# commands -------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An index with names and photos of another program or an older version that hold controls; and vectors."""
    folder = tmp_path_factory.mktemp("hostile")
    vectors = synthetic.write(folder / "vectors", synthetic.rows(4, 2))
    run(folder, "build-index", vectors, "--name", "odd")
    with contextlib.closing(apsw.Connection(str(folder / "indexes" / "odd" / FILE))) as db:
        db.execute("UPDATE people SET name = name || ?", (HOSTILE,))
        db.execute("UPDATE faces SET image = image || ?", (HOSTILE,))
        for row in db.execute(
            f"SELECT {', '.join(f'faces.{c}' for c in FACE_COLUMNS)}, name, faces.id "
            "FROM faces JOIN people ON people.id = person"
        ).fetchall():
            db.execute("UPDATE faces SET checksum = ? WHERE id = ?", (face_checksum(row[-2], row[:-2]), row[-1]))
        for row in db.execute("SELECT name, id, person_id, note, extra FROM people JOIN persons USING (id)").fetchall():
            db.execute("UPDATE persons SET checksum = ? WHERE id = ?", (checksum(*row), row[1]))
    shutil.copy(vectors / "part-00000.parquet", folder / os.fsdecode(b"x\x1b[2J\n\xe9.parquet"))
    return folder


def variables(folder):
    return {"FACEGALLERY_INDEXES": str(folder / "indexes"), "FACEGALLERY_DATA": str(folder / "data")}


def run(folder, *arguments):
    """The command in a process of its own."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=os.environ | variables(folder), cwd=folder)


COMMANDS = [
    ("list", "odd"),
    ("list", "odd", "--json"),
    ("list", "odd", "--log"),
    ("list", "odd", "--identity", HOSTILE),
    ("info", "odd"),
    ("search", "odd", "vectors"),
    ("search", "odd", "vectors", "--json"),
    ("search", "odd", HOSTILE),
    ("verify", "odd"),
    ("verify", "odd", "--json"),
    ("remove", "odd", "--identity", f"person 1{HOSTILE}"),
    ("rename", "odd", f"person 2{HOSTILE}", "x"),
    ("undo", "odd"),
    ("add", "odd", "vectors", "--identity", HOSTILE),
    ("split", "odd", "0" * 32, "--to", HOSTILE),
    ("evaluate", "odd", "vectors"),
    ("forget", "odd", "--identity", HOSTILE),
    ("build-index", HOSTILE, "--name", HOSTILE),
    ("embed", HOSTILE, "--out", HOSTILE),
    (HOSTILE,),
    ("weights", "import", HOSTILE, "--name", HOSTILE),
    ("backup", "odd", "--to", HOSTILE),
    ("restore", HOSTILE, "--name", "other"),
    ("export", "odd", "--out", "exported"),
    ("search", "odd", "vectors", "--where", HOSTILE),
    ("keys", "make", HOSTILE),
    ("list", "odd", f"--{HOSTILE}"),
    ("build-index", os.fsdecode(b"x\x1b[2J\n\xe9.parquet"), "--name", "y"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0][:12])
def test_no_command_lets_a_control_through(hostile, command):
    with contextlib.chdir(hostile):
        done = run_in_this_process(*command, **variables(hostile))  # decoded: valid UTF-8
    for written in (done.out, done.err):
        assert not set(RAW) & set(written), written
        assert "\nerror: b" not in written, written
    if "--json" in command:
        json.loads(done.out)
    assert done.code != 70, done.err


def test_a_traceback_is_escaped_too(hostile):
    done = run(hostile, "build-index", HOSTILE, "--name", "x", "--debug")
    assert b"Traceback" in done.stderr and not set(RAW) & set(done.stderr.decode())
