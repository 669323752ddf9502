"""facenet as its authors save it: slim's names, a TensorFlow 1 graph, its checkpoint and its frozen graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests import naive

v1, raw = tf.compat.v1, tf.raw_ops
REPEATS = {"Block35": "Repeat/block35", "Block17": "Repeat_1/block17", "Block8": "Repeat_2/block8"}


def scope_of(layer: str) -> str:
    """'Block35_1_Branch_0_Conv2d_1x1' -> 'InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1'."""
    layer = re.sub(r"(Branch_\d)_", r"\1/", layer.replace("Block8_6_", "Block8/"))
    layer = re.sub(r"^(Block\d+)_(\d+)_", lambda found: f"{REPEATS[found[1]]}_{found[2]}/", layer)
    return "InceptionResnetV1/" + re.sub(r"^(Mixed_\da)_", r"\1/", layer)


def save(arrays: dict[str, np.ndarray], crops: np.ndarray, folder: Path) -> np.ndarray:
    """Writes `model.ckpt-7.*` and `model.pb`; the unit vectors (n, d) that TensorFlow makes of standardised crops.

    Batch norm is apart, with both its phases in the graph. The checkpoint also has a head, slots and averages, as
    other trainers leave them.
    """

    def variable(layer, name, array):
        return v1.get_variable(f"{scope_of(layer)}/{name}", initializer=arrays[array], use_resource=False)

    def norm(x, layer):
        beta, mean, variance = (
            variable(layer, f"BatchNorm/{p}", f"{layer}_BatchNorm/{p}")
            for p in ("beta", "moving_mean", "moving_variance")
        )
        with tf.name_scope(f"{scope_of(layer)}/BatchNorm/"):
            gamma = tf.ones(beta.shape, name="Const")
            live, learnt = raw.Switch(data=x, pred=training), {"epsilon": 1e-3, "scale": gamma, "offset": beta}
            with tf.name_scope("cond"):
                nothing = tf.zeros(0, name="Const")
                phases = [
                    raw.FusedBatchNorm(x=live[0], mean=mean, variance=variance, is_training=False, **learnt)[0],
                    raw.FusedBatchNorm(x=live[1], mean=nothing, variance=nothing, is_training=True, **learnt)[0],
                ]
                return raw.Merge(inputs=phases)[0]

    def conv(x, layer, stride, padding):
        return tf.nn.relu(norm(tf.nn.conv2d(x, variable(layer, "weights", f"{layer}/kernel"), stride, padding), layer))

    def up(x, layer):
        return tf.nn.conv2d(x, variable(layer, "weights", f"{layer}/kernel"), 1, "SAME") + variable(
            layer, "biases", f"{layer}/bias"
        )

    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        inputs = v1.placeholder(tf.float32, (None, 160, 160, 3), "input")
        training = v1.placeholder(tf.bool, (), "phase_train")
        prelogits = tf.matmul(naive.features(inputs, conv, up), variable("Bottleneck", "weights", "Bottleneck/kernel"))
        prelogits = tf.reshape(norm(prelogits[:, None, None], "Bottleneck"), (-1, prelogits.shape[1]))
        tf.nn.l2_normalize(prelogits, 1, 1e-10, name="embeddings")
        first = f"{scope_of('Conv2d_1a_3x3')}/weights"
        for other in (
            "Logits/weights",
            "Logits/biases",
            "global_step",
            f"{first}/Adam",
            f"{first}/ExponentialMovingAverage",
        ):
            v1.get_variable(other, initializer=np.full((3, 3, 3, 32), 9, np.float32), use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=7)
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["embeddings"])
        (folder / "model.pb").write_bytes(frozen.SerializeToString())
        return session.run("embeddings:0", {"input:0": crops, "phase_train:0": False})
