"""Inception-ResNet-v1 from the paper's figures, in plain TensorFlow operations, and weights for it.

An oracle that shares no code with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from facegallery.embedder.network import keras_network

B35 = [
    ["Branch_0_Conv2d_1x1"],
    ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_3x3"],
    ["Branch_2_Conv2d_0a_1x1", "Branch_2_Conv2d_0b_3x3", "Branch_2_Conv2d_0c_3x3"],
]
B17 = [["Branch_0_Conv2d_1x1"], ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_1x7", "Branch_1_Conv2d_0c_7x1"]]
B8 = [["Branch_0_Conv2d_1x1"], ["Branch_1_Conv2d_0a_1x1", "Branch_1_Conv2d_0b_1x3", "Branch_1_Conv2d_0c_3x1"]]


def features(x: Any, conv: Callable[[Any, str, int, str], Any], up: Callable[[Any, str], Any]) -> Any:
    """(n, 160, 160, 3) -> (n, 1792).

    conv: x, layer, stride, padding, with batch norm and ReLU. up: x, layer, with bias alone.
    """

    def chain(x, prefix, *names):
        for name in names:
            x = conv(x, prefix + name, 1, "SAME")
        return x

    def residual(x, prefix, scale, branches, relu=True):
        mixed = tf.concat([chain(x, prefix, *names) for names in branches], -1)
        x = x + scale * up(mixed, prefix + "Conv2d_1x1")
        return tf.nn.relu(x) if relu else x

    x = conv(x, "Conv2d_1a_3x3", 2, "VALID")
    x = conv(conv(x, "Conv2d_2a_3x3", 1, "VALID"), "Conv2d_2b_3x3", 1, "SAME")
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = conv(conv(conv(x, "Conv2d_3b_1x1", 1, "VALID"), "Conv2d_4a_3x3", 1, "VALID"), "Conv2d_4b_3x3", 2, "VALID")
    for i in range(1, 6):
        x = residual(x, f"Block35_{i}_", 0.17, B35)
    m = "Mixed_6a_Branch_"
    one = conv(chain(x, m, "1_Conv2d_0a_1x1", "1_Conv2d_0b_3x3"), m + "1_Conv2d_1a_3x3", 2, "VALID")
    x = tf.concat([conv(x, m + "0_Conv2d_1a_3x3", 2, "VALID"), one, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
    for i in range(1, 11):
        x = residual(x, f"Block17_{i}_", 0.10, B17)
    m = "Mixed_7a_Branch_"
    branches = [conv(chain(x, m, f"{b}_Conv2d_0a_1x1"), m + f"{b}_Conv2d_1a_3x3", 2, "VALID") for b in (0, 1)]
    branches.append(conv(chain(x, m, "2_Conv2d_0a_1x1", "2_Conv2d_0b_3x3"), m + "2_Conv2d_1a_3x3", 2, "VALID"))
    x = tf.concat([*branches, tf.nn.max_pool2d(x, 3, 2, "VALID")], -1)
    for i in range(1, 6):
        x = residual(x, f"Block8_{i}_", 0.20, B8)
    return tf.reduce_mean(residual(x, "Block8_6_", 1.0, B8, relu=False), [1, 2])


def random_arrays(dimension: int, seed: int = 7) -> dict[str, np.ndarray]:
    """Weights by our layer names, of the size that training gives them."""
    draw = np.random.default_rng(seed)

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("kernel"):
            return draw.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return draw.uniform(0.5, 1.5, shape) if name.endswith("moving_variance") else draw.normal(0, 0.1, shape)

    shapes = {
        name: tuple(v.shape) for name, v in keras_network.variables_by_name(keras_network.build(dimension)).items()
    }
    return {name: values(name, shape).astype(np.float32) for name, shape in shapes.items()}
