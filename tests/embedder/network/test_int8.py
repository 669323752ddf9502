import json
from dataclasses import replace

import pytest

from facegallery.embedder.errors import InputError, ModelError
from facegallery.embedder.network import int8
from facegallery.embedder.network.int8 import Gate, Quantisation
from facegallery.embedder.spec import FACENET, Part
from facegallery.embedder.weights.known import COMPOSED, KNOWN

PART = Part("mine", "0123456789abcdef" * 4, 8, "fixed")
FOUND = Quantisation({"a": 1.5}, {"b": [0.25, -1e-6]})
GOOD = Gate(3000, 0.9997, 0.995, 2000, 1950, 1948)


@pytest.fixture(autouse=True)
def own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEGALLERY_DATA", str(tmp_path))


def test_what_is_written_is_read_beside_the_weights(tmp_path):
    int8.write(PART, FOUND, GOOD)
    path = tmp_path / "models" / "0123456789abcdef" / "int8.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert int8.read(PART) == int8.Export(PART.sha256, FOUND, GOOD)
    int8.write(PART, FOUND, replace(GOOD, right_int8=7))
    assert int8.read(PART).gate.right_int8 == 7


def test_none_is_refused_with_the_command_that_makes_it():
    with pytest.raises(InputError, match="mine .*weights quantise"):
        int8.read(PART)


def test_one_of_other_weights_is_refused(tmp_path):
    int8.write(PART, FOUND, GOOD)
    changed = replace(PART, sha256=PART.sha256[:16] + "0" * 48)  # the same folder
    with pytest.raises(InputError, match="of other weights"):
        int8.read(changed)
    assert not int8.advised([changed])


@pytest.mark.parametrize("field", ["weights", "quantisation", "gate", "version", "sha256", None])
def test_one_that_was_changed_is_refused(tmp_path, monkeypatch, field):
    int8.write(PART, FOUND, GOOD)
    path = int8.file_of(PART)
    fields = json.loads(path.read_text())
    if field in ("quantisation", "gate"):
        key = next(iter(fields[field]))
        fields[field][key] = {"a": 2.0} if field == "quantisation" else 1
    elif field:
        fields[field] = "0" * 64
    path.write_text(json.dumps(fields) if field else path.read_text()[:-9])
    with pytest.raises(ModelError, match="was damaged or changed"):
        int8.read(PART)
    monkeypatch.setattr(int8, "has_vnni", lambda: True)
    assert not int8.advised([PART])


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"sha256": 1}'])
def test_other_json_is_refused(text):
    int8.write(PART, FOUND, GOOD)
    int8.file_of(PART).write_text(text)
    with pytest.raises(ModelError, match="was damaged or changed"):
        int8.read(PART)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"mean_cosine": 0.9989}, False),
        ({"least_cosine": 0.979}, False),
        ({"right_int8": 1947}, True),  # 0.15 points of 2,000
        ({"right_int8": 1946}, False),
        ({"right_int8": 1960}, True),
        ({"probes": 0, "right_f32": 0, "right_int8": 0}, True),
        ({"mean_cosine": float("nan")}, False),
    ],
)
def test_the_gate(change, passed):
    gate = replace(GOOD, **change)
    assert gate.passed == passed and ("not passed" in gate.text) == (not passed)
    assert ("top-1 not judged" in gate.text) == (gate.probes == 0)


def test_int8_is_advised_where_every_network_passed_and_the_cpu_is_fast(monkeypatch):
    other = replace(PART, name="other", sha256="f" * 64)
    monkeypatch.setattr(int8, "has_vnni", lambda: True)
    int8.write(PART, FOUND, GOOD)
    assert int8.advised([PART]) and not int8.advised([PART, other])
    int8.write(other, FOUND, replace(GOOD, least_cosine=0.5))
    assert not int8.advised([PART, other])
    int8.write(other, FOUND, GOOD)
    assert int8.advised([PART, other])
    monkeypatch.setattr(int8, "has_vnni", lambda: False)
    assert not int8.advised([PART])


@pytest.mark.parametrize("name", ["sface", "msceleb"])
def test_int8_is_advised_only_where_the_user_quantised(monkeypatch, name):
    part = KNOWN[name].part
    monkeypatch.setattr(int8, "has_vnni", lambda: True)
    assert not int8.advised([part])
    int8.write(part, int8.read(part).quantisation, GOOD)
    assert int8.advised([part])


@pytest.mark.parametrize("name", sorted({name for parts in COMPOSED.values() for name in parts}))
def test_known_weights_come_with_an_export_that_passed_its_gate(name):
    part = KNOWN[name].part
    found = int8.read(part)
    assert found.weights == part.sha256 and found.gate.passed and found.gate.crops >= 4000
    assert found.gate.probes >= 2000
    assert bool(found.quantisation.spans) is (part.network != FACENET)
    int8.write(part, FOUND, GOOD)
    assert int8.read(part).gate == GOOD
