"""The OpenAPI document: what it says of requests and responses, which are dataclasses of the Python API."""

import dataclasses
import json

import pytest

from facegallery import results
from facegallery.server.app import make
from facegallery.server.settings import Settings

# schema -> property -> what the document says of it besides its type
DESCRIBED = {
    "Calibrate": {
        "fpir": "description exclusiveMinimum exclusiveMaximum",
    },
    "Change": {
        "command": "description",
        "verb": "examples",
    },
    "Compact": {
        "keep_undo_days": "description minimum",
    },
    "Compared": {
        "faces": "minItems maxItems",
        "score": "description",
    },
    "ComparedFace": {
        "box": "description minItems maxItems examples",
        "confidence": "description",
        "face": "description",
        "face_id": "pattern examples",
        "others": "description",
    },
    "Enrolled": {
        "again": "description",
        "command": "description",
    },
    "EnrolledFace": {
        "box": "description minItems maxItems examples",
        "face_id": "pattern examples",
    },
    "Forget": {
        "identity": "description minLength maxLength examples",
    },
    "FoundFace": {
        "box": "description minItems maxItems examples",
        "chance": "description",
        "chance_limit": "description",
        "confidence": "description",
        "face": "description",
        "face_id": "pattern examples",
        "known": "description",
        "margin": "description",
        "stale": "description examples",
        "weak": "description examples",
    },
    "GalleryInfo": {
        "column_kinds": "description",
    },
    "Hit": {
        "face_id": "pattern examples",
        "rank": "minimum",
        "score": "description",
    },
    "Merge": {
        "into": "description minLength maxLength examples",
        "source": "description minLength maxLength examples",
    },
    "PeoplePage": {
        "next": "description",
    },
    "Person": {
        "face_id": "description pattern examples",
    },
    "PhotoFace": {
        "box": "description minItems maxItems examples",
        "confidence": "description",
        "face": "description",
        "face_id": "pattern examples",
    },
    "PhotoResult": {
        "left_out": "description",
        "outcome": "description examples",
    },
    "Problem": {
        "detail": "examples",
        "status": "examples",
        "title": "examples",
        "type": "examples",
    },
    "Receipt": {
        "found": "description",
    },
    "Remove": {
        "face_id": "pattern examples",
        "identity": "description minLength maxLength examples",
    },
    "Rename": {
        "new": "description pattern minLength maxLength examples",
        "old": "description minLength maxLength examples",
    },
    "SignIn": {
        "key": "minLength maxLength",
    },
    "Split": {
        "face_ids": "pattern minItems maxItems examples",
        "to": "description minLength maxLength examples",
    },
    "Undo": {
        "command": "description maxLength",
    },
    "VectorResult": {
        "chance": "description",
        "chance_limit": "description",
        "known": "description",
        "margin": "description",
        "stale": "description examples",
        "weak": "description examples",
    },
}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "pattern": "pattern", "examples": "examples"}


@pytest.fixture(scope="module")
def document():
    return make(Settings(("att",)))._app.openapi()


def test_nothing_that_was_described_lost_its_description_or_bounds(document):
    schemas = document["components"]["schemas"]
    for name, properties in DESCRIBED.items():
        for one, said in properties.items():
            text = json.dumps(schemas[name]["properties"][one])
            assert [key for key in said.split() if f'"{key}"' not in text] == [], (name, one, text)


def test_the_metadata_of_results_are_in_the_document(document):
    schemas, checked = document["components"]["schemas"], 0
    for name, schema in schemas.items():
        if not dataclasses.is_dataclass(kind := getattr(results, name, None)):
            continue
        for field in dataclasses.fields(kind):
            found = schema["properties"][field.name]
            assert found.get("description") == field.metadata.get("description"), (name, field.name)
            for key, word in BOUNDS.items():
                assert key not in field.metadata or f'"{word}"' in json.dumps(found), (name, field.name, key)
            checked += 1
    assert checked > 80


def test_every_route_parameter_and_schema_has_a_description(document):
    for path, methods in document["paths"].items():
        for name, method in methods.items():
            assert method["description"], (name, path)
            assert all(one.get("description") for one in method.get("parameters", []) if one["in"] == "query"), path
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description") or name.startswith("Body_"), name  # FastAPI's, of a form
