"""Turn crops into unit vectors by facenet-pytorch's network, with random weights: the speed is the same.

Arguments: a .npy of uint8 crops, f32 or bf16.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from facenet_pytorch import InceptionResnetV1  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402

BATCH = 32
crops, net = np.load(sys.argv[1]), InceptionResnetV1(pretrained=None).eval()


def work() -> dict:
    done = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bf16"):
        for i in range(0, len(crops), BATCH):
            batch = torch.from_numpy(crops[i : i + BATCH]).permute(0, 3, 1, 2).float()
            done += len(net((batch - 127.5) / 128))
    return {"crops": done}


serve(work)
