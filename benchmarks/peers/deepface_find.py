"""Run `DeepFace.find` on one photo as a whole process with its cache warm: `deepface_find.py PHOTO FOLDER`.

`deepface_find.py prepare FOLDER XB PHOTO` makes FOLDER first. It holds a database of as many links to PHOTO as the
.npy XB has vectors (n, 512), a cache that gives each link its vector, and the weights of Facenet512. Missing weights
are made at random: the time is the same.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
MODEL, DETECTOR = "Facenet512", "mtcnn"
CACHE = f"ds_model_{MODEL.lower()}_detector_{DETECTOR}_aligned_normalization_base_expand_0.npz"


def home(folder: Path) -> None:
    """Make the folder below which DeepFace keeps its weights, at random where there are none."""
    os.environ["DEEPFACE_HOME"] = str(folder)
    weights = folder / ".deepface/weights/facenet512_weights.h5"
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        import deepface.DeepFace  # noqa: F401  it chooses the Keras that it loads them with
        from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1

        InceptionResNetV1(dimension=512).save_weights(str(weights))


def prepare(folder: Path, xb: str, photo: str) -> None:
    import shutil

    import numpy as np

    home(folder)
    (folder / "db").mkdir()
    vectors = np.load(xb)
    for i in range(len(vectors)):
        shutil.copyfile(photo, folder / "db" / f"{i:07d}.jpg")
    from deepface.commons.image_utils import find_image_hash
    from deepface.modules import recognition
    from deepface.modules.filestore import build_file_store

    store = build_file_store(str(folder / "db"))
    region = {"target_x": 60, "target_y": 60, "target_w": 120, "target_h": 120}
    rows = [{"identity": path, "hash": find_image_hash(path), **region} for path in sorted(store.list_images())]
    for row, vector in zip(rows, vectors.tolist(), strict=True):
        row["embedding"] = vector
    vars(recognition)["__save_representations"](store, store.join(CACHE), "npz", rows)


def find(photo: str, folder: Path) -> None:
    home(folder)
    from deepface import DeepFace

    for face in DeepFace.find(
        photo,
        str(folder / "db"),
        model_name=MODEL,
        detector_backend=DETECTOR,
        similarity_search=True,
        k=5,
        silent=True,
        return_type="dict",
    ):
        for hit in face:
            print(f"{hit['distance']:.4f}  {hit['identity']}")


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        find(sys.argv[1], Path(sys.argv[2]))
