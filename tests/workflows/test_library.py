"""Which photos show whom, when and where: compared with loops over what was put in."""

import hashlib
import json
import random
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from facegallery.embedder.errors import DataError, InputError
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.store.photos import PhotoRow
from facegallery.indexer.store.totals import PERSON_TABLES
from facegallery.indexer.store.unnamed import Arrangement, Place
from facegallery.workflows import enrol
from facegallery.workflows.indexes import create_gallery
from facegallery.workflows.library import PhotoQuestion, distance, draw_photos, photos
from tests import synthetic
from tests.command import run_in_this_process as run
from tests.embedder.photos.test_place import exif as exif_of_place
from tests.indexer.store.test_totals import sql

D, N = 16, 60
PEOPLE = ("Ann", "Bob", "Cem")
BERLIN, POTSDAM = (52.52, 13.405), (52.39, 13.064)


def hash_of(i: int) -> str:
    return hashlib.sha256(b"%d" % i).hexdigest()


class Fact:
    """What a photo shows, and what is known of it."""

    def __init__(self, i: int, draw: random.Random):
        self.image, self.sha256 = f"{i % 7}/{i}.jpg", hash_of(i)
        self.people = {name for name in PEOPLE if draw.random() < 0.4}
        self.loose, self.ignored = draw.randrange(3), draw.randrange(2)
        self.taken = None if draw.random() < 0.2 else datetime(2018, 6, 1) + timedelta(days=draw.randrange(900))
        self.place = draw.choice([None, BERLIN, POTSDAM, (-33.9, 151.2)])

    def row(self) -> PhotoRow:
        latitude, longitude = self.place or (None, None)
        taken = self.taken and self.taken.isoformat()
        return PhotoRow(self.image, f"/a/{self.image}", self.sha256, 1, 1, 9, 9, taken, latitude, longitude, "ok")


FACTS = [Fact(i, random.Random(i)) for i in range(N)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder, seed = tmp_path_factory.mktemp("library"), iter(range(10_000))

    def face(fact, name, number):
        x = synthetic.vectors(1, 1, D, seed=next(seed))[0]
        return synthetic.row(fact.image, name, x, image_sha256=fact.sha256, face=number, crop=synthetic.png(b"x"))

    named = [face(f, name, n) for f in FACTS for n, name in enumerate(sorted(f.people))]
    build(synthetic.write(folder / "vectors", named, synthetic.spec(D)), folder / "club")
    with open_store(folder / "club", write=True) as store:
        store.add_unnamed([face(f, None, 10 + n) for f in FACTS for n in range(f.loose)])
        ignored = [face(f, None, 20 + n) for f in FACTS for n in range(f.ignored)]
        store.add_unnamed(ignored)
        store.arrange("ignore", Arrangement({row.face_id: Place(None, None, "ignored") for row in ignored}))
        store.note_photos(fact.row() for fact in FACTS)
    return folder / "club"


@pytest.fixture
def gallery(made):
    with open_store(made) as store:
        yield store


QUESTIONS = [
    {},
    {"identities": ("Ann",)},
    {"identities": ("Ann", "Bob")},
    {"identities": ("Ann", "Bob", "Cem")},
    {"identities": ("Ann",), "without": ("Bob",)},
    {"without": ("Ann", "Cem")},
    {"unnamed": True},
    {"identities": ("Cem",), "unnamed": True, "year": 2019},
    {"year": 2020},
    {"since": "2019-02", "until": "2019-03"},
    {"since": "2019-02-10", "year": 2019},
    {"near": BERLIN, "within": 1.0},
    {"near": BERLIN, "within": 40.0, "identities": ("Bob",)},
]


def fits(fact: Fact, asked: dict) -> bool:
    day = fact.taken and fact.taken.date().isoformat()
    return all(
        (
            set(asked.get("identities", ())) <= fact.people,
            not set(asked.get("without", ())) & fact.people,
            not asked.get("unnamed") or fact.loose > 0,
            "year" not in asked or (day is not None and day[:4] == str(asked["year"])),
            "since" not in asked or (day is not None and day >= asked["since"]),
            "until" not in asked or (day is not None and day[: len(asked["until"])] <= asked["until"]),
            "near" not in asked
            or (fact.place is not None and (fact.place == BERLIN or (asked["within"] > 30 and fact.place == POTSDAM))),
        )
    )


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_photos_are_those_that_a_loop_finds(gallery, asked):
    found = photos(gallery, PhotoQuestion(**asked))
    wanted = [fact for fact in FACTS if fits(fact, asked)]
    assert {photo.image for photo in found} == {fact.image for fact in wanted} and found.total == len(wanted)
    by_image = {fact.image: fact for fact in FACTS}
    for photo in found:
        fact = by_image[photo.image]
        assert photo.people == tuple(sorted(fact.people)) and photo.unnamed == fact.loose
        assert len(photo.face_ids) == len(fact.people) + fact.loose + fact.ignored
        assert photo.path == f"/a/{fact.image}" and photo.taken == (fact.taken and fact.taken.isoformat())
    dates = [photo.taken for photo in found if photo.taken is not None]
    assert dates == sorted(dates) and [photo.taken for photo in found[: len(dates)]] == dates
    assert found.to_arrow().num_rows == len(found)


def test_what_has_no_date_or_place_is_counted(gallery):
    assert photos(gallery, PhotoQuestion(year=2019)).undated == sum(fact.taken is None for fact in FACTS)
    assert photos(gallery, PhotoQuestion(near=BERLIN)).unplaced == sum(fact.place is None for fact in FACTS)


def test_a_limit_shows_the_first_and_counts_all(gallery):
    every, few = photos(gallery), photos(gallery, PhotoQuestion(limit=5))
    assert few.photos == every[:5] and few.total == N


def test_a_gallery_of_an_earlier_version_answers_without_dates(made, tmp_path):
    shutil.copytree(made, tmp_path / "club", symlinks=True)
    later = (f"DROP TABLE {table}" for table in ("photos", *PERSON_TABLES))
    sql(tmp_path / "club", *later, "PRAGMA user_version=7")
    with open_store(tmp_path / "club") as store:
        found = photos(store, PhotoQuestion(identities=("Ann", "Bob")))
        assert {photo.image for photo in found} == {f.image for f in FACTS if {"Ann", "Bob"} <= f.people}
        assert all((photo.path, photo.taken) == (None, None) for photo in found)
        assert photos(store, PhotoQuestion(("Ann",), year=2019)).undated == sum("Ann" in f.people for f in FACTS)


@pytest.mark.parametrize(
    "asked",
    [
        {"since": "May"},
        {"until": "2019-13"},
        {"since": "2020", "until": "2019"},
        {"year": 2019, "since": "2020"},
        {"near": (91.0, 0.0)},
        {"near": BERLIN, "within": 0.0},
        {"limit": 0},
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(asked):
    with pytest.raises(InputError, match="expected"):
        PhotoQuestion(**asked)


def test_somebody_who_is_not_there_is_said_with_who_is_like_them(gallery):
    with pytest.raises(Unknown, match="did you mean 'Ann'"):
        photos(gallery, PhotoQuestion(identities=("Anne",)))
    with pytest.raises(Unknown, match="did you mean 'Bob'"):
        photos(gallery, PhotoQuestion(without=("Bop",)))


def test_distances_are_those_of_the_earth():
    assert distance(BERLIN, POTSDAM) == pytest.approx(27.2, abs=0.3)  # by any map
    assert distance((0.0, 179.9), (0.0, -179.9)) == pytest.approx(22.24, abs=0.1)
    assert distance((90.0, 0.0), (-90.0, 0.0)) == pytest.approx(20015, abs=1) and distance(BERLIN, BERLIN) == 0


def test_a_picture_of_no_photos_is_refused(made, gallery, tmp_path):
    with pytest.raises(DataError, match="none fit"):
        draw_photos(made, tmp_path / "sheet.png", photos(gallery, PhotoQuestion(year=1999)))


# photos that `add` takes in --------------------------------------------------


@pytest.fixture(scope="module")
def album(att, tmp_path_factory) -> Path:
    """Two people, a photo with date and place, a copy, one without a face and one that is broken."""
    folder = tmp_path_factory.mktemp("album")
    for who in ("s1", "s2"):
        (folder / who).mkdir()
        shutil.copy(att / who / "1.pgm", folder / who / "1.pgm")
    place = Image.Exif()
    place.load(exif_of_place(*BERLIN))
    place.get_ifd(0x8769)[0x9003] = "2019:05:01 10:11:12"
    with Image.open(att / "s1" / "2.pgm") as photo:
        photo.convert("RGB").save(folder / "s1" / "2.jpg", exif=place, quality=95)
    shutil.copy(folder / "s1" / "2.jpg", folder / "s1" / "copy.jpg")
    Image.new("RGB", (300, 200), (9, 99, 9)).save(folder / "s2" / "green.png")
    (folder / "s2" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


@pytest.fixture(scope="module")
def root(album, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    create_gallery(folder / "club")
    enrol.add(folder / "club", album)
    return folder


def test_add_notes_every_photo_once(root, album):
    with open_store(root / "club") as store:
        rows = {row.image: row for row in store.photos()}
    assert rows.keys() == {path.relative_to(album).as_posix() for path in album.rglob("*.*")}
    for image, row in rows.items():
        file, data = album / image, (album / image).read_bytes()
        assert (row.path, row.sha256) == (str(file), hashlib.sha256(data).hexdigest())
        assert (row.bytes, row.mtime_ns) == (len(data), file.stat().st_mtime_ns)
    assert {image: row.outcome for image, row in rows.items() if row.outcome != "ok"} == {
        "s2/green.png": "no_face",
        "s2/broken.jpg": "unreadable",
    }
    dated = rows["s1/2.jpg"]
    assert (dated.width, dated.height, dated.taken) == (92, 112, "2019-05-01T10:11:12")
    assert (dated.latitude, dated.longitude) == pytest.approx(BERLIN, abs=1e-6)
    assert (rows["s2/green.png"].width, rows["s2/broken.jpg"].width) == (300, None)


def test_photos_of_an_earlier_gallery_get_dates_when_add_sees_them_again(root, album, tmp_path):
    shutil.copytree(root / "club", tmp_path / "club", symlinks=True)
    later = (f"DROP TABLE {table}" for table in ("photos", *PERSON_TABLES))
    sql(tmp_path / "club", *later, "PRAGMA user_version=7")
    done = enrol.add(tmp_path / "club", album)
    assert (done.added, done.again) == (0, 4)
    with open_store(tmp_path / "club") as store, open_store(root / "club") as before:
        assert {row.path: row for row in store.photos()} == {row.path: row for row in before.photos()}


def test_the_command_lists_people_dates_places_and_paths(root, album, tmp_path):
    env = {"FACEGALLERY_INDEXES": str(root)}
    text = run("photos", "club", "--identity", "s1", "--year", "2019", **env)
    found = json.loads(run("photos", "club", "--near", "52.52,13.4", "--within", "2", "--json", **env).out)
    paths = run("photos", "club", "--without", "s1", "--paths", "--pictures", tmp_path / "sheet.jpg", **env)
    wrong = run("photos", "club", "--within", "2", **env)
    assert "2019-05-01 10:11  52.52000,13.40500  s1" in text.out and "left out" in text.err
    assert found["total"] == 1 and len(found["photos"][0]["copies"]) == 1
    assert set(paths.out.split()) == {str(album / "s2" / name) for name in ("1.pgm", "green.png", "broken.jpg")}
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size[0] > 3 * 160
    assert wrong.code == 2 and "--near" in wrong.error


def test_a_thumbnail_is_drawn_of_the_photo_itself(root, album, tmp_path):
    with open_store(root / "club") as store:
        found = photos(store, PhotoQuestion(("s2",)))
    draw_photos(root / "club", tmp_path / "sheet.png", found)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((80, 80)) != (255, 255, 255)
