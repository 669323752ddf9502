"""Compute the losses and schedules of training with pure functions. n photos, d dimensions, c people."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy in nats: float32 (n, c), int32 (n,) -> float32 (n,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def cosine_logits(features: tf.Tensor, kernel: tf.Tensor, scale: float) -> tf.Tensor:
    """Return scale times the cosine of each feature and each person's column: (n, d), (d, c) -> (n, c)."""
    return scale * tf.matmul(tf.math.l2_normalize(features, axis=1), tf.math.l2_normalize(kernel, axis=0))


def less_margin(logits: tf.Tensor, labels: tf.Tensor, margin: float) -> tf.Tensor:
    """Subtract a margin from the true person's logit: (n, c), int32 (n,) -> (n, c).

    This is CosFace (Wang et al. 2018), with the margin times the scale.
    """
    return logits - margin * tf.one_hot(labels, logits.shape[1])


def center_distance(features: tf.Tensor, labels: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Return the mean squared distance of each feature to its centre: (n, d), (n,), (c, d) -> float32 (n,).

    facenet's center loss is the mean over the batch, with the centres before their move. Wen et al. (2016) take half
    the sum over batch and dimensions: their lambda is 2 / (n d) of ours.
    """
    return tf.reduce_mean(tf.square(features - tf.gather(centres, labels)), axis=1)


def move_centres(centres: tf.Tensor, features: tf.Tensor, labels: tf.Tensor, alpha: float, how: str) -> tf.Tensor:
    """Return the centres (c, d) after a batch.

    homework (facenet): c -= (1 - alpha) (c - x), summed over a person's photos, not divided by their number.

    wen (Wen et al. 2016, eq. 4): c -= alpha sum(c - x) / (1 + number of the person's photos).
    """
    people = centres.shape[0]
    pull = tf.math.unsorted_segment_sum(tf.gather(centres, labels) - features, labels, people)
    if how == "homework":
        return centres - (1 - alpha) * pull
    counts = tf.math.unsorted_segment_sum(tf.ones_like(features[:, :1]), labels, people)
    return centres - alpha * pull / (1 + counts)


def slim_l2(kernels: Iterable[tf.Tensor], weight: float) -> tf.Tensor:
    """Return weight * sum(x^2) / 2, as slim's l2_regularizer (Keras' has no half); the gradient is weight * x."""
    return weight * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])


def staircase(rate: float, decay: float, decay_epochs: int, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0: times `decay` after every `decay_epochs`."""
    return rate * decay ** (epoch // decay_epochs)


def warmed_up(decay: float, steps: int) -> float:
    """Return a moving average's decay after so many steps: min(decay, (1 + t) / (10 + t)).

    This is the rule of tf.train.ExponentialMovingAverage.
    """
    return min(decay, (1 + steps) / (10 + steps))
