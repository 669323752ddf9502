"""The commands of a living gallery as a user runs them, on AT&T's photos."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegallery.accounts import Accounts
from facegallery.embedder.dataset.dataset import DataSet
from facegallery.embedder.weights import store, trained_on

KEY = {"FACEGALLERY_KEY": "a key of the test"}


def answer(run, index, vectors, person="s1", *options, **environment) -> list[tuple[str, float]]:
    """What the second photo of a person is answered with; vectors are asked, to be quick."""
    probe = asked(run, index, vectors, person, *options, **environment)
    return [(hit["identity"], hit["score"]) for hit in probe["hits"]]


def asked(run, index, vectors, person="s1", *options, **environment) -> dict:
    found = json.loads(run("search", index, vectors, "--one-face", "--json", *options, **environment).out)["probes"]
    return next(p["faces"][0] for p in found if p["image"] == f"probe/{person}/2.pgm")


def people(run, index) -> dict[str, int]:
    return {line["identity"]: line["faces"] for line in json.loads(run("list", index, "--json").out)}


def test_add_embeds_what_is_new_and_passes_over_what_is_known(run, photos, vectors, index):
    folder = photos / "probe" / "s1"
    before = answer(run, index, vectors)[0]
    first = run("add", index, folder, "--identity", "s1", "--json")
    assert json.loads(first.out)["added"] == 9 and "sface" in first.err
    again = run("add", index, folder, "--identity", "s1", "--json")
    assert json.loads(again.out)["again"] == 9 and "sface" not in again.err, "nothing is embedded again"
    other = run("add", index, folder, "--identity", "s2", "--json")
    assert other.code == 0 and len(json.loads(other.out)["conflicts"]) == 9 and "s1" in other.err
    assert people(run, index)["s1"] == 10
    after = answer(run, index, vectors)
    assert before[0] == "s1" and before[1] < after[0][1] and after[0] == ("s1", pytest.approx(1, abs=1e-5))
    text = run("add", index, folder, "--identity", "s1").out
    assert text.startswith("att: 0 faces") and "19" in text and text.count("\n") == 1
    assert "add" in run("undo", index).out and people(run, index)["s1"] == 10
    assert json.loads(run("rename", index, "s2", "s2", "--json").out)["faces"] == 0
    log = json.loads(run("list", index, "--log", "--json").out)
    assert [(line["verb"], line["faces"]) for line in log] == [("rename", 0), ("add", 0), ("add", 0), ("add", 9)]
    taken_back = [json.loads(run("undo", index, "--json").out)[0] for _ in range(4)]
    assert [(one["verb"], one["faces"], one["people"]) for one in taken_back][3] == ("add", 9, ["s1"])
    assert [one["verb"] for one in taken_back] == [line["verb"] for line in log]


def test_add_takes_vectors_too_by_the_folders_names(run, vectors, index):
    done = json.loads(run("add", index, vectors, "--split", "probe", "--json").out)
    assert done["added"] == 90 and done["left_out"] == {"of another split": 10} and done["people"] == 10
    assert json.loads(run("add", index, vectors, "--json").out)["again"] == 10


def test_add_tells_of_a_name_that_is_nearly_an_enrolled_one(run, photos, index):
    first = run("add", index, photos / "probe" / "s1" / "2.pgm", "--identity", "S1")
    assert first.code == 0 and "'s1'" in first.err and people(run, index)["S1"] == 1
    again = run("add", index, photos / "probe" / "s1" / "3.pgm", "--identity", "S1")
    assert again.code == 0 and "'s1'" not in again.err


def test_add_says_first_who_was_understood_and_then_what_may_be_wrong(run, photos, index, tmp_path):
    folder = tmp_path / "years"
    shutil.copytree(photos / "probe" / "s1", folder / "2019" / "s1")
    shutil.copytree(photos / "probe" / "s2", folder / "2020" / "s2")
    shutil.copytree(photos / "probe" / "s3", folder / "2020" / "s2" / "@eaDir")
    shutil.copy(photos / "probe" / "s4" / "2.pgm", folder / "2019" / "s1" / "no_extension")
    done = run("add", index, folder, "--json")
    found = json.loads(done.out)
    assert found["added"] == 19 and people(run, index) == {f"s{i}": 10 + (i == 1) if i < 3 else 1 for i in range(1, 11)}
    lines = done.err.splitlines()
    understood = next(i for i, line in enumerate(lines) if line.startswith("2 people"))
    assert understood < next(i for i, line in enumerate(lines) if "sface" in line)
    assert found["understood"]["people"] == 2 and found["understood"]["warnings"] == []
    assert ("2019/s1/no_extension", "s1", "s4") in [(s["image"], s["identity"], s["other"]) for s in found["suspects"]]
    assert any("no_extension" in line for line in lines)
    wrong = run("add", index, folder, "--identity-level", "1", "--json")
    assert "'2019', '2020'" in wrong.err
    assert run("add", index, folder, "--identity-level", "1", "--identity", "x").code == 2
    assert run("add", index, folder, "--identity-level", "0").code == 2


def test_one_rule_for_names_by_every_option(run, photos, index):
    photo = photos / "probe" / "s1" / "2.pgm"
    for name in (" s1", "s1\u200b", "s\u00ad1", "s1\n"):
        assert run("add", index, photo, "--identity", name).code == 0
        assert people(run, index)["s1"] == 2 and len(people(run, index)) == 10
        assert len(json.loads(run("list", index, "--identity", name, "--json").out)) == 2
    assert run("rename", index, "s1 ", "s2\u200b").code == 5 and run("merge", index, "s1 ", "\ufeffs1").code == 2
    refused = run("rename", index, "s1", "a\x1b[31mb")
    assert refused.code == 3 and "control" in refused.error and "\x1b" not in refused.err
    assert run("forget", index, "--identity", " s1 ").code == 0 and "s1" not in people(run, index)


def test_bad_photos_cost_only_themselves(run, photos, index, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(photos / "probe" / "s9", folder / "s9")
    (folder / "s9" / "broken.jpg").write_text("no photo")
    (folder / "nameless.pgm").write_bytes((photos / "probe" / "s9" / "2.pgm").read_bytes())
    told = run("add", index, folder, "--json")
    done = json.loads(told.out)
    assert (
        done["added"] == 9 and done["unnamed"] == 0 and done["left_out"] == {"unreadable": 1}
    )  # a copy of a named one


def test_names_are_corrected_and_corrections_taken_back(run, vectors, index):
    renamed = run("rename", index, "s1", "Zoë").out
    assert "rename" in renamed and "Zoë" in renamed
    merged = json.loads(run("merge", index, "s2", "s3", "--json").out)
    assert (merged["verb"], merged["faces"], merged["people"]) == ("merge", 1, ["s2", "s3"])
    (face,) = json.loads(run("list", index, "--identity", "Zoë", "--json").out)
    assert run("split", index, face["face_id"], "--to", "somebody").code == 0
    assert run("remove", index, "--identity", "s4").code == 0
    assert people(run, index) == {"s10": 1, "s3": 2, "s5": 1, "s6": 1, "s7": 1, "s8": 1, "s9": 1, "somebody": 1}
    assert answer(run, index, vectors)[0][0] == "somebody"
    log = run("list", index, "--log").out.splitlines()
    assert [line.split("  ")[1].split(":")[0] for line in log] == ["remove", "split", "merge", "rename"]
    verbs = [json.loads(run("undo", index, "--json").out)[0]["verb"] for _ in range(4)]
    assert verbs == ["remove", "split", "merge", "rename"]
    assert people(run, index) == {f"s{i}": 1 for i in range(1, 11)}
    nothing = run("undo", index)
    assert nothing.code == 5 and "undo" in nothing.error


def test_filters_reach_the_answers(run, photos, vectors, tmp_path):
    table = tmp_path / "more.csv"
    lines = [f"gallery/s{i}/1.pgm,{1990 + i},{'left;tall' if i % 2 else 'right'}" for i in range(1, 11)]
    table.write_text("\n".join(["image,year,tags", *lines]))
    assert run("embed", photos, "--metadata", table, "--out", tmp_path / "v").code == 0
    assert run("build-index", tmp_path / "v", "--name", "tagged").code == 0
    v = tmp_path / "v"
    names = {
        option: {name for name, _ in answer(run, "tagged", v, "s1", "--k", "99", *option)}
        for option in [
            ("--where", "year<=1993"),
            ("--where", "tags:tall", "--where", "year>1995"),
            ("--where", "identity=s2", "--where", "identity=s7"),
        ]
    }
    assert list(names.values()) == [{"s1", "s2", "s3"}, {"s7", "s9"}, {"s2", "s7"}]
    wrong = run("search", "tagged", v, "--where", "height>3")
    assert wrong.code == 2 and "'height'" in wrong.error and "tags" in wrong.error
    assert run("search", "tagged", v, "--where", "what").code == 2
    assert (
        answer(run, "tagged", v, "s1", "--min-score", "0.99") == []
        and len(answer(run, "tagged", v, "s1", "--score", "template")) == 5
    )


@pytest.mark.parametrize("name", ["hits.csv", "hits", "hits.parquet.gz"])
def test_answers_are_written_to_parquet_alone(run, tmp_path, name):
    done = run("search", "none", tmp_path, "--out", tmp_path / name)
    assert done.code == 2 and ".parquet" in done.error and done.err.count("\n") == 1, done.err
    assert not (tmp_path / name).exists()


def test_unknown_is_an_answer_once_calibrated(run, vectors, index):
    before = asked(run, index, vectors)
    assert (before["known"], before["chance"]) == (None, None) and before["margin"] > 0.1
    fitted = run("calibrate", index, "--probes", vectors, "--fpir", "0.3", "--json")
    result = json.loads(fitted.out)
    assert result["detection"][0] > 0.95 and result["samples"] == 10 and 0 < result["threshold"] < 1
    rare = run("calibrate", index, "--fpir", "0.001")
    assert rare.code == 0 and "warning" in rare.err
    assert run("calibrate", index, "--fpir", "0.3").code == 0
    known = asked(run, index, vectors)
    assert known["known"] is True and known["chance"] == pytest.approx(1 / 11)
    assert run("remove", index, "--identity", "s1").code == 0
    stranger = asked(run, index, vectors)
    assert (
        stranger["known"] == (stranger["hits"][0]["score"] >= result["threshold"])
        and stranger["chance"] >= known["chance"]
    )
    word = "known" if stranger["known"] else "unknown"
    table = run("search", index, vectors).out.splitlines()
    assert any(line.startswith(f"probe/s1/2.pgm: {word}") for line in table)
    assert any(line.startswith("probe/s2/2.pgm: known") and "1 in 11" in line for line in table)
    assert known["chance_limit"] == known["chance"] and "10 people" in known["weak"] and known["stale"] is None
    assert run("remove", index, "--identity", "s2").code == 0
    done = run("search", index, vectors)
    assert "stale" in done.err and "stale" in done.out
    assert "10" in asked(run, index, vectors)["stale"]
    assert json.loads(run("info", index, "--json").out)["calibration_stale"]


def test_many_probes_go_to_parquet(run, vectors, index, tmp_path):
    done = run("search", index, vectors, "--k", "3", "--out", tmp_path / "hits.parquet", "--json")
    assert json.loads(done.out) == {
        "out": str(tmp_path / "hits.parquet"),
        "photos": 100,
        "unread": 0,
        "faces": 100,
        "rows": 300,
    }
    table = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    found = json.loads(run("search", index, vectors, "--k", "3", "--json").out)["probes"]
    printed = [
        (p["image"], h["rank"], h["identity"], np.float32(h["score"]))
        for p in found
        for f in p["faces"]
        for h in f["hits"]
    ]
    assert [(r["image"], r["rank"], r["hit_identity"], np.float32(r["score"])) for r in table] == printed


def test_compare_two_photos(run, photos, vectors, index, tmp_path):
    same = photos / "gallery" / "s1" / "1.pgm", photos / "probe" / "s1" / "2.pgm"
    score = float(run("compare", *same).out.splitlines()[0])
    assert score == pytest.approx(answer(run, index, vectors)[0][1], abs=1e-4)
    other = run("compare", same[0], photos / "probe" / "s2" / "2.pgm", "--name", index)
    assert float(other.out.splitlines()[0]) == pytest.approx(
        answer(run, index, vectors, "s2", "--where", "identity=s1")[0][1], abs=1e-4
    )
    assert run("compare", same[0], photos / "nothing.jpg").code == 3
    both = Image.new("L", (3 * 92, 112))
    both.paste(Image.open(same[0]), (0, 0))
    both.paste(Image.open(photos / "probe" / "s2" / "2.pgm"), (184, 0))
    both.save(tmp_path / "both.png")
    for how in ((), ("--name", index)):
        done = run("compare", tmp_path / "both.png", same[0], *how, "--json")
        assert [face["others"] for face in json.loads(done.out)["faces"]] == [1, 0]
        line = run("compare", tmp_path / "both.png", same[0], *how).out.splitlines()[1]
        assert line.startswith(f"{tmp_path / 'both.png'}: 2 faces, compared the largest"), line


@pytest.mark.parametrize("how", [(), ("--name", "none")])
def test_compare_takes_two_photos_and_no_folder_or_csv(run, tmp_path, how):
    (tmp_path / "one.csv").write_text("image,identity\na.jpg,ann\n")
    for path, what in ((tmp_path, "folder"), (tmp_path / "one.csv", "CSV")):
        done = run("compare", path, tmp_path / "a.jpg", *how)
        assert done.code == 2 and str(path) in done.error and what in done.error and done.err.count("\n") == 1, done.err


def test_compare_says_why_a_photo_cannot_be_read(run, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo at all")
    done = run("compare", tmp_path / "bad.jpg", photos / "gallery" / "s1" / "1.pgm")
    assert done.code == 3 and "unreadable" in done.error and str(tmp_path / "bad.jpg") in done.error, done.err


def test_a_list_says_what_it_leaves_out(run, index):
    done = run("list", index, "--limit", "3")
    assert len(done.out.splitlines()) == 3 and "3 of 10 people" in done.err
    assert run("list", index).err == "" and "2 of 8 people" in run("list", index, "--after", "s10", "--limit", "2").err
    for limit in ("-1", "0"):
        assert run("list", index, "--identity", "s1", "--limit", limit).code == 2
    assert "none" in run("info", index).out


@pytest.mark.slow
def test_what_is_exported_trains(run, index, tmp_path):
    assert run("export", index, "--crops", "--out", tmp_path / "small").code == 0
    trained = run("train", tmp_path / "small", "--epochs", "1,1", "--out", tmp_path / "model")
    assert trained.code == 0, trained.err


def test_what_is_exported_embeds_and_builds(run, vectors, index, tmp_path):
    assert run("rename", index, "s1", "corrected").code == 0
    assert run("export", index, "--crops", "--out", tmp_path / "small").code == 0
    assert run("add", index, vectors, "--split", "probe", "--identity", "everybody").code == 0
    assert run("export", index, "--crops", "--out", tmp_path / "out").out.startswith(
        f"{tmp_path / 'out'}: 100 faces of 11 people"
    )
    names = DataSet(tmp_path / "out").table(["identity"])["identity"].to_pylist()
    assert names.count("everybody") == 90 and "corrected" in names and "s1" not in names
    assert run("build-index", tmp_path / "out", "--name", "again").code == 0
    assert answer(run, "again", vectors) == answer(run, index, vectors)
    assert run("embed", tmp_path / "small", "--model", "casia", "--out", tmp_path / "casia").code == 0


def test_another_model_and_back(run, vectors, index, tmp_path):
    before = answer(run, index, vectors)
    tried = run("reembed", index, "--model", "casia", "--no-switch", "--report", tmp_path / "r.json")
    assert tried.code == 0 and "switched" in tried.out and answer(run, index, vectors) == before
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["asked"] == 10 == report["same"] + len(report["differently"])
    assert run("reembed", index, "--model", "casia").code == 0
    assert json.loads(run("info", index, "--json").out)["model"] == "casia"
    assert "casia" in run("search", index, vectors).error
    back = run("reembed", index, "--model", "sface")
    assert back.code == 0 and "CPU" not in back.err, "the old vectors are still there"
    assert answer(run, index, vectors) == before
    assert run("reembed", index, "--model", "sface").code == 5
    assert run("compact", index, "--keep-undo", "0s").code == 0
    assert json.loads(run("info", index, "--json").out)["other_model"] is None


def test_forgetting_for_good(run, photos, vectors, index, own_indexes, tmp_path, monkeypatch):
    copy = tmp_path / "vectors"
    shutil.copytree(vectors, copy)
    assert run("rename", index, "s3", "Erika Mustermann").code == 0
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
        for model, names in (("knows", ["S3", "s4"]), ("knows-not", ["s4"])):
            part = store.store_part(
                {"Bottleneck/kernel": np.full((2, 2), len(names), np.float32)}, model, "fixed", "ab" * 32
            )
            trained_on.write(store.stored_file(part).parent, [trained_on.Training.of(names)])
        with closing(Accounts()) as accounts:  # as a server leaves it
            key = accounts.holder(accounts.make_key("me", "write", 0))
            accounts.begin_write(key, "mark", b"rename")
            accounts.end_write(key, "mark", 200, b"Erika Mustermann")
        done = run("forget", index, "--identity", "Erika Mustermann", "--also", copy, "--json")
        with closing(Accounts()) as accounts:
            assert accounts.begin_write(key, "mark", b"rename") == (False, 200, None, True)
        assert not any(b"Erika" in file.read_bytes() for file in (tmp_path / "data").glob("server.db*"))
    receipt = json.loads(done.out)
    assert (
        done.code == 0
        and len(receipt["face_ids"]) == 1
        and not receipt["pending"]
        and sum(receipt["files"].values()) == 0
    )
    assert any("original photos" in line for line in receipt["not_cleaned"])
    assert [line.split()[1] for line in receipt["not_cleaned"] if line.startswith("model")] == ["knows"]
    kept = Path(receipt["receipt"])
    assert kept.parent == own_indexes and "Erika" not in kept.read_text()
    assert all(b"Erika Mustermann" not in path.read_bytes() for path in own_indexes.rglob("*") if path.is_file())
    assert "s3" not in people(run, index) and set(DataSet(copy).table(["identity"])["identity"].to_pylist()) == {
        f"s{i}" for i in range(1, 11)
    } - {"s3"}
    other = json.loads(run("forget", index, "--identity", "s10", "--json").out)["receipt"]
    assert Path(other).exists() and Path(other) != kept
    assert run("undo", index).code == 5
    told = run("add", index, vectors, "--json")
    assert json.loads(told.out)["forgotten"] == 2 and "--readmit" in told.err
    assert json.loads(run("add", index, photos / "gallery", "--json").out)["forgotten"] == 2
    again = run("verify", index, "--forgotten", kept, "--identity", "Erika Mustermann")
    assert again.code == 0 and "0 traces" in again.out
    assert run("forget", index, "--identity", "Erika Mustermann").code == 0
    assert run("forget", index, "--identity", "nobody").code == 5
    assert json.loads(run("add", index, vectors, "--readmit", "--json").out)["added"] == 2


def test_backup_and_restore(run, photos, vectors, index, tmp_path):
    before = answer(run, index, vectors)
    assert run("backup", index, "--out", tmp_path / "b.facegallery").code == 0
    assert run("backup", index, "--out", tmp_path / "b.facegallery").code == 2
    assert run("remove", index, "--identity", "s1").code == 0
    assert run("restore", tmp_path / "b.facegallery", "--name", index).code == 5
    assert run("restore", tmp_path / "b.facegallery", "--name", index, "--replace").code == 0
    assert answer(run, index, vectors) == before
    assert (
        run("restore", tmp_path / "b.facegallery", "--name", "other").code == 0
        and answer(run, "other", vectors) == before
    )
    assert run("restore", photos / "probe" / "s1" / "2.pgm", "--name", "third").code == 3


def test_an_encrypted_index_needs_its_key(run, photos, vectors, own_indexes, tmp_path):
    assert run("build-index", vectors, "--name", "plain").code == 0
    assert run("build-index", vectors, "--name", "secret", "--encrypt").code == 5
    assert run("build-index", vectors, "--name", "secret", "--encrypt", **KEY).code == 0
    assert sorted(p.name for p in (own_indexes / "secret").iterdir() if not p.name.startswith("gallery.db-")) == [
        "encrypted",
        "gallery.db",
    ]
    assert b"gallery/s1" not in (own_indexes / "secret" / "gallery.db").read_bytes()
    assert answer(run, "secret", vectors, **KEY) == answer(run, "plain", vectors)
    key_file = tmp_path / "key"
    key_file.write_text(KEY["FACEGALLERY_KEY"] + "\n")
    assert answer(run, "secret", vectors, FACEGALLERY_KEY_FILE=str(key_file)) == answer(run, "plain", vectors)
    missing, wrong = run("search", "secret", vectors), run("search", "secret", vectors, FACEGALLERY_KEY="another")
    assert missing.code == 5 and "FACEGALLERY_KEY" in missing.error and wrong.code == 5 and "another" in wrong.error
    assert run("add", "secret", photos / "probe" / "s1", "--identity", "s1", **KEY).code == 0
    assert run("verify", "secret", **KEY).code == 0


def test_verify_names_what_is_damaged_and_makes_what_is_derived_again(run, index, own_indexes):
    folder = own_indexes / index
    path = folder / "built-1" / "index.faiss"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    done = run("verify", index)
    assert done.code == 0 and "index.faiss" in done.out and done.out.splitlines()[-1].endswith("sound")
    data = bytearray((folder / "gallery.db").read_bytes())
    at = data.find(b"gallery/s7/1.pgm")
    data[at] ^= 1
    (folder / "gallery.db").write_bytes(data)
    done = run("verify", index)
    assert done.code == 5 and "allery/s7/1.pgm" in done.out and done.out.splitlines()[-1].endswith("DAMAGED")


def test_each_mistake_is_one_line_and_its_exit_code(run, vectors, index, photos, tmp_path):
    assert run("embed", photos / "probe" / "s1", "--model", "casia", "--out", tmp_path / "casia").code == 0
    faceless = tmp_path / "faceless.png"
    Image.new("RGB", (200, 200), "green").save(faceless)
    for code, word, arguments in [
        (5, "'x'", ["remove", index, "--identity", "x"]),
        (5, "0" * 32, ["remove", index, "--face", "0" * 32]),
        (5, "x.jpg", ["remove", index, "--image", "x.jpg"]),
        (2, "--identity", ["remove", index]),
        (5, "merge", ["rename", index, "s1", "s2"]),
        (3, "name", ["rename", index, "s1", "  "]),
        (2, "s1", ["merge", index, "s1", "s1"]),
        (5, "'x'", ["merge", index, "s1", "x"]),
        (5, "0" * 32, ["split", index, "0" * 32, "--to", "x"]),
        (5, "casia", ["add", index, tmp_path / "casia", "--identity", "s1"]),
        (2, "--keep-undo", ["compact", index, "--keep-undo", "soon"]),
        (2, "2.0", ["calibrate", index, "--fpir", "2"]),
        (3, "nowhere", ["calibrate", index, "--probes", vectors, "--split", "nowhere"]),
        (3, "faceless.png", ["calibrate", index, "--probes", faceless]),
        (3, "2.pgm", ["verify", index, "--forgotten", photos / "probe" / "s1" / "2.pgm"]),
        (3, "nowhere", ["forget", index, "--identity", "s1", "--also", tmp_path / "nowhere"]),
        (5, "build-index", ["info", "nobody"]),
        (3, "nowhere", ["restore", tmp_path / "nowhere", "--name", "x"]),
    ]:
        done = run(*arguments)
        assert done.code == code, (arguments, done.err)
        assert word in done.error, (arguments, done.error)
    assert "s1" in people(run, index)


def test_a_folder_that_can_only_be_read(run, vectors, index, own_indexes):
    import subprocess
    import sys

    from tests.conftest import ROOT

    want = answer(run, index, vectors)
    inner = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'

    def call(*command) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                inner,
                str(own_indexes),
                sys.executable,
                str(ROOT / "cli.py"),
                *map(str, command),
            ],
            capture_output=True,
            text=True,
            env=os.environ,
        )

    done = call("search", index, vectors, "--one-face", "--json")
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.fail(f"this test needs user namespaces with mounts: {done.stderr}")
    found = next(p["faces"][0]["hits"] for p in json.loads(done.stdout)["probes"] if p["image"] == "probe/s1/2.pgm")
    assert [(h["identity"], h["score"]) for h in found] == want
    assert call("verify", index).returncode == 0
    refused = call("remove", index, "--identity", "s1")
    assert refused.returncode == 6 and "read-only" in refused.stderr or "permission" in refused.stderr


def test_set_keeps_a_note_and_metadata_of_a_person(run, index):
    listed = {one["identity"]: one for one in json.loads(run("list", index, "--json").out)}
    person_id = listed["s1"]["person_id"]
    assert f"{person_id}  s1" in run("list", index).out
    assert run("set", index, "--identity", "s1", "born=1990", "team=red = hot", "--note", "tall").out == "set: s1\n"
    assert json.loads(run("set", index, "--identity", person_id, "--unset", "born", "--json").out)["people"] == ["s1"]
    kept = {one["identity"]: one for one in json.loads(run("list", index, "--json").out)}["s1"]
    assert (kept["note"], kept["metadata"], kept["person_id"]) == ("tall", {"team": "red = hot"}, person_id)
    assert run("set", index, "--identity", "s1", "--note", "tall").out == "set: nothing changed\n"
    assert "set: s1" in run("list", index, "--log").out
    for wrong in ([], ["born"], ["a=1", "a=2"], ["a=1", "--unset", "a"], ["--unset", "b"], ["a="], ["a<b=1"]):
        done = run("set", index, "--identity", "s1", *wrong)
        assert done.code == 2 and done.err.startswith("error: expected "), wrong
    assert run("set", index, "--identity", "nobody", "a=1").code == 5
    for _ in range(3):
        run("undo", index)
    assert {one["identity"]: one for one in json.loads(run("list", index, "--json").out)}["s1"] == listed["s1"]
