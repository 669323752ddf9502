"""Who is on photos, where a person is, how alike two faces are, and how a gallery begins."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from facegallery.indexer.opening import create_store
from facegallery.workflows.verdict import judge_pair


@pytest.fixture
def party(att, tmp_path) -> Path:
    """Photos of s1 (two), s2, two strangers, nobody, and one that cannot be read."""
    folder = tmp_path / "party"
    (folder / "late").mkdir(parents=True)
    for name, photo in {"a": "s1/2", "late/a": "s1/3", "b": "s2/2", "x": "s30/1", "y": "s32/1"}.items():
        shutil.copy(att / f"{photo}.pgm", folder / f"{name}.pgm")
    Image.new("RGB", (200, 200), "green").save(folder / "green.png")
    (folder / "broken.jpg").write_text("no photo")
    return folder


@pytest.fixture
def calibrated(run, index) -> str:
    assert run("calibrate", index, "--fpir", "0.1").code == 0
    return index


# who ------------------------------------------------------------------------


def test_who_names_people_with_their_photos_and_counts_strangers(run, party, calibrated):
    found = json.loads(run("who", calibrated, party, "--json").out)
    assert [(one["identity"], one["faces"], one["photos"]) for one in found["people"]] == [
        ("s1", 2, [str(party / "a.pgm"), str(party / "late" / "a.pgm")]),
        ("s2", 1, [str(party / "b.pgm")]),
    ]
    assert found["strangers"] == 2 and found["photos_with_strangers"] == [str(party / "x.pgm"), str(party / "y.pgm")]
    assert (found["photos"], found["without_face"], found["unread"]) == (7, 1, 1)
    lines = run("who", calibrated, party).out.splitlines()
    assert lines[0].startswith("s1: 2 photos") and str(party / "late" / "a.pgm") in lines[0]
    assert lines[2] == "strangers: 2 faces on 2 photos" and lines[3].startswith("7 photos: 2 people")


def test_without_a_calibration_strangers_cannot_be_told(run, party, index):
    done = run("who", index, party, "--json")
    found = json.loads(done.out)
    assert found["strangers"] is None and sum(one["faces"] for one in found["people"]) == 5
    assert "calibrate" in run("who", index, party).out
    by_score = json.loads(run("who", index, party, "--min-score", "0.6", "--json").out)
    assert [one["identity"] for one in by_score["people"]] == ["s1", "s2"] and by_score["strangers"] == 2


def test_two_photos_of_one_name_are_two(run, party, calibrated):
    found = json.loads(run("who", calibrated, party / "a.pgm", party / "late" / "a.pgm", "--json").out)
    assert found["people"][0]["photos"] == [str(party / "a.pgm"), str(party / "late" / "a.pgm")]


def test_who_takes_vectors_and_filters_and_ends_with_3_where_nothing_was_read(run, party, vectors, index):
    found = json.loads(run("who", index, vectors, "--where", "identity=s4", "--json").out)
    assert [(one["identity"], len(one["photos"])) for one in found["people"]] == [("s4", 100)]
    assert run("who", index, party / "broken.jpg").code == 3
    assert run("who", index, party / "nothing.jpg").code == 3
    assert run("who", "nobody", party).code == 5


# where ----------------------------------------------------------------------


def test_where_lists_enrolled_photos_and_those_the_person_is_found_on(run, photos, party, calibrated):
    assert run("add", calibrated, photos / "probe" / "s1" / "4.pgm", "--identity", "s1").code == 0
    found = json.loads(run("where", calibrated, "--identity", " s1 ", party, "--json").out)
    assert found["identity"] == "s1" and (found["photos"], found["unread"]) == (7, 1)
    assert [one["image"] for one in found["enrolled"]] == ["gallery/s1/1.pgm", "4.pgm"]
    listed = json.loads(run("list", calibrated, "--identity", "s1", "--json").out)
    assert [one["face_ids"] for one in found["enrolled"]] == [[face["face_id"]] for face in listed]
    assert [one["image"] for one in found["found"]] == [str(party / "a.pgm"), str(party / "late" / "a.pgm")]
    assert all(one["known"] and one["score"] > 0.6 and len(one["box"]) == 4 for one in found["found"])
    lines = run("where", calibrated, party, "--identity", "s1").out.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("s1: enrolled on 2 photos, found on 2 of 7 photos")


def test_where_without_photos_lists_enrolled_ones(run, party, calibrated):
    done = run("where", calibrated, "--identity", "s2")
    assert done.code == 0 and done.out.splitlines()[0].split() == ["enrolled", "gallery/s2/1.pgm"]
    unknown = run("where", calibrated, "--identity", "nobody")
    assert unknown.code == 5 and "nobody" in unknown.error
    assert run("where", calibrated, party).code == 2
    assert run("where", calibrated, party / "broken.jpg", "--identity", "s2").code == 3
    none = json.loads(run("where", calibrated, party, "--identity", "s1", "--min-score", "0.999", "--json").out)
    assert none["found"] == []


# search ---------------------------------------------------------------------


def test_search_over_several_photos_ends_with_a_summary_by_person(run, party, calibrated):
    done = run("search", calibrated, party, "--k", "1")
    summary = done.err.splitlines()[-4:]
    assert summary[0].startswith("s1: 2 photos") and summary[2] == "strangers: 2 faces on 2 photos"
    assert "strangers:" not in done.out and "strangers:" not in run("search", calibrated, party / "a.pgm").err
    found = json.loads(run("search", calibrated, party, "--json").out)["summary"]
    assert [one["identity"] for one in found["people"]] == ["s1", "s2"] and found["strangers"] == 2
    assert "strangers:" not in run("search", calibrated, party, "--quiet").err


def test_the_ids_that_search_and_list_print_are_those_that_split_takes(run, party, index):
    hit = run("search", index, party / "a.pgm", "--faces", "--k", "1").out.splitlines()[1].split()
    listed = run("list", index, "--identity", "s1").out.split()
    assert hit[2] == listed[0] and len(hit[2]) == 32
    assert hit[2] not in run("search", index, party / "a.pgm", "--k", "1").out
    assert run("split", index, hit[2], "--to", "Ann").code == 0
    assert run("search", index, party / "a.pgm", "--k", "1").out.splitlines()[1].split()[2] == "Ann"


# compare --------------------------------------------------------------------


def test_compare_judges_by_the_calibration_of_an_index(run, photos, calibrated):
    first = photos / "gallery" / "s1" / "1.pgm"
    for other, verdict in (("s1", "same person"), ("s3", "different people")):
        found = json.loads(
            run("compare", first, photos / "probe" / other / "2.pgm", "--name", calibrated, "--json").out
        )
        assert found["verdict"] == verdict and 0 < found["threshold"] < 1 and found["reason"]
        assert (found["score"] >= found["threshold"]) is (verdict == "same person")
    text = run("compare", first, photos / "probe" / "s1" / "2.pgm", "--name", calibrated).out.splitlines()
    assert len(text) == 4 and text[1].startswith(f"{first}: 1 face") and text[3].startswith("same person: ")


def test_no_verdict_without_a_threshold(run, photos, vectors, index):
    pair = photos / "gallery" / "s1" / "1.pgm", photos / "probe" / "s1" / "2.pgm"
    for how, word in (((), "--name"), (("--name", index), f"calibrate {index}")):
        found = json.loads(run("compare", *pair, *how, "--json").out)
        assert found["verdict"] is found["threshold"] is None and word in found["reason"]
        assert run("compare", *pair, *how).out.splitlines()[3].startswith("no verdict: ")
    assert run("build-index", vectors, "--name", "centred", "--centre").code == 0
    assert run("calibrate", "centred", "--fpir", "0.3").code == 0
    assert judge_pair("centred", 0.9).verdict is None and "centred" in judge_pair("centred", 0.9).reason


def test_between_strangers_and_the_threshold_nobody_can_tell(run, calibrated):
    threshold = judge_pair(calibrated, 0.0).threshold
    assert threshold is not None
    assert judge_pair(calibrated, threshold).verdict == "same person"
    assert judge_pair(calibrated, threshold - 1e-4).verdict == "cannot tell"
    assert judge_pair(calibrated, 0.0).verdict == "different people" and judge_pair(calibrated, 0.0).chance == 1.0
    assert "weak" in judge_pair(calibrated, 0.0).reason
    assert run("remove", calibrated, "--identity", "s1").code == 0 == run("remove", calibrated, "--identity", "s2").code
    assert "stale" in judge_pair(calibrated, 0.0).reason


# add --create ---------------------------------------------------------------


def test_a_gallery_begins_with_its_first_photos(run, photos, vectors):
    done = run("add", "new", photos / "gallery", "--create", "--json")
    assert done.code == 0 and json.loads(done.out)["added"] == 10
    info = json.loads(run("info", "new", "--json").out)
    assert (info["people"], info["model"]) == (10, "sface")
    again = json.loads(run("add", "new", photos / "gallery", "--create", "--json").out)
    assert (again["added"], again["again"]) == (0, 10)
    other = run("add", "new", photos / "gallery", "--create", "--model", "casia")
    assert other.code == 5 and "leave the model out" in other.error
    assert run("search", "new", photos / "probe" / "s3" / "2.pgm", "--k", "1").out.splitlines()[1].split()[2] == "s3"
    assert run("calibrate", "new", "--fpir", "0.3").code == 0
    assert run("compact", "new").code == 0 == run("verify", "new").code


def test_a_gallery_begins_with_vectors_or_another_model(run, photos, vectors):
    assert json.loads(run("add", "new", vectors, "--create", "--json").out)["added"] == 10
    done = run("add", "other", photos / "gallery" / "s1", "--identity", "Ann", "--create", "--model", "casia", "--json")
    assert json.loads(done.out)["people"] == 1
    assert json.loads(run("info", "other", "--json").out)["model"] == "casia"
    assert [run("undo", "other").code, run("list", "other").out] == [0, "nobody is enrolled\n"]
    assert run("search", "other", photos / "gallery" / "s1", "--json").code == 0


def test_an_empty_gallery_says_what_to_do(run, photos):
    assert run("add", "new", photos / "gallery" / "s1", "--identity", "Ann", "--create").code == 0
    assert run("remove", "new", "--identity", "Ann").code == 0
    asked = run("search", "new", photos / "gallery" / "s1")
    assert asked.code == 0 and "nobody is enrolled in new: run `add new PHOTOS`" in asked.err
    assert "calibrat" not in asked.err


def test_a_misspelled_name_is_named(run, photos):
    assert run("add", "new", photos / "gallery" / "s1", "--identity", "Zoë Ann", "--create").code == 0
    for given in ("zoe ann", "Zoë An", "ZOË ANN"):
        asked = run("list", "new", "--identity", given)
        assert asked.code == 5 and "did you mean 'Zoë Ann'?" in asked.error
    asked = run("list", "new", "--identity", "Bob")
    assert asked.code == 5 and "did you mean" not in asked.error


def test_a_gallery_whose_making_was_stopped_begins_again(run, photos, own_indexes):
    create_store(own_indexes / "new").close()
    assert run("add", "new", photos).code == 5
    assert json.loads(run("add", "new", photos, "--create", "--json").out)["added"] == 10
    (own_indexes / "new" / "index.faiss").unlink()
    assert json.loads(run("add", "new", photos, "--create", "--json").out)["again"] == 10


@pytest.mark.parametrize("source, options, code", [("nowhere", (), 3), ("empty", (), 3), ("set", ("--model", "x"), 4)])
def test_a_gallery_that_cannot_begin_leaves_nothing(run, photos, own_indexes, tmp_path, source, options, code):
    (tmp_path / "empty").mkdir()
    done = run("add", "new", photos if source == "set" else tmp_path / source, "--create", *options)
    assert done.code == code and done.error and not (own_indexes / "new").exists()
    assert run("add", "new", photos).code == 5, "it does not begin by itself"
