"""Copies of real photos are alike, other photos are not; near hashes are found as by a plain comparison."""

import io

import numpy as np
import pytest
from PIL import Image

from facegallery.embedder.photos.likeness import (
    BLOCK,
    SIDE,
    blocks,
    hashes,
    is_flat,
    likeness,
    look,
    near,
    scene_likeness,
)
from facegallery.workflows.dedupe import MOST_BITS, ONE_PICTURE, ONE_SCENE
from tests.conftest import coloured


@pytest.fixture(scope="module")
def photos(att) -> list[np.ndarray]:
    """Forty people, two photos each, enlarged to 368 x 448."""
    found = [coloured(att / f"s{person}" / f"{number}.pgm") for person in range(1, 41) for number in (1, 2)]
    return [np.asarray(Image.fromarray(one).resize((368, 448), Image.Resampling.BICUBIC)) for one in found]


def thumbnails(photos) -> np.ndarray:
    return np.stack([look(photo).thumbnail for photo in photos])


def through(image: Image.Image, **options) -> np.ndarray:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return np.asarray(Image.open(out).convert("RGB"))


COPIES = {
    "quality 40": lambda image: through(image, quality=40),
    "a quarter": lambda image: through(image.resize((92, 112)), quality=90),
    "darker": lambda image: np.asarray(image.point(lambda value: round(value * 0.85))),
    "cut": lambda image: np.asarray(image.crop((3, 4, 365, 444))),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_alike_and_hash_alike(photos, name):
    both = thumbnails([*photos, *(COPIES[name](Image.fromarray(photo)) for photo in photos)])
    first = np.arange(len(photos))
    hashed = hashes(both)
    scores = likeness(both, (first, first + len(photos)))
    assert scores.min() >= ONE_PICTURE if name != "cut" else (scores >= ONE_PICTURE).mean() > 0.9
    assert np.bitwise_count(hashed[: len(photos)] ^ hashed[len(photos) :]).max() <= MOST_BITS


def test_other_photos_are_not_alike_even_of_one_person(photos):
    """AT&T's photos of a person were taken in one session, in front of one wall."""
    seen = thumbnails(photos)
    i, j = np.triu_indices(len(seen), 1)
    hashed = hashes(seen)
    one_picture = (likeness(seen, (i, j)) >= ONE_PICTURE) & (np.bitwise_count(hashed[i] ^ hashed[j]) <= MOST_BITS)
    assert not one_picture.any()
    of_one_person = np.arange(0, len(seen), 2)
    scene = scene_likeness(seen, (of_one_person, of_one_person + 1))
    assert 0.2 < (scene >= ONE_SCENE).mean() < 1, "some are nearly one scene, where they were taken within seconds"


def test_likeness_is_symmetric_at_most_1_and_of_any_number(photos):
    seen = thumbnails(photos[:20])
    i, j = np.triu_indices(20)
    there, back = likeness(seen, (i, j)), likeness(seen, (j, i))
    assert np.array_equal(there, back) and there.dtype == np.float32 and there.max() <= 1
    assert there[i == j].min() > 0.99
    nothing = np.empty(0, np.int64)
    assert likeness(seen, (nothing, nothing)).shape == (0,) and hashes(seen[:0]).shape == (0,)


def test_flat_pictures_are_like_nothing():
    white, grey = (np.full((300, 400, 3), level, np.uint8) for level in (255, 90))
    noisy = np.clip(grey + np.random.default_rng(0).normal(0, 2, grey.shape), 0, 255).astype(np.uint8)
    seen = thumbnails([white, grey, noisy])
    assert all(map(is_flat, seen))
    assert likeness(seen, (np.array([0, 0, 1]), np.array([1, 2, 2]))).max() < 0.5


def test_a_look_says_size_colour_and_sharpness(photos):
    sharp = look(photos[0])
    small = Image.fromarray(photos[0]).resize((46, 56))
    blurred = look(np.asarray(small.resize((368, 448), Image.Resampling.BILINEAR)))
    assert (sharp.width, sharp.height) == (368, 448) and sharp.thumbnail.shape == (SIDE, SIDE)
    assert sharp.thumbnail.dtype == np.uint8 and sharp.sharpness > 2 * blurred.sharpness > 0
    means = photos[0].reshape(-1, 3).mean(axis=0)
    assert sharp.colour == pytest.approx((means[0] - means[1], means[2] - means[1]), abs=1)
    assert look(np.zeros((1, 1, 3), np.uint8)).sharpness == look(np.zeros((2, 5000, 3), np.uint8)).sharpness == 0


def test_a_large_photo_looks_as_a_smaller_copy(photos):
    large = Image.fromarray(photos[0]).resize((2944, 3584), Image.Resampling.BICUBIC)
    both = thumbnails([photos[0], np.asarray(large)])
    assert np.abs(both[0].astype(int) - both[1]).max() <= 6


def test_near_hashes_are_those_of_a_plain_comparison():
    rng = np.random.default_rng(0)
    n = 2 * BLOCK + 7
    hashed = rng.integers(0, 2**64, n, np.uint64)
    for at in range(0, n, 5):  # some differ in a few bits
        flips = rng.choice(64, rng.integers(0, 14), replace=False)
        hashed[at] = hashed[rng.integers(n)] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
    others = np.sort(rng.choice(n, 100, replace=False))
    got = [pair for rows in blocks(n) for pair in zip(*near(hashed, rows, others, 10), strict=True)]
    plain = [(i, j) for i in range(n) for j in others if i < j and (int(hashed[i]) ^ int(hashed[j])).bit_count() <= 10]
    assert got == plain and len(plain) > 5
    assert np.concatenate(list(blocks(n))).tolist() == list(range(n)) and list(blocks(0)) == []
