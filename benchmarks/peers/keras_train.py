"""Train one batch by Keras' own `train_on_batch`, in float32 with batch norm in inference mode.

Arguments: a .npy of uint8 (n, 160, 160, 3), model.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402
from facegallery.embedder.network import keras_network  # noqa: E402
from facegallery.embedder.network.runtime import seen  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402

PEOPLE = 1680

crops, model = np.load(sys.argv[1]), open_model(sys.argv[2])
net = keras_network.load(model.arrays(0))
inputs = keras.Input((160, 160, 3))
classifier = keras.Model(inputs, keras.layers.Dense(PEOPLE)(keras.layers.Dropout(0.2)(net(inputs, training=False))))
classifier.compile(keras.optimizers.Adam(1e-5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x, y = seen(crops, model.spec.parts[0]), np.arange(len(crops), dtype=np.int32)


def work() -> dict:
    classifier.train_on_batch(x, y)
    return {"crops": len(x)}


serve(work)
