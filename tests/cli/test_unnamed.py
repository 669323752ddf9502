"""The commands for unnamed faces as a user runs them, on AT&T's photos."""

import json
import shutil

import pytest
from PIL import Image

from facegallery.embedder.dataset.dataset import DataSet

PEOPLE, PHOTOS = 5, 6


@pytest.fixture(scope="module")
def heap(att, tmp_path_factory):
    """Thirty photos of five people in one folder; what is in them only their names say."""
    folder = tmp_path_factory.mktemp("heap")
    for person in range(1, PEOPLE + 1):
        for number in range(1, PHOTOS + 1):
            shutil.copy(att / f"s{person}" / f"{number}.pgm", folder / f"{person}-{number}.pgm")
    return folder


def groups(run) -> dict[int, set[str]]:
    """The photos of each group."""
    numbers = [one["number"] for one in json.loads(run("groups", "album", "--json").out)]
    return {n: {face["image"] for face in json.loads(run("groups", "album", n, "--json").out)} for n in numbers}


def test_a_heap_of_photos_becomes_named_people(run, att, heap, tmp_path):
    added = run("add", "album", heap, "--create")
    assert added.out == "album: 0 faces added, now 0 of 0 people; 30 kept without a person\n"
    assert "`facegallery group album`" in added.err
    grouped = run("group", "album", "--pictures", tmp_path / "groups.png")
    assert "in a group are two people" in grouped.out
    with Image.open(tmp_path / "groups.png") as sheet:
        assert sheet.width > 900
    found = groups(run)
    assert all(len({image[0] for image in images}) == 1 for images in found.values())
    assert sum(map(len, found.values())) >= 27
    answers = 0
    while (asked := json.loads(run("suggest", "album", "--json").out)) and answers < 2 * PEOPLE:
        first = asked[0]
        assert first["command"].startswith("name album ")
        numbers = [one["number"] for one in first["likely"] if one["number"]]
        person = next(iter(found[numbers[0]]))[0]
        of_person = [number for number in numbers if {image[0] for image in found[number]} == {person}]
        assert run("name", "album", *of_person, f"person {person}").code == 0
        answers += 1
    listed = {one["identity"]: one["faces"] for one in json.loads(run("list", "album", "--json").out)}
    assert sum(listed.values()) >= 27 and len(listed) == PEOPLE and answers <= 2 * PEOPLE
    for person in range(1, PEOPLE + 1):
        answer = json.loads(run("search", "album", att / f"s{person}" / "9.pgm", "--json").out)
        assert answer["probes"][0]["faces"][0]["hits"][0]["identity"] == f"person {person}"
    assert run("verify", "album").code == 0


def test_the_same_photos_again_add_nothing(run, heap):
    run("add", "album", heap, "--create")
    again = run("add", "album", heap, "--json")
    done = json.loads(again.out)
    assert (done["added"], done["unnamed"], done["again"]) == (0, 0, 30) and "sface" not in again.err


def test_folders_name_people_unless_nobody_does(run, att, tmp_path):
    photos = tmp_path / "photos"
    (photos / "Ann").mkdir(parents=True)
    shutil.copy(att / "s1" / "1.pgm", photos / "Ann")
    shutil.copy(att / "s2" / "1.pgm", photos)
    done = json.loads(run("add", "album", photos, "--create", "--json").out)
    assert (done["added"], done["unnamed"]) == (1, 1)
    done = json.loads(run("add", "other", photos, "--create", "--names-from", "nobody", "--json").out)
    assert (done["added"], done["unnamed"]) == (0, 2)
    named = json.loads(run("add", "other", photos, "--json").out)
    assert (named["added"], named["again"]) == (1, 1) and "Ann" in run("list", "other").out
    assert run("undo", "other").code == 0 and json.loads(run("list", "other", "--json").out) == []


def test_faces_are_rejected_ignored_and_brought_back(run, heap):
    run("add", "album", heap, "--create")
    run("group", "album")
    before = groups(run)
    number = min(before)
    face_id = json.loads(run("groups", "album", number, "--json").out)[0]["face_id"]
    assert run("reject", "album", face_id).out == "reject: 1 faces\n"
    assert all(face["face_id"] != face_id for face in json.loads(run("groups", "album", number, "--json").out))
    assert run("ignore", "album", number).code == 0 and number not in groups(run)
    assert face_id in run("groups", "album", "--loose").out
    for _ in range(2):
        run("undo", "album")
    refused = run("name", "album", "99", "Ann")
    assert refused.code == 5 and "there is no group 99: see `groups album`" in refused.error
    assert "expected the number of a group" in run("ignore", "album", "Ann").err


def test_unnamed_faces_are_exported_without_an_identity(run, heap, tmp_path):
    run("add", "album", heap, "--create")
    assert run("export", "album", "--out", tmp_path / "out", "--crops").code == 0
    table = DataSet(tmp_path / "out").table(["identity", "image", "crop"])
    assert len(table) == 30 and set(table["identity"].to_pylist()) == {None}
    assert table["crop"].null_count == 0
    copied = json.loads(run("add", "again", tmp_path / "out", "--create", "--json").out)
    assert copied["unnamed"] == 30


def test_search_says_which_unnamed_group_a_face_is_near(run, att, heap):
    run("add", "album", heap, "--create")
    run("group", "album")
    probe = att / "s3" / "9.pgm"
    before = json.loads(run("search", "album", probe, "--json").out)["probes"][0]["faces"][0]
    assert before["hits"] == [] and before["unnamed"] is None
    found = json.loads(run("search", "album", probe, "--unnamed", "-k", "2", "--json").out)["probes"][0]["faces"][0]
    near = found["unnamed"][0]
    assert found["hits"] == [] and len(found["unnamed"]) == 2
    images = groups(run)[near["group"]]
    assert {image[0] for image in images} == {"3"} and near["photos"] == near["faces"] == len(images)
    text = run("search", "album", probe, "--unnamed").out
    assert f"unnamed group {near['group']}: {near['photos']} photos" in text
    run("name", "album", near["group"], "Cid")
    named = json.loads(run("search", "album", probe, "--unnamed", "--json").out)["probes"][0]["faces"][0]
    assert named["hits"][0]["identity"] == "Cid" and near["group"] not in [one["group"] for one in named["unnamed"]]
    refused = run("search", "album", probe, "--unnamed", "--out", heap.parent / "hits.parquet")
    assert refused.code == 2 and "--unnamed or --out" in refused.err
