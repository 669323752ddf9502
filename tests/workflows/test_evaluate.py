"""`evaluate` and `evaluate-pairs` as a user runs them, on data sets of made-up vectors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.dataset.row import to_rows
from facegallery.embedder.files import make_folder
from facegallery.embedder.weights import trained_on
from tests import synthetic


def people(
    first: int, last: int, photos: int, split: str | None, d: int = synthetic.D, spread: float = 0.35, seed: int = 1
) -> list:
    """So many photos of each of some of a hundred made-up people; the same photos for every d and spread."""
    centres = np.random.default_rng(d).normal(size=(100, d))
    noise = np.random.default_rng(seed).normal(size=(100, photos, d))
    return [
        synthetic.row(
            f"{split}/{p}_{i}.jpg",
            f"person {p}",
            synthetic.unit(centres[p] + spread * 2 * noise[p, i]),
            split,
            extra={"sex": "f" if p % 2 else "m"},
        )
        for p in range(first, last)
        for i in range(photos)
    ]


@pytest.fixture
def index(run, tmp_path, own_indexes) -> str:
    """40 people, 3 photos each; probes of them and of 10 others in the same data set, those of 20 more in another."""
    rows = people(0, 40, 3, "gallery") + people(0, 50, 2, "probe", seed=2)
    synthetic.write(tmp_path / "v", rows, extra=["sex"])
    synthetic.write(tmp_path / "s", people(35, 70, 1, None, seed=3), extra=["sex"])
    assert run("build-index", tmp_path / "v", "--name", "made").code == 0
    return "made"


def dirs(found: dict) -> list[float]:
    return [round(rate[key], 5) for rate in found["rates"] for key in ("threshold", "dir")]


def test_all_that_can_be_measured(run, index, tmp_path):
    rows = people(0, 40, 3, "gallery", 24, 0.25) + people(0, 50, 2, "probe", 24, 0.25, seed=2)
    synthetic.write(tmp_path / "v2", rows, synthetic.spec(24), ["sex"])
    synthetic.write(tmp_path / "s2", people(35, 70, 1, None, 24, 0.25, seed=3), synthetic.spec(24), ["sex"])
    assert run("build-index", tmp_path / "v2", "--name", "better").code == 0
    options = [
        "evaluate",
        index,
        tmp_path / "v",
        "--strangers",
        tmp_path / "s",
        "--by",
        "sex",
        "--sizes",
        "10,40",
        "--photos",
        "1,3",
        "--against",
        "better",
        "--against-vectors",
        tmp_path / "v2",
        "--against-vectors",
        tmp_path / "s2",
    ]
    done = run(*options, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["probes"], found["people_asked"], found["gallery"], found["people"], found["strangers"]) == (
        80,
        40,
        120,
        40,
        20,
    )
    assert len(found["cmc"]) == 20 and found["cmc"][0] == found["top1"] and found["cmc"][4] == found["top5"]
    assert (found["open_set"]["strangers"], found["open_set"]["people"]) == (20 + 30, 30)
    assert "5 photos given as strangers are of enrolled people" in found["warnings"][0] and "5 photos given" in done.err
    assert [(g["value"], g["probes"], g["strangers"]) for g in found["groups"]] == [("f", 40, 25), ("m", 40, 25)]
    assert [(o["people"], o["probes"]) for o in found["by_size"]] == [(10, 20), (40, 80)]
    assert found["by_size"][1]["top1"] == found["top1"] and dirs(found["by_size"][1]) == dirs(found["open_set"])
    assert [(o["photos"], o["score"]) for o in found["by_photos"]] == [
        (1, "best"),
        (3, "best"),
        (3, "mean"),
        (3, "template"),
    ]
    assert found["by_photos"][1]["top1"] == found["top1"] and found["trained_on"] is None
    against = found["against"]
    assert (against["index"], against["probes"], against["strangers"], against["left_out"]) == ("better", 80, 50, 0)
    other = json.loads(run("evaluate", "better", tmp_path / "v2", "--strangers", tmp_path / "s2", "--json").out)
    assert (
        against["top1"]["difference"] == pytest.approx(other["top1"] - found["top1"]) and other["top1"] > found["top1"]
    )
    for line, one, two in zip(against["dir"], found["open_set"]["rates"], other["open_set"]["rates"], strict=True):
        assert (line["first"], line["second"]) == (one["dir"], two["dir"])
    text = run(*options).out
    for words in (
        "top-20",
        "MRR",
        "DIR",
        "are too few for this rate",
        "f: 40 probes",
        "10 people: 20 probes",
        "up to 3 photos a person, template",
        "better on the same 80 probes",
        "McNemar p =",
    ):
        assert words in text, text


def test_scores_of_people_by_all_of_their_faces(run, index, tmp_path):
    found = json.loads(run("evaluate", index, tmp_path / "v", "--score", "template", "--photos", "3", "--json").out)
    assert found["top1"] == next(o["top1"] for o in found["by_photos"] if o["score"] == "template")


def test_a_centred_gallery_is_cut_as_it_is_searched(run, index, tmp_path):
    assert run("build-index", tmp_path / "v", "--name", "centred", "--centre").code == 0
    found = json.loads(run("evaluate", "centred", tmp_path / "v", "--sizes", "40", "--json").out)
    assert found["by_size"][0]["top1"] == found["top1"] and dirs(found["by_size"][0]) == dirs(found["open_set"])


def test_strangers_without_a_face_reach_no_score(run, index, tmp_path):
    rows = [
        replace(synthetic.row(f"{i}.jpg", f"nobody {i}", synthetic.vectors(1, 1)[0]), outcome="no_face", vector=None)
        for i in range(3)
    ]
    synthetic.write(tmp_path / "faceless", rows)
    done = run("evaluate", index, tmp_path / "v", "--split", "gallery", "--strangers", tmp_path / "faceless")
    assert (
        done.code == 0
        and "3 without a face" in done.out
        and "from any score on" in done.out
        and "3402823" not in done.out
    )


def test_the_same_seed_gives_the_same_intervals(run, index, tmp_path):
    first, second, other = (run("evaluate", index, tmp_path / "v", "--json", "--seed", seed).out for seed in (0, 0, 1))
    assert first == second != other and json.loads(first)["top1"] == json.loads(other)["top1"]


def test_people_who_were_trained_on_are_told(run, index, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "data" / "models" / ("ab" * 8))
    trained_on.write(
        folder, [trained_on.Training.of([f"Person {p}" for p in range(12)], ["person 12", "person 45", "person 90"])]
    )
    done = run("evaluate", index, tmp_path / "v", "--json", FACEGALLERY_DATA=str(tmp_path / "data"))
    found = json.loads(done.out)
    assert found["trained_on"] == {"probes": 12, "probes_validated": 1, "strangers": 0, "strangers_validated": 1}
    (line,) = found["warnings"]
    assert (
        "12 of 40 people of the probes were trained on" in line
        and "1 of 10 people of the strangers chose its best epoch" in line
    )
    assert f"warning: {line}" in done.err


def test_probes_that_are_enrolled_themselves_are_named(run, index, tmp_path):
    synthetic.write(tmp_path / "same", people(0, 3, 3, "gallery") + people(0, 3, 1, "probe", seed=2), extra=["sex"])
    line = (
        "9 of {} probes are enrolled photos themselves (same face): leave them out with --split, or give other photos"
    )
    done = run("evaluate", index, tmp_path / "same", "--split", "gallery", "--json")
    assert json.loads(done.out)["warnings"] == [line.format(9)] and f"warning: {line.format(9)}\n" in done.err
    assert json.loads(run("evaluate", index, tmp_path / "same", "--split", "probe", "--json").out)["warnings"] == []
    synthetic.write(
        tmp_path / "mixed",
        [replace(row, split=None) for row in people(0, 3, 3, "gallery") + people(0, 3, 1, "probe", seed=2)],
        extra=["sex"],
    )
    fitted = run("calibrate", index, "--fpir", "0.3", "--probes", tmp_path / "mixed", "--json")
    alone = run("calibrate", index, "--fpir", "0.3", "--probes", tmp_path / "same", "--split", "probe", "--json")
    assert f"warning: {line.format(12)}" in fitted.err and "enrolled photos" not in alone.err
    assert fitted.out == alone.out and json.loads(alone.out)["detection"] is not None


def test_a_calibration_on_strangers_of_ones_own(run, index, tmp_path):
    """Strangers near to the enrolled people, as relatives are, against the scores counted from the vectors."""
    rows = people(40, 60, 1, None, seed=7)
    near = [
        replace(row, vector=synthetic.unit(row.vector + people(i, i + 1, 1, None)[0].vector))
        for i, row in enumerate(rows)
    ]
    synthetic.write(tmp_path / "relatives", near, extra=["sex"])
    enrolled = np.stack([row.vector for row in people(0, 40, 3, "gallery")])
    scores = np.sort((np.stack([row.vector for row in near]) @ enrolled.T).max(axis=1))[::-1]
    found = {}
    for name, options in (("own", []), ("both", ["--probes"]), ("alone", ["--strangers-alone", "--probes"])):
        done = run(
            "calibrate", index, "--fpir", "0.1", *options, *([tmp_path / "relatives"] if options else []), "--json"
        )
        assert done.code == 0, done.err
        found[name] = json.loads(done.out)
    reached = {name: int((scores >= result["threshold"]).sum()) for name, result in found.items()}
    assert reached["own"] > reached["both"] > reached["alone"] == int(0.1 * 21) == found["alone"]["exceeding"]
    assert found["alone"]["threshold"] == pytest.approx(scores[1], abs=1e-6)
    assert [(r["samples"], r["held_out"]) for r in found.values()] == [(120, 0), (140, 20), (20, 20)]
    assert "20 photos of strangers: holds for strangers like these" in found["alone"]["holds_for"]
    assert "--strangers-alone" in run("calibrate", index, "--probes", tmp_path / "relatives", "--fpir", "0.1").err
    assert found["own"]["holds_for"] in run("calibrate", index, "--fpir", "0.1").out
    none = run("calibrate", index, "--strangers-alone")
    assert none.code == 2 and "--probes" in none.error
    synthetic.write(tmp_path / "known", people(0, 5, 1, "probe", seed=2), extra=["sex"])
    empty = run("calibrate", index, "--strangers-alone", "--probes", tmp_path / "known")
    assert empty.code == 3 and "give photos of strangers" in empty.error


def test_labels_that_differ_by_case_are_told(run, index, tmp_path):
    rows = people(0, 3, 1, "probe", seed=4)
    rows += [replace(people(3, 4, 1, "probe", seed=4)[0], identity="PERSON 3")]
    synthetic.write(tmp_path / "p", rows, extra=["sex"])
    found = json.loads(run("evaluate", index, tmp_path / "p", "--json").out)
    assert "'PERSON 3' and 'person 3'" in found["warnings"][0] and (
        found["probes"],
        found["open_set"]["strangers"],
    ) == (3, 1)


def test_mistakes_are_one_line(run, index, tmp_path):
    synthetic.write(tmp_path / "unknown", people(60, 70, 1, None), extra=["sex"])
    synthetic.write(tmp_path / "other", people(0, 5, 1, None, 24), synthetic.spec(24))
    (tmp_path / "empty").mkdir()
    for code, words, options in [
        (3, "none of 10 is", [tmp_path / "unknown"]),
        (3, "found none", [tmp_path / "v", "--split", "test"]),
        (3, "found none", [tmp_path / "v", "--strangers", tmp_path / "empty"]),
        (2, "a column 'age'", [tmp_path / "v", "--by", "age"]),
        (2, "1 to 40 people", [tmp_path / "v", "--sizes", "10,4000"]),
        (2, "numbers such as 2,1", [tmp_path / "v", "--photos", "many"]),
        (2, "from 1 up to 3", [tmp_path / "v", "--photos", "1,5"]),
        (2, "not in the range", [tmp_path / "v", "--seed", "-1"]),
        (2, "--against with --against-vectors", [tmp_path / "v", "--against-vectors", tmp_path / "v"]),
        (5, "there is none", [tmp_path / "v", "--against", "nobody"]),
        (5, "dimension 0", [tmp_path / "v", "--against", index, "--against-vectors", tmp_path / "other"]),
    ]:
        done = run("evaluate", index, *options)
        assert done.code == code and words in done.error, (options, done.err)


# pairs ----------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Ten folds of two pairs of one person and two of two: a photo of person 0 has no face."""
    rows = [
        replace(row, image=f"person_{p}/person_{p}_{i + 1:04d}.jpg")
        for p in range(40)
        for i, row in enumerate(people(p, p + 1, 2, None, seed=5))
    ]
    rows[0] = synthetic.row(rows[0].image, "person 0", None, outcome="no_face")
    synthetic.write(tmp_path / "faces", rows)
    lines = ["10\t2"]
    for fold in range(10):
        lines += [f"person_{p}\t1\t2" for p in (4 * fold, 4 * fold + 1)]
        lines += [f"person_{p}\t1\tperson_{p + 2}\t2" for p in (4 * fold, 4 * fold + 1)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.txt"


def test_pairs_in_ten_folds(run, pairs, tmp_path):
    done = run("evaluate-pairs", tmp_path / "faces", pairs, "--against", tmp_path / "faces", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["pairs"], found["without_vector"], len(found["folds"])) == (40, 2, 10) and [
        t["asked"] for t in found["tar"]
    ] == [
        0.001,
        0.01,
    ]
    assert 0.7 < found["accuracy"] < 1 and found["accuracy"] == pytest.approx(np.mean(found["folds"]))
    assert found["std"] == pytest.approx(np.std(found["folds"])) and found["auc"] > 0.9 and found["eer"] < 0.2
    assert found["against"]["accuracy"] == found["accuracy"] and (
        found["against"]["p"],
        found["against"]["difference"],
    ) == (1, 0)
    assert found["warnings"] == []
    rows = [row for table in DataSet(tmp_path / "faces").shards() for row in to_rows(table)]
    rows.insert(4, replace(rows[3], face=1))
    synthetic.write(tmp_path / "more", rows)
    said = run("evaluate-pairs", tmp_path / "more", pairs).err
    assert "1 photos have several faces: of each, the largest, most central one is taken" in said
    text = run("evaluate-pairs", tmp_path / "faces", pairs).out
    assert f"accuracy {found['accuracy']:.4f} +- {found['std']:.4f}" in text and "2 with a photo without a face" in text


def test_pairs_that_cannot_be_judged_are_one_line(run, pairs, tmp_path):
    (tmp_path / "bad.txt").write_text("once upon a time\n")
    synthetic.write(tmp_path / "few", people(0, 2, 1, None))
    twice = [synthetic.row(f"{folder}/person_0_0001.jpg", "p", synthetic.vectors(1, 1)[0]) for folder in "ab"]
    synthetic.write(tmp_path / "twice", twice)
    for code, words, arguments in [
        (3, "`10 300`", [tmp_path / "faces", tmp_path / "bad.txt"]),
        (3, "nowhere.txt cannot be read (No such file", [tmp_path / "faces", tmp_path / "nowhere.txt"]),
        (3, "are missing", [tmp_path / "few", pairs]),
        (3, "one photo called person_0_0001", [tmp_path / "twice", pairs]),
        (3, "no data set", [tmp_path, pairs]),
    ]:
        done = run("evaluate-pairs", *arguments)
        assert done.code == code and words in done.error, done.err


def test_people_of_the_pairs_who_were_trained_on_are_told(run, pairs, tmp_path):
    folder = make_folder(tmp_path / "data" / "models" / ("ab" * 8))
    trained_on.write(folder, [trained_on.Training.of(["person_3", "person_30"])])
    done = run("evaluate-pairs", tmp_path / "faces", pairs, "--json", FACEGALLERY_DATA=str(tmp_path / "data"))
    assert (
        json.loads(done.out)["trained_on"] == {"pairs": 2, "pairs_validated": 0}
        and "2 of 40 people of the pairs were trained on" in done.err
    )


def test_what_refusing_low_quality_wins(run, own_indexes, tmp_path):
    """The probes that are of nobody's vector are the blurred ones: refusing them leaves no miss."""
    gallery, probes, strangers = (
        people(0, 40, 2, "gallery"),
        people(0, 40, 5, "probe", seed=2),
        people(60, 90, 2, None),
    )
    rng = np.random.default_rng(0)
    for i, row in enumerate(probes):
        row.confidence, row.sharpness, row.vector_length = 0.93, 80.0, 12.0
        if i % 20 == 0:
            row.vector, row.vector_length = synthetic.unit(rng.normal(size=synthetic.D)), 3.0
    for row in strangers:
        row.vector_length = 12.0
    synthetic.write(tmp_path / "v", gallery + probes, extra=["sex"])
    synthetic.write(tmp_path / "s", strangers, extra=["sex"])
    assert run("build-index", tmp_path / "v", "--name", "made").code == 0
    options = ["evaluate", "made", tmp_path / "v", "--strangers", tmp_path / "s", "--quality"]
    found = json.loads(run(*options, "--json").out)
    rate = next(rate for rate in found["open_set"]["rates"] if rate["fpir"] == 0.01)
    table = found["quality"]
    assert (table["probes"], table["strangers"], table["without_face"]) == (200, 60, 0)
    assert table["threshold"] == rate["threshold"]
    shares = {row["share"]: row for row in table["rows"]}
    assert shares[0]["fnir"] == pytest.approx(1 - rate["dir"]) and shares[0]["interval"][0] < shares[0]["fnir"]
    assert shares[0.05]["refused"] == 10  # the blurred ones, all of them missed
    assert shares[0.05]["fnir"] == pytest.approx((200 * shares[0]["fnir"] - 10) / 190)
    assert shares[0.05]["quality"] > 0.8
    lines = run(*options).out.splitlines()
    (line,) = (line for line in lines if "the worst 5 % refused" in line)
    assert f"FNIR {shares[0.05]['fnir']:.4f}  (95 %:" in line
    assert json.loads(run(*options[:-1], "--json").out)["quality"] is None


def test_quality_needs_strangers(run, index, tmp_path):
    rows = people(0, 40, 2, "probe", seed=2)
    synthetic.write(tmp_path / "p", rows, extra=["sex"])
    done = run("evaluate", index, tmp_path / "p", "--quality")
    assert done.code == 2 and "give --strangers" in done.err
