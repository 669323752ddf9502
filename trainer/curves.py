"""Draw the epochs of a training: a column for each stage, a row of losses and one of accuracies for each network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegallery.embedder.files import write_atomic
from facegallery.embedder.text import printable
from facegallery.trainer import history
from facegallery.trainer.history import Measure, NetworkHistory
from facegallery.trainer.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.5, 2.8  # inches of a panel


def draw(path: Path, recipe: Recipe, networks: Sequence[NetworkHistory]) -> None:
    """Write the curves as a PNG."""
    sink = io.BytesIO()
    figure(recipe, networks).savefig(sink, format="png", dpi=100)
    write_atomic(path, sink.getvalue())


def figure(recipe: Recipe, networks: Sequence[NetworkHistory]) -> Figure:
    """Return the curves; a stage that no network trained in has no column."""
    from matplotlib.figure import Figure

    stages = sorted({line["stage"] for network in networks for line in network.lines})
    shape = 2 * len(networks), len(stages)
    drawn = Figure(figsize=(WIDTH * max(1, shape[1]), HEIGHT * max(1, shape[0])), layout="constrained")
    if not stages:
        return drawn
    panels = drawn.subplots(*shape, squeeze=False)
    for row, network in enumerate(networks):
        for column, stage in enumerate(stages):
            lines = [line for line in network.lines if line["stage"] == stage]
            title = f"{network.name}, stage {stage}: {recipe.stages[stage - 1].trains}"
            upper, lower = panels[2 * row][column], panels[2 * row + 1][column]
            _panel(upper, _without_twins(lines, history.losses(recipe)), lines, {})
            _panel(lower, history.accuracies(recipe), lines, network.before)
            upper.set_title(printable(title), parse_math=False)
            lower.set_xlabel("epoch of the stage")
        _share_height(panels[2 * row + 1])
    return drawn


def _without_twins(lines: Sequence[Mapping[str, Any]], measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
    """Return the measures, without the first where it is always equal to the second."""
    first, second = measures
    return (second,) if all(line[first.key] == line[second.key] for line in lines) else measures


def _panel(
    axes: Axes, measures: Sequence[Measure], lines: Sequence[Mapping[str, Any]], before: Mapping[str, float]
) -> None:
    """Draw the measures of a stage's epochs, and as a dashed line each figure before training."""
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in lines]
    for number, measure in enumerate(measures):
        colour = f"C{number}"
        if all(measure.key in line for line in lines):
            axes.plot(epochs, [line[measure.key] for line in lines], marker=".", color=colour, label=measure.label)
        if measure.before in before:
            label = f"{measure.label} before training"
            axes.axhline(before[measure.before], color=colour, linestyle="--", linewidth=1, label=label)
    axes.set_xlim(0.5, max(epochs, default=1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def _share_height(row: Sequence[Axes]) -> None:
    """Give the panels of a row one range of y."""
    limits = [axes.get_ylim() for axes in row]
    for axes in row:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
