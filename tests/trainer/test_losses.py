import numpy as np
import pytest
import tensorflow as tf

from facegallery.trainer import losses, recipe
from facegallery.trainer.losses import center_distance, cross_entropy, move_centres, slim_l2, staircase, warmed_up

CENTRES = tf.constant([[1.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
FEATURES, LABELS = tf.constant([[3.0, 1.0], [5.0, 1.0], [0.0, 2.0]]), tf.constant([0, 0, 1])  # two photos of person 0


def test_cross_entropy_by_hand():
    assert cross_entropy(tf.constant([[0.0, np.log(3.0)]]), tf.constant([1])).numpy() == pytest.approx(
        [-np.log(0.75)], abs=1e-6
    )


def test_center_distance_is_the_mean_over_dimensions():
    assert center_distance(FEATURES, LABELS, CENTRES).numpy() == pytest.approx(
        [2.0, 8.0, 2.0]
    )  # (4+0)/2, (16+0)/2, (0+4)/2


def test_the_homeworks_center_step_sums_duplicates():
    # alpha 0.95 is a step of 0.05: person 0 moves by 0.05 ((3 - 1) + (5 - 1)), person 1 by 0.05 * 2
    moved = move_centres(CENTRES, FEATURES, LABELS, 0.95, "homework")
    assert moved.numpy() == pytest.approx(np.array([[1.3, 1.0], [0.0, 0.1], [5.0, 5.0]]), abs=1e-6)


def test_wens_center_step_divides_by_the_count_and_one():
    # 0.5 (2 + 4) / 3 = 1; 0.5 * 2 / 2 = 0.5
    moved = move_centres(CENTRES, FEATURES, LABELS, 0.5, "wen")
    assert moved.numpy() == pytest.approx(np.array([[2.0, 1.0], [0.0, 0.5], [5.0, 5.0]]), abs=1e-6)


@pytest.mark.parametrize("how", ["homework", "wen"])
def test_center_steps_against_loops(how):
    rng = np.random.default_rng(0)
    c, x, y = (
        rng.normal(size=(7, 4)).astype(np.float32),
        rng.normal(size=(40, 4)).astype(np.float32),
        rng.integers(0, 7, 40),
    )
    expected = c.astype(np.float64)
    for person in range(7):
        pull = sum((c[person] - f for f, label in zip(x, y, strict=True) if label == person), np.zeros(4))
        count = int((y == person).sum())
        expected[person] -= (1 - 0.3) * pull if how == "homework" else 0.3 * pull / (1 + count)
    moved = move_centres(tf.constant(c), tf.constant(x), tf.constant(y, tf.int32), 0.3, how)
    assert np.abs(moved.numpy() - expected).max() < 1e-5


def test_slim_l2_has_the_half_and_its_gradient_is_weight_times_x():
    kernels = [tf.Variable([3.0, 4.0]), tf.Variable([[1.0]])]
    with tf.GradientTape() as tape:
        loss = slim_l2(kernels, 0.01)
    assert float(loss) == pytest.approx(0.01 * (9 + 16 + 1) / 2)
    assert tape.gradient(loss, kernels)[0].numpy() == pytest.approx([0.03, 0.04])


def test_the_true_persons_cosine_must_lead_by_a_margin():
    rng = np.random.default_rng(0)
    x, kernel, labels = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), np.array([0, 2, 1, 1, 0])
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
    logits = losses.cosine_logits(tf.constant(x, tf.float32), tf.constant(kernel, tf.float32), 32.0)
    assert np.abs(logits - 32 * cosines).max() < 1e-4
    led = 32 * (cosines - 0.35 * np.eye(3)[labels])
    assert np.abs(losses.less_margin(logits, tf.constant(labels), 32 * 0.35) - led).max() < 1e-4


def test_the_homeworks_staircase():
    one, two = recipe.read("homework").stages
    rates = [staircase(one.learning_rate, one.decay, one.decay_epochs, e) for e in (0, 19, 20, 39, 40, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.08, 0.08, 0.064, 0.1 * 0.8**4])
    assert staircase(two.learning_rate, two.decay, two.decay_epochs, 20) == pytest.approx(0.008)


def test_the_moving_averages_decay_warms_up():
    assert [warmed_up(0.9999, t) for t in (0, 1, 10)] == pytest.approx([0.1, 2 / 11, 11 / 20])
    assert warmed_up(0.9999, 10**7) == 0.9999 and warmed_up(0.5, 100) == 0.5


def test_all_functions_say_their_shapes():
    assert all(
        f.__doc__
        for f in (losses.cross_entropy, losses.center_distance, losses.move_centres, losses.slim_l2, losses.staircase)
    )
