import json

import pytest

from facegallery.embedder.errors import DataError, InputError
from facegallery.trainer.batches import read
from tests import crops

SPLITS = ("gallery", "probe", "probe", "mine", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three people with a photo of each split, two of `probe` and one without a split."""
    rows = [crops.row(p, i, split) for p in range(3) for i, split in enumerate(SPLITS)]
    return crops.write(tmp_path_factory.mktemp("s") / "crops", rows)


@pytest.mark.parametrize(
    ("wanted", "splits", "said"),
    [
        ((), ("gallery",), "3 crops of split gallery are used; left out: 6 of split probe, 3 of split mine, 3 without"),
        (("probe",), ("probe",), "6 crops of split probe are used; left out: 3 of split gallery, 3 of split mine, 3"),
        (
            ("probe", "mine", "mine"),
            ("mine", "probe"),
            "9 crops are used: 6 of split probe, 3 of split mine; left out: 3 of split gallery, 3 without a split",
        ),
        (
            ("all",),
            ("gallery", "mine", "probe", None),
            "15 crops are used: 6 of split probe, 3 of split gallery, 3 of split mine, 3 without a split; left out: ",
        ),
    ],
)
def test_the_splits_that_are_named_train_and_all_is_said(folder, wanted, splits, said):
    data = read(folder, split=wanted)
    assert data.splits == splits and data.chosen.startswith(said)
    assert len(data.train) == sum(3 for split in SPLITS if split in splits)


def test_a_name_that_is_not_there_is_a_line_with_those_that_are(folder):
    for wanted in (("train",), ("probe", "Probe"), ("",)):
        with pytest.raises(InputError, match="gallery, mine, probe, all") as caught:
            read(folder, split=wanted)
        assert repr(wanted[-1]) in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_usual_split_one_must_be_named(tmp_path):
    folder = crops.write(tmp_path / "crops", [crops.row(0, 0, "probe"), crops.row(1, 0, "val")])
    with pytest.raises(DataError, match="probe, val"):
        read(folder)
    assert len(read(folder, split=("all",)).train) == 2


def test_the_command_takes_names_by_comma_and_by_repetition(folder, tmp_path, run, monkeypatch):
    """Another split is another run: a resumed one is refused by this word; a run of before has no such word."""
    crops.tiny(monkeypatch.setattr)
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path / "data"))
    from facegallery.embedder.weights import store

    source = store.store_part(crops.random_arrays(), "tiny", "fixed").sha256
    shared = ("train", folder, "--from", source, "--out", tmp_path / "out", "--epochs", "1,0", "--json")
    done = run(*shared, "--split", "probe,mine", "--split", "gallery")
    assert done.code == 0 and json.loads(done.out)["arguments"]["split"] == ["gallery", "mine", "probe"]
    assert "12 crops are used" in done.err
    other = run(*shared, "--split", "probe")
    assert other.code == 3 and "split was" in other.error
    assert run(*shared, "--split", "nobody").code == 2
    path = tmp_path / "out" / "record.json"
    record = json.loads(path.read_text())
    del record["arguments"]["split"]
    path.write_text(json.dumps(record))
    assert run(*shared, "--split", "gallery,mine,probe").code == 0
