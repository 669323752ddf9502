"""Turn crops into unit vectors by this project. Arguments: a .npy of uint8 (n, 160, 160, 3), model, precision."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.network.runtime import Embedder  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

crops = np.load(sys.argv[1])
embed = Embedder(open_model(sys.argv[2]), Compute("cpu", sys.argv[3]))
serve(lambda: {"crops": len(embed(crops)), "precision": embed.compute.precision})
