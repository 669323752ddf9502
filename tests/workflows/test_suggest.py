"""What `suggest` asks, and that the command that it gives names, leaves out and can be undone."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from facegallery.embedder import draw
from facegallery.embedder.dataset.row import Row
from facegallery.embedder.errors import GalleryError, InputError
from facegallery.indexer.build import build
from facegallery.indexer.opening import open_store
from facegallery.indexer.store.errors import Unknown
from facegallery.indexer.store.unnamed import Place
from facegallery.indexer.upkeep.verify import verify
from facegallery.workflows.suggest import suggest
from facegallery.workflows.unnamed import GroupOptions, group, name_each, reject
from tests import synthetic
from tests.command import run_in_this_process

PEOPLE, PHOTOS, NEW = 4, 3, 2
ROW = draw.TILE + draw.CAPTION + draw.GAP
NAMES = ["Ann", "Ben Ng", "Cleo O'Hara", "Dan"]


def heap() -> list[Row]:
    """Three unnamed faces of each enrolled person and of two others."""
    xb = synthetic.vectors(PEOPLE + NEW, 2 * PHOTOS, d=64).reshape(PEOPLE + NEW, 2 * PHOTOS, -1)[:, PHOTOS:]
    return [
        synthetic.row(f"heap/{person}/{i}.jpg", None, x) for person, some in enumerate(xb) for i, x in enumerate(some)
    ]


@pytest.fixture
def ungrouped(tmp_path) -> Path:
    """A gallery of four people, and unnamed faces."""
    xb = synthetic.vectors(PEOPLE + NEW, 2 * PHOTOS, d=64).reshape(PEOPLE + NEW, 2 * PHOTOS, -1)[:PEOPLE, :PHOTOS]
    rows = [
        synthetic.row(f"{name}/{i}.jpg", name, x)
        for name, some in zip(NAMES, xb, strict=True)
        for i, x in enumerate(some)
    ]
    build(synthetic.write(tmp_path / "vectors", rows, synthetic.spec(64)), tmp_path / "indexes" / "club")
    with open_store(tmp_path / "indexes" / "club", write=True) as gallery:
        gallery.add_unnamed(heap())
    return tmp_path / "indexes" / "club"


@pytest.fixture
def club(ungrouped) -> Path:
    """The same with six groups, each of one person."""
    assert group(ungrouped, GroupOptions(cut=0.4)).groups == PEOPLE + NEW
    return ungrouped


def run(club: Path, command: str) -> dict:
    done = run_in_this_process(*shlex.split(command), "--json", FACEGALLERY_DATA=str(club.parent.parent))
    assert done.code == 0, done.err
    return json.loads(done.out)


def people_of(club: Path) -> dict[str, int]:
    with open_store(club) as gallery:
        assert not verify(gallery).problems
        return dict(gallery.list_people())


def test_a_sheet_asks_for_all_people_at_once_and_its_command_names_each(club):
    sheet, *others = suggest(club)
    assert (sheet.kind, sheet.faces) == ("same people", PEOPLE * PHOTOS) and sheet.chance > 0.9
    assert sorted(one.person for one in sheet.likely) == NAMES and all(one.number for one in sheet.likely)
    assert all(f"{one.person} in group {one.number}" in sheet.question for one in sheet.likely)
    assert [(one.kind, one.faces, one.chance) for one in others] == [("who", PHOTOS, None)] * NEW
    done = run(club, sheet.command)
    assert (done["verb"], done["faces"]) == ("name", PEOPLE * PHOTOS) and sorted(done["people"]) == NAMES
    assert people_of(club) == dict.fromkeys(NAMES, 2 * PHOTOS)
    with open_store(club) as gallery:
        for name in NAMES:
            images = {face["image"] for face in gallery.list_faces(name)}
            assert images == {f"{name}/{i}.jpg" for i in range(3)} | {
                f"heap/{NAMES.index(name)}/{i}.jpg" for i in range(3)
            }
    run(club, "undo club")
    assert people_of(club) == dict.fromkeys(NAMES, PHOTOS) and suggest(club)[0] == sheet


def test_the_faces_of_the_first_question_are_drawn(club, tmp_path):
    done = run_in_this_process("suggest", "club", "--pictures", tmp_path / "q.png", FACEGALLERY_DATA=str(tmp_path))
    assert done.code == 0 and "% likely each" in done.out.splitlines()[0]
    with Image.open(tmp_path / "q.png") as sheet:
        rows, columns = PEOPLE, 4
        assert sheet.size == (columns * (draw.TILE + draw.GAP) + draw.GAP, rows * ROW + draw.GAP)


def test_a_question_for_a_name_is_answered_with_one(club):
    who = suggest(club)[1]
    assert who.question == f"Who is in group {who.likely[0].number}?" and who.likely[0].person is None
    assert run(club, who.command.replace("NAME", "'Eve Li'"))["people"] == ["Eve Li"]
    assert people_of(club) == dict.fromkeys(NAMES, PHOTOS) | {"Eve Li": PHOTOS}


def test_what_is_wrong_is_left_out_and_not_asked_again(club):
    sheet = suggest(club)[0]
    wrong = next(one for one in sheet.likely if one.person == "Ben Ng")
    pair = f"{wrong.number}='Ben Ng'"
    assert pair in sheet.command
    assert run(club, sheet.command.replace(pair, f"--not {pair}"))["faces"] == (PEOPLE - 1) * PHOTOS
    assert people_of(club)["Ben Ng"] == PHOTOS
    later = suggest(club)
    assert wrong.number in {one.number for asked in later for one in asked.likely}
    assert ("Ben Ng", wrong.number) not in {(one.person, one.number) for asked in later for one in asked.likely}
    run(club, "undo club")
    assert suggest(club)[0] == sheet


def test_a_face_that_is_wrong_stays_when_its_group_is_named(club):
    with open_store(club, write=True) as gallery:
        first, *rest = [face.face_id for face in gallery.group(1)]
        done = name_each(gallery, {1: "Eve"}, [(first, "Eve")])
        assert (done.faces, done.people) == (PHOTOS - 1, ("Eve",))
        places = gallery.places([first, *rest])
        assert places == {first: Place(None, 1)} | dict.fromkeys(rest, Place("Eve"))
        with pytest.raises(GalleryError, match="you rejected each"):
            name_each(gallery, {1: "Eve"})
        assert name_each(gallery, {1: "Flo"}).people == ("Flo",)


def test_what_a_group_was_said_not_to_hold_is_said_of_each_person(club):
    with open_store(club, write=True) as gallery:
        face = gallery.group(2)[0].face_id
        reject(gallery, [face])
        name_each(gallery, {1: "Eve", 2: "Flo"})
        assert [said.identity for said in gallery.rejections() if said.face_id == face and said.identity] == ["Flo"]


def test_one_face_is_not_two_people_and_what_is_not_here_is_not_named(club):
    with open_store(club, write=True) as gallery:
        face = gallery.group(1)[0].face_id
        with pytest.raises(InputError, match="Eve and Flo"):
            name_each(gallery, {1: "Eve", face: "Flo"})
        with pytest.raises(Unknown, match="no group 99"):
            name_each(gallery, {1: "Eve", 99: "Flo"})
        with pytest.raises(Unknown, match="no group 99"):
            name_each(gallery, {1: "Eve"}, [(99, "Eve")])
        assert gallery.unnamed == (PEOPLE + NEW) * PHOTOS


@pytest.mark.parametrize("words", ["12", "1 --not 3", "1=Ann 2", "Ann Ben", "1=Ann --not x=Ann"])
def test_a_mistake_is_one_line(club, words):
    done = run_in_this_process("name", "club", *words.split(), FACEGALLERY_DATA=str(club.parent.parent))
    assert done.code == 2 and done.error
    assert people_of(club) == dict.fromkeys(NAMES, PHOTOS)


def test_forgetting_a_person_takes_the_name_out_of_the_log(club):
    run(club, suggest(club)[0].command)
    run(club, "forget club --identity Dan")
    with open_store(club) as gallery:
        people = {name for line in gallery.list_log() for name in line["people"]}
    assert people == set(NAMES) - {"Dan"}


def test_without_groups_there_is_nothing_to_ask(ungrouped):
    with pytest.raises(GalleryError, match="run `group club`"):
        suggest(ungrouped)
