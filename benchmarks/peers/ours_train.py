"""Train one batch of stage 2 of `quick` by this project.

Arguments: a .npy of uint8 (n, 160, 160, 3), model, precision.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks.common.rounds import serve  # noqa: E402
from facegallery.embedder.compute import Compute  # noqa: E402
from facegallery.embedder.network.engines import choose  # noqa: E402
from facegallery.embedder.weights.store import open_model  # noqa: E402
from facegallery.trainer.learner import Learner, Softmax, TrainableNetwork  # noqa: E402
from facegallery.trainer.recipe import read  # noqa: E402

PEOPLE = 1680

tf.config.experimental.enable_op_determinism()  # as `train` does
crops, model, precision = np.load(sys.argv[1]), open_model(sys.argv[2]), choose(Compute("cpu", sys.argv[3])).precision
stage = read("quick").stages[1]
net = TrainableNetwork(model.arrays(0), model.spec.parts[0], precision)
learner = Learner(net, Softmax(net.dimension, PEOPLE, 0), stage, live=False, seed=0, labels=PEOPLE)
inputs, labels = tf.constant(crops), np.arange(len(crops), dtype=np.int32)
serve(lambda: {"crops": learner.step(inputs, labels, 0, stage.learning_rate).photos, "precision": precision})
