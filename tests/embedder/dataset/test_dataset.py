import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import Entry, Row, face_id, schema_of, to_rows, to_table, vectors_of
from facegallery.embedder.dataset.writer import DataSetWriter, WriterOptions
from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import CropRule, FaceSpec, Part
from tests import synthetic

SPEC = FaceSpec()


def entries(n: int, size: int = 1) -> list[Entry]:
    return [Entry(f"{i}.jpg", size, 0) for i in range(n)]


def fill(writer: DataSetWriter, label: str = "ok") -> list[int]:
    done = []
    for shard, inputs in writer.pending():
        kept = writer.kept(shard)
        rows = [row for e in inputs for row in (kept.get(e.path) or [Row(e.path, label, f"{e.size}")])]
        writer.write(shard, to_table(rows, SPEC), 0.0, {})
        done.append(shard)
    return done


def images(folder) -> list[str]:
    return DataSet(folder).table(["image"])["image"].to_pylist()


def test_rows_survive_a_round_trip():
    vector = np.asarray([0.6, 0.8], np.float32)
    row = Row(
        "a/ü.jpg",
        "ok",
        "ff",
        "Ann",
        "gallery",
        0,
        [1, 2, 3, 4.5],
        list(range(10)),
        0.5,
        2.0,
        b"png",
        vector,
        {"tag": "x"},
    )
    table = to_table([row, Row("b.jpg", "no_face")], SPEC, ["tag"])
    back = to_rows(table)
    assert (
        back[0].box == [1, 2, 3, 4.5]
        and back[0].extra == {"tag": "x"}
        and back[1].face == -1
        and back[1].vector is None
    )
    assert table["face_id"].to_pylist() == [face_id("ff", 0), face_id("b.jpg", -1)]
    assert len(face_id("ff", 0)) == 32 and face_id("ff", 0) != face_id("ff", 1)
    assert FaceSpec.from_json(table.schema.metadata[b"facegallery.spec"]) == SPEC


def test_a_data_set_of_an_earlier_version_is_read_and_added_to(tmp_path):
    fill(DataSetWriter(tmp_path, SPEC, {}, entries(2), WriterOptions(per_shard=2)))
    path = tmp_path / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["photo_faces", "largest_other"]), path)
    mark = json.loads((tmp_path / "_part-00000.json").read_text()) | {"bytes": path.stat().st_size}
    (tmp_path / "_part-00000.json").write_text(json.dumps(mark))
    assert fill(DataSetWriter(tmp_path, SPEC, {}, entries(3), WriterOptions(per_shard=2))) == [1]
    assert [row.photo_faces for row in to_rows(DataSet(tmp_path).table())] == [None, None, None] and DataSet(
        tmp_path
    ).extra == []


def test_a_data_set_under_the_earlier_name_of_the_package_is_read_and_added_to(tmp_path):
    fill(DataSetWriter(tmp_path, SPEC, {"margin": 1}, entries(2), WriterOptions(per_shard=2)))
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path)
        metadata = {key.replace(b"facegallery", b"facedb"): value for key, value in table.schema.metadata.items()}
        assert metadata != table.schema.metadata
        pq.write_table(table.replace_schema_metadata(metadata), path)
    path = tmp_path / "part-00000.parquet"
    mark = json.loads((tmp_path / "_part-00000.json").read_text()) | {"bytes": path.stat().st_size}
    (tmp_path / "_part-00000.json").write_text(json.dumps(mark))
    with pytest.raises(DataError, match="margin"):
        DataSetWriter(tmp_path, SPEC, {"margin": 2}, entries(3), WriterOptions(per_shard=2))
    assert fill(DataSetWriter(tmp_path, SPEC, {"margin": 1}, entries(3), WriterOptions(per_shard=2))) == [1] and images(
        tmp_path
    ) == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
    ]


def test_inputs_that_are_another_persons_now_are_known_and_made_again(tmp_path):
    fill(DataSetWriter(tmp_path, SPEC, {}, [Entry("2019/Ann/1.jpg", 1, 0, "2019"), Entry("Bob/1.jpg", 1, 0, "Bob")]))
    now = [Entry("2019/Ann/1.jpg", 1, 0, "Ann"), Entry("Bob/1.jpg", 2, 0, "Bob")]
    writer = DataSetWriter(tmp_path, SPEC, {}, now)
    assert [(old.identity, new.identity) for old, new in writer.relabelled] == [("2019", "Ann")] and fill(writer) == [0]
    assert DataSetWriter(tmp_path, SPEC, {}, now).relabelled == []


def test_the_users_columns_may_not_take_ours():
    with pytest.raises(DataError, match="'vector'"):
        schema_of(SPEC, ["vector"])


@pytest.mark.parametrize("bad", [[3.0, 4.0], [1.0], [float("nan"), 1.0]])
def test_vectors_are_checked(bad):
    table = to_table(
        [Row("a", "ok", vector=np.asarray([0.6, 0.8], np.float32)), Row("b", "ok", vector=np.asarray(bad, np.float32))],
        SPEC,
    )
    with pytest.raises(DataError, match="vectors of"):
        vectors_of(table, 2)
    assert vectors_of(table.slice(0, 1), 2).tolist() == [[np.float32(0.6), np.float32(0.8)]]


def test_a_folder_is_plain_parquet_and_the_same_run_again_does_nothing(tmp_path):
    assert fill(DataSetWriter(tmp_path / "d", SPEC, {}, entries(5), WriterOptions(per_shard=2))) == [0, 1, 2]
    assert pa.dataset.dataset(tmp_path / "d").count_rows() == 5
    assert images(tmp_path / "d") == [f"{i}.jpg" for i in range(5)]
    assert fill(DataSetWriter(tmp_path / "d", SPEC, {}, entries(5), WriterOptions(per_shard=2))) == []
    assert (
        oct((tmp_path / "d").stat().st_mode)[-3:] == "700"
        and oct((tmp_path / "d" / "part-00000.parquet").stat().st_mode)[-3:] == "600"
    )


def test_new_changed_and_vanished_inputs(tmp_path):
    fill(DataSetWriter(tmp_path, SPEC, {}, entries(5), WriterOptions(per_shard=2)))
    now = [Entry("0.jpg", 9, 0), *entries(5)[2:], Entry("new.jpg", 1, 0)]  # 0 changed, 1 vanished
    writer = DataSetWriter(tmp_path, SPEC, {}, now, WriterOptions(per_shard=2))
    assert writer.vanished == ["1.jpg"] and not writer.all_vanished
    assert fill(writer) == [0, 3]
    table = DataSet(tmp_path).table()
    assert table["image"].to_pylist() == [f"{i}.jpg" for i in range(5)] + ["new.jpg"]
    assert table["image_sha256"].to_pylist()[:2] == ["9", "1"]
    assert fill(DataSetWriter(tmp_path, SPEC, {}, now, WriterOptions(per_shard=2, prune=True))) == [0]
    assert images(tmp_path) == ["0.jpg", "2.jpg", "3.jpg", "4.jpg", "new.jpg"]
    assert fill(DataSetWriter(tmp_path, SPEC, {}, now, WriterOptions(per_shard=2))) == []
    assert fill(DataSetWriter(tmp_path, SPEC, {}, entries(5), WriterOptions(per_shard=2))) == [
        0
    ]  # 1 is back, 0 as it was
    assert sorted(images(tmp_path)) == sorted([*(f"{i}.jpg" for i in range(5)), "new.jpg"])


def test_a_shard_without_its_mark_or_of_another_length_is_written_again(tmp_path):
    fill(DataSetWriter(tmp_path, SPEC, {}, entries(6), WriterOptions(per_shard=2)))
    (tmp_path / "_part-00001.json").unlink()
    with open(tmp_path / "part-00002.parquet", "r+b") as file:
        file.truncate(100)
    assert DataSet(tmp_path).marks.keys() == {0, 2}
    with pytest.raises(DataError, match="part-00002.parquet is missing or damaged"):
        DataSet(tmp_path).table()
    assert fill(DataSetWriter(tmp_path, SPEC, {}, entries(6), WriterOptions(per_shard=2))) == [1, 2]
    assert len(images(tmp_path)) == 6


def test_another_contract_or_option_is_refused_by_name(tmp_path):
    DataSetWriter(tmp_path, SPEC, {"all faces": False}, entries(1))
    with pytest.raises(DataError, match="margin was 0.25 and is now 32px"):
        DataSetWriter(tmp_path, FaceSpec(crop=CropRule(margin="32px")), {"all faces": False}, entries(1))
    with pytest.raises(DataError, match="all faces was False and is now True"):
        DataSetWriter(tmp_path, SPEC, {"all faces": True}, entries(1))


def test_another_model_is_refused_by_its_name(tmp_path):
    made, other = (
        FaceSpec(parts=(Part(name, mark * 32, synthetic.D, "fixed"),))
        for name, mark in (("msceleb", "ab"), ("casia", "cd"))
    )
    synthetic.write(tmp_path / "v", synthetic.rows(2, 2), made)
    with pytest.raises(DataError, match="msceleb.*casia"):
        DataSetWriter(tmp_path / "v", other, {}, entries(1))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        DataSetWriter(tmp_path, SPEC, {}, entries(1))
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_marks_say_what_happened(tmp_path):
    writer = DataSetWriter(tmp_path, SPEC, {}, entries(2))
    table = to_table([Row("0.jpg", "ok"), Row("1.jpg", "no_face")], SPEC)
    writer.write(0, table, 1.5, {"numpy": "2"})
    mark = json.loads((tmp_path / "_part-00000.json").read_text())
    assert (
        mark["outcomes"] == {"no_face": 1, "ok": 1}
        and mark["fingerprint"] == SPEC.fingerprint
        and mark["versions"] == {"numpy": "2"}
    )
    assert DataSet(tmp_path).outcomes == {"no_face": 1, "ok": 1}


def test_parquet_of_others_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="found none"):
        DataSet(tmp_path)
    with pytest.raises(DataError, match="is not there"):
        DataSet(tmp_path / "nowhere")
    fill(DataSetWriter(tmp_path, SPEC, {}, entries(1)))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(DataError, match="no.*contract|has none"):
        DataSet(tmp_path)
