"""SFace in Keras, for GPUs, against the OpenVINO graph."""

import numpy as np

from facegallery.embedder.network import runtime_tensorflow
from facegallery.embedder.network.preprocess import unit
from facegallery.embedder.network.runtime import on_openvino
from facegallery.embedder.weights.store import open_model


def test_the_keras_twin_gives_the_same_vectors(crops):
    model = open_model("sface")
    (part,) = model.spec.parts
    faces = np.ascontiguousarray(crops[:8, 24:136, 24:136])
    ours = unit(on_openvino(model.arrays(0), part, "f32")(faces))
    twin = unit(runtime_tensorflow.compiled(model.arrays(0), part, "CPU:0")(faces))
    assert (ours * twin).sum(1).min() >= 0.99999
