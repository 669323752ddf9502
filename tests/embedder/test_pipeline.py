import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import to_rows, vectors_of
from facegallery.embedder.errors import DataError
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.network.runtime import Embedder
from facegallery.embedder.photos.decoder import Photo
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.pipeline import Options, PhotoStage, chunks, process_crops, process_photos
from facegallery.embedder.spec import CropRule, FaceSpec
from facegallery.embedder.weights import store
from tests.conftest import ROOT
from tests.doses import doses

KILLS = 10
PHOTOS = 120


@pytest.fixture(scope="module")
def embedder():
    return Embedder(store.open_model("msceleb"))


@pytest.fixture(scope="module")
def detector():
    return MtcnnDetector()


@pytest.fixture
def photos(att, tmp_path):
    """12 people x 10 photos, and three that give no face."""
    folder = tmp_path / "photos"
    for i in range(1, 13):
        os.makedirs(folder / f"s{i}")
        for j in range(1, 11):
            shutil.copyfile(att / f"s{i}" / f"{j}.pgm", folder / f"s{i}" / f"{j}.pgm")  # a link would change its ctime
    (folder / "s1" / "broken.jpg").write_bytes(b"x")
    (folder / "s2" / "blank.ppm").write_bytes(b"P6 60 60 255\n" + bytes(60 * 60 * 3))
    (folder / "s3" / "tiny.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))
    return folder


def nothing(done, total):
    pass


def embed(photos, out, embedder, detector, progress=nothing):
    return process_photos(
        list_photos(photos), out, PhotoStage(embedder.spec, detector, embedder, Options()), "embed", progress
    )


def same(a: pa.Table, b: pa.Table) -> None:
    """Equal as DESIGN says: same rows and columns in the same order, vectors within 1e-6."""
    assert a.drop_columns(["vector"]).equals(b.drop_columns(["vector"]))
    assert a["vector"].is_null().equals(b["vector"].is_null())
    assert (
        np.abs(
            vectors_of(a.filter(a["vector"].is_valid()), 128) - vectors_of(b.filter(b["vector"].is_valid()), 128)
        ).max()
        <= 1e-6
    )


def test_every_photo_has_a_row_and_a_bad_one_costs_only_itself(photos, tmp_path, embedder, detector):
    ticks = []
    summary = embed(
        photos, tmp_path / "v", embedder, detector, progress=lambda done, total: ticks.append((done, total))
    )
    table = DataSet(tmp_path / "v").table()
    assert table["image"].to_pylist() == [e.path for e in list_photos(photos).entries] and table.num_rows == PHOTOS + 3
    assert (
        summary.outcomes
        == {"no_face": 1, "ok": PHOTOS, "too_small": 1, "unreadable": 1}
        == DataSet(tmp_path / "v").outcomes
    )
    assert sorted(p.split(" (")[0] for p in summary.problems) == [
        "s1/broken.jpg: unreadable",
        "s2/blank.ppm: no_face",
        "s3/tiny.ppm: too_small",
    ]
    assert ticks[0] == (0, PHOTOS + 3) and ticks[-1] == (PHOTOS + 3, PHOTOS + 3)
    good = table.filter(table["vector"].is_valid())
    assert good.num_rows == PHOTOS and np.abs(np.linalg.norm(vectors_of(good, 128), axis=1) - 1).max() < 1e-5
    assert set(good["face"].to_pylist()) == {0} and len(set(good["face_id"].to_pylist())) == PHOTOS
    assert {r["identity"] for r in table.select(["identity"]).to_pylist()} == {f"s{i}" for i in range(1, 13)}


def test_align_then_embed_gives_the_same_vectors(photos, tmp_path, embedder, detector):
    direct = embed(photos, tmp_path / "direct", embedder, detector)
    stage = PhotoStage(FaceSpec(crop=CropRule(border=20)), detector, None, Options())
    process_photos(list_photos(photos), tmp_path / "crops", stage, "align", nothing)
    summary = process_crops(DataSet(tmp_path / "crops"), tmp_path / "v", embedder, nothing, keep_crops=False)
    assert summary.fingerprint == direct.fingerprint and summary.outcomes == direct.outcomes
    a, b = DataSet(tmp_path / "direct").table(), DataSet(tmp_path / "v").table()
    same(a.drop_columns(["crop"]), b.drop_columns(["crop"]))
    assert b["crop"].null_count == b.num_rows and DataSet(tmp_path / "v").spec.crop.border == 20
    with pytest.raises(DataError, match="has none"):
        process_crops(DataSet(tmp_path / "v"), tmp_path / "w", embedder, nothing)


def test_all_faces_of_a_photo(att, tmp_path, detector):
    from PIL import Image

    one, two = (np.asarray(Image.open(att / f"s{i}" / "1.pgm")) for i in (1, 2))
    (tmp_path / "p" / "Ann").mkdir(parents=True)
    Image.fromarray(np.hstack([one, np.full((112, 60), 128, np.uint8), two])).save(tmp_path / "p" / "Ann" / "both.png")
    for all_faces, expected in ((True, [(0, "Ann"), (1, None)]), (False, [(0, "Ann")])):
        stage = PhotoStage(FaceSpec(), detector, None, Options(all_faces=all_faces))
        summary = process_photos(list_photos(tmp_path / "p"), tmp_path / f"c{all_faces}", stage, "align", nothing)
        assert summary.unsure == ["Ann/both.png"] and any("'Ann/both.png'" in note for note in summary.notes)
        assert summary.understood["text"] == "1 person from folders such as 'Ann'"
        rows = DataSet(tmp_path / f"c{all_faces}").table(["face", "identity", "box", "landmarks"]).to_pylist()
        assert [(r["face"], r["identity"]) for r in rows] == expected
        assert all(r["box"][0] <= r["landmarks"][0] <= r["box"][2] and len(r["landmarks"]) == 10 for r in rows)
        (first, *_) = to_rows(DataSet(tmp_path / f"c{all_faces}").table())
        boxes = [
            face.box
            for face in detector([np.asarray(Image.open(tmp_path / "p" / "Ann" / "both.png").convert("RGB"))])[0]
        ]
        areas = sorted((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
        assert first.photo_faces == 2 and first.is_unsure
        assert first.largest_other in (
            pytest.approx(areas[0] / areas[1], rel=1e-4),
            pytest.approx(areas[1] / areas[0], rel=1e-4),
        )


def test_a_photo_of_one_face_is_sure(photos, tmp_path, detector):
    summary = process_photos(
        list_photos(photos), tmp_path / "c", PhotoStage(FaceSpec(), detector, None, Options()), "align", nothing
    )
    rows = [row for row in to_rows(DataSet(tmp_path / "c").table()) if row.outcome == "ok"]
    assert {(row.photo_faces, row.largest_other, row.is_unsure) for row in rows if row.photo_faces == 1} == {
        (1, 0, False)
    }
    assert len(summary.unsure) == sum(row.is_unsure for row in rows)


def test_the_homeworks_way_with_no_face(photos, tmp_path, detector):
    stage = PhotoStage(FaceSpec(crop=CropRule(margin="32px", no_face="whole")), detector, None, Options())
    summary = process_photos(list_photos(photos), tmp_path / "c", stage, "align", nothing)
    assert summary.outcomes == {"ok": PHOTOS + 1, "too_small": 1, "unreadable": 1}
    (row,) = (r for r in DataSet(tmp_path / "c").table().to_pylist() if r["image"] == "s2/blank.ppm")
    assert row["box"] == [0, 0, 60, 60] and row["landmarks"] is None and row["confidence"] == 0


def test_chunks_are_bounded_in_pixels():
    def photo(name, side):
        return Photo(name, "ok", pixels=np.zeros((side, side, 3), np.uint8) if side else None)

    small, large = [photo(str(i), 250) for i in range(100)], photo("large", 3000)
    sizes = [len(c) for c in chunks(iter([*small, large, photo("bad", 0), *small]))]
    assert sizes == [32, 32, 32, 4, 1, 33, 32, 32, 4]


KILLED = """
import sys
from pathlib import Path
from facegallery.embedder import photo_stage, pipeline
from facegallery.embedder.network import quiet
from facegallery.embedder.weights import store
quiet.import_tensorflow()
from facegallery.embedder.faces.mtcnn import MtcnnDetector
from facegallery.embedder.photos.listing import list_photos
from facegallery.embedder.network.runtime import Embedder
photo_stage.MANY = 0  # processes of their own, which have to end too
photo_stage.CHUNK_PIXELS = 16 * 92 * 112
embedder = Embedder(store.open_model("msceleb"))
stage = pipeline.PhotoStage(embedder.spec, MtcnnDetector(), embedder, pipeline.Options())
print("ready", flush=True)
pipeline.process_photos(list_photos(sys.argv[1]), Path(sys.argv[2]), stage, "embed", lambda done, total: None, 16)
print("done", flush=True)
"""


def start(photos, out):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(photos), str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def shards(folder) -> int:
    return len([*folder.glob("part-*.parquet")])


@pytest.mark.parametrize("kills", doses(4, KILLS))
def test_kill_9_at_random_moments_loses_and_doubles_nothing(photos, tmp_path, kills):
    whole = start(photos, tmp_path / "whole")
    assert whole.wait(120) == 0
    chance, killed, halfway, out = random.Random(0), 0, 0, tmp_path / "killed"
    for i in range(kills):
        process, before = start(photos, out), shards(out)
        while i % 2 and shards(out) == before and process.poll() is None:  # every other time once a shard was written
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02 if i % 2 else 1))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        halfway += 0 < shards(out) < shards(tmp_path / "whole")
    assert killed >= kills // 2 and halfway >= kills // 5
    last = start(photos, out)
    assert last.wait(120) == 0
    whole.stdout.close(), last.stdout.close()
    same(DataSet(tmp_path / "whole").table(), DataSet(out).table())
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in out.iterdir() if not p.name.startswith("_tmp"))
