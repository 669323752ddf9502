"""Write the crops of `mtcnn_detect.py` to a .npy, for the network that follows. Arguments: the .npy, files."""

import sys

import numpy as np
from mtcnn_detect import crops, serve


def work() -> dict:
    np.save(sys.argv[1], np.stack([np.asarray(crop) for crop in crops(sys.argv[2:])]))
    return {}


serve(work)
