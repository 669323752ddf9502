from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegallery.trainer import recipe
from facegallery.trainer.curves import draw, figure
from facegallery.trainer.history import NetworkHistory


def line(stage: int, epoch: int, **more: float) -> dict:
    number = 10 * stage + epoch
    figures = {"validation_top1": 0.8 + number / 1000, "validation_tar": 0.7 + number / 1000} if more == {} else {}
    return {
        "network": "n",
        "stage": stage,
        "epoch": epoch,
        "loss": 2.0 / number,
        "cross_entropy": 1.0 / number,
        "accuracy": number / 100,
        "learning_rate": 0.1,
        **figures,
        **more,
    }


def drawn(axes) -> dict[str, tuple[list, list]]:
    """What a panel shows: label -> (x, y)."""
    return {one.get_label(): (list(one.get_xdata()), list(one.get_ydata())) for one in axes.get_lines()}


BEFORE = {"top1": 0.75, "tar": 0.65}
LINES = [line(1, 1), line(1, 2), line(1, 3), line(2, 1)]


def test_a_column_is_a_stage_and_each_network_has_two_rows():
    networks = [NetworkHistory("first", BEFORE, LINES), NetworkHistory("$second$", BEFORE, LINES)]
    made = figure(recipe.read("quick"), networks)
    panels = np.array(made.axes).reshape(4, 2)
    assert [axes.get_title() for axes in panels[::2].ravel()] == [
        f"{name}, stage {k}" for name in ("first", "$second$") for k in ("1: head", "2: all")
    ]
    for column, own in enumerate((LINES[:3], LINES[3:])):
        epochs = [one["epoch"] for one in own]
        losses, accuracies = drawn(panels[0, column]), drawn(panels[1, column])
        assert losses == {
            "whole loss": (epochs, [one["loss"] for one in own]),
            "cross-entropy": (epochs, [one["cross_entropy"] for one in own]),
        }
        assert accuracies["softmax accuracy"] == (epochs, [one["accuracy"] for one in own])
        assert accuracies["validation top-1"] == (epochs, [one["validation_top1"] for one in own])
        assert accuracies["validation top-1 before training"][1] == [0.75, 0.75]
        assert accuracies["validation soft TAR before training"][1] == [0.65, 0.65]
    assert panels[1, 0].get_ylim() == panels[1, 1].get_ylim()


@pytest.mark.parametrize("epochs", [1, 2, 3, 12, 100])
def test_only_whole_epochs_stand_at_the_axis(epochs):
    lines = [line(1, epoch) for epoch in range(1, epochs + 1)]
    for axes in figure(recipe.read("quick"), [NetworkHistory("n", {}, lines)]).axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown and all(tick == round(tick) and 1 <= tick <= epochs for tick in shown)


def test_labels_say_what_a_teacher_changes():
    distil = recipe.read("distil")
    lines = [line(1, 1, loss=0.2, cross_entropy=0.2), line(2, 1, loss=0.3, cross_entropy=0.1)]
    panels = np.array(figure(distil, [NetworkHistory("n", {}, lines)]).axes).reshape(2, 2)
    assert drawn(panels[0, 0]).keys() == {"1 - cosine to the teacher"}  # the whole loss is the same: one line
    assert drawn(panels[0, 1]).keys() == {"whole loss", "1 - cosine to the teacher"}
    assert not any("softmax" in label or "entropy" in label for axes in panels.ravel() for label in drawn(axes))


def test_without_epochs_there_is_a_picture_too(tmp_path: Path):
    for lines in ([], LINES):
        draw(tmp_path / "curves.png", recipe.read("quick"), [NetworkHistory("n", BEFORE, lines)])
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG" and picture.width == (900 if lines else 450)
