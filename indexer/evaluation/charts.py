"""Charts as SVG without fonts and network; the same figures give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from facegallery.indexer.evaluation import openset
from facegallery.indexer.evaluation.openset import OpenSet, Rate
from facegallery.indexer.evaluation.verification import Roc

WIDTH, HEIGHT = 4.6, 3.3  # inches of 72 points: as wide as a phone, to keep letters readable there
# distinct for colour-blind readers, too (Okabe and Ito)
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
POINTS = 500  # of a curve
BINS = 50
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "facegallery",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def _drawn(draw: Callable[[Any], None], legend: Any = "best", **labels: Any) -> bytes:
    """Return the SVG of what `draw` puts on axes."""
    import matplotlib
    from matplotlib.figure import Figure

    sink = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set(**labels)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=legend)
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return sink.getvalue()


def cmc(shares: np.ndarray, intervals: np.ndarray) -> bytes:
    """Draw a CMC curve. shares: (k,). intervals: (k, 2)."""

    def draw(axes: Any) -> None:
        ranks = np.arange(1, len(shares) + 1)
        axes.fill_between(ranks, *intervals.T, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
        axes.plot(ranks, shares, color=BLUE, marker="o", markersize=3)
        axes.set_xticks([k for k in (1, 5, 10, 15, 20) if k <= len(ranks)])

    return _drawn(draw, "lower right", xlabel="first k people answered", ylabel="right person among them")


def roc(curve: Roc) -> bytes:
    """Draw TAR over FAR, from the first false accept on."""

    def draw(axes: Any) -> None:
        x, y = _steps(curve.far, curve.tar)
        axes.plot(x, y, color=BLUE, drawstyle="steps-post")
        axes.set_xscale("log")

    return _drawn(draw, xlabel="pairs of different people accepted (FAR)", ylabel="pairs of one person accepted (TAR)")


def dir_over_fpir(answers: OpenSet, rates: Sequence[Rate]) -> bytes:
    """Draw DIR over FPIR, from the first accepted stranger on, with the intervals of `rates`."""

    def draw(axes: Any) -> None:
        x, y = _steps(*openset.curve(answers))
        axes.plot(x, y, color=BLUE, drawstyle="steps-post")
        for i, rate in enumerate(r for r in rates if r.fpir >= x[0]):
            low, high = rate.interval
            axes.plot([rate.fpir] * 2, [low, high], color=ORANGE, label=None if i else "95 % interval")
            axes.plot(rate.fpir, rate.dir, color=ORANGE, marker="o", markersize=4)
        axes.set_xscale("log")

    return _drawn(
        draw, "lower right", xlabel="strangers taken for somebody (FPIR)", ylabel="enrolled people identified (DIR)"
    )


def _steps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most POINTS points of a rising curve, evenly spread over the logarithm of x.

    The curve begins where x is above 0.
    """
    x, y = x[x > 0], y[x > 0]
    at = np.searchsorted(x, np.geomspace(x[0], x[-1], POINTS), "right") - 1
    at = np.unique(np.concatenate([[0], at, [len(x) - 1]]))
    return x[at], y[at]


def histograms(genuine: np.ndarray, impostors: np.ndarray, strangers: np.ndarray) -> bytes:
    """Draw histograms of scores; leave out scores of -inf, and kinds without scores."""
    kinds = [
        ("true person", genuine, GREEN),
        ("best other person", impostors, ORANGE),
        ("strangers' best", strangers, GREY),
    ]
    shown = [(label, found, colour) for label, scores, colour in kinds if len(found := scores[np.isfinite(scores)])]

    def draw(axes: Any) -> None:
        edges = np.histogram_bin_edges(np.concatenate([found for _, found, _ in shown]), BINS)
        for label, found, colour in shown:
            weights = np.full(len(found), 1 / len(found))
            axes.hist(
                found,
                edges,
                weights=weights,
                histtype="stepfilled",
                alpha=0.35,
                color=colour,
                edgecolor=colour,
                label=label,
            )

    return _drawn(draw if shown else lambda axes: None, xlabel="score (cosine)", ylabel="share of the photos of a kind")


def training(lines: Sequence[dict[str, Any]], keys: Sequence[str]) -> bytes:
    """Draw figures of one network's epochs, with a dotted line at the end of each stage."""

    def draw(axes: Any) -> None:
        epochs = range(1, len(lines) + 1)
        for key, colour in zip(keys, (BLUE, ORANGE), strict=False):
            values = [line.get(key, np.nan) for line in lines]
            if np.isfinite(values).any():
                axes.plot(epochs, values, color=colour, marker=".", label=key.replace("_", " "))
        for i in range(1, len(lines)):
            if lines[i]["stage"] != lines[i - 1]["stage"]:
                axes.axvline(i + 0.5, color=GREY, linestyle=":")

    return _drawn(draw, xlabel="epoch, all stages")
