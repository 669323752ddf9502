"""Turn photos into unit vectors in a file, by the `mtcnn` package and then facenet-pytorch's network, both in batches.

The network runs in float32 with random weights: the speed is the same. TensorFlow and torch crash in one process, so
that `mtcnn` runs in another. Arguments: Python of an environment with `mtcnn`, files.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from facenet_pytorch import InceptionResnetV1  # noqa: E402

from benchmarks.common.rounds import Peer, serve  # noqa: E402

BATCH = 32
scratch = Path(tempfile.mkdtemp())
net, detector = (
    InceptionResnetV1().eval(),
    Peer(sys.argv[1], "mtcnn_crops.py", [str(scratch / "crops.npy"), *sys.argv[2:]]),
)


def work() -> dict:
    detector.go()
    crops = torch.from_numpy(np.load(scratch / "crops.npy"))
    with torch.inference_mode():
        vectors = [
            net((crops[i : i + BATCH].permute(0, 3, 1, 2).float() - 127.5) / 128).numpy()
            for i in range(0, len(crops), BATCH)
        ]
    np.save(scratch / "vectors.npy", np.concatenate(vectors))
    return {"photos": len(sys.argv) - 2, "crops": len(crops)}


serve(work)
