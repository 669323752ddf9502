"""Detect and crop photos by facenet-pytorch, in batches of 64 of one size. Arguments: files."""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402
from facenet_pytorch import MTCNN  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402

names, net = sys.argv[1:], MTCNN(image_size=160, margin=32, device="cpu")


def work() -> dict:
    by_size, crops = defaultdict(list), 0
    for name in names:
        photo = Image.open(name).convert("RGB")
        by_size[photo.size].append(photo)
    with torch.inference_mode():
        for photos in by_size.values():
            for i in range(0, len(photos), 64):
                crops += sum(crop is not None for crop in net(photos[i : i + 64]))
    return {"photos": len(names), "crops": crops}


serve(work)
