"""Refuse an ONNX file that leads elsewhere or asks for code of its own, before any library reads it.

The numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

from facegallery.embedder.errors import ModelError, reason
from facegallery.embedder.weights.protobuf import fields_of

DEEPEST = 32  # most messages within messages
# a message -> the numbers of its fields that hold messages, and what those are
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        **{5: "tensor", 10: "tensor", 6: "graph", 11: "graph"},
        **{22: "sparse tensor", 23: "sparse tensor"},
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
TRAINING, FUNCTIONS = 20, 25  # fields of a model
OPERATOR, DOMAIN = 4, 7  # fields of a node
STANDARD = (b"", b"ai.onnx")  # domains of the operators that the standard defines
LOOPS = (b"Loop", b"Scan")
EXTERNAL, LOCATION = 13, 14  # fields of a tensor whose numbers are in another file


def check(data: bytes, name: str) -> None:
    """Raise ModelError unless a file holds all its numbers itself and only operators of the standard.

    name: of the file, for the message. The time grows with the number of fields, so that a hostile file can take
    minutes: call this where it can be killed.
    """
    try:
        found = _fault(memoryview(data))
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        why = reason(error) if isinstance(error, ValueError) else "its messages cannot be read"
        raise ModelError(f"expected an ONNX file, {name} is damaged or another ({why}): get it again") from None
    if found:
        raise ModelError(f"expected an ONNX network that is whole in its file, {name} {found}")


def _fault(model: memoryview) -> str | None:
    """Return what is wrong with a file and what to do, or None; raise ValueError and others for damaged ones."""
    waiting: list[tuple[str, memoryview, int]] = [("model", model, 0)]
    graphs = 0
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} messages within each other")
        for number, value in fields_of(message):
            if fault := _field_fault(kind, number, value):
                return fault
            if (inner := INSIDE[kind].get(number)) is not None:
                if isinstance(value, int):
                    raise ValueError(f"a number where a {inner} belongs")
                waiting.append((inner, value, depth + 1))
                graphs += inner == "graph"
    if not graphs:
        raise ValueError("no graph")
    return None


def _field_fault(kind: str, number: int, value: Any) -> str | None:
    """Return what is wrong with one field, or None."""
    if kind == "tensor" and (number == EXTERNAL or (number == LOCATION and value != 0)):
        return "keeps numbers in another file: save it with all data inside (onnx.save without external data)"
    if kind == "model" and number in (TRAINING, FUNCTIONS):
        what = "a graph for training" if number == TRAINING else "functions of its own"
        return f"holds {what}: export it for inference, with functions inlined"
    if kind == "node" and number in (DOMAIN, OPERATOR) and isinstance(value, int):
        raise ValueError("a number where a name belongs")
    if kind == "node" and number == DOMAIN and bytes(value) not in STANDARD:
        return f"uses a custom operator ({_text(value)}): export it with the standard's operators alone"
    if kind == "node" and number == OPERATOR and bytes(value) in LOOPS:
        return f"holds a loop ({_text(value)}): export it without"
    return None


def _text(value: memoryview) -> str:
    return ascii(bytes(value[:40]).decode("utf-8", "replace"))
