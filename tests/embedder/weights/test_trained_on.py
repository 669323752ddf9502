import json
import time

import pytest

from facegallery.embedder.errors import ModelError
from facegallery.embedder.weights import trained_on
from facegallery.embedder.weights.trained_on import Training, known

NAMES = ["Ann Lee", "Bob", "Jos\u00e9", "\u738b\u82b3"]


def test_people_are_known_again_however_they_are_spelt():
    training = Training.of(NAMES, ["Cy"])
    trained, validated = known(["ann lee", "BOB", "Jose\u0301", "\u738b\u82b3", "cy", "Dan", "Ann  Lee"], [training])
    assert trained == {"ann lee", "BOB", "Jose\u0301", "\u738b\u82b3"} and validated == {"cy"}


def test_a_person_who_was_trained_on_once_is_trained_on():
    assert known(["Ann", "Bob"], [Training.of(["Ann"]), Training.of(["Bob"], ["Ann"])]) == ({"Ann", "Bob"}, set())
    assert known(["Ann"], []) == (set(), set())


def test_the_file_names_nobody_and_no_two_are_alike(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trained_on.write(tmp_path / name, [Training.of(NAMES, ["Cy"])])
    texts = [(tmp_path / name / trained_on.FILE).read_text() for name in ("a", "b")]
    (one,), (other,) = map(json.loads, texts)
    assert not any(name in text for name in [*NAMES, "Cy"] for text in texts)
    assert (
        not set(one["trained"]) & set(other["trained"])
        and {len(h) for h in one["trained"]} == {10}
        and len(one["trained"]) == 4
    )
    assert one["trained"] == sorted(one["trained"])  # the order says nothing
    assert trained_on.read(tmp_path / "a") == [Training(one["salt"], tuple(one["trained"]), tuple(one["validated"]))]
    assert (tmp_path / "a" / trained_on.FILE).stat().st_mode & 0o077 == 0


def test_no_record_and_a_damaged_one(tmp_path):
    assert trained_on.read(tmp_path) == []
    for text in ("", "{}x", "[1]", '[{"salt": "00"}]'):
        (tmp_path / trained_on.FILE).write_text(text)
        with pytest.raises(ModelError, match="is damaged"):
            trained_on.read(tmp_path)


def test_a_thousand_names_take_seconds_not_minutes():
    began = time.process_time()  # of all threads
    Training.of(f"person {i}" for i in range(1000))
    assert time.process_time() - began < 20
