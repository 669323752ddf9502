"""Data sets that no run wrote: every command that reads one refuses it in one line that names the file."""

import dataclasses
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.plan import numbers, read_plans
from facegallery.embedder.dataset.row import Entry, to_rows
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces.align import from_png, plain, to_png
from facegallery.embedder.spec import SPEC_KEY, CropRule
from tests import crops, synthetic
from tests.command import run_in_this_process

SPEC = synthetic.spec()
CONTRACT = {SPEC_KEY: SPEC.to_json().encode()}
ROWS = synthetic.rows(4, 3, "gallery")
N = len(ROWS)
DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, row in enumerate(ROWS):
        row.crop, row.confidence, row.landmarks = synthetic.png(b"%d" % i), 0.5, list(range(10))
        row.extra = {"tag": "x"}
    return synthetic.write(tmp_path / "vectors", ROWS, extra=["tag"], per_shard=6)


def column(
    name: str, values: Callable[[pa.Table], list], kind: pa.DataType | None = None
) -> Callable[[pa.Table], pa.Table]:
    """Replaces a column."""

    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        array = pa.array(values(table), kind or table.schema.field(name).type)
        return table.set_column(at, pa.field(name, array.type), array)

    return change


def first(name: str, value, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    """Replaces the first value of a column."""
    return column(name, lambda table: [value, *table[name].to_pylist()[1:]], kind)


def described(**changes) -> Callable[[pa.Table], pa.Table]:
    """Another contract, with a fingerprint of its own where it can have one."""
    fields = json.loads(SPEC.to_json()) | changes
    return lambda table: table.replace_schema_metadata({SPEC_KEY: json.dumps(fields)})


def raw_contract(text: str | bytes) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata({SPEC_KEY: text})


def of_first(array: list, value) -> Callable[[pa.Table], list]:
    return lambda table: [array if value is None else value, *table["vector"].to_pylist()[1:]]


def bad_utf8(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("image")
    offsets = pa.py_buffer(np.arange(0, 2 * len(table) + 1, 2, dtype=np.int32).tobytes())
    image = pa.StringArray.from_buffers(len(table), offsets, pa.py_buffer(b"\xff\xfe" * len(table)))
    return table.set_column(at, "image", image)


def a_picture(side: int, mode: str = "RGB") -> bytes:
    sink = io.BytesIO()
    Image.new(mode, (side, side)).save(sink, "png")
    return sink.getvalue()


NAN, UNIT = float("nan"), [1.0] + [0.0] * 15
HOSTILE: dict[str, Callable[[pa.Table], pa.Table]] = {
    "image null": first("image", None),
    "image empty": first("image", ""),
    "image of 1 MB": first("image", "x" * (1 << 20)),
    "image of numbers": column("image", lambda t: list(range(len(t))), pa.int64()),
    "image no UTF-8": bad_utf8,
    "image nested": column("image", lambda t: [["x"]] * len(t), pa.list_(pa.string())),
    "identity of numbers": column("identity", lambda t: list(range(len(t))), pa.int64()),
    "identity of 1 MB": first("identity", "x" * (1 << 20)),
    "identity a struct": column("identity", lambda t: [{"a": 1}] * len(t), pa.struct([("a", pa.int64())])),
    "split of bytes": column("split", lambda t: [b"gallery"] * len(t), pa.binary()),
    "outcome null": first("outcome", None),
    "outcome a text": first("outcome", "ok; DROP TABLE"),
    "face null": first("face", None),
    "face negative": first("face", -2),
    "face huge": first("face", 1 << 40, pa.int64()),
    "face a text": column("face", lambda t: ["0"] * len(t), pa.string()),
    "face_id null": first("face_id", None),
    "face_id a text": first("face_id", "x"),
    "box of three": first("box", [1, 2, 3]),
    "box of NaN": first("box", [1, 2, 3, NAN]),
    "box of null": first("box", [1, 2, 3, None]),
    "box of texts": column("box", lambda t: [["1", "2", "3", "4"]] * len(t), pa.list_(pa.string())),
    "box at infinity": first("box", [1, 2, 3, float("inf")]),
    "landmarks of nine": first("landmarks", [1.0] * 9),
    "confidence NaN": first("confidence", NAN),
    "confidence a text": column("confidence", lambda t: ["0.5"] * len(t), pa.string()),
    "sharpness infinite": first("sharpness", float("inf")),
    "crop no picture": first("crop", b"x" * 100),
    "crop a text": column("crop", lambda t: ["x"] * len(t), pa.string()),
    "crop of 20,000 pixels": first("crop", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0N \0\0N \x08\x02\0\0\0" + bytes(100)),
    "crop of another size": first("crop", a_picture(161)),
    "crop grey": first("crop", a_picture(160, "L")),
    "crop of 5 MB": first("crop", a_picture(160) + bytes(5 << 20)),
    "vector of text": column("vector", lambda t: ["x"] * len(t), pa.string()),
    "vector of texts": column("vector", lambda t: [["x"]] * len(t), pa.list_(pa.string())),
    "vector null": first("vector", None),
    "vector of NaN": column("vector", of_first([NAN] * 16, None)),
    "vector infinite": column("vector", of_first([float("inf")] * 16, None)),
    "vector too short": column("vector", of_first(UNIT[:15], None)),
    "vector empty": column("vector", of_first([], None)),
    "vector long": column("vector", of_first([2.0, *UNIT[1:]], None)),
    "vector with null": column("vector", of_first([None, *UNIT[:15]], None)),
    "vector without ok": first("outcome", "no_face"),
    "no vectors": lambda table: table.drop_columns(["vector"]),
    "no images": lambda table: table.drop_columns(["image"]),
    "doubled": lambda table: table.append_column("image", table["image"]),
    "doubled extra": lambda table: table.append_column("tag", table["tag"]),
    "another column": lambda table: table.append_column("more", table["tag"]),
    "extra of lists": column("tag", lambda t: [["x"]] * len(t), pa.list_(pa.string())),
    "extra of 1 MB": first("tag", "x" * (1 << 20)),
    "no contract": lambda table: table.replace_schema_metadata({}),
    "deep contract": raw_contract(DEEP),
    "deep contract object": raw_contract('{"a":' * 100_000),
    "contract a number": raw_contract("7"),
    "contract no JSON": raw_contract(b"\xff\xfe"),
    "contract of one word": described(parts="x"),
    "contract size a text": described(crop={**dataclasses.asdict(SPEC.crop), "size": "x"}),
    "contract size huge": described(crop={**dataclasses.asdict(SPEC.crop), "size": 10**9}),
    "contract size null": described(crop={**dataclasses.asdict(SPEC.crop), "size": None}),
    "contract margin": described(crop={**dataclasses.asdict(SPEC.crop), "margin": "-1"}),
    "contract weights elsewhere": described(
        parts=[{**dataclasses.asdict(SPEC.parts[0]), "sha256": "../../../../etc/passwd"}]
    ),
    "contract dimension": described(parts=[{**dataclasses.asdict(SPEC.parts[0]), "dimension": 10**12}]),
    "contract detector": described(detector={"min_face": "x"}),
    "contract of another": lambda table: table.replace_schema_metadata({SPEC_KEY: synthetic.spec(8).to_json()}),
    "a row less": lambda table: table.slice(1),
    "no rows": lambda table: table.slice(0, 0),
}


def rewritten(folder: Path, change: Callable[[pa.Table], pa.Table], name: str = "part-00000.parquet") -> Path:
    pq.write_table(change(pq.read_table(folder / name, partitioning=None)), folder / name)
    return folder


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_shard_is_refused_in_one_line(folder, what):
    rewritten(folder, HOSTILE[what])
    with pytest.raises(DataError) as caught:
        DataSet(folder).table()
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and len(line) < 700
    assert "part-0000" in line or "contract" in line


EQUIVALENT: dict[str, Callable[[pa.Table], pa.Table]] = {
    "as it is": lambda table: table,
    "large strings": column("identity", lambda t: t["identity"].to_pylist(), pa.large_string()),
    "large binary": column("crop", lambda t: t["crop"].to_pylist(), pa.large_binary()),
    "large lists": column("vector", lambda t: t["vector"].to_pylist(), pa.large_list(pa.float32())),
    "lists of one size": column("vector", lambda t: t["vector"].to_pylist(), pa.list_(pa.float32(), 16)),
    "wider numbers": column("face", lambda t: t["face"].to_pylist(), pa.int64()),
    "doubles": column("box", lambda t: t["box"].to_pylist(), pa.list_(pa.float64())),
    "dictionaries": lambda table: table.set_column(
        table.schema.get_field_index("identity"), "identity", table["identity"].dictionary_encode()
    ),
    "other order": lambda table: table.select(table.column_names[::-1]),
}


@pytest.mark.parametrize("what", EQUIVALENT)
def test_types_that_hold_the_same_values_are_read(folder, what):
    before = DataSet(folder).table()
    rewritten(folder, EQUIVALENT[what])
    assert DataSet(folder).table().equals(before)
    assert DataSet(folder).table(["vector", "image"]).column_names == ["vector", "image"]


MARKS = {
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "no JSON": "{",
    "deep": DEEP,
    "empty": "",
    "nothing in it": "{}",
    "huge": '{"rows": ' + "9" * 5000 + "}",
}
CHANGED = {
    "rows": ("rows", 7),
    "negative": ("rows", -1),
    "a text": ("rows", "6"),
    "huge rows": ("rows", 10**30),
    "counts": ("outcomes", {"ok": 5}),
    "counts negative": ("outcomes", {"ok": 7, "no_face": -1}),
    "counts a list": ("outcomes", [6]),
    "bytes": ("bytes", None),
    "inputs": ("inputs", 7),
    "fingerprint": ("fingerprint", None),
    "rows a truth": ("rows", True),
}


@pytest.mark.parametrize("what", [*MARKS, *CHANGED])
def test_a_hostile_mark_is_refused_and_written_again_by_the_same_run(folder, what, monkeypatch):
    monkeypatch.setattr("facegallery.embedder.dataset.dataset.PAUSE", 0.0)
    before, path = DataSet(folder).table(), folder / "_part-00000.json"
    mark = json.loads(path.read_bytes())
    path.write_text(MARKS[what] if what in MARKS else json.dumps(mark | dict([CHANGED[what]])))
    with pytest.raises(DataError, match="mark|contract") as caught:
        DataSet(folder).table()
    assert len(str(caught.value).splitlines()) == 1
    if what != "rows":
        synthetic.write(folder, ROWS, extra=["tag"], per_shard=6)
        assert DataSet(folder).table().equals(before)


PLANS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "path null": first("path", None),
    "path of 1 MB": first("path", "x" * (1 << 20)),
    "path of numbers": column("path", lambda t: [1] * len(t), pa.int64()),
    "shard negative": first("shard", -1),
    "shard absurd": first("shard", 2**31 - 1),
    "shard huge": first("shard", 2**40, pa.int64()),
    "shard null": first("shard", None),
    "size a text": column("size", lambda t: ["1"] * len(t), pa.string()),
    "extra deep": first("extra", DEEP),
    "extra a number": first("extra", "7"),
    "extra pairs of numbers": first("extra", "[[1, 2]]"),
    "extra null": first("extra", None),
    "dropped a text": column("dropped", lambda t: ["no"] * len(t), pa.string()),
    "no path": lambda table: table.drop_columns(["path"]),
    "doubled": lambda table: table.append_column("path", table["path"]),
    "options deep": lambda table: table.replace_schema_metadata({b"facegallery.options": DEEP}),
    "options a list": lambda table: table.replace_schema_metadata({b"facegallery.options": "[]"}),
    "no options": lambda table: table.replace_schema_metadata({}),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_hostile_plan_is_refused_in_one_line(folder, what):
    rewritten(folder, PLANS[what], "_plan-0000.parquet")
    with pytest.raises(DataError) as caught:
        DataSetWriter(folder, SPEC, {}, [Entry(row.image, 1, 0) for row in ROWS], WriterOptions(("tag",), 6))
        read_plans(folder)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 700


def test_numbers_of_files_are_plain_digits(tmp_path):
    for name in ("_part-00001.json", "_part-².json", "_part-٣.json", "_part-99999999999999999999.json", "_part-x.json"):
        (tmp_path / name).touch()
    assert numbers(tmp_path, "_part-*.json") == [1]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bytes_give_rows_or_one_line(data):
    """Of marks, plans and shards; whatever they turn into, a reader ends with rows or a DataError."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = synthetic.write(Path(name) / "d", ROWS, extra=["tag"], per_shard=6)
        path = folder / data.draw(st.sampled_from(["part-00000.parquet", "_part-00000.json", "_plan-0000.parquet"]))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            to_rows(DataSet(folder).table())
            read_plans(folder)
        except DataError as error:
            assert len(str(error).splitlines()) == 1
        shutil.rmtree(folder)


def test_other_files_of_json_may_be_nested_as_deeply(tmp_path):
    from facegallery.embedder.errors import ModelError
    from facegallery.embedder.weights import trained_on
    from facegallery.indexer.calibrate import Calibration
    from facegallery.indexer.store import outputs
    from facegallery.indexer.upkeep.receipt import Receipt
    from facegallery.trainer.train import _read_json

    deep = tmp_path / "deep.json"
    deep.write_text(DEEP)
    for read in (Receipt.read, _read_json, lambda path: Calibration.from_json(path.read_text())):
        with pytest.raises(DataError):
            read(deep)
    (tmp_path / trained_on.FILE).write_text(DEEP)
    with pytest.raises(ModelError):
        trained_on.read(tmp_path)
    outputs.list_path(tmp_path).parent.mkdir()
    outputs.list_path(tmp_path).write_text(DEEP)
    assert outputs.read(tmp_path) == []


# crops ----------------------------------------------------------------------


def with_pixels_of(width: int, height: int) -> bytes:
    """A PNG whose header says one size and whose data is none."""
    data = bytearray(a_picture(160))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "png", [b"", b"x" * 99, a_picture(160)[:60], with_pixels_of(20000, 20000), b"GIF89a" + bytes(99), b"%!PS-Adobe"]
)
def test_what_is_no_crop_is_refused(png):
    with pytest.raises(DataError, match="crop"):
        from_png(png)
    with pytest.raises(DataError, match="face of Ann"):
        plain(png, CropRule(), "the face of Ann")


def test_a_crop_has_the_size_of_its_contract():
    with pytest.raises(DataError, match="161 x 161"):
        plain(a_picture(161), CropRule(), "x")
    pixels = crops.picture(1, 1)
    assert (plain(to_png(pixels), CropRule()) == pixels).all()


# whole commands -------------------------------------------------------------


def command(*words: object, **environment: str) -> tuple[int, str]:
    done = run_in_this_process(*words, **environment)
    return done.code, done.err


SOME = (
    "image null",
    "vector of text",
    "doubled",
    "deep contract",
    "box of three",
    "crop no picture",
    "image of 1 MB",
    "vector null",
)


@pytest.mark.parametrize("what", SOME)
def test_build_index_ends_with_3_and_one_line(folder, what):
    code, said = command("build-index", rewritten(folder, HOSTILE[what]), "--name", "x")
    errors = [line for line in said.splitlines() if "people such as" not in line]
    assert code == 3 and len(errors) == 1 and errors[0].startswith("error: expected"), said


@pytest.mark.parametrize(
    "verb", ["search", "add", "evaluate", "evaluate-pairs", "calibrate", "embed", "train", "forget", "quantise"]
)
def test_every_command_that_reads_a_data_set_ends_with_3(folder, tmp_path, verb):
    good = synthetic.write(tmp_path / "good", ROWS, extra=["tag"])
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    assert command("build-index", good, "--name", "x")[0] == 0
    bad = rewritten(folder, HOSTILE["vector null" if verb not in ("embed", "train", "quantise") else "crop no picture"])
    if verb == "evaluate-pairs":
        bad = rewritten(bad, HOSTILE["vector of text"])
    if verb == "forget":
        bad = rewritten(bad, HOSTILE["doubled"])
    words: dict[str, list[object]] = {
        "search": ["search", "x", bad],
        "add": ["add", "x", bad],
        "evaluate": ["evaluate", "x", bad, "--split", "gallery"],
        "evaluate-pairs": ["evaluate-pairs", bad, tmp_path / "pairs.txt"],
        "calibrate": ["calibrate", "x", "--probes", bad],
        "embed": ["embed", bad, "--out", tmp_path / "o"],
        "train": ["train", bad, "--out", tmp_path / "m"],
        "forget": ["forget", "x", "--identity", "person 1", "--also", bad],
        "quantise": ["weights", "quantise", "msceleb", bad],
    }
    code, said = command(*words[verb])
    assert (code in (2, 3) if verb == "quantise" else code == 3) and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("error: expected")
