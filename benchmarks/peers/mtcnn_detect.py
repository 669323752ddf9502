"""Detect and crop photos by the `mtcnn` package, in batches of 64 of one size. Arguments: files."""

import os
import sys
from collections import defaultdict
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from mtcnn import MTCNN  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402

net = MTCNN()


def crops(names: list[str]) -> list[Image.Image]:
    """Crop the largest face of each photo to 160 x 160; photos without a face are skipped."""
    by_size, found = defaultdict(list), []
    for name in names:
        photo = Image.open(name).convert("RGB")
        by_size[photo.size].append(photo)
    for photos in by_size.values():
        for i in range(0, len(photos), 64):
            batch = photos[i : i + 64]
            for photo, faces in zip(
                batch, net.detect_faces([np.asarray(p) for p in batch], threshold_onet=0.7), strict=True
            ):
                if faces:
                    x, y, w, h = max((face["box"] for face in faces), key=lambda box: box[2] * box[3])
                    face = photo.crop((x - w / 8, y - h / 8, x + w * 9 / 8, y + h * 9 / 8))
                    found.append(face.resize((160, 160), Image.Resampling.BILINEAR))
    return found


if __name__ == "__main__":
    serve(lambda: {"photos": len(sys.argv) - 1, "crops": len(crops(sys.argv[1:]))})
