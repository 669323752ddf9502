from dataclasses import replace

import pytest

from facegallery.embedder.errors import DataError, InputError
from facegallery.embedder.spec import CropRule, FaceSpec, Part, canonical_margin

PART = Part("one", "a" * 64, 128, "per_image")
SPEC = FaceSpec(parts=(PART,))


@pytest.mark.parametrize(
    "other, field",
    [
        (replace(SPEC, parts=(replace(PART, sha256="b" * 64),)), "weights 0"),
        (replace(SPEC, parts=(replace(PART, dimension=512),)), "dimension 0"),
        (replace(SPEC, parts=(replace(PART, standardisation="fixed"),)), "standardisation 0"),
        (replace(SPEC, parts=(replace(PART, zoom=1.1),)), "zoom 0"),
        (replace(SPEC, parts=(replace(PART, weight=0.7),)), "weight 0"),
        (replace(SPEC, parts=(PART, PART)), "number of networks"),
        (replace(SPEC, crop=CropRule(margin="32px")), "margin"),
        (replace(SPEC, crop=CropRule(face="first")), "which face"),
        (replace(SPEC, colour="BGR"), "colour order"),
        (replace(SPEC, flip=True), "flip averaging"),
        (replace(SPEC, margins=True), "margins averaging"),
    ],
)
def test_what_changes_a_vector_changes_the_fingerprint_and_is_named(other, field):
    assert other.fingerprint != SPEC.fingerprint
    difference = SPEC.difference(other)
    assert difference is not None and difference.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, detector={"min_face": 40}),
        replace(SPEC, runtime="other", precision="bf16"),
        replace(SPEC, crop=CropRule(border=20)),
        replace(SPEC, parts=(replace(PART, name="renamed", parent="c" * 64),)),
    ],
)
def test_what_is_only_recorded_does_not(other):
    assert other.fingerprint == SPEC.fingerprint and SPEC.difference(other) is None


def test_json_round_trip_and_an_edited_contract_is_refused():
    text = SPEC.to_json()
    assert FaceSpec.from_json(text) == SPEC
    with pytest.raises(DataError, match="fingerprint"):
        FaceSpec.from_json(text.replace("per_image", "fixed"))
    before = text.replace(', "weight": 1.0', "").replace(', "zoom": 1.0', "")
    assert "zoom" not in before and "weight" not in before and FaceSpec.from_json(before) == SPEC
    with pytest.raises(DataError, match="expected a face contract"):
        FaceSpec.from_json(text[:-10])


@pytest.mark.parametrize(
    "name, bad", [("zoom", 0.9), ("zoom", 4.1), ("zoom", float("nan")), ("weight", 0.0), ("weight", -1.0)]
)
def test_a_zoom_or_weight_out_of_range_is_refused(name, bad):
    with pytest.raises(InputError, match=name):
        replace(PART, **{name: bad})


def test_margins():
    assert {canonical_margin(m) for m in (".25", "0.250", "0.25")} == {"0.25"}
    assert canonical_margin("32.0px") == "32px"
    for bad in ("x", "-1", "5", "nan", "px", "2000px"):
        with pytest.raises(InputError, match="margin"):
            CropRule(margin=bad)


def test_crops_of_turned_faces_are_refused_by_networks_that_see_boxes():
    points = FaceSpec.of(replace(PART, network="sface", crop="arcface", size=112))
    turned = replace(points, detector={"turned": 0.9})
    assert points.with_crop(turned).detector == {"turned": 0.9}
    with pytest.raises(InputError, match="--turned"):
        SPEC.with_crop(turned)
