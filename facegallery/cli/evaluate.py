"""The commands that measure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from facegallery.cli.options import NAME, NUMBERS, PATH, Output, common, computing, model_option, score_option
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import InputError

RANKS_SHOWN = (1, 5, 10, 20)
LEAST_SCORE = -2.0  # scores are cosines, of centred vectors a little beyond -1


@click.command()
@NAME
@click.argument("source", type=PATH)
@click.option("--split", help="Rows to ask about. [default: `probe` where there are such rows, else all]")
@click.option("--strangers", type=PATH, multiple=True, help="More photos or vectors, of people who are not enrolled.")
@score_option
@click.option("--by", help="Measure for each value of this column of the probes, too.")
@click.option(
    "--sizes",
    type=NUMBERS,
    default=(),
    help="Measure in smaller galleries drawn at random, too, of so many people, such as 100,400,1600.",
)
@click.option(
    "--photos",
    type=NUMBERS,
    default=(),
    help="Measure with at most so many enrolled photos of each person, too, such as 1,2,3,5; by each --score.",
)
@click.option("--against", help="Another index: is it really better on the same photos?")
@click.option(
    "--against-vectors",
    type=PATH,
    multiple=True,
    help="Vectors of the same photos by the other index's model, where SOURCE is vectors.",
)
@click.option("--quality", is_flag=True, help="Measure what refusing probes of low quality wins, too.")
@click.option("--predictions", type=PATH, help="Write the five answers to each probe, a line a probe.")
@click.option(
    "--report",
    type=PATH,
    help="Write DIR/index.html: figures, charts and the worst mistakes with their faces.",
    metavar="DIR",
)
@model_option
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of the intervals' resamples and of --sizes.",
)
@computing
@common
def evaluate(
    out: Output,
    *,
    name: str,
    source: Path,
    split: str | None,
    strangers: tuple[Path, ...],
    score: str,
    by: str | None,
    sizes: tuple[int, ...],
    photos: tuple[int, ...],
    against: str | None,
    against_vectors: tuple[Path, ...],
    quality: bool,
    predictions: Path | None,
    report: Path | None,
    model: str | None,
    seed: int,
    compute: Compute,
) -> None:
    """Measure how well an index answers.

    Asks index NAME about the probes in SOURCE (photos or vectors): top-k, CMC and MRR; DIR at FPIR where some probes
    are of strangers. All intervals are 95 %, over people: 10,000 bootstrap resamples.
    """
    from facegallery.workflows.evaluate import EvaluationOptions
    from facegallery.workflows.evaluate import evaluate as run
    from facegallery.workflows.session import GallerySession

    if against_vectors and not against:
        raise InputError("expected --against with --against-vectors, received the vectors alone: name the other index")
    wanted = EvaluationOptions(
        strangers,
        score,
        by,
        sizes,
        photos,
        against,
        against_vectors,
        seed,
        report,
        typed_command(),
        split,
        predictions,
        quality,
    )
    with out.progress("evaluate") as tick, GallerySession(name, model=model, compute=compute) as session:
        result = run(session, source, wanted, progress=tick).result()
    for line in result["warnings"]:
        out.say(f"warning: {line}")
    if report:
        out.say(f"{report / 'index.html'} holds names and faces: for its owner only")
    out.result(result, lines_of(result))


@click.command("evaluate-pairs")
@click.argument("vectors", type=PATH)
@click.argument("pairs", type=PATH)
@click.option("--against", type=PATH, help="Another model's vectors of the same photos: is it really better?")
@click.option("--report", type=PATH, help="Write DIR/index.html: the figures and the ROC curve.", metavar="DIR")
@common
def evaluate_pairs(out: Output, *, vectors: Path, pairs: Path, against: Path | None, report: Path | None) -> None:
    """Measure verification of pairs by LFW's protocol.

    VECTORS are of the pairs' photos. PAIRS is LFW's pairs.txt, CFP's folder `Protocol/Split/FF` or `FP`, or a list with
    `path1 path2 1` (one person) or `0` (two) a line, also as a CSV, in ten equal folds (AgeDB-30, CFP-FP). The
    threshold of each fold comes from the others.
    """
    from facegallery.workflows.pairs import evaluate_pairs as run

    result = run(vectors, pairs, against, report, typed_command()).result()
    for line in result["warnings"]:
        out.say(f"warning: {line}")
    out.result(result, pair_lines(result))


def typed_command() -> str:
    """Return the command that runs as its user typed it."""
    return shlex.join(["facegallery", *click.get_current_context().obj])


# text -----------------------------------------------------------------------


def between(interval: tuple[float, float]) -> str:
    """Return a 95 % interval as text."""
    return f"(95 %: {interval[0]:.4f} to {interval[1]:.4f})"


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """Return an evaluation in a few lines."""
    for k in RANKS_SHOWN:
        at = min(k, len(result["cmc"])) - 1  # fewer people than k
        yield f"top-{k} {result['cmc'][at]:.4f}  {between(result['cmc_interval'][at])}"
    yield f"MRR {result['mrr']:.4f}  {between(result['mrr_interval'])}, a rank beyond {len(result['cmc'])} counts 0"
    yield (
        f"{result['probes']} probes of {result['people_asked']} people against {result['gallery']} faces of "
        f"{result['people']}; {result['without_vector']} probes without a face count as misses"
    )
    if found := result["open_set"]:
        yield f"{found['strangers']} photos of {found['people']} strangers, {found['without_vector']} without a face:"
        yield from (rate_line(rate, found["strangers"]) for rate in found["rates"])
    yield from (group_line(group) for group in result["groups"])
    yield from (part_line(part) for part in (*result["by_size"], *result["by_photos"]))
    if found := result["quality"]:
        yield from discard_lines(found)
    if result["against"]:
        yield from against_lines(result)


def rate_line(rate: dict[str, Any], strangers: int) -> str:
    """Return the detection of enrolled people at one rate of strangers."""
    # a threshold below all scores is that of strangers without a face
    start = f"{rate['threshold']:.4f}" if rate["threshold"] >= LEAST_SCORE else "any score"
    text = f"DIR {rate['dir']:.4f} at FPIR {rate['fpir']:g}  {between(rate['interval'])}, from {start} on"
    if rate["fpir"] * strangers < 1:
        return f"{text}: {strangers} strangers are too few for this rate, none of them may reach it"
    return f"{text}, which {rate['false_positives']} strangers' photos reach"


def discard_lines(found: dict[str, Any]) -> Iterator[str]:
    """Return what refusing the probes of lowest quality wins, a line for each share."""
    left = f"; {found['without_face']} without a face are left out" if found["without_face"] else ""
    yield f"{found['probes']} probes with a face by quality, FNIR at FPIR {found['fpir']:g}{left}:"
    for row in found["rows"]:
        refused = f"the worst {100 * row['share']:g} % refused" if row["share"] else "none refused"
        lowest = "" if row["quality"] is None or not row["refused"] else f", quality below {row['quality']:.3f}"
        yield f"  {refused}{lowest}: FNIR {row['fnir']:.4f}  {between(row['interval'])}"


def dirs(rates: Any) -> str:
    """Return the detection at each rate, to follow other figures of a line."""
    return "".join(
        f"; DIR {r['dir']:.4f} ({r['interval'][0]:.4f} to {r['interval'][1]:.4f}) at FPIR {r['fpir']:g}" for r in rates
    )


def group_line(group: dict[str, Any]) -> str:
    """Return the figures of the probes with one value of --by."""
    text = f"{group['value'] or '(no value)'}: {group['probes']} probes"
    if group["top1"] is not None:
        text += f", top-1 {group['top1']:.4f} {between(group['top1_interval'])}, top-5 {group['top5']:.4f}"
    for rate in group["rates"]:
        shares = [
            f"{name} {rate[key]:.4f}" for name, key in (("DIR", "dir"), ("FPIR", "group_fpir")) if rate[key] is not None
        ]
        text += f"; at FPIR {rate['fpir']:g} of all: {', '.join(shares)}"
    return text


def part_line(part: dict[str, Any]) -> str:
    """Return the figures of one of --sizes or --photos."""
    what = (
        f"{part['people']} people"
        if part["photos"] is None
        else f"up to {part['photos']} photos a person, {part['score']}"
    )
    return (
        f"{what}: {part['probes']} probes, top-1 {part['top1']:.4f} {between(part['top1_interval'])}, "
        f"top-5 {part['top5']:.4f}" + dirs(part["rates"])
    )


def against_lines(result: dict[str, Any]) -> Iterator[str]:
    """Return the comparison with the other index."""
    found = result["against"]
    yield (
        f"{found['index']} on the same {found['probes']} probes and {found['strangers']} strangers; "
        f"{found['left_out']} photos only here:"
    )
    yield from (f"top-{k} {paired_text(found[f'top{k}'], result['index'], found['index'])}" for k in (1, 5))
    for line in found["dir"]:
        gain = line["second"] - line["first"]
        yield (
            f"DIR at FPIR {line['fpir']:g}: {line['second']:.4f} instead of {line['first']:.4f}, {gain:+.4f} "
            f"{between(line['interval'])}"
        )


def paired_text(paired: dict[str, Any], first: str, second: str) -> str:
    """Return how much better `second` is than `first` on the same questions."""
    return (
        f"{paired['difference']:+.4f} {between(paired['interval'])}; right in {second} alone {paired['second_only']}, "
        f"in {first} alone {paired['first_only']}: McNemar p = {paired['p']:.2g}"
    )


def pair_lines(result: dict[str, Any]) -> Iterator[str]:
    """Return a verification in a few lines."""
    yield from verified_lines(result)
    yield f"{result['pairs']} pairs; {result['without_vector']} with a photo without a face count as different people"
    if found := result["against"]:
        yield f"{found['vectors']}, on the same pairs:"
        yield from verified_lines(found)
        yield f"accuracy {paired_text(found, result['vectors'], found['vectors'])}"


def verified_lines(found: dict[str, Any]) -> Iterator[str]:
    """Return accuracy, TAR at FAR, AUC and EER."""
    yield f"accuracy {found['accuracy']:.4f} +- {found['std']:.4f}  ({len(found['folds'])} folds)"
    for tar in found["tar"]:
        figures = f"TAR {tar['tar']:.4f} +- {tar['std']:.4f} at FAR {tar['asked']:g}"
        yield f"{figures}  (FAR measured in the tested folds: {tar['far']:.4f})"
    yield f"AUC {found['auc']:.5f}, EER {found['eer']:.4f}"
