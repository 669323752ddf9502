"""The commands that build an index and ask it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegallery.cli.options import (
    NAME,
    PATH,
    SCORE,
    SIZE,
    Output,
    asking_options,
    common,
    computing,
    model_option,
    score_option,
)
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError

if TYPE_CHECKING:
    from facegallery.results import ComparedFace
    from facegallery.workflows.people import FoundPerson, PeopleSummary, PhotosOfPerson

PHOTOS_SHOWN = 3  # of a person, in the summary of `search`
SOURCES = click.argument("sources", type=PATH, nargs=-1, required=True)


@click.command("build-index")
@click.argument("vectors", type=PATH)
@click.option("--name", required=True, help="Name of the index.")
@click.option("--split", help="Rows to enrol. [default: `gallery` where there are such rows, else all]")
@click.option("--centre", is_flag=True, help="Subtract the gallery's mean vector from all vectors.")
@click.option("--replace", is_flag=True, help="Replace the people of an index that is there.")
@click.option("--readmit", is_flag=True, help="Enrol faces that were forgotten, too.")
@click.option(
    "--recall",
    type=float,
    help="Share of the 5 nearest faces to be found; below 1, large galleries are compressed. [default: 0.99]",
)
@click.option("--memory", type=SIZE, help="Memory for the codes of a searching process at most, such as 500M or 4G.")
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt gallery.db with the key in FACEGALLERY_KEY, or in the file FACEGALLERY_KEY_FILE names.",
)
@common
def build_index(
    out: Output,
    *,
    vectors: Path,
    name: str,
    split: str | None,
    centre: bool,
    replace: bool,
    readmit: bool,
    recall: float | None,
    memory: int | None,
    encrypt: bool,
) -> None:
    """Build an index from vectors.

    VECTORS is a data set of `embed`. Writes a gallery (SQLite) and the FAISS inner-product index of its faces.
    """
    from facegallery.indexer.build import BuildOptions
    from facegallery.workflows.upkeep import build_index as run

    report = run(vectors, name, BuildOptions(split, centre, replace, readmit, encrypt, recall, memory)).result()
    for line in [report["reason"], *report["notes"]]:
        out.say(line)
    out.result(report, report["text"])


@click.command()
@NAME
@SOURCES
@click.option("--k", "-k", default=5, show_default=True, help="Answers for each face.")
@click.option(
    "--faces", is_flag=True, help="Show the nearest faces instead of the nearest people, with the ids `split` takes."
)
@score_option
@asking_options
@model_option
@click.option("--unnamed", is_flag=True, help="Show near groups of unnamed faces, too, and near faces in no group.")
@click.option("--image", "picture", type=PATH, help="Draw each probe beside its matches.")
@click.option(
    "--out", "table", type=PATH, help="Write the answers to this Parquet file, a row each, instead of printing them."
)
@computing
@common
def search(
    out: Output,
    *,
    name: str,
    sources: tuple[Path, ...],
    k: int,
    faces: bool,
    score: str,
    min_score: float | None,
    where: tuple[str, ...],
    one_face: bool,
    model: str | None,
    unnamed: bool,
    picture: Path | None,
    table: Path | None,
    compute: Compute,
) -> None:
    """Find the people whom each face in photos resembles most.

    Searches index NAME for each face in SOURCES: photos, folders of photos, or vectors. Where there are several
    photos, a summary by person follows on stderr (the field `summary` with --json; none with --out). Exits with 3
    where no photo could be read.
    """
    from facegallery.embedder.replaceable import check_replaceable
    from facegallery.workflows.networks import ReadOptions
    from facegallery.workflows.people import summarise
    from facegallery.workflows.probes import Question
    from facegallery.workflows.search import search as run
    from facegallery.workflows.search import search_to_parquet
    from facegallery.workflows.session import GallerySession

    question = Question(k, faces, score, where, min_score, unnamed)
    options = ReadOptions(one_face, keep_pixels=bool(picture))
    session = GallerySession(name, model=model, compute=compute)
    if table:
        with out.progress("search") as tick, session:
            done = search_to_parquet(session, sources, table, question, options, progress=tick)
        out.result(asdict(done), f"{table}: {done.rows} answers to {done.faces} faces")
        _end_search(done.photos, done.unread)
        return
    if picture:
        check_replaceable(picture, "picture")
    with session:
        searched = run(session, sources, question, options)
    if picture:
        from facegallery.workflows.pictures import draw_answers

        draw_answers(name, searched, picture)
        out.say(f"picture: {picture}")
    found = searched.result()
    summary = summarise(searched.results().photos, threshold=min_score is not None)
    out.result(found | {"summary": asdict(summary)}, answer_lines(found, face_ids=faces))
    if summary.photos > 1 and not out.as_json:
        for line in people_lines(summary, name, PHOTOS_SHOWN):
            out.say(line)
    _end_search(summary.photos, summary.unread)


@click.command()
@NAME
@SOURCES
@asking_options
@model_option
@computing
@common
def who(
    out: Output,
    *,
    name: str,
    sources: tuple[Path, ...],
    min_score: float | None,
    where: tuple[str, ...],
    one_face: bool,
    model: str | None,
    compute: Compute,
) -> None:
    """Name the people in photos, and count the strangers.

    Asks index NAME about each face in SOURCES: photos, folders of photos, or vectors. A face counts for the nearest
    person. After `calibrate`, or with --min-score, a face below that score is a stranger's; without either, strangers
    cannot be told from enrolled people. Exits with 3 where no photo could be read.
    """
    from facegallery.workflows.networks import ReadOptions
    from facegallery.workflows.people import who as run
    from facegallery.workflows.probes import Question
    from facegallery.workflows.session import GallerySession

    question = Question(k=1, where=where, min_score=min_score)
    with out.progress("who") as tick, GallerySession(name, model=model, compute=compute) as session:
        found = run(session, sources, question, ReadOptions(one_face), progress=tick)
    out.result({"index": name} | asdict(found), people_lines(found, name))
    _end_search(found.photos, found.unread)


@click.command()
@NAME
@click.argument("sources", type=PATH, nargs=-1)
@click.option("--identity", required=True, help="The person.")
@click.option("--min-score", type=SCORE, help="Leave out faces below this score.")
@model_option
@computing
@common
def where(
    out: Output,
    *,
    name: str,
    sources: tuple[Path, ...],
    identity: str,
    min_score: float | None,
    model: str | None,
    compute: Compute,
) -> None:
    """Find all photos of one person.

    Lists the photos of index NAME on which the person is enrolled, then those of SOURCES (photos, folders of photos,
    or vectors) with a face whose nearest person they are: a known one after `calibrate`, or one of at least
    --min-score. Exits with 3 where no photo of SOURCES could be read.
    """
    from facegallery.workflows.people import photos_of
    from facegallery.workflows.session import GallerySession

    with out.progress("where") as tick, GallerySession(name, model=model, compute=compute) as session:
        found = photos_of(session, identity, sources, min_score=min_score, progress=tick)
    out.result({"index": name} | asdict(found), place_lines(found))
    _end_search(found.photos, found.unread)


@click.command()
@click.argument("photos", type=PATH, nargs=2)
@click.option("--model", help="A model's name or folder. [default: sface, or the model of --name]")
@click.option("--name", help="Use the model, crops and calibration of this index.")
@computing
@common
def compare(out: Output, *, photos: tuple[Path, Path], model: str | None, name: str | None, compute: Compute) -> None:
    """Compare the faces of two photos.

    Prints their cosine, how many faces each photo has and which was compared: the largest, most central one. With
    --name, the calibration of that index says whether they are one person's.
    """
    from facegallery.results import as_document
    from facegallery.workflows.compare import compare as run
    from facegallery.workflows.compare import compare_in, networks_of
    from facegallery.workflows.photos import DEFAULT_MODEL
    from facegallery.workflows.session import GallerySession
    from facegallery.workflows.verdict import UNKNOWN, judge_pair

    if name is None:
        with networks_of(model or DEFAULT_MODEL, compute) as networks:
            done, verdict = run(*photos, networks), UNKNOWN
    else:
        with GallerySession(name, model=model, compute=compute) as session:
            done = compare_in(session, *photos)
            verdict = judge_pair(session, done.score)
    lines = [f"{done.score:.4f}", *map(compared_line, done.faces)]
    document = as_document(done) | asdict(verdict)
    out.result(document, [*lines, f"{verdict.verdict or 'no verdict'}: {verdict.reason}"])


def compared_line(face: ComparedFace) -> str:
    """Return how many faces a photo has, and which was compared."""
    text = f"{face.image}: {counted(face.others + 1, 'face')}"
    if face.box is None:
        return text
    left, top, right, bottom = map(round, face.box)
    which = "the largest, most central one, " if face.others else ""
    return f"{text}, compared {which}{right - left} x {bottom - top} pixels at ({left}, {top})"


@click.command()
@click.option(
    "--folder",
    type=PATH,
    default=Path("data/demo"),
    show_default=True,
    help="Where photos, vectors, the model and pictures go.",
)
@click.option("--serve", "do_serve", is_flag=True, help="Serve an index of the photos instead, with the page.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port of the server of --serve."
)
@computing
@common
def demo(out: Output, *, folder: Path, do_serve: bool, port: int, compute: Compute) -> None:
    """Run every step on 400 photos of 40 people.

    Fetches AT&T's photos and makes film negatives of them, then embeds, builds, evaluates, trains, searches and draws.
    """
    from facegallery import demo as demonstration

    if do_serve:
        from facegallery.cli import serve

        index = demonstration.index_to_serve(folder, compute)
        serve.start(serve.settings([index], compute, port=port))
        return
    result = demonstration.run(folder, compute)
    out.result(result, result["text"].splitlines())


# text -----------------------------------------------------------------------


def _end_search(photos: int, unread: int) -> None:
    """Exit as bad data does where none of the photos could be read."""
    if photos and photos == unread:
        sys.exit(DataError.exit_code)


def answer_lines(found: dict[str, Any], *, face_ids: bool = False) -> Iterator[str]:
    """Return a table: the photo, whether its face is known, then a line for each hit."""
    for probe in found["probes"]:
        if not probe["faces"]:
            yield f"{probe['image']}: {probe['outcome']}"
        for number, face in enumerate(probe["faces"]):
            verdict = {True: ": known", False: ": unknown", None: ""}[face["known"]]
            if face["chance"] is not None:
                verdict += f" (a stranger scores as high with a chance of {chance_text(face)})"
            yield probe["image"] + (f" (face {number})" if len(probe["faces"]) > 1 else "") + verdict
            for hit in face["hits"]:
                id_of_face = f"{hit['face_id']}  " if face_ids else ""
                yield f"{hit['rank']:>5}  {hit['score']:7.4f}  {id_of_face}{hit['identity']}  ({hit['image']})"
            yield from map(unnamed_line, face.get("unnamed") or ())


def unnamed_line(near: dict[str, Any]) -> str:
    """Return a line about a group of unnamed faces, or about one face."""
    if near["group"] is None:
        return f"    -  {near['score']:7.4f}  an unnamed face, {near['face_id']}  ({near['image']})"
    on = counted(near["photos"], "photo")
    return f"    -  {near['score']:7.4f}  unnamed group {near['group']}: {on}  ({near['image']})"


def chance_text(face: dict[str, Any]) -> str:
    """Return a chance, or its bound where the calibration can tell no smaller one, and the calibration's faults."""
    is_bound = face["chance"] <= face["chance_limit"]
    text = f"at most 1 in {round(1 / face['chance_limit']):,}" if is_bound else f"{face['chance']:.2g}"
    weak = f": {face['weak']}" if face["weak"] else ""
    return text + weak + (f"; the calibration is stale, {face['stale']}" if face["stale"] else "")


def people_lines(found: PeopleSummary, index: str, most: int | None = None) -> Iterator[str]:
    """Return a line for each person with their photos, at most so many, then the counts."""
    for person in found.people:
        yield f"{person.identity}: {counted(len(person.photos), 'photo')}, best score {person.score:.4f}: " + _photos(
            person, most
        )
    if found.strangers is None:
        yield f"strangers cannot be told from enrolled people: run `calibrate {index}`, or give --min-score"
    else:
        on = f" on {counted(len(found.photos_with_strangers), 'photo')}" if found.strangers else ""
        yield f"strangers: {counted(found.strangers, 'face')}{on}"
    rest = [f"{n} {what}" for n, what in ((found.without_face, "without a face"), (found.unread, "unread")) if n]
    people = f"{len(found.people)} {'person' if len(found.people) == 1 else 'people'}"
    yield f"{counted(found.photos, 'photo')}: {', '.join([people, *rest])}"


def _photos(person: FoundPerson, most: int | None) -> str:
    left = len(person.photos) - (most or len(person.photos))
    return ", ".join(person.photos[:most]) + (f" and {left} more" if left > 0 else "")


def place_lines(found: PhotosOfPerson) -> Iterator[str]:
    """Return a line for each photo of a person, then the counts."""
    for enrolled in found.enrolled:
        yield f"enrolled  {enrolled.image}"
    for seen in found.found:
        yield f"{seen.score:8.4f}  {seen.image}"
    text = f"{found.identity}: enrolled on {counted(len(found.enrolled), 'photo')}"
    if found.photos:
        on = len({seen.image for seen in found.found})
        unread = f", {found.unread} unread" if found.unread else ""
        text += f", found on {on} of {counted(found.photos, 'photo')}{unread}"
    yield text


def counted(n: int, noun: str) -> str:
    """Return '1 photo' or '2 photos'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
