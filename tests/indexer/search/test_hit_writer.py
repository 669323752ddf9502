import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import DataError, InputError, SystemFault
from facegallery.indexer.search import hit_writer
from facegallery.indexer.search.hit_writer import HitWriter
from facegallery.indexer.search.searcher import Hit
from tests import synthetic
from tests.faults import files_of_at_most

NONE = dict.fromkeys(("known", "chance", "margin", "chance_limit", "weak", "stale"))
COLUMNS = [
    "image",
    "face",
    "face_id",
    "identity",
    "outcome",
    "known",
    "chance",
    "margin",
    "rank",
    "hit_identity",
    "score",
    "hit_face_id",
    "hit_image",
    "chance_limit",
    "weak",
    "stale",
    "hit_person_id",
]


def probes(n: int, seed: int = 0) -> list[tuple[Row, list[Hit], dict]]:
    """Each with its hits, none for every fifth."""
    rng = np.random.default_rng(seed)
    found = []
    for i, x in enumerate(synthetic.vectors(n, 1)):
        of_row = [
            Hit(
                j + 1,
                f"Łódź {rng.integers(9)}",
                float(np.float32(rng.normal())),
                rng.bytes(16).hex(),
                f"{j}.jpg",
                f"p{j:015}",
            )
            for j in range(i % 5)
        ]
        verdict = (
            {
                "known": bool(i % 2),
                "chance": float(rng.random()),
                "margin": float(np.float32(rng.random())),
                "chance_limit": 0.125,
                "weak": "only 8 people",
                "stale": None,
            }
            if i % 3
            else NONE
        )
        found.append(
            (
                synthetic.row(f"probe {i}.jpg", f"person {i}" if i % 4 else None, x if i % 5 else None, face=i % 2),
                of_row,
                verdict,
            )
        )
    return found


def expected(found: list[tuple[Row, list[Hit], dict]]) -> list[tuple]:
    lines = []
    for row, of_row, verdict in found:
        told = list(verdict.values())
        probe = (row.image, row.face, row.face_id, row.identity, row.outcome, *told[:3])
        of_hits = [(h.rank, h.identity, h.score, h.face_id, h.image, h.person_id) for h in of_row] or [(None,) * 6]
        lines += [(*probe, *of_hit[:5], *told[3:], of_hit[5]) for of_hit in of_hits]
    return lines


@pytest.mark.parametrize("rows", [1, 7, 1 << 16])
def test_every_hit_is_a_row_and_a_probe_without_one_too(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(hit_writer, "ROWS", rows)
    found, old = probes(60), os.umask(0)
    try:
        with HitWriter(tmp_path / "new" / "hits.parquet") as writer:
            for line in found:
                writer.add(*line)
            assert not (tmp_path / "new" / "hits.parquet").exists(), "it appears whole"
    finally:
        os.umask(old)
    table = pq.read_table(tmp_path / "new" / "hits.parquet")
    assert table.column_names == COLUMNS and [tuple(line.values()) for line in table.to_pylist()] == expected(found)
    assert writer.rows == sum(i % 5 for i in range(60)) and table.num_rows == writer.rows + 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hits.parquet"]
    assert stat.S_IMODE((tmp_path / "new" / "hits.parquet").stat().st_mode) == 0o600


def test_no_probes_give_an_empty_table(tmp_path):
    with HitWriter(tmp_path / "hits.parquet"):
        pass
    assert (
        pq.read_table(tmp_path / "hits.parquet").num_rows == 0
        and pq.read_schema(tmp_path / "hits.parquet").names == COLUMNS
    )


def written_before(path: Path) -> bytes:
    """A file of hits from an earlier run."""
    with HitWriter(path):
        pass
    return path.read_bytes()


@pytest.mark.parametrize("rows", [1, 1 << 16])
def test_an_error_leaves_no_file_and_the_old_one_stays(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(hit_writer, "ROWS", rows)
    old = written_before(tmp_path / "hits.parquet")
    with pytest.raises(DataError, match="in the middle"), HitWriter(tmp_path / "hits.parquet") as writer:
        for line in probes(20):
            writer.add(*line)
        raise DataError("in the middle")
    assert [path.name for path in tmp_path.iterdir()] == ["hits.parquet"] and (
        tmp_path / "hits.parquet"
    ).read_bytes() == old


def test_an_old_file_is_replaced_at_the_end(tmp_path):
    old = written_before(tmp_path / "hits.parquet")
    with HitWriter(tmp_path / "hits.parquet") as writer:
        writer.add(*probes(3)[2])
        assert (tmp_path / "hits.parquet").read_bytes() == old
    assert pq.read_table(tmp_path / "hits.parquet").num_rows == 2


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFault, match="a file stands where a folder is needed"):
        HitWriter(tmp_path / "file" / "hits.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}/folder is something else"), HitWriter(tmp_path / "folder"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def write(folder: Path, n: int) -> None:
    with HitWriter(folder / "hits.parquet") as writer:
        for line in probes(n):
            writer.add(*line)


@pytest.mark.parametrize("rows", [50, 1 << 16])
def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(hit_writer, "ROWS", rows)
    write(tmp_path, 300)
    size = (tmp_path / "hits.parquet").stat().st_size
    (tmp_path / "hits.parquet").unlink()
    for limit in [0, 1, 3, 4, 100, *range(1000, size, size // 9), size - 1]:
        with pytest.raises(SystemFault) as caught, files_of_at_most(limit):
            write(tmp_path, 300)
        assert (
            str(caught.value).startswith(f"{tmp_path}/hits.parquet: the file is larger than")
            and list(tmp_path.iterdir()) == []
        )
    with files_of_at_most(size):
        write(tmp_path, 300)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(hit_writer, "ROWS", 500)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system needs root; test_a_file_that_may_not_grow stands in")
    try:
        with pytest.raises(SystemFault, match=f"{disk}/hits.parquet: .*full"):
            write(disk, 3000)
        assert list(disk.iterdir()) == []
        write(disk, 20)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("ours_before", [False, True])
def test_a_file_that_appears_while_hits_are_written_stays(tmp_path, ours_before):
    path = tmp_path / "hits.parquet"
    if ours_before:
        with HitWriter(path):
            pass
    with pytest.raises(InputError, match="nothing was replaced"), HitWriter(path):
        path.write_text("mine")
    assert path.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["hits.parquet"]
