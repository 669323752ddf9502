"""Augment one crop with TensorFlow operations and without state: the same seeds give the same crop.

A canvas is a crop of side s with its border b, uint8 (s + 2b, s + 2b, 3); the result is uint8 (s, s, 3).
"""

from __future__ import annotations

import math
from dataclasses import replace

import tensorflow as tf

from facegallery.embedder.spec import INPUT_SIZE
from facegallery.trainer.recipe import Augmentation, split_variant

VARIANT, DRAW, PIXELS = 1 << 32, 2 << 32, 3 << 32  # random streams, added to seeds below 2^31


def seeds(seed: int, stream: int, at: tf.Tensor) -> tf.Tensor:
    """Return the seed of one draw: int64 (2,)."""
    return tf.stack([tf.constant(seed + stream, tf.int64), tf.cast(at, tf.int64)])


def for_size(rule: Augmentation, size: int) -> Augmentation:
    """Return a rule, whose pixels are those of crops of side 160, for crops of another side."""
    if size == INPUT_SIZE:
        return rule
    length = size / INPUT_SIZE
    variants = tuple(_for_area(text, length**2) for text in rule.variants)
    return replace(rule, variants=variants, noise=round(rule.noise * length**2), shift=rule.shift * length)


def _for_area(variant: str, share: float) -> str:
    kind, value = split_variant(variant)
    return f"noise {round((value or 0) * share)}" if kind == "noise" else variant


def centre(canvas: tf.Tensor, border: int) -> tf.Tensor:
    """Return the plain crop of a canvas, without its border."""
    inner = slice(border, canvas.shape[0] - border)
    return canvas[inner, inner]


def augment(
    canvas: tf.Tensor, border: int, rule: Augmentation, seed: int, sample: tf.Tensor, position: tf.Tensor
) -> tf.Tensor:
    """Augment a canvas: make the variant of `sample`, then draw the rest anew at each `position`."""
    draws = tf.unstack(tf.random.stateless_uniform([8], seeds(seed, DRAW, position)))
    moves = border and (rule.shift or rule.scale != (1.0, 1.0))
    x = jitter(canvas, border, rule, draws[:3]) if moves else tf.cast(centre(canvas, border), tf.float32)
    if rule.variants:
        x = variant(x, rule, sample % rule.copies, seeds(seed, VARIANT, sample))
    if rule.mirror:
        x = tf.cond(draws[3] < rule.mirror, lambda: tf.reverse(x, [1]), lambda: x)
    if rule.gamma != (1.0, 1.0):
        x = gamma(x, tf.exp(_between(math.log(rule.gamma[0]), math.log(rule.gamma[1]), draws[4])))
    if rule.contrast != (1.0, 1.0):
        x = contrast(x, _between(*rule.contrast, draws[5]))
    if rule.noise:
        x = noise(x, rule.noise, tf.cast(draws[6] * (rule.noise + 1), tf.int32), seeds(seed, PIXELS, position))
    return tf.cast(tf.clip_by_value(tf.round(x), 0.0, 255.0), tf.uint8)


def variant(x: tf.Tensor, rule: Augmentation, which: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Make copy `which` of 2 len(variants): the variants of the crop, then those of its mirror image."""
    half = len(rule.variants)
    which = tf.cast(which, tf.int32)
    x = tf.cond(which >= half, lambda: tf.reverse(x, [1]), lambda: x)
    return tf.switch_case(which % half, [lambda text=text: _copy(x, text, seed) for text in rule.variants])


def _copy(x: tf.Tensor, text: str, seed: tf.Tensor) -> tf.Tensor:
    kind, value = split_variant(text)
    if kind == "gamma":
        return tf.round(gamma(x, tf.constant(value, tf.float32)))
    if kind == "stretch":
        return tf.round(stretch(x))
    if kind == "noise":
        return noise(x, int(value or 0), tf.constant(int(value or 0)), seed)
    return x


def gamma(x: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """Return 255 (x / 255)^exponent, as skimage's adjust_gamma."""
    return 255.0 * tf.pow(x / 255.0, exponent)


def stretch(x: tf.Tensor) -> tf.Tensor:
    """Scale the darkest value to 0 and the brightest to 255, over all colours, as skimage's rescale_intensity."""
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    return (x - low) * (255.0 / tf.maximum(high - low, 1.0))


def contrast(x: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiply distances from the mean by a factor; clip to 0..255."""
    mean = tf.reduce_mean(x)
    return tf.clip_by_value((x - mean) * factor + mean, 0.0, 255.0)


def noise(x: tf.Tensor, most: int, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Set `count` of `most` random pixels to white; a pixel may be drawn twice, as in the homework."""
    places = tf.random.stateless_uniform([most, 2], seed, 0, x.shape[0], tf.int32)[:count]
    return tf.tensor_scatter_nd_update(x, places, tf.fill([count, 3], 255.0))


def jitter(canvas: tf.Tensor, border: int, rule: Augmentation, draws: list[tf.Tensor]) -> tf.Tensor:
    """Cut a shifted square of side s x scale from the canvas and resize it to s x s (bilinear)."""
    side = canvas.shape[0]
    size = side - 2 * border
    scale = tf.minimum(_between(*rule.scale, draws[0]), side / size)
    room = (side - scale * size) / 2
    shifts = [tf.clip_by_value(_between(-rule.shift, rule.shift, d), -room, room) for d in draws[1:]]
    x0, y0 = (room + shift + (scale - 1) / 2 for shift in shifts)  # pixel i of the result lies at x0 + scale i
    zero = tf.zeros_like(scale)
    transform = tf.stack([scale, zero, x0, zero, scale, y0, zero, zero])[None]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(canvas, tf.float32)[None],
        transforms=transform,
        output_shape=[size, size],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )
    return moved[0]


def _between(low: float, high: float, draw: tf.Tensor) -> tf.Tensor:
    return low + (high - low) * draw
