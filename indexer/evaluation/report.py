"""An evaluation as one HTML page, without other files, network or scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from facegallery.embedder.files import make_folder
from facegallery.embedder.replaceable import write_own
from facegallery.embedder.spec import FaceSpec
from facegallery.embedder.text import printable
from facegallery.indexer.evaluation import charts
from facegallery.indexer.evaluation.evaluate import MISSED, RANKS, Evaluation
from facegallery.indexer.evaluation.pair_scores import PairScores
from facegallery.indexer.evaluation.verification import Roc

FILE, TEMPLATE = "index.html", "report.html"
RANKS_SHOWN = (1, 5, 10, 20)
PAIR_HEAD = ("figure", "value", "std of the folds")
HOW_ROC = (
    "the share of pairs of one person that is accepted, over the share of pairs of two people that is accepted by "
    "mistake. Higher and further left is better."
)
LOSSES, ACCURACIES = ("loss", "cross_entropy"), ("accuracy", "validation_top1", "validation_tar")


@dataclass(frozen=True)
class ReportTile:
    """A face on a contact sheet."""

    role: str
    name: str
    image: str
    picture: bytes | None  # JPEG
    score: float | None = None


@dataclass(frozen=True)
class Mistake:
    """A probe beside the faces that were answered."""

    tiles: tuple[ReportTile, ...]
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of mistakes."""

    title: str
    how_to_read: str
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class Chart:
    """A chart, or the text that says why there is none."""

    title: str
    how_to_read: str
    svg: bytes | None = None  # None: how_to_read says why there is none


@dataclass(frozen=True)
class ReportTable:
    """A table of figures."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Page:
    """Content of a page."""

    title: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    tables: Sequence[ReportTable]
    charts: Sequence[Chart]
    sheets: Sequence[Sheet] = ()


def write(folder: Path, page: Page) -> Path:
    """Write FOLDER/index.html, readable by its owner only; other files there are not touched."""
    path = make_folder(folder) / FILE
    write_own(path, "page", html(page).encode("utf-8", "replace"))
    return path


def html(page: Page) -> str:
    """Return the page as HTML."""
    import jinja2
    from markupsafe import Markup, escape

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["data"] = lambda data, kind: f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    environment.filters["soft"] = lambda text: (
        escape(printable(text)).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>"))
    )
    return environment.from_string(resources.files(__package__).joinpath(TEMPLATE).read_text("utf-8")).render(page=page)


# content --------------------------------------------------------------------


def facts(made: datetime, command: str, spec: FaceSpec) -> dict[str, str]:
    """Return where the figures come from."""
    models = ", ".join(f"{part.name} (sha256 {part.sha256[:16]}...)" for part in spec.parts)
    return {
        "made": made.strftime("%Y-%m-%d %H:%M %Z"),
        "command": command,
        "model": models,
        "contract": spec.fingerprint,
    }


def page_of(
    evaluation: Evaluation,
    crossed: PairScores | None,
    result: Mapping[str, Any],
    history: Sequence[dict[str, Any]],
    sheets: Sequence[Sheet],
    head: Mapping[str, str],
) -> Page:
    """Return the page of an evaluation.

    result: as `evaluate --json` prints it. history: a line an epoch, empty where the model has no record.
    """
    enrolled = f"{result['gallery']:,} faces of {result['people']:,} people"
    asked = f"{result['probes']:,} photos of {result['people_asked']:,} people"
    asked += f", {result['without_vector']:,} without a face (misses)"
    known = dict(head) | {"enrolled": enrolled, "asked": asked}
    if found := result["open_set"]:
        known["strangers"] = (
            f"{found['strangers']:,} photos of {found['people']:,} people, {found['without_vector']:,} without a face"
        )
    drawn = [_cmc(evaluation), _roc(crossed), _dir(evaluation), _scores(evaluation), *_training(history)]
    return Page(
        f"How well {result['index']} finds people", known, result["warnings"], list(_tables(result)), drawn, sheets
    )


def pairs_page(result: Mapping[str, Any], curve: Roc, head: Mapping[str, str]) -> Page:
    """Return the page of an evaluation of pairs. result: as `evaluate-pairs --json` prints it. curve: of all pairs."""
    asked = f"{result['pairs']:,} pairs, {result['without_vector']:,} with a photo without a face"
    asked += " (counted as different people)"
    tables = [ReportTable("Figures", PAIR_HEAD, list(_verified(result)))]
    if found := result["against"]:
        difference = (
            "difference of accuracy",
            f"{found['difference']:+.4f}",
            f"95 %: {between(found['interval'])}; McNemar p {found['p']:.2g}",
        )
        tables.append(ReportTable(f"{found['vectors']} on the same pairs", PAIR_HEAD, [*_verified(found), difference]))
    chart = Chart("Pairs (ROC)", f"All pairs at one threshold: {HOW_ROC}", charts.roc(curve))
    return Page(
        f"How well {result['vectors']} tells pairs apart",
        dict(head) | {"asked": asked},
        result["warnings"],
        tables,
        [chart],
    )


def _verified(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "accuracy", _share(found["accuracy"]), _share(found["std"])
    for tar in found["tar"]:
        yield f"TAR at FAR {tar['asked']:g}", _share(tar["tar"]), _share(tar["std"])
    yield "EER", _share(found["eer"]), ""
    yield "AUC", f"{found['auc']:.5f}", ""


def _tables(result: Mapping[str, Any]) -> Iterator[ReportTable]:
    yield ReportTable("Figures", ("figure", "value", "95 % interval"), list(_figures(result)))
    if result["groups"]:
        head = (
            "group",
            "photos",
            "top-1",
            "95 % interval",
            "top-5",
            *(f"DIR at FPIR {r['fpir']:g} of all; own FPIR" for r in result["groups"][0]["rates"]),
        )
        yield ReportTable("By group", head, [_group(group) for group in result["groups"]])
    for title, key in (("Smaller galleries", "by_size"), ("Fewer photos a person", "by_photos")):
        if parts := result[key]:
            head = (
                "gallery",
                "photos asked",
                "top-1",
                "95 % interval",
                "top-5",
                *(f"DIR at FPIR {r['fpir']:g}" for r in parts[0]["rates"]),
            )
            yield ReportTable(title, head, [_part(part) for part in parts])
    if found := result["against"]:
        title = f"{found['index']} on the same {found['probes']} probes and {found['strangers']:,} strangers"
        yield ReportTable(
            title,
            ("figure", result["index"], found["index"], "difference", "95 % interval", "McNemar p"),
            list(_against(found, result)),
        )


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for k in RANKS_SHOWN:
        if k <= len(result["cmc"]):
            yield f"top-{k}", _share(result["cmc"][k - 1]), between(result["cmc_interval"][k - 1])
    yield "MRR", _share(result["mrr"]), between(result["mrr_interval"])
    for rate in result["open_set"]["rates"] if result["open_set"] else ():
        yield f"DIR at FPIR {rate['fpir']:g}", _share(rate["dir"]), between(rate["interval"])
    if found := result["roc"]:
        for at in found["tar"]:
            yield f"TAR at FAR {at['far']:g}", _share(at["tar"]), ""
        yield "EER", _share(found["eer"]), ""
        yield "AUC", f"{found['auc']:.5f}", ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def between(interval: Sequence[float] | None) -> str:
    """Return an interval as text, or an empty text."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _group(group: Mapping[str, Any]) -> tuple[str, ...]:
    rates = (f"{_share(r['dir']) or '-'}; {_share(r['group_fpir']) or '-'}" for r in group["rates"])
    name = "(no value)" if group["value"] is None else str(group["value"])
    return (
        name,
        str(group["probes"]),
        _share(group["top1"]),
        between(group["top1_interval"]),
        _share(group["top5"]),
        *rates,
    )


def _part(part: Mapping[str, Any]) -> tuple[str, ...]:
    what = f"{part['people']} people" if part["photos"] is None else f"up to {part['photos']} a person, {part['score']}"
    rates = (f"{r['dir']:.4f} ({between(r['interval'])})" for r in part["rates"])
    return what, str(part["probes"]), _share(part["top1"]), between(part["top1_interval"]), _share(part["top5"]), *rates


def _against(found: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for k in (1, 5):
        paired = found[f"top{k}"]
        only = f"right alone on {paired['first_only']}", f"right alone on {paired['second_only']}"
        yield f"top-{k}", *only, f"{paired['difference']:+.4f}", between(paired["interval"]), f"{paired['p']:.2g}"
    for line in found["dir"]:
        first, second = line["first"], line["second"]
        yield (
            f"DIR at FPIR {line['fpir']:g}",
            _share(first),
            _share(second),
            f"{second - first:+.4f}",
            between(line["interval"]),
            "",
        )


# charts ---------------------------------------------------------------------


def _cmc(evaluation: Evaluation) -> Chart:
    text = "How often the true person is among the first k people answered. Higher is better; the left end is top-1."
    return Chart("Ranks (CMC)", text, charts.cmc(evaluation.cmc, evaluation.cmc_intervals))


def _roc(crossed: PairScores | None) -> Chart:
    title = "Pairs (ROC)"
    if crossed is None:
        return Chart(title, "Not drawn: there are no pairs of two people, or none of one.")
    some = ", drawn at random from more" if crossed.drawn else ""
    text = (
        f"Each probe of an enrolled person with each enrolled face: {len(crossed.same):,} pairs of one person, "
        f"{len(crossed.different):,} of two{some}. At one threshold for all, {HOW_ROC}"
    )
    return Chart(title, text, charts.roc(crossed.roc))


def _dir(evaluation: Evaluation) -> Chart:
    title = "Strangers (DIR over FPIR)"
    if evaluation.open_set is None:
        return Chart(
            title,
            "Not drawn: nobody among the probes is a stranger. "
            "Give photos of people who are not enrolled with --strangers.",
        )
    text = (
        "The share of enrolled people who are identified, over the share of strangers who are taken for somebody at "
        "the same threshold. Higher is better."
    )
    return Chart(title, text, charts.dir_over_fpir(evaluation.open_set, evaluation.rates))


def _scores(evaluation: Evaluation) -> Chart:
    genuine = evaluation.genuine
    text = (
        "Scores of the true person (genuine), of the best other person for the same photos (impostor), "
        "and of the best person for strangers. The less these overlap, the better one threshold tells them apart."
    )
    if beyond := int((genuine == MISSED).sum()):
        text += (
            f" {beyond} probes are left out of the first: the true person is not among the first {RANKS} answers, "
            "or there is no face."
        )
    strangers = np.array([a.best for a in evaluation.strangers])
    return Chart("Scores", text, charts.histograms(genuine, evaluation.impostors, strangers))


def _training(history: Sequence[dict[str, Any]]) -> Iterator[Chart]:
    """Yield two charts for each network."""
    for name in dict.fromkeys(line["network"] for line in history):
        lines = [line for line in history if line["network"] == name]
        yield Chart(
            f"Training of {name}: loss", "Lower is better; a dotted line ends a stage.", charts.training(lines, LOSSES)
        )
        text = (
            "Share of correctly identified training photos, and photos of held-out people where there were any. "
            "Higher is better."
        )
        yield Chart(f"Training of {name}: accuracy", text, charts.training(lines, ACCURACIES))
