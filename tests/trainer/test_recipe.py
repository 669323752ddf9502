import itertools
import math

import pytest

from facegallery.embedder.errors import InputError
from facegallery.trainer import recipe

QUICK = (recipe.SHIPPED / "quick.toml").read_text()


def test_homework_has_the_homeworks_numbers():
    r = recipe.read("homework")
    one, two = r.stages
    assert (r.live_batch_norm, r.delivered, r.pull_back) == (True, "raw", 1.0)
    assert (
        r.augmentation.variants == ("original", "gamma 2", "gamma 0.5", "stretch", "noise 500")
        and r.augmentation.copies == 10
    )
    assert (r.augmentation.mirror, r.augmentation.shift, r.augmentation.gamma) == (0.0, 0.0, (1.0, 1.0))
    assert (one.trains, one.epochs, one.steps, one.batch, one.keep) == ("head", 100, 20, 100, 0.5)
    assert (one.learning_rate, one.decay, one.decay_epochs, one.weight_decay) == (0.1, 0.8, 20, 0.01)
    assert (one.center_loss, one.center_alpha, one.center_update, one.average) == (1.0, 0.95, "homework", 0.9999)
    assert (two.trains, two.batch, two.learning_rate, two.weight_decay, two.keep) == ("all", 300, 0.01, 0.001, 0.5)
    assert (two.center_loss, two.center_alpha, two.optimiser, two.average) == (2.0, 0.25, "adagrad", 0.9999)


def test_quick_has_a_head_stage_then_all_layers():
    r = recipe.read("quick")
    assert [s.trains for s in r.stages] == ["head", "all"] and not r.live_batch_norm and r.augmentation.copies == 1


def test_margin_trains_the_head_then_the_bottleneck(tmp_path):
    r = recipe.read("margin")
    assert [s.trains for s in r.stages] == ["head", "bottleneck"] and (r.scale, r.margin, r.teacher) == (32.0, 0.35, ())
    text, mine = (recipe.SHIPPED / "margin.toml").read_text(), tmp_path / "mine.toml"
    for old, new, words in (
        ("scale = 32", "scale = 0", "margin in .* 0 where scale is 0"),
        ("live_batch_norm = false", "live_batch_norm = true", "stages 2: trains in .* head or all here"),
        ("teacher = []", 'teacher = ["itself"]', "stages 2: trains in .* upper or all here"),
    ):
        mine.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=words):
            recipe.read(mine)


def test_distil_learns_from_a_teacher_and_frozen_statistics(tmp_path):
    r = recipe.read("distil")
    assert (
        r.teacher == ("itself", "sface") and [s.trains for s in r.stages] == ["head", "upper"] and not r.live_batch_norm
    )
    text, mine = (recipe.SHIPPED / "distil.toml").read_text(), tmp_path / "mine.toml"
    mine.write_text(text.replace("live_batch_norm = false", "live_batch_norm = true"))
    with pytest.raises(InputError, match="live_batch_norm"):
        recipe.read(mine)
    mine.write_text(text.replace('trains = "head"', 'trains = "all"'))
    with pytest.raises(InputError, match="stages 1: trains .*'all'"):
        recipe.read(mine)


def test_the_upper_layers_train_before_all_do(tmp_path):
    text, mine = (recipe.SHIPPED / "margin.toml").read_text(), tmp_path / "mine.toml"
    mine.write_text(text.replace('trains = "bottleneck"', 'trains = "upper"'))
    assert [s.trains for s in recipe.read(mine).stages] == ["head", "upper"]
    mine.write_text(
        text.replace('trains = "bottleneck"', 'trains = "upper"').replace('trains = "head"', 'trains = "all"')
    )
    with pytest.raises(InputError, match="stages 2: trains .*head or bottleneck or all"):
        recipe.read(mine)


@pytest.mark.parametrize("path", sorted(recipe.SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_comment_every_value_and_say_cost_and_score(path):
    lines = path.read_text().splitlines()
    assert (
        lines[0].startswith(f"# {path.stem}") and lines[1].startswith("# Cost: ") and lines[2].startswith("# Score: ")
    )
    for before, line in itertools.pairwise(lines):
        comment = line.partition("  # ")[2] or before.partition("# ")[2]
        assert "=" not in line or line.startswith("#") or len(comment) > 5, line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pull_back = 0.3", "pull_back = 0.3\npullback = 1", ["'pullback'", "spelling"]),
        ("pull_back = 0.3", "", ["'pull_back'", "missing"]),
        ("pull_back = 0.3", "pull_back = 1.5", ["pull_back", "0 to 1", "1.5"]),
        ("pull_back = 0.3", "pull_back = nan", ["pull_back", "nan"]),
        ("pull_back = 0.3", "pull_back = true", ["pull_back", "True"]),
        ("pull_back = 0.3", 'name = "x"\npull_back = 0.3', ["'name'"]),
        ("teacher = []", 'teacher = "sface"', ["teacher", "sface"]),
        ("live_batch_norm = false", "live_batch_norm = 0", ["live_batch_norm", "true or false"]),
        ('delivered = "average"', 'delivered = "best"', ["delivered", "raw, average", "best"]),
        ("mirror = 0.5", 'mirror = "half"', ["augmentation: mirror", "half"]),
        ("gamma = [0.7, 1.4]", "gamma = [1.4, 0.7]", ["augmentation: gamma", "rising"]),
        ("gamma = [0.7, 1.4]", "gamma = [0.7]", ["augmentation: gamma"]),
        ("variants = []", 'variants = ["gamma"]', ["variants", "gamma NUMBER"]),
        ("variants = []", 'variants = ["gamma two"]', ["variants", "gamma two"]),
        ("variants = []", "variants = [2]", ["variants", "2"]),
        ("variants = []", 'variants = ["blur"]', ["variants", "blur"]),
        ("epochs = 3 ", "epochs = 3.5 ", ["stages 2: epochs", "3.5"]),
        ("epochs = 3 ", "epochs = -1 ", ["stages 2: epochs", "-1"]),
        ("epochs = 3 ", "rounds = 3 ", ["stages 2: 'rounds'"]),
        ('trains = "all"', 'trains = "half"', ["stages 2: trains", "half"]),
        ("[[stages]]", "[[phases]]", ["'phases'"]),
        ("pull_back = 0.3", "pull_back = = 3", ["TOML", "at line"]),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_key_and_file(tmp_path, old, new, words):
    path = tmp_path / "mine.toml"
    assert old in QUICK
    path.write_text(QUICK.replace(old, new))
    with pytest.raises(InputError) as caught:
        recipe.read(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and all(word in text for word in words), text


def test_stages_must_be_tables(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("stages = [1]\n" + QUICK[: QUICK.index("[[stages]]")])
    with pytest.raises(InputError, match="stages"):
        recipe.read(path)


def test_a_recipe_that_is_not_there_lists_the_shipped_ones(tmp_path):
    for reference in ("slow", tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match="distil, homework, margin, quick"):
            recipe.read(reference)


def test_a_whole_number_is_a_number(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(QUICK.replace("pull_back = 0.3", "pull_back = 1"))
    r = recipe.read(path)
    assert type(r.pull_back) is float and r.name == "mine"


def test_epochs_of_a_run():
    r = recipe.read("quick")
    assert r.with_epochs(None) is r
    assert [s.epochs for s in r.with_epochs((2, 0)).stages] == [2, 0]
    for wrong in ((2,), (1, 2, 3), (1, -1)):
        with pytest.raises(InputError, match="epochs"):
            r.with_epochs(wrong)


def test_variants_are_split_into_kind_and_number():
    assert recipe.split_variant("gamma 0.5") == ("gamma", 0.5) and recipe.split_variant("stretch") == ("stretch", None)
    assert math.isnan(recipe.split_variant("gamma two")[1])
