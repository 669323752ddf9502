import json
from dataclasses import replace
from pathlib import Path

import pytest

from facegallery.embedder.errors import InputError
from facegallery.trainer import recipe
from facegallery.trainer.overrides import parse
from tests import crops

QUICK = (recipe.SHIPPED / "quick.toml").read_text()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pull_back=0.5", 0.5),
        ("pull_back = 1e-4", 1e-4),
        ("stage.2.epochs=3", 3),
        ("live_batch_norm=true", True),
        ("delivered=raw", "raw"),
        ('delivered="raw"', "raw"),
        ("teacher=sface", "sface"),
        ("teacher=sface,itself", ["sface", "itself"]),
        ('teacher=["sface", "itself"]', ["sface", "itself"]),
        ("teacher=[]", []),
        ("augmentation.gamma=0.7,1.4", [0.7, 1.4]),
        ("augmentation.variants=original, gamma 2", ["original", "gamma 2"]),
        ("pull_back=0.5\nmargin = 1", "0.5\nmargin = 1"),
        ("pull_back=" + "[" * 10_000, "[" * 10_000),
        ("a=b=c", "b=c"),
    ],
)
def test_a_value_is_one_of_toml_or_a_bare_word_or_several(text, value):
    assert list(parse([text]).values()) == [value]


@pytest.mark.parametrize("given", [["pull_back"], ["=1"], ["pull_back="], [""], ["margin=0", "scale=1", "margin=0.1"]])
def test_a_text_of_another_form_and_a_key_given_twice_are_refused(given):
    with pytest.raises(InputError) as caught:
        parse(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "old", "new"),
    [
        ("stage.2.learning_rate=1e-4", "learning_rate = 0.00001", "learning_rate = 1e-4"),
        ("stage.1.epochs=2", "epochs = 40", "epochs = 2"),
        ("augmentation.mirror=0.3", "mirror = 0.5", "mirror = 0.3"),
        ("augmentation.gamma=0.5,2", "gamma = [0.7, 1.4]", "gamma = [0.5, 2]"),
        ("augmentation.variants=stretch", "variants = []", 'variants = ["stretch"]'),
        ("pull_back=1", "pull_back = 0.3", "pull_back = 1"),
        ("delivered=raw", 'delivered = "average"', 'delivered = "raw"'),
    ],
)
def test_what_is_set_is_what_a_file_with_it_says(tmp_path, given, old, new):
    path = tmp_path / "quick.toml"
    assert QUICK.count(old) == 1
    path.write_text(QUICK.replace(old, new))
    changed = recipe.read("quick").with_overrides(parse([given]))
    assert changed == recipe.read(path) != recipe.read("quick") and dict(changed.overrides) == parse([given])


def test_a_teacher_alone_is_a_list_of_one():
    distil = recipe.read("distil")
    assert distil.with_overrides({"teacher": "itself"}).teacher == ("itself",)
    assert distil.with_overrides({"teacher": ("itself", "casia")}).teacher == ("itself", "casia")
    assert distil.with_overrides({}) is distil


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"pullback": 1}, ["'pullback'", "spelling"]),
        ({"stage.2.rate": 1}, ["'rate'", "spelling"]),
        ({"stage.3.epochs": 1}, ["'stage.3.epochs'", "1 to 2"]),
        ({"stage.0.epochs": 1}, ["'stage.0.epochs'", "1 to 2"]),
        ({"stage.01.epochs": 1}, ["'stage.01.epochs'"]),
        ({"stages.2.epochs": 1}, ["'stages.2.epochs'"]),
        ({"stage.2": 1}, ["'stage.2'"]),
        ({"stages": []}, ["'stages'"]),
        ({"augmentation": {}}, ["'augmentation'"]),
        ({"name": "mine"}, ["'name'"]),
        ({"overrides": {}}, ["'overrides'"]),
        ({"two\nlines": 1}, ["lines"]),
        ({"stage.2.learning_rate": "fast"}, ["stages 2: learning_rate", "a number", "fast"]),
        ({"stage.2.epochs": 1.5}, ["stages 2: epochs", "1.5"]),
        ({"augmentation.mirror": 2}, ["augmentation: mirror", "0 to 1"]),
        ({"augmentation.gamma": 1.0}, ["augmentation: gamma", "rising"]),
        ({"live_batch_norm": 0}, ["live_batch_norm", "true or false"]),
        ({"margin": 0.3}, ["margin", "scale is 0"]),
        ({"stage.1.trains": "all", "stage.2.trains": "upper"}, ["stages 2: trains"]),
    ],
)
def test_what_does_not_fit_is_a_line_that_names_the_key(overrides, words):
    with pytest.raises(InputError) as caught:
        recipe.read("quick").with_overrides(overrides)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_epochs_are_given_once():
    changed = recipe.read("quick").with_overrides({"stage.1.epochs": 7})
    assert [s.epochs for s in changed.with_epochs(None).stages] == [7, 3]
    with pytest.raises(InputError, match=r"stage\.1\.epochs"):
        changed.with_epochs((1, 1))


def test_the_command_records_what_is_set_and_resumes_the_same_only(tmp_path, run, monkeypatch):
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    from facegallery.embedder.weights import store
    from facegallery.trainer.train import train

    source = store.store_part(crops.random_arrays(), "tiny", "fixed").sha256
    folder = crops.write(tmp_path / "crops", [crops.row(p, f) for p in range(3) for f in range(2)])
    shared = ("train", folder, "--from", source, "--json", "--set", "stage.2.epochs=0", "--out")
    done = run(*shared, tmp_path / "out", "--set", "stage.1.epochs=1", "--set", "stage.1.learning_rate=0.02")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["overrides"] == {"stage.2.epochs": 0, "stage.1.epochs": 1, "stage.1.learning_rate": 0.02}
    assert record["arguments"]["recipe"]["stages"][0]["learning_rate"] == 0.02
    other = run(*shared, tmp_path / "out", "--set", "stage.1.epochs=1")
    assert other.code == 3 and "learning_rate" in other.error
    for wrong in (["--set", "stage.2.epochs=1"], ["--set", "pull_back=2"], ["--epochs", "1,1"]):
        assert run(*shared, tmp_path / "other", *wrong).code == 2 and not (tmp_path / "other").exists()
    rule = recipe.read("quick")
    head, rest = rule.stages
    by_hand = replace(rule, stages=(replace(head, epochs=1, learning_rate=0.02), replace(rest, epochs=0)))
    assert train(folder, by_hand, source, tmp_path / "out")["networks"] == record["networks"]


def test_what_is_set_can_be_recorded():
    given = {"teacher": [Path("data/mine"), "itself"], "augmentation.gamma": (0.5, 2)}
    changed = recipe.read("distil").with_overrides(given)
    assert changed.teacher == ("data/mine", "itself")
    assert json.loads(json.dumps(changed.overrides)) == changed.overrides
