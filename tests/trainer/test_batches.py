from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from facegallery.embedder.errors import DataError
from facegallery.embedder.spec import Part
from facegallery.trainer import augment, batches, recipe
from facegallery.trainer.batches import NOTHING, Stream, plain_crops, read, samples
from tests import crops, synthetic

FACENET = Part("facenet", "", 128, "fixed")
HOMEWORK, QUICK = recipe.read("homework").augmentation, recipe.read("quick").augmentation


def everything(stream: Stream, start: int, batch: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(x.numpy(), y) for x, y in stream.batches(start, batch, steps)]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


@pytest.fixture(scope="module")
def bordered(tmp_path_factory):
    rows = [crops.row(p, f, side=200) for p in range(3) for f in range(2)]
    return read(crops.write(tmp_path_factory.mktemp("b") / "crops", rows, border=20)).train.seen_by(FACENET)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rows = [crops.row(p, f) for p in range(3) for f in range(2)]
    return read(crops.write(tmp_path_factory.mktemp("p") / "crops", rows)).train.seen_by(FACENET)


# which rows -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (["train", "gallery", "probe", "val", "test"], "train"),
        (["gallery", "probe", "val", "test", None], "gallery"),
        ([None], None),
    ],
)
def test_the_split_that_trains(tmp_path, splits, used):
    rows = [crops.row(10 * s + p, 0, split) for s, split in enumerate(splits) for p in range(3)]
    data = read(crops.write(tmp_path / "crops", rows))
    first = 10 * splits.index(used)
    assert data.train.people == tuple(f"person {first + p:03d}" for p in range(3)) and data.validation is None


def test_no_probe_is_read(tmp_path):
    """Probes that are no photos at all, of the same people: reading one would fail, or change what is trained on."""
    mine = [crops.row(p, 0, "gallery") for p in range(4)]
    other = [
        crops.row(p, f, split, crop=synthetic.png(b"never read"))
        for p in range(4)
        for f, split in ((1, "probe"), (2, "test"), (3, None))
    ]
    mixed = read(
        crops.write(
            tmp_path / "mixed", [r for p in range(4) for r in (mine[p], *other[3 * p : 3 * p + 3])], per_shard=3
        )
    )
    alone = read(crops.write(tmp_path / "alone", mine))
    assert mixed.train.digest == alone.train.digest and len(mixed.train) == 4


def test_shards_without_training_rows_keep_their_crops_on_disk(tmp_path, monkeypatch):
    folder = crops.write(
        tmp_path / "crops", [crops.row(p, 0, "train" if p < 4 else "probe") for p in range(8)], per_shard=4
    )
    opened = []
    shard = batches.DataSet.shard
    monkeypatch.setattr(
        batches.DataSet, "shard", lambda self, n, columns=None: opened.append((n, columns)) or shard(self, n, columns)
    )
    assert len(read(folder).train) == 4
    assert {n for n, columns in opened if columns is None or "crop" in columns} == {0}


def test_rows_that_cannot_train_are_left_out(tmp_path):
    rows = [
        crops.row(0, 0),
        crops.row(1, 0),
        crops.row(2, 0, outcome="no_face", crop=None),
        crops.row(3, 0, identity=None),
    ]
    rows += [
        crops.row(4, 0, crop=None),
        crops.row(0, 9, image_sha256=rows[0].image_sha256),
    ]  # the last is the first face again
    data = read(crops.write(tmp_path / "crops", rows))
    assert data.train.people == ("person 000", "person 001") and len(data.train) == 2
    assert data.chosen == "2 crops are used; left out: 2 twice or without a crop, 1 no_face, 1 without an identity"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([crops.row(0, 0), crops.row(0, 1)], "two people"),
        ([crops.row(0, 0, identity=None)], "two people"),
        ([crops.row(0, 0), crops.row(1, 0, side=100)], "160 x 160"),
        ([crops.row(0, 0), crops.row(1, 0, crop=b"")], "160 x 160"),
    ],
)
def test_nothing_to_train_on_is_one_line(tmp_path, rows, words):
    with pytest.raises(DataError, match=words) as caught:
        read(crops.write(tmp_path / "crops", rows))
    assert "\n" not in str(caught.value)


def test_a_damaged_crop_is_one_line(tmp_path):
    whole = crops.row(0, 0).crop
    data = read(crops.write(tmp_path / "crops", [crops.row(0, 0, crop=whole[:60] + bytes(200)), crops.row(1, 0)]))
    with pytest.raises(DataError, match="damaged"):
        list(plain_crops(data.train.seen_by(FACENET)))


def test_the_digest_follows_pixels_and_names(tmp_path):
    rows = [crops.row(0, 0), crops.row(1, 0)]
    changed = [crops.row(0, 1), crops.row(1, 0)], [crops.row(0, 0, identity="other"), crops.row(1, 0)]
    digests = [read(crops.write(tmp_path / str(i), r)).train.digest for i, r in enumerate([rows, rows, *changed])]
    assert digests[0] == digests[1] and len(set(digests)) == 3


# validation -----------------------------------------------------------------


def test_split_val_validates(tmp_path):
    rows = [crops.row(p, 0, "train") for p in range(3)] + [
        crops.row(p, f, "val") for p in range(5, 8) for f in range(2)
    ]
    data = read(crops.write(tmp_path / "crops", rows))
    assert len(data.train) == 3 and len(data.validation) == 6 and "split val" in data.why


def test_a_val_split_that_trains_does_not_validate(tmp_path):
    rows = [crops.row(p, f, split) for p, split in enumerate(["train", "train", "val", "val"]) for f in range(2)]
    folder = crops.write(tmp_path / "crops", rows)
    assert read(folder).validation is not None
    for split in (("train", "val"), ("all",)):
        data = read(folder, split=split)
        assert len(data.train) == 8 and data.validation is None and data.splits == ("train", "val")


def test_a_val_split_without_two_photos_of_anybody_validates_nothing(tmp_path):
    data = read(crops.write(tmp_path / "crops", [crops.row(p, 0, "train" if p < 3 else "val") for p in range(6)]))
    assert data.validation is None and "no validation" in data.why


def test_given_crops_validate(tmp_path):
    train = crops.write(tmp_path / "train", [crops.row(p, f) for p in range(50) for f in range(2)])
    given = crops.write(
        tmp_path / "given", [crops.row(p, f, side=200) for p in range(60, 62) for f in range(2)], border=20
    )
    data = read(train, given)
    held = data.validation.seen_by(FACENET)
    assert len(data.train) == 100 and len(held) == 4 and held.border == 20
    assert np.array_equal(np.concatenate(list(plain_crops(held)))[0], crops.picture(60, 0, 200)[20:180, 20:180])
    single = crops.write(tmp_path / "single", [crops.row(p, 0) for p in range(4)])
    with pytest.raises(DataError, match="two photos"):
        read(train, single)
    alone = crops.write(tmp_path / "alone", [crops.row(0, f) for f in range(3)])
    with pytest.raises(DataError, match="validate.*3 usable crops of 1"):
        read(train, alone)


def test_a_tenth_of_the_people_with_two_photos_is_held_out(tmp_path):
    rows = [crops.row(p, f) for p in range(45) for f in range(2)] + [crops.row(p, 0) for p in range(45, 50)]
    folder = crops.write(tmp_path / "crops", rows, per_shard=64)
    data, again, other = read(folder), read(folder), read(folder, seed=1)
    assert len(data.validation.people) == 20 and len(data.validation) == 40 and len(data.train.people) == 30
    assert not set(data.validation.people) & set(data.train.people) and not {
        f"person {p:03d}" for p in range(45, 50)
    } & set(data.validation.people)
    assert data.validation.people == again.validation.people != other.validation.people


def test_too_few_people_are_not_held_out():
    rows = [{"identity": f"{p}"} for p in range(39) for _ in range(2)]
    assert batches._hold_out(rows, 0) == (rows, [])  # 20 of 39 would be more than half
    rows += [{"identity": f"{p}"} for p in range(39, 500) for _ in range(2)]
    assert len(batches._hold_out(rows, 0)[1]) == 100  # a tenth of 500, two photos each


# the stream -----------------------------------------------------------------


def test_every_pass_is_a_permutation_and_positions_alone_decide():
    order = samples(3, 10, 0, 40)
    assert (
        all(sorted(order[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
        and len({tuple(order[i : i + 10]) for i in (0, 10, 20)}) == 3
    )
    assert np.array_equal(samples(3, 10, 7, 20), order[7:27]) and not np.array_equal(samples(4, 10, 0, 40), order)


@pytest.mark.parametrize("rule", [HOMEWORK, QUICK], ids=["homework", "quick"])
def test_augmentation_has_no_state(bordered, rule):
    stream = Stream(bordered, rule, seed=5)
    whole, labels = everything(stream, 0, 4, 6)
    late, late_labels = everything(stream, 12, 3, 4)  # from the middle, in other batches
    assert np.array_equal(late, whole[12:]) and np.array_equal(late_labels, labels[12:])
    assert not np.array_equal(everything(Stream(bordered, rule, seed=6), 0, 4, 6)[0], whole)
    chosen = samples(5, len(stream), 0, 24)
    assert np.array_equal(labels, bordered.labels[chosen // rule.copies]) and whole.dtype == np.uint8


def test_quicks_changes_are_drawn_anew_in_each_pass(photos):
    stream = Stream(photos, QUICK, 0)
    crops_, order = everything(stream, 0, 6, 2)[0], samples(0, 6, 0, 12)
    assert all(
        not np.array_equal(crops_[i], crops_[6 + int(np.flatnonzero(order[6:] == order[i])[0])]) for i in range(6)
    )


def test_the_ten_variants_of_the_homework(photos):
    stream = Stream(photos, HOMEWORK, 0)
    views = np.concatenate([x.numpy() for x in stream.view(0)]).reshape(6, 10, 160, 160, 3)
    x = next(iter(plain_crops(photos))).numpy()[0].astype(np.float64)
    low, high = x.min(), x.max()
    for half, source in ((0, x), (5, x[:, ::-1])):
        expected = [source, 255 * (source / 255) ** 2, 255 * (source / 255) ** 0.5, (source - low) * 255 / (high - low)]
        for i, e in enumerate(expected):
            assert np.abs(views[0, half + i] - e).max() <= 0.51, (half, i)
        changed = (views[0, half + 4] != source).any(axis=-1)
        assert (
            450 < changed.sum() <= 500 and (views[0, half + 4][changed] == 255).all()
        )  # 500 draws, some twice or white before
    assert len(stream) == 60 and np.array_equal(
        np.concatenate([v.numpy() for v in stream.view(1)]).reshape(views.shape), views
    )


def test_views_begin_with_the_plain_photos(bordered):
    stream = Stream(bordered, QUICK, 0)
    plain = np.concatenate([x.numpy() for x in plain_crops(bordered)])
    views = [np.concatenate([x.numpy() for x in stream.view(i)]) for i in range(3)]
    assert np.array_equal(views[0], plain) and np.array_equal(plain[0], crops.picture(0, 0, 200)[20:180, 20:180])
    assert not np.array_equal(views[1], plain) and not np.array_equal(views[1], views[2])


# one crop -------------------------------------------------------------------


def draws(*values: float) -> list[tf.Tensor]:
    return [tf.constant(v) for v in values]


def test_jitter_at_rest_is_the_plain_crop_and_moves_by_pixels():
    canvas = crops.picture(1, 0, 200)
    still = replace(NOTHING, shift=10.0)
    middle, corner = (augment.jitter(tf.constant(canvas), 20, still, draws(0.5, d, d)).numpy() for d in (0.5, 1.0))
    assert np.array_equal(middle, canvas[20:180, 20:180]) and np.array_equal(corner, canvas[30:190, 30:190])
    far = augment.jitter(
        tf.constant(canvas), 20, replace(NOTHING, shift=80.0), draws(0.5, 0.0, 1.0)
    ).numpy()  # held inside: x left, y down
    assert np.array_equal(far, canvas[40:200, 0:160])


def test_jitter_scales_about_the_centre():
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    rule = replace(NOTHING, scale=(1.25, 1.25))
    row = augment.jitter(tf.constant(ramp), 20, rule, draws(0.0, 0.5, 0.5)).numpy()[80, :, 0]
    assert np.abs(row[5:155] - (99.5 + (np.arange(160) - 79.5) * 1.25)[5:155]).max() < 1e-3  # 200 pixels onto 160


def test_gamma_contrast_and_mirror_by_hand():
    x = tf.constant([[[0.0], [51.0]], [[204.0], [255.0]]])
    assert augment.gamma(x, tf.constant(2.0)).numpy().ravel() == pytest.approx(
        [0, 255 * 0.04, 255 * 0.64, 255], abs=1e-3
    )
    assert augment.contrast(x, tf.constant(0.5)).numpy().ravel() == pytest.approx([63.75, 89.25, 165.75, 191.25])
    assert augment.stretch(tf.constant([10.0, 20.0, 60.0])).numpy() == pytest.approx([0, 51, 255])
    assert augment.stretch(tf.constant([7.0, 7.0])).numpy() == pytest.approx([0, 0])


def test_without_a_border_there_is_no_jitter(photos):
    still = replace(QUICK, mirror=0.0, gamma=(1.0, 1.0), contrast=(1.0, 1.0), noise=0)
    x, _ = everything(Stream(photos, still, 0), 0, 6, 1)
    plain = np.concatenate([c.numpy() for c in plain_crops(photos)])
    assert np.array_equal(x, plain[samples(0, 6, 0, 6)])
