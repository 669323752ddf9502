"""Turn photos into vectors in a file by `DeepFace.represent`.

Arguments: folder of its weights (made at random where there are none), files.
"""

import sys
import tempfile
from pathlib import Path

from deepface_find import DETECTOR, MODEL, home

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

home(Path(sys.argv[1]))
from deepface import DeepFace  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402

names, scratch = sys.argv[2:], Path(tempfile.mkdtemp())


def work() -> dict:
    vectors = []
    for name in names:
        faces = DeepFace.represent(
            name, model_name=MODEL, detector_backend=DETECTOR, enforce_detection=False, max_faces=1
        )
        vectors.append(faces[0]["embedding"])
    np.save(scratch / "vectors.npy", np.array(vectors, np.float32))
    return {"photos": len(names), "crops": len(vectors)}


serve(work)
